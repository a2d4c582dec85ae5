"""Bodies of OTLP/HTTP traces requests and of their answers, independent of the HTTP server.

A span that cannot be decoded is skipped: the rest of its batch is accepted, and the answer counts it as OTLP's partial
success.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from esper_core.reading.system import HEARD, heard_systems
from esper_core.semconv.codec import CodecError, decode_request
from esper_core.semconv.otlp_metrics import request_points

if TYPE_CHECKING:
    from esper_core.events import Payload, TelemetryEvent
    from esper_core.runs.state import SystemRecord

__all__ = [
    "JSON",
    "MAX_BODY",
    "MAX_INFLATED",
    "PROTOBUF",
    "Batch",
    "RequestRefusedError",
    "inflate",
    "read_batch",
    "read_systems",
    "refusal",
    "success",
]

MAX_BODY: Final = 8 * 1024 * 1024
"""Bytes of a request body as received."""
MAX_INFLATED: Final = 32 * 1024 * 1024
"""Bytes of a request body after decompression."""
JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"
_MESSAGE: Final = 500
"""Characters of a message in an answer."""


class RequestRefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        message: what is wrong, for the client.
        close: close the connection, because the body was not read to its end.
    """

    def __init__(self, status: HTTPStatus, message: str, *, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.close = close


@dataclass(slots=True)
class Batch:
    """The content of one request.

    Attributes:
        events: the events, in the order of their spans.
        rejected: number of spans that could not be decoded, by run id; "" when it is unknown.
        message: the error of the first of them; empty for none.
    """

    events: list[TelemetryEvent[Payload]] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)
    message: str = ""

    def reject(self, error: CodecError) -> None:
        """Count a span that could not be decoded."""
        self.message = self.message or error.message
        self.rejected[error.run_id] = self.rejected.get(error.run_id, 0) + 1


def read_batch(body: bytes, kind: str) -> Batch:
    """The events in a body, already decompressed.

    Args:
        body: the body.
        kind: :data:`JSON` or :data:`PROTOBUF`.

    Raises:
        RequestRefusedError: the body is not what its type says.
    """
    batch = Batch()
    try:
        batch.events = decode_request(body, kind, on_error=batch.reject)
    except CodecError as error:
        raise RequestRefusedError(HTTPStatus.BAD_REQUEST, error.message) from None
    return batch


def read_systems(body: bytes, kind: str) -> dict[str, SystemRecord]:
    """What trainers take of their machines, by run id, in the body of a metrics request, already decompressed.

    Args:
        body: the body.
        kind: :data:`JSON` or :data:`PROTOBUF`.

    Raises:
        RequestRefusedError: the body is not what its type says.
    """
    try:
        return heard_systems(request_points(body, kind, HEARD))
    except CodecError as error:
        raise RequestRefusedError(HTTPStatus.BAD_REQUEST, error.message) from None


def inflate(body: bytes, limit: int = MAX_INFLATED) -> bytes:
    """Decompress gzip; never stores more than ``limit`` bytes.

    Raises:
        RequestRefusedError: not gzip, cut short, or larger than the limit.
    """
    parts: list[bytes] = []
    room, rest = limit, body
    while rest:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            part = unpacker.decompress(rest, room + 1)
        except zlib.error as error:
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, f"not gzip: {error}") from None
        if len(part) > room:
            raise RequestRefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {limit} bytes decompressed")
        if not unpacker.eof:
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, "gzip body cut short")
        parts.append(part)
        room -= len(part)
        rest = unpacker.unused_data
    return b"".join(parts)


def success(kind: str, batch: Batch | None = None) -> bytes:
    """An ``ExportTraceServiceResponse``, with partial success when spans were rejected."""
    rejected = sum(batch.rejected.values()) if batch is not None else 0
    if batch is None or not rejected:
        return b"{}" if kind == JSON else b""
    text = batch.message[:_MESSAGE]
    if kind == JSON:
        return json.dumps({"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": text}}).encode()
    partial = b"\x08" + _varint(rejected) + _text(b"\x12", text)
    return b"\x0a" + _varint(len(partial)) + partial


def refusal(message: str, kind: str) -> bytes:
    """A ``google.rpc.Status`` with this message, as OTLP asks for."""
    text = message[:_MESSAGE]
    return _text(b"\x12", text) if kind == PROTOBUF else json.dumps({"message": text}).encode()


def _text(tag: bytes, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return tag + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Protobuf's encoding of a whole number, 0 or more."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
