"""The sink through the host: what arrives, what an exit costs, what a person is told."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from esper_core.cli.main import main
from esper_core.config.schema import EsperConfig, OtelConfig, RunConfig
from esper_core.events import Divergence, PPOUpdatePayload, RunStarted, SinkStatusChanged
from esper_core.host.session import Session
from esper_core.runs.creation import create_run
from esper_core.testing import SinkContract
from esper_sink_otlp import OtlpSink

if TYPE_CHECKING:
    from pathlib import Path


class TestContract(SinkContract):
    """With nobody listening: what every sink must do, also then."""

    sink = OtlpSink
    config: ClassVar[dict[str, Any]] = {"endpoint": "http://127.0.0.1:9", "timeout_s": 0.2, "close_timeout_s": 0.2}


CLOSE_S = 200.0
"""Time that the run gives its sinks to close: a guard against hanging."""


def run(base: Path, table: dict[str, Any], updates: int = 5, *, pause_s: float = 0.0, mode: Any = "live") -> Session:
    config = EsperConfig(
        sinks=("journal", "otlp"),
        sink={"otlp": {"delay_s": 0.05, "close_timeout_s": CLOSE_S / 2, **table}},
        run=RunConfig(close_timeout_s=CLOSE_S),
    )
    with Session(config, run=create_run(base), install_signal_handlers=False, mode=mode) as session:
        session.emitter.emit_run_started(RunStarted(environment="toy"))
        for number in range(1, updates + 1):
            session.emitter.begin_rollout(number)
            session.emitter.begin_update(number)
            session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=number, kl_divergence=0.01, kl_joint=0.01))
            time.sleep(pause_s)
    return session


def report(session: Session, name: str = "otlp") -> Any:
    return next(item for item in session.report.sinks if item.name == name)


def test_spans_and_metrics_arrive_whole(receiver: Any, tmp_path: Path) -> None:
    session = run(tmp_path, {"endpoint": receiver.url})
    names = [span.name for span in receiver.spans()]
    assert names.count("esper.ppo.update") == names.count("esper.rollout") == names.count("esper.iteration") == 5
    assert {"esper.run.started", "esper.run.finished"} <= set(names)
    assert len(receiver.points("esper.ppo.last.kl_divergence")) == 5
    histogram = [item for item in receiver.all_metrics() if item.name == "esper.ppo.kl_divergence"][-1]
    assert {point.count for point in histogram.histogram.data_points} == {5}
    assert session.report.lost_total == 0


@pytest.mark.parametrize(
    ("answer", "close_timeout_s"),
    [
        # One that was away before the end costs one more try, whatever time there is.
        pytest.param("refuses", CLOSE_S / 2, id="refuses"),
        pytest.param(503, CLOSE_S / 2, id="503"),
        # One that hangs costs the sink's own time.
        pytest.param("hang", 0.5, id="hangs"),
    ],
)
def test_the_end_of_a_run_is_bounded_whatever_the_collector_does(
    receiver: Any, tmp_path: Path, answer: Any, close_timeout_s: float
) -> None:
    receiver.answer = 503 if answer == "refuses" else answer
    endpoint = "http://127.0.0.1:9" if answer == "refuses" else receiver.url
    session = run(tmp_path, {"endpoint": endpoint, "close_timeout_s": close_timeout_s}, pause_s=0.06)
    assert session.report.close_s < CLOSE_S / 2, "not one of the times that guard against hanging was needed"
    assert not session.report.cut_off
    # 3 spans an update, run started and finished, and 5 updates' gauge points. A request that hangs is counted too.
    lost = report(session).lost
    assert lost == 3 * 5 + 5 + sum(1 for event in _own_spans(session))


def _own_spans(session: Session) -> list[str]:
    """Instant spans of the run: started, finished, sink status."""
    from esper_core.reading import open_run

    assert session.run is not None
    return [event.kind for event in open_run(str(session.run.path)).events() if event.kind != "ppo_updated"]


def test_failure_and_recovery_are_one_status_each(receiver: Any, tmp_path: Path, eventually: Any) -> None:
    receiver.answer = 503
    table = {"endpoint": receiver.url, "close_timeout_s": CLOSE_S / 2}
    config = EsperConfig(
        sinks=("journal", "otlp"),
        sink={"otlp": table | {"delay_s": 0.05, "update_interval_s": 0.05, "interval_s": 0.1}},
        run=RunConfig(close_timeout_s=CLOSE_S),
    )
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False) as session:
        numbers = itertools.count(1)

        def is_told(state: str) -> bool:
            session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=next(numbers), kl_divergence=0.01))
            return any(item.name == "otlp" and item.state == state for item in session.statuses())

        eventually(lambda: is_told("failing"))
        is_told("failing")
        receiver.answer = 200
        eventually(lambda: is_told("recovered"))
        is_told("recovered")
    from esper_core.reading import open_run

    assert session.run is not None
    told = [
        (event.payload.state, event.payload.message)
        for event in open_run(str(session.run.path)).events()
        if isinstance(event.payload, SinkStatusChanged) and event.payload.sink == "otlp"
    ]
    assert [state for state, _ in told] == ["failing", "recovered"]
    assert "503" in told[0][1]
    assert "arrive again" in told[1][1]
    assert session.report.lost_total == 0


def test_losses_of_exports_are_in_the_sinks_own_metric(receiver: Any, tmp_path: Path, eventually: Any) -> None:
    """A token that is refused for spans only: metrics still tell of it."""
    receiver.reject = 1
    table = {"endpoint": receiver.url, "close_timeout_s": CLOSE_S / 2}
    config = EsperConfig(
        sinks=("journal", "otlp"),
        sink={"otlp": table | {"delay_s": 0.05, "update_interval_s": 0.05, "interval_s": 0.1}},
        run=RunConfig(close_timeout_s=CLOSE_S),
    )
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False) as session:
        numbers = itertools.count(1)

        def is_told() -> bool:
            session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=next(numbers), kl_divergence=0.01))
            return any(
                point.as_int > 0
                for metric in receiver.all_metrics()
                if metric.name == "esper.sink.lost"
                for point in metric.sum.data_points
                if any(item.value.string_value == "otlp" for item in point.attributes)
            )

        eventually(is_told)
    assert report(session).lost > 0


def test_secrets_stay_out_of_the_log(receiver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "s3cretInBase64=")  # the name was forgotten
    session = run(tmp_path, {"endpoint": receiver.url, "headers": {"authorization": "Bearer s3cret"}}, 1)
    assert receiver.requests[0][1]["authorization"] == "Bearer s3cret"
    assert session.run is not None
    log = session.run.log_path.read_text()
    assert "authorization" in log
    assert "s3cret" not in log.lower()


def test_compression_is_on_by_default_and_can_be_chosen(receiver: Any, tmp_path: Path) -> None:
    for compression, sent in (("", "gzip"), ("deflate", "deflate"), ("none", None)):
        receiver.requests.clear()
        run(tmp_path, {"endpoint": receiver.url, "compression": compression}, 1)
        assert {headers.get("content-encoding") for _, headers in receiver.requests} == {sent}


@pytest.mark.parametrize("answer", ["hang", 503])
def test_the_trainer_is_never_held_by_a_collector_that_is_away(
    receiver: Any, tmp_path: Path, answer: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own reader, collected at update boundaries, held it for 1 to 3 s.

    Here the first request hangs longer, or is tried again later, than the test may take.
    """
    monkeypatch.setattr("esper_sink_otlp.exporter._FIRST_BACKOFF_S", 600.0)
    receiver.answer = answer
    table = {"endpoint": receiver.url, "delay_s": 0.01, "timeout_s": 600.0, "close_timeout_s": 0.2}
    config = EsperConfig(
        sinks=("journal", "otlp"), sink={"otlp": table | {"update_interval_s": 0.0, "interval_s": 0.05}}
    )
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False) as session:
        session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=1, kl_divergence=0.01))
        eventually(lambda: len(receiver.requests) == 2)
        for number in range(2, 101):
            session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=number, kl_divergence=0.01))
        assert len(receiver.requests) == 2, "spans and metrics, one try each"


def test_the_log_says_what_was_sent_and_how_many_updates_shared_a_collection(receiver: Any, tmp_path: Path) -> None:
    session = run(tmp_path, {"endpoint": receiver.url, "update_interval_s": 30.0}, 20)
    assert session.run is not None
    log = session.run.log_path.read_text()
    assert "metrics: 20 sent in " in log
    assert "19 updates shared a collection" in log or "18 updates shared a collection" in log


@pytest.mark.parametrize("signal", ["traces", "metrics"])
def test_one_signal_alone(receiver: Any, tmp_path: Path, signal: str) -> None:
    session = run(tmp_path, {"endpoint": receiver.url, "signals": [signal]})
    assert bool(receiver.traces) is (signal == "traces")
    assert bool(receiver.metrics) is (signal == "metrics")
    assert session.report.lost_total == 0


def test_a_replay_has_the_live_resource_and_scope_in_every_signal(
    receiver: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a store that joins on them has two of each run. Spans and log records lacked telemetry.sdk.*."""
    config = EsperConfig(
        sinks=("journal", "otlp"),
        sink={"otlp": {"endpoint": receiver.url}},
        run=RunConfig(close_timeout_s=CLOSE_S),
        otel=OtelConfig(events="both"),
    )
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False) as session:
        session.emitter.emit_run_started(RunStarted(environment="toy"))
        other = Divergence(name="to_reference", per_decision=0.2)
        session.emitter.emit_ppo_update(
            PPOUpdatePayload(update_id=1, kl_divergence=0.01, kl_by_epoch=(0.01,), divergences=(other,))
        )
    assert session.run is not None
    live = origins(receiver)
    for signal in (receiver.traces, receiver.metrics, receiver.logs):
        signal.clear()
    assert main(["replay", str(session.run.path), "--to", "otlp", "--set", f"sink.otlp.endpoint={receiver.url}"]) == 0
    assert origins(receiver) == live
    told = capsys.readouterr().err.partition("not rebuilt")[2]
    assert "esper.ppo.kl_divergence" in told
    assert not {item.name for item in receiver.all_metrics()} & set(re.findall(r"esper[.\w]+", told))
    assert {signal for signal, *_ in live} == {"resource_spans", "resource_metrics", "resource_logs"}


def origins(receiver: Any) -> set[tuple[str, str, str]]:
    """Signal, resource and scope, with version and schema URL, of all that came."""
    return {
        (kind.name, str(sorted(map(str, part.resource.attributes))), f"{scope.scope}{scope.schema_url}")
        for request in (*receiver.traces, *receiver.metrics, *receiver.logs)
        for kind, parts in request.ListFields()
        for part in parts
        for _, scopes in part.ListFields()
        if isinstance(scopes, Sequence)
        for scope in scopes
        if hasattr(scope, "scope")
    }


def test_under_an_applications_own_sdk_nothing_is_sent_twice(receiver: Any, tmp_path: Path) -> None:
    """The application's exporters send what Esper records; the sink says that it does not."""
    script = f"""
import time
from pathlib import Path
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
metrics.set_meter_provider(MeterProvider(shutdown_on_exit=False))
from esper_core.config.schema import EsperConfig
from esper_core.events import PPOUpdatePayload
from esper_core.host.session import Session
from esper_core.runs import create_run
config = EsperConfig(sinks=("journal", "otlp"), sink={{"otlp": {{"endpoint": "{receiver.url}"}}}})
run = create_run(Path({str(tmp_path)!r}))
with Session(config, run=run, install_signal_handlers=False) as session:
    session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=1, kl_divergence=0.01))
print(run.log_path.read_text())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert not receiver.requests
    assert "otlp sends nothing" in done.stdout
