"""The OTLP/HTTP listener: the requests that it accepts, and what the screen then shows."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from otlp_requests import JSON, PROTOBUF, as_protobuf, post, read, request_of

pytest.importorskip("aiohttp", reason="pip install 'esper-sink-tui[listen]'")

from esper_core.reading.system import system_text
from esper_core.runs.state import GPURecord, SystemRecord
from esper_core.semconv.codec import encode, encode_log_events
from esper_sink_tui.listen import Receiver

if TYPE_CHECKING:
    from sanctum_kit import Kit

    from esper_sink_tui.watch import Watch


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["json", "protobuf"])
def test_traces_become_the_same_events(kit: Kit, receiver: Receiver, watch: Watch, kind: str, packed: bool) -> None:
    events = kit.drift(12)
    body = request_of(events)
    headers = dict(JSON if kind == "json" else PROTOBUF)
    if kind == "protobuf":
        body = as_protobuf(body)
    if packed:
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    status, answer, _ = post(receiver, body, headers)
    assert (status, answer) == (200, b"{}" if kind == "json" else b"")
    model = read(watch)
    assert model.snapshot.tamiyo == kit.fed(events).snapshot().tamiyo
    assert model.snapshot.heads == kit.fed(events).snapshot().heads
    assert model.source == "OTLP"


@pytest.mark.parametrize("form", ["span", "log", "both"])
def test_the_screen_is_the_same_whatever_form_the_events_have(
    kit: Kit, receiver: Receiver, watch: Watch, form: str
) -> None:
    """Log events arrive in requests of their own; the spans' attributes have every value."""
    events = [
        replace(event, payload=replace(event.payload, kl_by_epoch=(0.01, 0.02)))
        if event.kind == "ppo_updated"
        else event
        for event in kit.drift(12)
    ]
    lines = [json.loads(encode(event, {}, with_events=form != "log")) for event in events]
    logs = [json.loads(line) for event in events if (line := encode_log_events(event, {}))] if form != "span" else []
    spans = {"resourceSpans": [item for line in lines for item in line["resourceSpans"]]}
    assert post(receiver, json.dumps(spans).encode(), JSON)[0] == 200
    for records in logs:
        assert post(receiver, json.dumps(records).encode(), JSON, "/v1/logs")[:2] == (200, b"{}")
    assert form == "span" or logs
    assert receiver.rejected == 0
    assert read(watch).snapshot.tamiyo == kit.fed(events).snapshot().tamiyo
    assert read(watch).snapshot.heads == kit.fed(events).snapshot().heads


def test_several_runs_at_once(kit: Kit, receiver: Receiver, watch: Watch) -> None:
    body = request_of([kit.event(kit.update(1), at=1, run_id=name) for name in ("run-a", "run-b")])
    assert post(receiver, body, JSON)[0] == 200
    read(watch)
    assert {row.run_id for row in watch.rows()} == {"run-a", "run-b"}


def test_the_same_request_twice_changes_nothing(kit: Kit, receiver: Receiver, watch: Watch) -> None:
    body = request_of(kit.drift(3))
    for _ in range(2):
        assert post(receiver, body, JSON)[0] == 200
    model = read(watch)
    assert len(model.snapshot.tamiyo.kl_divergence_history) == 3
    assert model.snapshot.duplicates == 3


def test_traces_of_others_are_accepted_and_show_nothing(receiver: Receiver, watch: Watch) -> None:
    span = {"traceId": "1" * 32, "spanId": "2" * 16, "name": "GET /", "startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    assert post(receiver, body, JSON)[0] == 200
    assert watch.all() == []


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/logs"])
def test_metrics_and_logs_are_taken_and_dropped(receiver: Receiver, path: str) -> None:
    assert post(receiver, b"{}", JSON, path)[0] == 200
    assert receiver.ignored == 1


def test_what_a_trainer_takes_of_its_machine_is_seen_over_otlp(kit: Kit, watch: Watch) -> None:
    """As our instrumentation sends it, in protobuf; and as another sender may, in JSON and in parts."""
    encoder = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.metrics_encoder", reason="the encoder")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from esper_core.instrumentation.system import create_system

    gpu = GPURecord(id="g", name="H100", utilization=0.5, memory=2 << 30, memory_limit=80 << 30)
    use = SystemRecord(cpu_cores=0.5, cpu_count=2, memory=300 << 20, gpus=(gpu,))
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    runs = [SimpleNamespace(identity={"esper.run.id": "run-a", "esper.rank": rank}, system=use) for rank in (0, 1)]
    create_system(provider.get_meter("esper_core"), runs)
    body = encoder.encode_metrics(reader.get_metrics_data()).SerializeToString()
    provider.shutdown()

    def point(rank: int, value: object) -> dict[str, object]:
        attributes = [{"key": "esper.rank", "value": {"intValue": str(rank)}}]
        return {"attributes": attributes, "timeUnixNano": str(10**18 * 2), "asInt": value}

    memory = {"name": "process.memory.usage", "sum": {"dataPoints": [point(0, str(412 << 20)), point(1, 7)]}}
    resource = {"attributes": [{"key": "esper.run.id", "value": {"stringValue": "run-a"}}]}
    later = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [memory]}]}]}
    with Receiver(lambda events: watch.receive(events, where="OTLP"), measure=watch.measured, port=0) as receiver:
        assert post(receiver, body, PROTOBUF, "/v1/metrics")[0] == 200, "of a run that is not known yet"
        assert post(receiver, request_of(kit.drift(3)), JSON)[0] == 200
        for sent, kind, shown in (
            (body, PROTOBUF, "CPU 25%  mem 300 MiB  GPU 50% 2.00 GiB"),
            (json.dumps(later).encode(), JSON, "CPU 25%  mem 412 MiB  GPU 50% 2.00 GiB"),
        ):
            assert post(receiver, sent, kind, "/v1/metrics")[0] == 200
            found = watch.watched()
            assert found is not None
            assert system_text(found.source.life(found.snapshot, 0).system) == shown
        for broken in (b"\xff", b'{"resourceMetrics": 1}', json.dumps(later).replace('"7"', "x").encode()[:-1]):
            kind = PROTOBUF if broken == b"\xff" else JSON
            assert post(receiver, broken, kind, "/v1/metrics")[0] == 400
        assert receiver.ignored == 0


def test_the_sdks_own_exporters_get_no_error(kit: Kit, watch: Watch) -> None:
    """Traces are counted, metrics ignored: a sender of all signals with a token needs no configuration of its own."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the stock exporter")
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
    from opentelemetry.sdk.trace.export import SpanExportResult

    from esper_core.host.otel.played import ended_spans

    with Receiver(lambda events: watch.receive(events, where="OTLP"), port=0, token="s3cret") as receiver:
        headers = {"Authorization": "Bearer s3cret"}
        traces = OTLPSpanExporter(f"{receiver.url}/v1/traces", headers=headers, compression=Compression.Gzip)
        events = kit.drift(12)
        spans = [span for event in events for span in ended_spans(event, {"service.name": "esper"})]
        assert traces.export(spans) is SpanExportResult.SUCCESS
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        provider.get_meter("a").create_counter("b").add(1)
        data = reader.get_metrics_data()
        assert data is not None
        metrics = OTLPMetricExporter(f"{receiver.url}/v1/metrics", headers=headers)
        assert metrics.export(data) is MetricExportResult.SUCCESS
        traces.shutdown()  # type: ignore[no-untyped-call]  # the SDK's
        metrics.shutdown()
        provider.shutdown()
        assert (receiver.accepted, receiver.ignored, receiver.refused) == (1, 1, 0)
    assert read(watch).snapshot.tamiyo == kit.fed(events).snapshot().tamiyo


def test_a_run_that_was_heard_of_leaves_nothing_to_index(kit: Kit, receiver: Receiver, watch: Watch) -> None:
    """The reading thread would go on without a rest."""
    post(receiver, request_of(kit.drift(3)), JSON)
    read(watch)
    assert watch.selected
    assert not watch.extend_index()
