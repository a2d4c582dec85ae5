"""OTLP requests of a run's events, posted to a listener and read by its watch."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import TYPE_CHECKING, Any

from esper_core.semconv.codec import encode

__all__ = ["JSON", "PROTOBUF", "as_protobuf", "post", "read", "request_of"]

if TYPE_CHECKING:
    from esper_sink_tui.listen import Receiver
    from esper_sink_tui.watch import Watch


JSON = {"Content-Type": "application/json"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def post(
    receiver: Receiver, body: bytes, headers: dict[str, str], path: str = "/v1/traces", method: str = "POST"
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=250)
    with contextlib.closing(connection):
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


def request_of(events: list[Any]) -> bytes:
    """An export request in JSON: the lines of a journal joined."""
    spans = [item for event in events for item in json.loads(encode(event, {"service.name": "esper"}))["resourceSpans"]]
    return json.dumps({"resourceSpans": spans}).encode()


def as_protobuf(body: bytes) -> bytes:
    """The same request in protobuf. Ids are hex in OTLP's JSON, base64 in protobuf's own."""
    from base64 import b64encode

    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    plain = json.loads(body)
    for resource in plain["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:
                        span[key] = b64encode(bytes.fromhex(span[key])).decode()
    message = ParseDict(plain, ExportTraceServiceRequest())
    return bytes(message.SerializeToString())


def read(watch: Watch) -> Any:
    while watch.tick():
        pass
    return watch.model()
