"""Span processors and metric readers of sinks: their faults stay with them, an application's providers stay its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from esper_core.config.schema import EsperConfig, RunConfig
from esper_core.errors import SinkError
from esper_core.events import RunStarted, TelemetryEvent
from esper_core.health import RunState
from esper_core.hooks import SinkContext, SinkMode, hookimpl
from esper_core.host.deliver.hub import ActiveSink
from esper_core.host.load.discovery import LoadedSink
from esper_core.host.load.inspection import inspect_sink
from esper_core.host.load.selection import Selection
from esper_core.host.otel.played import ended_spans
from esper_core.host.session import Session
from esper_core.semconv.codec import decode, decode_request, encode
from esper_core.testing import RecordingSink, make_event, make_update, one_of_each

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    Eventually = Callable[[Callable[[], Any]], Any]

UPDATES = 20
HANG_S = 60.0
"""Seconds that a hang lasts unless the test ends it: only a limit, nothing is timed."""
CUT_S = 2.0
"""Seconds for closing when one component never closes. The others have almost nothing left to deliver by then."""


class Contributing:
    """A sink that brings processors and readers."""

    def __init__(self, processors: list[SpanProcessor], readers: list[MetricReader] | None = None) -> None:
        self.processors = processors
        self.readers = readers or []

    @hookimpl
    def esper_span_processors(self, context: SinkContext) -> list[SpanProcessor]:
        return self.processors

    @hookimpl
    def esper_metric_readers(self, context: SinkContext) -> list[MetricReader]:
        return self.readers


class Faulty(SpanProcessor):
    def __init__(self, fault: Callable[[], None], *, at: str) -> None:
        self.fault = fault
        self.at = at

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.at == "on_start":
            self.fault()

    def on_end(self, span: ReadableSpan) -> None:
        # One that succeeds here, in its own thread, would end a row of failures in on_start.
        if self.at in {"on_start", "on_end"}:
            self.fault()

    def shutdown(self) -> None:
        if self.at == "shutdown":
            self.fault()


def _raise() -> None:
    raise RuntimeError("no")


def _exit() -> None:
    raise SystemExit(4)


class Gate:
    """A fault that blocks until the gate opens, and counts the threads that it blocks."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self._inside: list[int] = []

    def __call__(self) -> None:
        self._inside.append(threading.get_ident())
        self.opened.wait(HANG_S)
        self._inside.remove(threading.get_ident())

    @property
    def waiting(self) -> int:
        return len(self._inside)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opened at the end of the test, so that no thread is left standing."""
    gate = Gate()
    yield gate
    gate.opened.set()


def _session(
    sinks: dict[str, object], *, mode: SinkMode = "live", close_timeout_s: float = HANG_S, **options: Any
) -> Session:
    config = EsperConfig(sinks=(), run=RunConfig(close_timeout_s=close_timeout_s))
    session = Session(
        config,
        mode=mode,
        selection=Selection(sinks=()),
        install_signal_handlers=False,
        on_notice=lambda _: None,
        run_id="r",
        **options,
    )
    for name, sink in sinks.items():
        seen = inspect_sink(type(sink), name)
        loaded = LoadedSink(name=name, spec=name, factory=type(sink), hooks=seen.hooks, delivery=seen.delivery)
        session.active.append(ActiveSink(loaded=loaded, instance=sink))
    return session


def _train(session: Session, updates: int = UPDATES, *, before_close: Callable[[], object] = lambda: None) -> None:
    """Run a short training."""
    with session:
        session.emitter.emit_run_started(RunStarted(environment="x"))
        for number in range(1, updates + 1):
            session.emitter.begin_rollout(number)
            session.emitter.begin_update(number)
            session.emitter.emit_ppo_update(make_update(number))
        before_close()
        session.finish(RunState.DONE, "done")


@pytest.mark.parametrize("at", ["on_start", "on_end", "shutdown"])
@pytest.mark.parametrize("fault", [_raise, _exit])
def test_a_raising_processor_disturbs_no_one(at: str, fault: Callable[[], None]) -> None:
    exporter = InMemorySpanExporter()
    good = RecordingSink()
    bad = Faulty(fault, at=at)
    session = _session(
        {"bad": Contributing([bad]), "fine": Contributing([SimpleSpanProcessor(exporter)]), "good": good}
    )
    _train(session)
    updates = [span for span in exporter.get_finished_spans() if span.name == "esper.ppo.update"]
    assert [span.attributes["esper.ppo.update_id"] for span in updates if span.attributes] == list(
        range(1, UPDATES + 1)
    )
    assert good.kinds.count("ppo_updated") == UPDATES
    report = next(item for item in session.report.sinks if item.name == "bad/Faulty")
    if at == "on_start":  # two threads call it
        assert report.failures >= 5
    else:
        assert report.failures == (1 if at == "shutdown" else 5)
    assert report.state == ("closed" if at == "shutdown" else "disabled")


@pytest.mark.parametrize(
    ("processors", "readers", "words"),
    [
        ([InMemorySpanExporter()], [], "gave an instance of InMemorySpanExporter, which is no span processor"),
        ([SimpleSpanProcessor], [], "gave the class SimpleSpanProcessor, not an instance of it"),
        ([], [object()], "gave an instance of object, which is no metric reader"),
        ([], [InMemoryMetricReader()] * 2, "does not take the metric readers of odd/InMemoryMetricReader"),
    ],
)
def test_what_is_no_processor_or_reader_is_refused_at_the_start(
    processors: list[Any], readers: list[Any], words: str
) -> None:
    """An exporter in a processor's place ended the training at its first span, as an error that nobody foresaw."""
    session = _session({"odd": Contributing(processors, readers)})
    with pytest.raises(SinkError, match=words), session:
        pytest.fail("it opened")


def test_a_hung_processor_holds_no_one_and_is_named(gate: Gate, eventually: Eventually) -> None:
    exporter = InMemorySpanExporter()
    hung = Faulty(gate, at="on_end")
    closing = Faulty(gate, at="shutdown")
    session = _session(
        {"hung": Contributing([hung, closing]), "fine": Contributing([SimpleSpanProcessor(exporter)])},
        close_timeout_s=CUT_S,
    )
    _train(session, before_close=lambda: eventually(lambda: len(exporter.get_finished_spans()) == 3 * UPDATES + 1))
    assert gate.waiting == 2, "training ended while both stand still"
    assert len(exporter.get_finished_spans()) == 3 * UPDATES + 2, "iterations, rollouts, updates, start and end"
    assert session.report.cut_off == ("hung/Faulty", "hung/Faulty")
    lost = [item.lost for item in session.report.sinks if item.name == "hung/Faulty"]
    assert lost == [3 * UPDATES + 2, 0]


def test_a_slow_processor_costs_the_trainer_nothing(gate: Gate, eventually: Eventually) -> None:
    session = _session({"slow": Contributing([Faulty(gate, at="on_end")])})
    with session:
        session.emitter.emit_ppo_update(make_update(1))
        eventually(lambda: gate.waiting)
        for number in range(2, 41):
            session.emitter.emit_ppo_update(make_update(number))
        assert gate.waiting == 1, "all are emitted while the processor blocks in the first"
        gate.opened.set()
    assert session.report.lost_total == 0


def test_a_hung_reader_is_cut_off_in_the_same_deadline(gate: Gate) -> None:
    class HungReader(InMemoryMetricReader):
        def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
            gate()

    good = InMemoryMetricReader()
    hung = Faulty(gate, at="shutdown")
    session = _session({"metrics": Contributing([hung], [HungReader(), good])}, close_timeout_s=CUT_S)
    _train(session)
    # That the deadline is one for all of them: test_all_that_close_share_one_deadline.
    assert gate.waiting == 2, "training ended while both stand still"
    assert session.report.cut_off == ("metrics/Faulty", "metrics/HungReader")


def test_metrics_reach_a_contributed_reader() -> None:
    reader = InMemoryMetricReader()
    seen: list[str] = []
    session = _session({"metrics": Contributing([], [reader])})
    with session:
        session.emitter.emit_ppo_update(make_update(1))
        data = reader.get_metrics_data()
        assert data is not None
        seen = [metric.name for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
        resource = data.resource_metrics[0].resource.attributes
    assert {"esper.ppo.kl_divergence", "esper.ppo.updates"} <= set(seen)
    assert (resource["service.name"], resource["esper.run.id"]) == ("esper", "r")


def test_exported_and_journaled_spans_are_the_same() -> None:
    exporter, sink = InMemorySpanExporter(), RecordingSink()
    _train(_session({"spans": Contributing([SimpleSpanProcessor(exporter)]), "sink": sink}), 3)
    exported = {
        (span.name, f"{span.context.span_id:016x}", span.start_time, span.end_time)
        for span in exporter.get_finished_spans()
    }
    journaled = {
        (span.name, span.span_id, span.start_ns, span.end_ns) for event in sink.events for span in event.trace.spans
    }
    assert exported == journaled


def test_a_replay_hands_the_sinks_processors_the_very_spans() -> None:
    exporter, sink = InMemorySpanExporter(), RecordingSink()
    events: tuple[TelemetryEvent[Any], ...] = one_of_each()
    resource = {"service.name": "esper", "esper.run.id": "old", "service.instance.id": "the-one-it-had"}
    session = _session(
        {"spans": Contributing([SimpleSpanProcessor(exporter)]), "sink": sink}, mode="replay", extra_resource=resource
    )
    with session:
        for event in events:
            session.deliver(event)
    assert sink.events == list(events)
    spans = exporter.get_finished_spans()
    assert [f"{span.context.span_id:016x}" for span in spans] == [
        ref.span_id for event in events for ref in event.trace.spans
    ]
    update = next(span for span in spans if span.name == "esper.ppo.update")
    assert update.attributes is not None
    assert update.attributes["esper.ppo.kl_divergence"] == 0.02
    assert [moment.name for moment in update.events] == ["esper.ppo.kl"] * 3
    assert update.resource.attributes["service.instance.id"] == "the-one-it-had"


def test_a_replay_waits_for_slow_sinks_instead_of_losing_events(gate: Gate, eventually: Eventually) -> None:
    taken: list[int] = []

    class Slow:
        @hookimpl
        def esper_ppo_updated(self, event: Any) -> None:
            gate()
            taken.append(event.payload.update_id)

    def play() -> None:
        for number in range(1, 1301):
            session.deliver(make_event(make_update(number)))

    session = _session({"slow": Slow()}, mode="replay")
    with session:
        player = threading.Thread(target=play, daemon=True)
        player.start()
        # One in hand, 1024 in the queue: the rest waits until the sink goes on.
        eventually(lambda: session.statuses()[0].queued == 1025)
        assert player.is_alive()
        gate.opened.set()
        player.join(HANG_S)
    assert taken == list(range(1, 1301))
    assert session.report.lost_total == 0


def test_otel_sdk_disabled_is_honoured_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    exporter = InMemorySpanExporter()
    session = _session({"spans": Contributing([SimpleSpanProcessor(exporter)])})
    _train(session, 1)
    assert exporter.get_finished_spans() == ()
    assert session.notices == ["OTEL_SDK_DISABLED is set: no spans and no metrics leave through OpenTelemetry"]


def test_service_name_and_resource_attributes_of_the_environment_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=rl%20ops,service.name=lost,deployment.environment=lab")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "trainer-7")
    exporter = InMemorySpanExporter()
    _train(_session({"spans": Contributing([SimpleSpanProcessor(exporter)])}), 1)
    resource = exporter.get_finished_spans()[0].resource.attributes
    assert (resource["service.name"], resource["team"]) == ("trainer-7", "rl ops")
    assert (resource["esper.run.id"], resource["esper.run.attempt"], resource["esper.rank"]) == ("r", 1, 0)


def test_a_traceparent_of_the_environment_becomes_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every span that begins a trace, and so in the journal and in a replay of it, to the last flag."""
    encode_spans = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder").encode_spans
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    monkeypatch.setenv("TRACESTATE", "vendor=a1,other=b2")
    exporter, recording = InMemorySpanExporter(), RecordingSink()
    _train(_session({"spans": Contributing([SimpleSpanProcessor(exporter)]), "recording": recording}), 1)
    live = exporter.get_finished_spans()
    iteration = next(span for span in live if span.name == "esper.iteration")
    (link,) = iteration.links
    assert f"{link.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert iteration.parent is None
    lines = [encode(event, {}) for event in recording.events]
    assert [decode(line)[0] for line in lines] == recording.events
    replayed = {span.context.span_id: span for line in lines for span in ended_spans(decode(line)[0], {})}
    assert {span.context.span_id for span in live} <= replayed.keys()
    for span in live:
        again = replayed[span.context.span_id]
        assert encode_spans([again]).resource_spans[0].scope_spans[0].spans[0].links == (
            encode_spans([span]).resource_spans[0].scope_spans[0].spans[0].links
        )
        assert bool(again.links) == (span.parent is None)
    sent = decode_request(encode_spans(live).SerializeToString(), "application/x-protobuf")
    assert {link.span_id for event in sent for link in event.trace.links} == {"b7ad6b7169203331"}
    odd = lines[0].replace(b'"traceId":"0af7', b'"traceId":"x')
    assert decode(odd)[0].trace.links == (), "a link that is none does not cost the event"


OWN_PROVIDER = """
import sys, random
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from esper_core.config.schema import EsperConfig
from esper_core.hooks import hookimpl
from esper_core.host.load.discovery import LoadedSink
from esper_core.host.deliver.hub import ActiveSink
from esper_core.host.load.selection import Selection
from esper_core.host.session import Session
from esper_core.testing import RecordingSink, make_update

mine = InMemorySpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(mine))
trace.set_tracer_provider(provider)

class Bringing:
    @hookimpl
    def esper_span_processors(self, context):
        raise AssertionError("not asked under an application's own provider")

session = Session(EsperConfig(sinks=()), selection=Selection(sinks=()), install_signal_handlers=False)
for name, sink in (("bringing", Bringing()), ("recording", RecordingSink())):
    hooks = frozenset(item for item in dir(sink) if item.startswith("esper_"))
    loaded = LoadedSink(name=name, spec=name, factory=type(sink), hooks=hooks)
    session.active.append(ActiveSink(loaded=loaded, instance=sink))
with session:
    event = session.emitter.emit_ppo_update(make_update(1))
(span,) = mine.get_finished_spans()
assert f"{span.context.span_id:016x}" == event.trace.own.span_id
assert span.attributes["esper.ppo.kl_divergence"] == 0.01
assert span.attributes["esper.run.id"] == "unnamed"
assert trace.get_tracer_provider() is provider
"""


def test_an_application_s_own_provider_is_used_and_left_alone(
    start_python: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start_python(OWN_PROVIDER)
    _, said = process.communicate(timeout=250)
    assert process.returncode == 0, said
    assert "the application's own OpenTelemetry tracer provider is in use" in said
    assert 'span processors of sink "bringing" are not attached' in said


NO_SDK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from esper_core.config.schema import EsperConfig
from esper_core.errors import SinkError
from esper_core.host.session import Session
from esper_core.testing import make_update

with Session(EsperConfig(sinks=("./plain.py:Plain",)), install_signal_handlers=False) as session:
    session.emitter.emit_ppo_update(make_update(1))
assert session.report.sinks[0].delivered == 1
try:
    with Session(EsperConfig(sinks=("./plain.py:Spans",)), install_signal_handlers=False):
        pass
except SinkError as error:
    print(error)
"""


def test_without_the_sdk_only_sinks_that_need_it_are_refused(
    start_python: Callable[..., subprocess.Popen[str]], tmp_path: Any
) -> None:
    (tmp_path / "plain.py").write_text(
        "from esper_core.hooks import hookimpl\n"
        "class Plain:\n    @hookimpl\n    def esper_ppo_updated(self, event): pass\n"
        "class Spans:\n    @hookimpl\n    def esper_span_processors(self, context): return []\n"
    )
    process = start_python(NO_SDK, cwd=tmp_path)
    out, said = process.communicate(timeout=250)
    assert process.returncode == 0, said
    assert out == (
        'the OpenTelemetry SDK is not installed, but "Spans" needs it\n'
        '  install it with `pip install "esper-core[otel]"`\n'
    )


def test_threads_of_a_session_are_gone_when_it_has_ended(eventually: Eventually) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    _train(_session({"spans": Contributing([SimpleSpanProcessor(InMemorySpanExporter())]), "sink": RecordingSink()}))

    def left() -> list[str]:
        names = [thread.name for thread in threading.enumerate() if thread.ident not in before]
        return [name for name in names if "esper" in name and name != "esper-heartbeat"]

    eventually(lambda: not left())
