"""OTLP/HTTP with protobuf bodies, over urllib3 (connections kept open, proxies of the environment honoured)."""

from __future__ import annotations

import email.utils
import gzip
import ssl
import time
import urllib.request
import zlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import urllib3
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from esper_core.errors import SinkError
from esper_sink_otlp import causes
from esper_sink_otlp.transport import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from esper_sink_otlp.settings import Compression, SignalSettings

__all__ = ["HttpTransport"]

_LONGEST_ANSWER = 64 * 1024
"""Bytes of an answer that are read: a partial success is far smaller."""


class HttpTransport:
    """One signal's connections. Thread: the exporter's."""

    def __init__(self, settings: SignalSettings) -> None:
        self._settings = settings
        self._compress = _COMPRESS[settings.compression]
        self._headers = {
            "content-type": "application/x-protobuf",
            "user-agent": "esper-sink-otlp",
            **({} if settings.compression == "none" else {"content-encoding": settings.compression}),
            **dict(settings.headers),
        }
        self._pool = _pool(settings)

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send one request; see ``Transport``."""
        started = time.monotonic()
        try:
            try:
                status, headers, content = self._request(body, timeout_s)
            except (urllib3.exceptions.ProtocolError, ConnectionError):
                # A kept connection that the receiver closed meanwhile shows only when it is used: once more, on a new
                # one. Receivers know a span by its id and a point by its time, so twice does no harm.
                self._pool.clear()
                left_s = timeout_s - (time.monotonic() - started)
                if left_s <= 0:
                    raise
                status, headers, content = self._request(body, left_s)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return causes.of_exception(error, self._settings, time.monotonic() - started)
        latency_s = time.monotonic() - started
        if status in {200, 202}:
            rejected, message = _partial_success(self._settings.signal, content)
            return Answer(ok=True, code=f"HTTP {status}", rejected=rejected, cause=message, latency_s=latency_s)
        retry_after_s = _retry_after(headers.get("retry-after"))
        return causes.of_status(status, content, self._settings, retry_after_s=retry_after_s, latency_s=latency_s)

    def _request(self, body: bytes, timeout_s: float) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and the beginning of the answer."""
        deadline = time.monotonic() + timeout_s
        response = self._pool.request(
            "POST",
            self._settings.endpoint,
            body=self._compress(body),
            headers=self._headers,
            timeout=urllib3.Timeout(total=timeout_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            return response.status, response.headers, _read(response, deadline)
        finally:
            response.release_conn()

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.clear()


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body)


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=1, mtime=0)  # level 6 takes three times as long for 5 % less


_COMPRESS: dict[Compression, Callable[[bytes], bytes]] = {"none": bytes, "gzip": _gzip, "deflate": _deflate}


def _pool(settings: SignalSettings) -> urllib3.PoolManager:
    options: dict[str, object] = {"num_pools": 2, "maxsize": 1, "retries": False}
    if settings.secure:
        options["ssl_context"] = _ssl_context(settings)
    parts = urlsplit(settings.endpoint)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, **options)  # type: ignore[arg-type]  # keyword arguments of the pool
    return urllib3.PoolManager(**options)  # type: ignore[arg-type]  # keyword arguments of the pool


def _ssl_context(settings: SignalSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.certificate)
        if settings.client_certificate and settings.client_key:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (settings.certificate, settings.client_certificate, settings.client_key)))
        raise SinkError(
            f"the otlp sink cannot use its certificate files ({files}): {error}",
            hint="they are PEM files: [sink.otlp] certificate, client_certificate, client_key",
        ) from error
    return context


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """The answer's beginning; a receiver that trickles cannot hold the thread much beyond the deadline."""
    content = b""
    for chunk in response.stream(4096):
        content += chunk
        if len(content) >= _LONGEST_ANSWER or time.monotonic() > deadline:
            response.close()
            break
    return content


def _partial_success(signal: str, content: bytes) -> tuple[int, str]:
    """Rejected items and the receiver's words, from the answer to a request it took."""
    try:
        if signal == "traces":
            spans = ExportTraceServiceResponse.FromString(content).partial_success
            return spans.rejected_spans, spans.error_message
        points = ExportMetricsServiceResponse.FromString(content).partial_success
    except DecodeError:
        return 0, ""  # some backends answer 200 with JSON or text
    return points.rejected_data_points, points.error_message


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())
