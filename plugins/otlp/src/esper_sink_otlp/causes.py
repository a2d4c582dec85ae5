"""Why a request failed, in words a person can act on. One place for both protocols."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import urllib3
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from esper_sink_otlp.answer import Answer, short

if TYPE_CHECKING:
    from esper_sink_otlp.settings import SignalSettings

__all__ = ["of_exception", "of_status"]

RETRYABLE_STATUS: Final = frozenset({401, 403, 407, 429, 502, 503, 504})
"""HTTP codes after which the same request may succeed: the OTLP specification's, and those of a token that may be
replaced (at the receiver, in a proxy, by a credential provider): a batch outlives that as it outlives an outage."""

AUTH_HINT: Final = "set [sink.otlp] headers, or OTEL_EXPORTER_OTLP_HEADERS"
TLS_HINT: Final = "set [sink.otlp] certificate to the authority's PEM file, or use http:// if the receiver has no TLS"
NAME_HINT: Final = "use the name that the certificate has"
GRPC_PORT_HINT: Final = 'use port 4318 for OTLP/HTTP, or set protocol = "grpc"'
HTTP_PORT_HINT: Final = 'use port 4317 for gRPC, or set protocol = "http/protobuf"'
TOO_LARGE_HINT: Final = "lower [sink.otlp] batch_bytes, or raise the receiver's limit"

PATH_HINT: Final = (
    "the endpoint is a base URL, to which /v1/{signal} is added; a Collector needs a pipeline of {signal}"
)

PROXY_HINT: Final = "look at HTTP_PROXY, HTTPS_PROXY and NO_PROXY"

_PROBE_S: Final = 0.3
_HTTP2_SETTINGS: Final = 4

_STATUS: Final = {
    400: ("the receiver calls the request invalid", "see the receiver's log; is this an OTLP endpoint?"),
    401: ("401: the receiver wants a token, or another one", AUTH_HINT),
    403: ("403: the token is known but may not write here", AUTH_HINT),
    404: ("404: no OTLP receiver at this path", PATH_HINT),
    405: ("405: this path takes no POST", PATH_HINT),
    407: ("407: the proxy wants a user and a password, or others", PROXY_HINT),
    413: ("413: the request is larger than the receiver takes", TOO_LARGE_HINT),
    415: ("415: the receiver does not take protobuf or this compression", 'try compression = "none"'),
    429: ("429: the receiver asks to slow down", "raise [sink.otlp] interval_s, or the receiver's limits"),
    502: ("502: a proxy does not reach the receiver", "look at the proxy and the receiver behind it"),
    503: ("503: the receiver cannot take data now", "it may be starting, overloaded, or unable to export onwards"),
    504: ("504: a proxy waited in vain for the receiver", "look at the proxy and the receiver behind it"),
}


def _place(settings: SignalSettings) -> str:
    parts = urlsplit(settings.endpoint if "://" in settings.endpoint else f"//{settings.endpoint}")
    return parts.netloc.rpartition("@")[2]


def of_status(
    status: int,
    content: bytes,
    settings: SignalSettings,
    *,
    retry_after_s: float | None = None,
    latency_s: float = 0.0,
) -> Answer:
    """An HTTP answer that is not a success."""
    cause, hint = _STATUS.get(status, (f"HTTP {status}", "see the receiver's log"))
    if hint is PATH_HINT:
        hint = hint.format(signal=settings.signal)
    said = _message(content)
    # The Collector of today answers 400 with these words where 413 is meant.
    too_large = status == 413 or "request body too large" in said
    if 300 <= status < 400:
        cause, hint = f"HTTP {status}: the receiver redirects", "set the endpoint to where it points"
    elif status == 400 and "http request to an https server" in said.lower():
        cause, hint = f"{_place(settings)} speaks TLS and was spoken to without it", "use https:// in the endpoint"
    elif too_large:
        cause, hint = _STATUS[413]
    elif said:
        cause = f"{cause}: {said}"
    return Answer(
        ok=False,
        code=f"HTTP {status}",
        cause=cause,
        hint=hint,
        retryable=status in RETRYABLE_STATUS,
        divisible=too_large,
        retry_after_s=retry_after_s,
        latency_s=latency_s,
    )


def of_exception(error: BaseException, settings: SignalSettings, latency_s: float) -> Answer:
    """An HTTP request that got no answer."""
    cause, hint = _words(error, settings)
    return Answer(ok=False, cause=cause, hint=hint, retryable=True, latency_s=latency_s)


def _words(error: BaseException, settings: SignalSettings) -> tuple[str, str]:
    place = _place(settings)
    chain = _chain(error)
    text = " ".join(str(item) for item in chain).lower()
    if any(isinstance(item, urllib3.exceptions.ProxyError) for item in chain):
        return f"the proxy does not lead to {place}: {short(str(chain[-1]))}", PROXY_HINT
    if any(isinstance(item, (urllib3.exceptions.NameResolutionError, socket.gaierror)) for item in chain):
        return f"the name of {place} is unknown", "check the endpoint's host name, and DNS"
    if any(isinstance(item, ConnectionRefusedError) for item in chain):
        return f"{place} refuses the connection: nothing listens there", "start the Collector, or check the port"
    if any(isinstance(item, (ssl.SSLError, urllib3.exceptions.SSLError)) for item in chain):
        return _tls_words(text, place)
    if any(isinstance(item, (urllib3.exceptions.TimeoutError, TimeoutError)) for item in chain):
        return (
            f"{place} did not answer within {settings.timeout_s:g} s",
            "the receiver hangs or a firewall drops packets; [sink.otlp] timeout_s",
        )
    if any(isinstance(item, OSError) and item.errno in {101, 113} for item in chain):
        return f"no route to {place}", "check the network"
    if any(isinstance(item, (urllib3.exceptions.ProtocolError, ConnectionError)) for item in chain):
        if _greets_in_http2(settings.endpoint):
            return f"{place} is a gRPC port and was spoken to in HTTP", GRPC_PORT_HINT
        return f"{place} closed the connection", "it may be restarting, or the port may not be OTLP/HTTP"
    return f"{place}: {short(str(chain[-1]))}", "see the receiver's log"


def _tls_words(text: str, place: str) -> tuple[str, str]:
    if "wrong version number" in text or "record layer failure" in text:
        return f"TLS: {place} does not speak it", "use http:// if the receiver has no TLS"
    if "certificate required" in text or "alert handshake failure" in text or "alert bad certificate" in text:
        return (
            f"TLS: {place} wants a client certificate (mTLS)",
            "set [sink.otlp] client_certificate and client_key",
        )
    # With TLS 1.3 the alert comes after the handshake, and is lost when the server closes while we still write.
    if "eof occurred" in text or "unexpected eof" in text:
        return (
            f"TLS: {place} closed the connection: it may want a client certificate (mTLS)",
            "set [sink.otlp] client_certificate and client_key",
        )
    if "hostname mismatch" in text or "doesn't match" in text or "ip address mismatch" in text:
        return f"TLS: the certificate of {place} is for another name", NAME_HINT
    if "expired" in text:
        return f"TLS: the certificate of {place} has expired", "renew it"
    if "certificate" in text:
        return f"TLS: the certificate of {place} is not trusted", TLS_HINT
    return f"TLS: no handshake with {place}: {short(text)}", TLS_HINT


def _greets_in_http2(endpoint: str) -> bool:
    """Whether the port begins with an HTTP/2 SETTINGS frame, as gRPC servers do before they hear anything.

    The answer to the request itself is lost more often than not: the server resets the connection behind it.
    """
    parts = urlsplit(endpoint)
    if parts.scheme != "http" or parts.hostname is None:
        return False
    try:
        with socket.create_connection((parts.hostname, parts.port or 80), timeout=_PROBE_S) as probe:
            probe.settimeout(_PROBE_S)
            frame = probe.recv(9)
    except OSError:
        return False
    return len(frame) >= 4 and frame[3] == _HTTP2_SETTINGS


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, outermost first."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        reason = getattr(current, "reason", None)
        current = current.__cause__ or current.__context__ or (reason if isinstance(reason, BaseException) else None)
    return chain


def _message(content: bytes) -> str:
    """What the receiver said, shortened: a google.rpc.Status as OTLP asks for, or text."""
    try:
        message: str = Status.FromString(content).message
        if message:
            return short(message)
    except DecodeError:
        pass
    return short(content.decode("utf-8", errors="replace"))


def of_grpc(code: str, details: str, settings: SignalSettings, *, too_large: bool) -> tuple[str, str]:
    """Cause and hint of a gRPC status."""
    place = _place(settings)
    text = details.lower()
    if too_large:
        return f"{place}: the request is larger than the receiver takes", TOO_LARGE_HINT
    if code == "UNAVAILABLE":
        return _unavailable(text, details, place)
    if code == "DEADLINE_EXCEEDED":
        return (
            f"{place} did not answer within {settings.timeout_s:g} s",
            "the receiver hangs, or the port is not gRPC (4317); [sink.otlp] timeout_s",
        )
    if code == "UNAUTHENTICATED":
        return f"UNAUTHENTICATED (401): the receiver wants a token, or another one: {short(details)}", AUTH_HINT
    if code == "PERMISSION_DENIED":
        return f"PERMISSION_DENIED (403): the token may not write here: {short(details)}", AUTH_HINT
    if code == "RESOURCE_EXHAUSTED":
        return (
            f"RESOURCE_EXHAUSTED (429): the receiver asks to slow down: {short(details)}",
            "raise [sink.otlp] interval_s, or the receiver's limits",
        )
    if code in {"UNIMPLEMENTED", "UNKNOWN", "INTERNAL"} and ("http" in text or "content-type" in text):
        return f"{place} is not a gRPC port: {short(details)}", HTTP_PORT_HINT
    if code == "UNIMPLEMENTED":
        return f"{place} has no OTLP receiver for {settings.signal}", "check the Collector's pipelines"
    return f"{code}: {short(details)}", "see the receiver's log"


def _unavailable(text: str, details: str, place: str) -> tuple[str, str]:
    if "http1" in text or "http/1" in text or "http2 settings" in text or "http status" in text:
        return f"{place} is an HTTP port and was spoken to in gRPC", HTTP_PORT_HINT
    if "dns" in text or "errors resolving" in text or "name resolution" in text:
        return f"the name of {place} is unknown", "check the endpoint's host name, and DNS"
    if "refused" in text:
        return f"{place} refuses the connection: nothing listens there", "start the Collector, or check the port"
    if "hostname verification" in text or "hostname mismatch" in text or "not in peer certificate" in text:
        return f"TLS: the certificate of {place} is for another name", NAME_HINT
    if "certificate_verify_failed" in text or "certificate_v" in text:
        return f"TLS: the certificate of {place} is not trusted", TLS_HINT
    if "wrong_version" in text:
        return f"TLS: {place} does not speak it", "use http:// if the receiver has no TLS"
    if "tsi_data_corrupted" in text or "certificate_required" in text:
        return (
            f"TLS: {place} closed the handshake: it may want a client certificate (mTLS)",
            "set [sink.otlp] client_certificate and client_key",
        )
    if "ssl" in text or "tls" in text or "handshake" in text or "certificate" in text:
        return f"TLS: no handshake with {place}: {short(details)}", TLS_HINT
    if "socket closed" in text:
        return f"{place} closed the connection", "use https:// if the receiver speaks TLS; it may also be restarting"
    return f"{place} is not available: {short(details)}", "see the receiver's log"
