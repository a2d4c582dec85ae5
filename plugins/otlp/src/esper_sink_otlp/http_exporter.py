"""OTLP/HTTP: the SDK's exporters on a session whose adapters note what became of each request."""

from __future__ import annotations

import email.utils
import io
import math
import os
import time
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

import requests
import urllib3
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests.adapters import BaseAdapter

from esper_core.errors import SinkError
from esper_sink_otlp import causes
from esper_sink_otlp.answer import Answer, partial_success
from esper_sink_otlp.clock import ahead_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_sink_otlp.config import Signal
    from esper_sink_otlp.watch import Watch

__all__ = ["http_exporter"]

_LONGEST_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read: a partial success is far smaller."""
_COMPRESSION: Final = {
    "none": Compression.NoCompression,
    "gzip": Compression.Gzip,
    "deflate": Compression.Deflate,
}


def http_exporter(watch: Watch) -> Any:
    """The SDK's exporter of the signal.

    Raises:
        SinkError: the credential provider that the environment names cannot be used.
    """
    settings = watch.settings
    exporter = _exporter_class(settings.signal)
    session = _session(settings.signal)
    for prefix, adapter in tuple(session.adapters.items()):
        session.mount(prefix, _Watched(adapter, watch))
    return exporter(
        endpoint=settings.endpoint,
        certificate_file=settings.certificate,
        client_key_file=settings.client_key,
        client_certificate_file=settings.client_certificate,
        headers=dict(settings.headers),
        timeout=settings.timeout_s,
        compression=_COMPRESSION[settings.compression],
        session=session,
    )


def _exporter_class(signal: Signal) -> Any:
    """Only what is used is imported; the one for logs is marked as in development."""
    package = "opentelemetry.exporter.otlp.proto.http"
    module, name = {
        "traces": ("trace_exporter", "OTLPSpanExporter"),
        "metrics": ("metric_exporter", "OTLPMetricExporter"),
        "logs": ("_log_exporter", "OTLPLogExporter"),
    }[signal]
    return getattr(import_module(f"{package}.{module}"), name)


def _session(signal: str) -> requests.Session:
    """A session, or the one of the credential provider that the environment names.

    The exporters load it themselves, but only when they are given no session.
    """
    name = os.environ.get("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER") or os.environ.get(
        f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal.upper()}_CREDENTIAL_PROVIDER"
    )
    if not name:
        return requests.Session()
    found = tuple(entry_points(group="opentelemetry_otlp_credential_provider", name=name))
    session = found[0].load()() if found else None
    if not isinstance(session, requests.Session):
        raise SinkError(
            f"the credential provider {name!r} {'gives no requests.Session' if found else 'is not installed'}",
            hint="OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER names an entry point of the group "
            "opentelemetry_otlp_credential_provider",
        )
    return session


class _SettledError(requests.exceptions.RequestException):
    """The watch knows what became of the request. The exporters retry on connection errors, and not on this one."""


class _Watched(BaseAdapter):
    """Sends by another adapter, within the time that is left, and notes what became of it."""

    def __init__(self, inner: BaseAdapter, watch: Watch) -> None:
        super().__init__()
        self._inner = inner
        self._watch = watch

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send it; see ``requests.adapters.BaseAdapter``. What the exporter would retry does not reach it."""
        del stream  # the answer's beginning is read here
        watch = self._watch
        started, began_s = time.monotonic(), time.time()
        left_s = watch.left_s(timeout if isinstance(timeout, int | float) else watch.settings.timeout_s)
        watch.tries += 1
        try:
            response = self._inner.send(
                request,
                stream=True,
                timeout=urllib3.Timeout(total=left_s),  # type: ignore[arg-type]  # requests takes it as it is
                # The exporter sets the file on its session, and there requests lets REQUESTS_CA_BUNDLE win over it.
                verify=watch.settings.certificate or verify,
                cert=cert,
                proxies=proxies,
            )
            content = _read(response, started + left_s)
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:  # requests' own errors are OSErrors
            watch.answer = causes.of_exception(error, watch.settings, time.monotonic() - started)
            if watch.tries == 1 and _stale(error):
                raise  # a kept connection that the receiver closed meanwhile: the exporter tries once more, at once
            raise _SettledError(watch.answer.cause) from None
        watch.answer = replace(
            _answer(watch, response, content, time.monotonic() - started),
            clock_ahead_s=ahead_s(response.headers.get("date"), began_s, time.time()),
        )
        if 300 <= response.status_code < 400 or response.status_code in {408, 429} or response.status_code >= 500:
            raise _SettledError(watch.answer.cause)
        return _shortened(response, request)

    def close(self) -> None:
        """Let go of the connections."""
        self._inner.close()


def _stale(error: Exception) -> bool:
    other = requests.exceptions.Timeout, requests.exceptions.SSLError, requests.exceptions.ProxyError
    return isinstance(error, requests.exceptions.ConnectionError) and not isinstance(error, other)


def _read(response: requests.Response, deadline: float) -> bytes:
    """The answer's beginning; a receiver that trickles cannot hold the thread much beyond the deadline."""
    content = b""
    for chunk in response.iter_content(4096):
        content += chunk
        if len(content) >= _LONGEST_ANSWER or time.monotonic() > deadline:
            response.close()
            break
    return content


def _shortened(response: requests.Response, request: requests.PreparedRequest) -> requests.Response:
    """Status and headers for the exporter, and for a credential provider's session, without the body."""
    made = requests.Response()
    made.status_code, made.reason, made.headers = response.status_code, response.reason, response.headers
    made.url, made.request, made.raw = response.url, request, io.BytesIO()
    return made


def _answer(watch: Watch, response: requests.Response, content: bytes, latency_s: float) -> Answer:
    if 200 <= response.status_code < 300:
        rejected, message = _partial_success(watch.settings.signal, content)
        code = f"HTTP {response.status_code}"
        return Answer(ok=True, code=code, rejected=rejected, cause=message, latency_s=latency_s)
    return causes.of_status(
        response.status_code,
        content,
        watch.settings,
        retry_after_s=_retry_after(response.headers.get("retry-after")),
        latency_s=latency_s,
    )


_RESPONSES: Final[Mapping[Signal, Any]] = {
    "traces": ExportTraceServiceResponse,
    "metrics": ExportMetricsServiceResponse,
    "logs": ExportLogsServiceResponse,
}


def _partial_success(signal: Signal, content: bytes) -> tuple[int, str]:
    """Rejected items and the receiver's words, from the answer to a request it took."""
    try:
        response = _RESPONSES[signal].FromString(content)
    except DecodeError:
        return 0, ""  # some backends answer 200 with JSON or text
    return partial_success(signal, response)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or a date."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())
