"""The gateway keeps a trace for its ERROR status alone, and drops the others of its kind when it samples none."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.events import PPOUpdatePayload, RunFinished, SpanRef, TelemetryEvent, TraceRef
from esper_core.health import HealthLevel, RunState
from esper_core.hooks import Secret
from esper_core.host.otel.played import ended_spans
from esper_core.semconv.attributes import span_name
from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.sender import Sender
from esper_sink_otlp.settings import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.events import Payload

pytestmark = pytest.mark.collector

TOKEN = "a-token"
WITH_FILE = """
exporters:
  file: {path: "%s", flush_interval: 100ms, append: true}
service:
  pipelines:
    traces: {exporters: [file]}
"""


def event(payload: Payload) -> TelemetryEvent[Any]:
    """In a trace of its own."""
    now = time.time_ns()
    own = SpanRef(name=span_name(payload), span_id=secrets.token_hex(8), start_ns=now - 1000, end_ns=now)
    return TelemetryEvent(
        time_ns=now, run_id="r", trace=TraceRef(trace_id=secrets.token_hex(16), spans=(own,)), payload=payload
    )


def update(**fields: Any) -> TelemetryEvent[Any]:
    """Completed, and healthy by its level: no other policy of the gateway keeps it."""
    return event(PPOUpdatePayload(update_id=1, kl_divergence=0.004, health=HealthLevel.HEALTHY, **fields))


def test_a_trace_with_an_error_is_kept_by_its_status(
    stage: Any, certificates: Any, tmp_path: Path, helpers: Any
) -> None:
    out = tmp_path / "kept.jsonl"
    gateway = stage.collector(
        helpers.CONFIG / "gateway.yaml",
        WITH_FILE % out,
        name="gateway",
        ESPER_TLS_CERT=str(certificates.cert),
        ESPER_TLS_KEY=str(certificates.key),
        ESPER_GATEWAY_TOKEN=TOKEN,
        ESPER_DECISION_WAIT_AFTER_ROOT="500ms",
        ESPER_SAMPLING_PERCENTAGE="0",
    )
    config = OtlpConfig(
        endpoint=f"https://localhost:{gateway.http}",
        certificate=str(certificates.ca),
        headers={"authorization": Secret(f"Bearer {TOKEN}")},
    )
    sender = Sender(resolve(config, {}, "traces"), str)
    calm, failed = update(), update(non_finite=3)
    ended = event(RunFinished(state=RunState.FAILED, reason="RuntimeError: it fell over"))
    for item in (calm, failed, ended, update()):
        spans = ended_spans(item, {"service.name": "esper", "esper.run.id": "r"})
        answer = sender.send(spans, 20.0)
        assert answer.ok, answer
    sender.close()
    kept = {failed.trace.own.span_id: "non_finite", ended.trace.own.span_id: "RuntimeError"}
    helpers.wait_for(lambda: {*kept} <= {span["spanId"] for span in helpers.spans_in(out)}, "both errors")
    decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
    helpers.wait_for(lambda: gateway.own_metric(decided, sampled="false") == 2, "the calm traces decided on")
    found = helpers.spans_in(out)
    assert {span["spanId"] for span in found} == {*kept}
    for span in found:
        assert span["status"]["code"] == 2
        types = [item["value"]["stringValue"] for item in span["attributes"] if item["key"] == "error.type"]
        assert types == [kept[span["spanId"]]]
        assert "exception" in [item["name"] for item in span["events"]]
