"""``[otel] events = "log"`` and ``"both"``: an update's events as log records, live, in the journal and in a replay.

One event gives the same records in all three, and whatever the form, every reader has every value.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("esper_sink_journal", reason="the journal is a plugin")

from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from esper_core.cli.main import main
from esper_core.config.schema import EsperConfig, OtelConfig, RunConfig
from esper_core.events import EarlyStop, PPOUpdatePayload, RunStarted
from esper_core.health import RunState
from esper_core.hooks import SinkContext, hookimpl
from esper_core.host.session import Session
from esper_core.reading import open_run
from esper_core.runs import JournalReader, create_run
from esper_core.runs.form import run_form
from esper_core.runs.segments import read_segment

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from esper_core.hooks import EventForm

FORMS = ("span", "log", "both")
UPDATES = 3
STOP = EarlyStop(epoch=2, minibatch=3, value=0.05, threshold=0.03)


class Records(LogRecordProcessor):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[ReadWriteLogRecord] = []
        self.shut = False

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self.records.append(log_record)

    def shutdown(self) -> None:
        self.shut = True

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


class Spans(SpanProcessor):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class SpansAlone:
    """A sink that brings span processors and no log record processor, as most do today."""

    made = Spans()

    @hookimpl
    def esper_span_processors(self, context: SinkContext) -> list[SpanProcessor]:
        type(self).made = Spans()
        return [self.made]


class Both(SpansAlone):
    """A sink that brings both."""

    records = Records()
    told = ""

    @hookimpl
    def esper_log_record_processors(self, context: SinkContext) -> list[LogRecordProcessor]:
        type(self).records = Records()
        type(self).told = context.events
        return [self.records]


def train(base: Path, form: EventForm, *sinks: str, close_timeout_s: float = 60.0) -> Session:
    """A run of three updates, the second of which stopped early, and the last of which had NaN."""
    config = EsperConfig(
        sinks=("journal", *sinks), otel=OtelConfig(events=form), run=RunConfig(close_timeout_s=close_timeout_s)
    )
    session = Session(config, run=create_run(base), install_signal_handlers=False, on_notice=lambda _: None)
    with session:
        session.emitter.emit_run_started(RunStarted(environment="toy"))
        for number in range(1, UPDATES + 1):
            session.emitter.begin_rollout(number)
            session.emitter.begin_update(number)
            session.emitter.emit_ppo_update(
                PPOUpdatePayload(
                    update_id=number,
                    kl_divergence=0.01 * number,
                    kl_joint=0.011 * number,
                    kl_by_epoch=(0.005 * number, 0.01 * number),
                    early_stop=STOP if number == 2 else None,
                    non_finite=4 if number == UPDATES else 0,
                )
            )
    return session


def instance(session: Session, name: str) -> Any:
    return next(sink.instance for sink in session.active if sink.loaded.name == name)


def run_of(session: Session) -> Path:
    assert session.run is not None
    return session.run.path


def plain(record: ReadWriteLogRecord) -> dict[str, Any]:
    """A record of the SDK in the words of OTLP JSON."""
    own = record.log_record
    assert own.severity_number is not None
    assert own.attributes is not None
    return {
        "time": own.timestamp,
        "observed": own.observed_timestamp,
        "severity": (own.severity_number.value, own.severity_text),
        "name": own.event_name,
        "ids": (f"{own.trace_id:032x}", f"{own.span_id:016x}", int(own.trace_flags)),
        "attributes": dict(own.attributes),
    }


def journaled(run: Path) -> list[dict[str, Any]]:
    """The log records in a journal's lines, in the same words."""
    lines = [json.loads(line) for file in sorted(run.glob("telemetry/*")) for line in read_segment(file).splitlines()]
    return [
        {
            "time": int(one["timeUnixNano"]),
            "observed": int(one["observedTimeUnixNano"]),
            "severity": (one["severityNumber"], one["severityText"]),
            "name": one["eventName"],
            "ids": (one["traceId"], one["spanId"], one["flags"]),
            "attributes": {
                pair["key"]: int(value) if kind == "intValue" else value
                for pair in one["attributes"]
                for kind, value in pair["value"].items()
            },
        }
        for line in lines
        for group in line.get("resourceLogs", [])
        for scope in group["scopeLogs"]
        for one in scope["logRecords"]
    ]


def span_events_in(run: Path) -> int:
    lines = [json.loads(line) for file in sorted(run.glob("telemetry/*")) for line in read_segment(file).splitlines()]
    return sum(
        len(span.get("events", []))
        for line in lines
        for group in line.get("resourceSpans", [])
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    )


NAMES = ["esper.ppo.kl"] * 4 + ["esper.ppo.early_stop"] + ["esper.ppo.kl"] * 2 + ["esper.ppo.non_finite", "exception"]


@pytest.mark.parametrize("form", FORMS)
def test_live_and_journal_have_the_same_records(tmp_path: Path, form: EventForm) -> None:
    session = train(tmp_path, form, f"{__file__}:Both")
    sink = instance(session, "Both")
    live = [plain(record) for record in sink.records.records] if form != "span" else []
    assert journaled(run_of(session)) == live
    assert [record["name"] for record in live] == (NAMES if form != "span" else [])
    updates = list(open_run(run_of(session)).updates())
    for record in live:
        (event,) = [item for item in updates if item.payload.update_id == record["attributes"]["esper.ppo.update_id"]]
        assert record["ids"] == (event.trace.trace_id, event.trace.own.span_id, 1)
        assert record["time"] == record["observed"] == event.time_ns
        assert record["attributes"]["esper.run.id"] == event.run_id
        if record["name"] == "esper.ppo.kl":
            epoch = record["attributes"]["esper.ppo.kl.epoch"]
            assert record["attributes"]["esper.ppo.kl.value"] == event.payload.kl_by_epoch[epoch - 1]
    on_spans = sum(len(span.events) for span in sink.made.spans)
    assert on_spans == span_events_in(run_of(session)) == (0 if form == "log" else len(NAMES))
    if form != "span":
        assert sink.told == form
        assert sink.records.shut


@pytest.mark.parametrize("form", FORMS)
def test_every_reader_has_every_value_whatever_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: EventForm
) -> None:
    """``runs``, ``replay``, ``export`` and ``sanctum --once`` read a journal of either form as the other."""
    pytest.importorskip("esper_sink_tui", reason="the viewer is a plugin")
    monkeypatch.chdir(tmp_path)
    session = train(tmp_path / "runs", form)
    run = open_run(run_of(session))
    assert run.state is RunState.DONE
    found = [event.payload for event in run.updates()]
    assert [update.kl_divergence for update in found] == [0.01, 0.02, 0.03]
    assert [update.kl_by_epoch for update in found] == [(0.005, 0.01), (0.01, 0.02), (0.015, 0.03)]
    assert [update.early_stop for update in found] == [None, STOP, None]
    assert run_form(run.directory) == form
    said = {}
    for words in ("runs --json", "replay latest", "export latest --jsonl", "sanctum latest --once --json"):
        assert main(words.split()) in {0, 2}, words
        out = capsys.readouterr()
        assert "damaged" not in out.err
        said[words.split()[0]] = out.out
    (listed,) = json.loads(said["runs"])
    assert (listed["updates"], listed["kl_divergence"], listed["kl_joint"]) == (3, 0.03, 0.033)
    assert all(f"KL {value:.4f}" in said["replay"] for value in (0.01, 0.02, 0.03))
    rows = [json.loads(line) for line in said["export"].splitlines()]
    assert [(row["kl_divergence"], row["kl_joint"]) for row in rows] == [(0.01, 0.011), (0.02, 0.022), (0.03, 0.033)]
    assert [row.get("early_stop.value") for row in rows] == [None, STOP.value, None]
    screen = json.loads(said["sanctum"])
    assert screen["kl"]["history"] == [0.01, 0.02, 0.03]
    assert screen["verdict"]["kind"] == "non-finite"
    assert screen["early_stop"]["stopped"] == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("asked", [None, *FORMS])
def test_a_replay_gives_the_runs_own_form_or_the_one_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: EventForm, asked: EventForm | None
) -> None:
    monkeypatch.chdir(tmp_path)
    session = train(tmp_path / "runs", form, f"{__file__}:Both")
    live = [plain(record) for record in instance(session, "Both").records.records]
    played: list[Session] = []
    enter = Session.__enter__

    def noted(self: Session) -> Session:
        played.append(self)
        return enter(self)

    monkeypatch.setattr(Session, "__enter__", noted)
    words = ["--set", f"otel.events={asked}"] if asked else []
    assert main(["replay", "latest", "--to", f"{__file__}:Both", *words]) == 0
    sink = instance(played[0], "Both")
    wanted = asked or form
    assert sum(len(span.events) for span in sink.made.spans) == (0 if wanted == "log" else len(NAMES))
    if wanted != "span":
        again = sink.records.records
        assert [record.log_record.event_name for record in again] == NAMES
        assert form == "span" or [plain(record) for record in again] == live
        assert {record.resource.attributes["esper.run.id"] for record in again} == {run_of(session).name}


# --- the hook -----------------------------------------------------------------------------------


class Failing(Records):
    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        raise RuntimeError("no")


class Hanging(Records):
    gate = threading.Event()

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self.gate.wait(250)


class BringsFailing:
    @hookimpl
    def esper_log_record_processors(self, context: SinkContext) -> list[LogRecordProcessor]:
        return [Failing()]


class BringsHanging:
    @hookimpl
    def esper_log_record_processors(self, context: SinkContext) -> list[LogRecordProcessor]:
        return [Hanging()]


def test_a_processor_that_raises_is_counted_and_disabled_alone(tmp_path: Path) -> None:
    session = train(tmp_path, "log", f"{__file__}:BringsFailing", f"{__file__}:Both")
    report = {item.name: item for item in session.report.sinks}
    assert report["BringsFailing/Failing"].state == "disabled"
    assert report["BringsFailing/Failing"].lost == len(NAMES)
    assert report["BringsFailing/Failing"].delivery == "log record processor"
    assert report["Both/Records"].delivered == len(NAMES)
    assert len(list(open_run(run_of(session)).updates())) == UPDATES


def test_a_processor_that_hangs_is_cut_off_at_the_one_deadline_and_holds_no_update(tmp_path: Path) -> None:
    try:
        session = train(tmp_path, "log", f"{__file__}:BringsHanging", close_timeout_s=0.5)
    finally:
        Hanging.gate.set()
    (report,) = [item for item in session.report.sinks if item.name == "BringsHanging/Hanging"]
    assert report.cut_off
    assert report.lost == len(NAMES)
    assert len(list(open_run(run_of(session)).updates())) == UPDATES


@pytest.mark.parametrize(
    ("form", "sink", "words"),
    [
        ("span", "SpansAlone", []),
        ("span", "Both", []),
        ("log", "Both", []),
        ("both", "Both", []),
        ("log", "SpansAlone", ['sink "SpansAlone" carries no log events ([otel] events = "log")', '"span" or "both"']),
        ("both", "SpansAlone", ['sink "SpansAlone" carries no log events ([otel] events = "both")', '"span"']),
        ("span", "BringsFailing", ['[otel] events = "span" makes no log events', '"BringsFailing"', '"log" or "both"']),
    ],
)
def test_the_start_says_which_sink_does_not_carry_the_form(
    tmp_path: Path, form: EventForm, sink: str, words: list[str]
) -> None:
    session = train(tmp_path, form, f"{__file__}:{sink}")
    assert len(session.notices) == bool(words)
    for word in words:
        assert word in session.notices[0]
    if words:
        assert "otel.events = " in session.notices[0]


OWN = """
from opentelemetry import _logs, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from esper_core.config.schema import EsperConfig, OtelConfig
from esper_core.events import PPOUpdatePayload
from esper_core.host.session import Session

mine = InMemoryLogRecordExporter()
trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
if LOGGERS:
    loggers = LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(mine))
    _logs.set_logger_provider(loggers)
config = EsperConfig(sinks=SINKS, otel=OtelConfig(events="log"))
with Session(config, install_signal_handlers=False) as session:
    event = session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=1, kl_by_epoch=(0.01, 0.02)))
records = mine.get_finished_logs()
assert {f"{item.log_record.span_id:016x}" for item in records} <= {event.trace.own.span_id}
print(len(records))
"""
BRINGS = """
from esper_core.hooks import hookimpl

class Brings:
    @hookimpl
    def esper_log_record_processors(self, context):
        raise AssertionError("not asked under an application's own provider")
"""


def test_an_applications_own_logger_provider_is_used(
    start_python: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "brings.py").write_text(BRINGS)
    script = OWN.replace("LOGGERS", "True").replace("SINKS", '("./brings.py:Brings",)')
    out, said = start_python(script, cwd=tmp_path).communicate(timeout=250)
    assert out.split() == ["2"], said
    assert "the application's own OpenTelemetry logger provider is in use" in said
    assert 'log record processors of sink "Brings" are not attached' in said


def test_an_application_without_a_logger_provider_is_told(
    start_python: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    script = OWN.replace("LOGGERS", "False").replace("SINKS", "()")
    out, said = start_python(script, cwd=tmp_path).communicate(timeout=250)
    assert out.split() == ["0"], said
    assert '[otel] events = "log", but the application\'s own OpenTelemetry has no logger provider' in said
    assert 'otel.events = "span"' in said


UNASKED = """
import sys
from esper_core.config.schema import EsperConfig
from esper_core.events import PPOUpdatePayload
from esper_core.host.session import Session

with Session(EsperConfig(sinks=("./spans.py:Spans",)), install_signal_handlers=False) as session:
    session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=1, kl_by_epoch=(0.01,)))
assert session.providers.tracer_provider is not None
assert session.providers.logger_provider is None
print([name for name in sys.modules if name.startswith("esper_core.host.otel.log") or "log_exporter" in name])
"""
SPANS = """
from opentelemetry.sdk.trace import SpanProcessor
from esper_core.hooks import hookimpl

class Spans:
    @hookimpl
    def esper_span_processors(self, context):
        return [SpanProcessor()]

    @hookimpl
    def esper_log_record_processors(self, context):
        raise AssertionError("nobody asked for log events")
"""


def test_without_log_events_nothing_of_them_is_set_up(
    start_python: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "spans.py").write_text(SPANS)
    out, said = start_python(UNASKED, cwd=tmp_path).communicate(timeout=250)
    assert out.strip() == "[]", said


def test_a_journal_of_both_lines_that_is_cut_anywhere_gives_every_update_that_is_whole(tmp_path: Path) -> None:
    """``kill -9`` and a full disk cut a write: the update's line comes first, so that it is the log events that go."""
    path = next(run_of(train(tmp_path, "both")).glob("telemetry/*"))
    content = read_segment(path)
    path = path.rename(path.with_suffix(""))
    ends = [number for number, byte in enumerate(content) if byte == ord("\n")]
    for cut in (*ends, *(end - 1 for end in ends), *(end + 40 for end in ends[:-1])):
        path.write_bytes(content[:cut])
        reader = JournalReader(open_run(path.parents[1]).directory)
        found = list(reader.stream())
        whole = [line for line in content[:cut].split(b"\n") if line.endswith(b"]}]}]}") and b'"resourceSpans"' in line]
        assert len(found) == len(whole)
        assert reader.corrupt == (not content[:cut].endswith((b"\n", b"]}]}]}")))
