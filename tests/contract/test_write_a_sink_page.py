"""The how-to "write a sink" does what it says: its code runs, its table of deliveries is the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from esper_core.cli.main import main
from esper_core.config.schema import DeliveryConfig, RunConfig
from esper_core.host.deliver.guard import FIRST_BACKOFF_S, LONGEST_BACKOFF_S
from esper_core.host.deliver.queue_channel import FULL_WAIT_S
from esper_core.testing import SinkHarness, make_update

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "write-a-sink.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_first_sink_prints_an_update(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my_sink.py"
    file.write_text(_blocks("python")[0])
    with SinkHarness(f"{file}:MySink") as harness:
        harness.send(make_update(1, kl=0.02))
    assert capfd.readouterr().out == "update 1: KL 0.0200, warning\n"


def test_the_first_two_commands_work_together_as_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("esper_env_morphogenesis")  # the page trains the default task
    monkeypatch.chdir(tmp_path)
    Path("my_sink.py").write_text(_blocks("python")[0])
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("esper ")]
    train, play = (shlex.split(line)[1:] for line in lines[:2])
    assert main(train) == 0
    made = [line for line in capfd.readouterr().out.splitlines() if line.startswith("update ") and ": KL " in line]
    assert len(made) == 3
    assert main(play) == 0
    assert capfd.readouterr().out.splitlines() == made


def test_the_second_sink_takes_its_options_and_passes_the_tests_of_the_page(tmp_path: Path) -> None:
    file = tmp_path / "my_other_sink.py"
    file.write_text(_blocks("python")[1])
    with SinkHarness(f"{file}:MySink", {"url": "http://x", "token": "canary"}) as harness:
        harness.send(make_update(1))
        harness.drain()
        assert harness.sink.check_report() == "sent 1 updates to http://x"
    names: dict[str, Any] = {"MySink": type(harness.sink)}
    exec(compile(_blocks("python")[2], str(PAGE), "exec"), names)
    names["test_it_counts_updates"]()
    contract = names["TestMySink"]()
    tests = [name for name in dir(contract) if name.startswith("test_")]
    assert len(tests) >= 10
    for name in tests:
        test = getattr(contract, name)
        test(**({"tmp_path": tmp_path} if "tmp_path" in test.__code__.co_varnames[: test.__code__.co_argcount] else {}))


def test_its_numbers_are_the_code_s() -> None:
    text = " ".join(PAGE.read_text().split())
    assert f"up to {DeliveryConfig().queue_size} events wait" in text
    assert f"at most {FULL_WAIT_S * 1000:.0f} ms until the queue has drained" in text
    assert f"waits {FIRST_BACKOFF_S} s, doubling up to {LONGEST_BACKOFF_S:.0f} s" in text
    assert f"run.close_timeout_s ({RunConfig().close_timeout_s:.0f} s)" in text
    assert DeliveryConfig().max_failures == 5
    assert "after five failures in a row" in text
