"""The page: names, labels, what the end of a run waits for, and what stands in the way of serving it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from opentelemetry.sdk.metrics import MeterProvider

from esper_core.config.schema import EsperConfig, RunConfig
from esper_core.errors import ConfigError, SinkError
from esper_core.events import PolicyEvaluated, RunStarted
from esper_core.hooks import SinkContext
from esper_core.host.session import Session
from esper_core.runs import create_run
from esper_core.testing import SinkContract, SinkHarness, make_update
from esper_sink_prometheus import PrometheusConfig, PrometheusSink
from esper_sink_prometheus.config import address
from esper_sink_prometheus.page import ScrapePage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "collector-config"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class TestContract(SinkContract):
    sink = PrometheusSink
    config: ClassVar[Mapping[str, Any]] = {"port": 0, "linger_s": 0}
    bad_configs: ClassVar[Sequence[Mapping[str, Any]]] = ({"port": 65536}, {"port": "http"}, {"linger_s": -1})


def session_in(base: Path, **table: object) -> Session:
    run = RunConfig(close_timeout_s=60)
    config = EsperConfig(sinks=("prometheus",), sink={"prometheus": {"port": 0, **table}}, run=run)
    return Session(config, run=create_run(base), install_signal_handlers=False, environment="toy", heads=("slot",))


def run_updates(session: Session, count: int = 3) -> PrometheusSink:
    session.emitter.emit_run_started(RunStarted(environment="toy", heads=("slot",)))
    for number in range(1, count + 1):
        session.emitter.begin_rollout(number)
        session.emitter.begin_update(number)
        session.emitter.end_update(number)
        session.emitter.emit_ppo_update(make_update(number))
        session.emitter.emit(PolicyEvaluated(update_id=number, return_mean=2.0, best_return_mean=2.0))
        session.progress(updates=number, env_steps=number * 10)
    sink: PrometheusSink = session.active[0].instance
    return sink


def read(url: str, accept: str = "") -> str:
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=250) as answer:
        text: str = answer.read().decode()
    return text


def series(page: str) -> list[str]:
    return [line for line in page.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a run of three updates, as Prometheus asks for it."""
    with session_in(tmp_path_factory.mktemp("runs"), linger_s=0) as session:
        yield read(run_updates(session).url, OPEN_METRICS)


@pytest.mark.parametrize("file", ["prometheus/esper.rules.yml", "grafana/esper-ppo.json"])
def test_every_series_of_rules_and_dashboard_is_on_the_page(page: str, file: str) -> None:
    names = {re.split(r"[{ ]", line)[0] for line in series(page)}
    labels = {label for line in series(page) for label in re.findall(r'(\w+)="', line)}
    wanted = set(re.findall(r"\besper_[a-z0-9_]+(?=[{\[ )=<]|$)", (CONFIG / file).read_text(), re.MULTILINE))
    assert len(wanted) > 15
    assert sorted(wanted - names - labels) == []


def test_points_carry_run_environment_and_host_and_no_scope(page: str) -> None:
    (health,) = [line for line in series(page) if line.startswith("esper_policy_health{")]
    labels = dict(re.findall(r'(\w+)="([^"]*)"', health))
    assert set(labels) == {"esper_run_id", "esper_run_attempt", "esper_rank", "esper_run_environment", "host_name"}
    assert labels["esper_run_environment"] == "toy"
    assert health.endswith(" 1.0")


def test_a_page_read_from_many_threads_has_every_series_each_time_and_none_twice(tmp_path: Path) -> None:
    found: list[list[str]] = []
    with session_in(tmp_path, linger_s=0) as session:
        url = run_updates(session).url
        once = len(series(read(url)))
        threads = [threading.Thread(target=lambda: found.append(series(read(url)))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(250)
    assert [len(lines) for lines in found] == [once] * 8
    keys = [line.rpartition(" ")[0] for line in found[0]]
    assert len(set(keys)) == len(keys)


def test_the_end_waits_for_a_scrape_that_reads_how_the_run_ended(tmp_path: Path) -> None:
    pages: list[str] = []
    with session_in(tmp_path, linger_s=59) as session:
        url = run_updates(session).url
        read(url)  # someone scrapes

        def scrape() -> None:
            while not pages or 'esper_run_state="done"} 1.0' not in _states(pages[-1]):
                pages.append(read(url))
                time.sleep(0.02)

        thread = threading.Thread(target=scrape)
        thread.start()
    thread.join(250)
    assert not thread.is_alive()
    assert not [item for item in session.report.sinks if item.cut_off or item.lost or item.failures]
    with pytest.raises(OSError, match="refused"):
        read(url)


def _states(text: str) -> str:
    return "\n".join(re.sub(r'\{.*(esper_run_state="\w+").*\}', r"\1}", line) for line in series(text))


def test_nobody_is_waited_for_where_nobody_scraped(tmp_path: Path) -> None:
    with session_in(tmp_path, linger_s=3600) as session:
        run_updates(session, 1)
    assert not [item for item in session.report.sinks if item.cut_off], "after the session's 60 s it would be"


def test_a_scraper_that_is_gone_is_waited_for_no_longer_than_asked() -> None:
    page = ScrapePage("127.0.0.1", 0)
    page.start()
    read(page.url)
    page.close(0.05)
    page.close(0.05)
    assert page.scrapes == 1


def test_a_port_in_use_is_one_sentence_before_training(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ("ppo", "--env", "CartPole-v1", "--updates", "1", "--sinks", "prometheus")
        done = subprocess.run(
            [sys.executable, "-m", "esper_core", *words, "--set", f"sink.prometheus.port={port}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
    assert done.returncode == 64
    assert done.stderr.splitlines() == [
        f'esper: sink "prometheus" cannot serve on 127.0.0.1:{port}: the port is in use, perhaps by another run',
        "  set sink.prometheus.port to a free port, or to 0 for any free one",
    ]


@pytest.mark.parametrize(
    ("host", "port", "why"), [("no.such.host.invalid", 0, "cannot serve on no.such"), ("192.0.2.1", 0, "cannot serve")]
)
def test_an_address_that_is_not_here_is_refused(host: str, port: int, why: str) -> None:
    with pytest.raises(SinkError, match=why) as caught:
        ScrapePage(host, port)
    assert "sink.prometheus.host" in str(caught.value.hint)


def test_variables_are_read_where_an_option_is_unset() -> None:
    env = {"OTEL_EXPORTER_PROMETHEUS_HOST": "0.0.0.0", "OTEL_EXPORTER_PROMETHEUS_PORT": "9500"}
    assert address(PrometheusConfig(), {}) == ("127.0.0.1", 9464)
    assert address(PrometheusConfig(), env) == ("0.0.0.0", 9500)
    assert address(PrometheusConfig(host="::1", port=0), env) == ("::1", 0)
    for bad in ("http", "-1", "65536", "9" * 5000):
        with pytest.raises(ConfigError, match="OTEL_EXPORTER_PROMETHEUS_PORT"):
            address(PrometheusConfig(), {"OTEL_EXPORTER_PROMETHEUS_PORT": bad})


def test_an_ipv6_address_is_served() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        page = ScrapePage("::1", 0)
    except SinkError as error:
        pytest.skip(str(error))
    page.start()
    assert page.url.startswith("http://[::1]:")
    read(page.url)
    page.close()


def test_a_replay_is_refused_with_what_to_use(tmp_path: Path) -> None:
    with (
        pytest.raises(SinkError, match="cannot be replayed into"),
        SinkHarness(PrometheusSink, {"port": 0}, mode="replay", run_dir=tmp_path),
    ):
        pass


def test_under_an_applications_own_sdk_nothing_is_served(tmp_path: Path) -> None:
    sink = PrometheusSink(PrometheusConfig(port=0))
    sink.esper_sink_opened(SinkContext(run_id="x", run_dir=tmp_path))
    assert sink.url == ""
    assert "serves nothing" in sink.check_report()
    sink.esper_sink_closed()


def test_a_page_that_cannot_be_read_fails_the_check(tmp_path: Path) -> None:
    sink = PrometheusSink(PrometheusConfig(port=0))
    (reader,) = sink.esper_metric_readers(SinkContext(run_id="x", mode="check"))
    provider = MeterProvider([reader], shutdown_on_exit=False)
    sink.esper_sink_opened(SinkContext(run_id="x", mode="check"))
    assert "served 0 series on http://127.0.0.1:" in sink.check_report()
    provider.shutdown()
    with pytest.raises(SinkError, match="cannot be read"):
        sink.check_report()


def test_the_check_reads_the_marked_update(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from esper_core.cli._sink_check import check_sinks
    from esper_core.config.layers import Resolved

    resolved = Resolved(config=EsperConfig(sinks=("prometheus",), sink={"prometheus": {"port": 0}}), origins={})
    assert check_sinks(resolved) == 0
    assert re.search(r"served \d+ series on http://127\.0\.0\.1:\d+/metrics", capfd.readouterr().out)
