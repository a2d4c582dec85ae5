"""What every Esper sink must do, and what reaches a StatsD server."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from esper_sink_statsd import StatsdSink

from esper_core.testing import SinkContract, SinkHarness, make_heads, make_update

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A socket that listens as a StatsD server does."""
    with socket.socket(type=socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(5)
        yield listening


class TestStatsdContract(SinkContract):
    sink = StatsdSink
    bad_configs = ({"port": "eight"}, {"prot": 1}, {"tags": 3})

    @pytest.fixture(autouse=True)
    def _listen(self, server: socket.socket) -> None:
        self.port = server.getsockname()[1]

    def table(self, tmp_path: Path) -> dict[str, Any]:
        return {"port": self.port}


def _received(server: socket.socket, *updates: Any, **options: Any) -> list[str]:
    with SinkHarness(StatsdSink, {"port": server.getsockname()[1], **options}) as harness:
        harness.send(*updates)
    assert harness.report.lost == 0
    server.settimeout(0.2)
    lines: list[str] = []
    try:
        while True:
            lines += server.recv(2000).decode().split("\n")
    except TimeoutError:
        return lines


def test_an_update_becomes_gauges_and_a_counter(server: socket.socket) -> None:
    update = make_update(1, kl=0.01, heads=make_heads(0.01, ("action",)))
    assert _received(server, update) == [
        "esper.ppo.kl_divergence:0.01|g|#run:test-run",
        "esper.ppo.kl_joint:0.05|g|#run:test-run",
        "esper.ppo.return_mean:21|g|#run:test-run",
        "esper.ppo.steps_per_s:1137.8|g|#run:test-run",
        "esper.ppo.head.kl_divergence:0.01|g|#run:test-run,head:action",
        "esper.ppo.updates:1|c|#run:test-run",
    ]


def test_what_was_not_measured_is_left_out_and_nan_is_counted(server: socket.socket) -> None:
    update = make_update(1, kl=float("nan"), kl_joint=None, return_mean=None, heads=(), steps_per_s=None)
    assert _received(server, update, tags=False, prefix="lab") == ["lab.ppo.updates:1|c", "lab.ppo.non_finite:1|c"]


def test_many_heads_are_split_over_datagrams_and_all_arrive(server: socket.socket) -> None:
    names = tuple(f"head_{index:02d}" for index in range(64))
    lines = _received(server, make_update(1, heads=make_heads(0.01, names)))
    assert sum("head:head_" in line for line in lines) == 64
