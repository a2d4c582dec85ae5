"""An OTLP/HTTP receiver for the viewer: decodes traces into typed events. Standard library only.

It validates all input: sizes are limited before and after decompression, a slow client is disconnected, and a malformed
request is answered with the status code that OTLP defines and has no other effect.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import socket
import ssl
import threading
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self

from esper_core.errors import UsageError
from esper_core.semconv.codec import CodecError, decode_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esper_core.events import Payload, TelemetryEvent

__all__ = ["MAX_BODY", "MAX_INFLATED", "Receiver", "inflate", "is_loopback", "parse_address"]

MAX_BODY: Final = 8 * 1024 * 1024
"""Bytes of a request body as received."""
MAX_INFLATED: Final = 32 * 1024 * 1024
"""Bytes of a request body after decompression."""
MAX_CONNECTIONS: Final = 64
TIMEOUT_S: Final = 15.0
DEFAULT_PORT: Final = 4318
_TRACES: Final = "/v1/traces"
_IGNORED: Final = frozenset({"/v1/metrics", "/v1/logs"})
_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_JSON: Final = "application/json"
_PROTOBUF: Final = "application/x-protobuf"


class RequestRefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        message: what is wrong, for the client.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``HOST``, ``:PORT`` or ``[IPv6]:PORT``; the port defaults to 4318.

    Raises:
        UsageError: not an address.
    """
    host, port = text, str(DEFAULT_PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or str(DEFAULT_PORT)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(
            f'cannot listen on "{text}": port "{port}" is not 0 to 65535', hint="for example 127.0.0.1:4318"
        )
    return host or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def inflate(body: bytes, limit: int = MAX_INFLATED) -> bytes:
    """Decompress gzip; never stores more than ``limit`` bytes.

    Raises:
        RequestRefusedError: not gzip, truncated, or larger than the limit.
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


class Receiver:
    """Listens in its own threads until closed.

    Args:
        take: receives the decoded events of a request; returns False when there is no room: the client then gets 503.
        host: address to bind to.
        port: 0 selects a free port.
        token: bearer token that every request must carry; empty for none.
        tls: certificate and key files, or None.

    Raises:
        UsageError: neither token nor TLS beyond loopback, the address is taken, or a file cannot be read.
    """

    def __init__(
        self,
        take: Callable[[list[TelemetryEvent[Payload]]], bool],
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        token: str = "",
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        if not is_loopback(host) and not token and tls is None:
            raise UsageError(
                f"refusing to listen on {host}: anyone who reaches it could write to this screen",
                hint="give --token (or ESPER_SANCTUM_TOKEN) or --tls-cert and --tls-key, or listen on 127.0.0.1",
            )
        self.take = take
        self.accepted = 0
        self.refused = 0
        self.ignored = 0
        self.token = token
        self._lock = threading.Lock()
        try:
            self._server = _Server((host, port), _Handler, self)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {host}:{port}: {error.strerror or error}", hint="choose another port"
            ) from error
        if tls is not None:
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*tls)
            except (OSError, ssl.SSLError) as error:
                self._server.server_close()
                raise UsageError(f"cannot use {tls[0]} and {tls[1]}: {error}", hint="both files in PEM form") from error
            self._server.tls = context
        self.host, self.port = str(self._server.server_address[0]), int(self._server.server_address[1])
        self.url = f"{'https' if tls is not None else 'http'}://{_bracketed(self.host)}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="sanctum-listen", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def count(self, *, accepted: int = 0, refused: int = 0, ignored: int = 0) -> None:
        """Add to the counters, from any thread."""
        with self._lock:
            self.accepted += accepted
            self.refused += refused
            self.ignored += ignored


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], owner: Receiver) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.owner = owner
        self.tls: ssl.SSLContext | None = None
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle at most 64 connections at once; refuse further ones (503, without TLS) instead of queueing them."""
        if not self._room.acquire(blocking=False):
            self.owner.count(refused=1)
            if self.tls is None:
                with contextlib.suppress(OSError):
                    request.setblocking(False)
                    request.send(_BUSY)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    @property
    def crowded(self) -> bool:
        """True when more than half of the connections are in use: answered clients are then disconnected."""
        return self._room._value < MAX_CONNECTIONS // 2  # noqa: SLF001  # a hint; no lock needed

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake in the client's own thread, so that a slow client delays no other."""
        try:
            request.settimeout(TIMEOUT_S)
            if self.tls is not None:
                request = self.tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except (OSError, ssl.SSLError):
            self.owner.count(refused=1)
            with contextlib.suppress(OSError):
                request.close()
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client that disconnected is no error, and the screen uses the terminal."""
        del request, client_address
        self.owner.count(refused=1)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S
    server: _Server
    server_version = "esper-sanctum"
    sys_version = ""

    def do_POST(self) -> None:
        """Handle one export request."""
        owner = self.server.owner
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            self._serve(kind)
        except RequestRefusedError as error:
            owner.count(refused=1)
            self._refuse(error, kind)
            return
        self._answer(HTTPStatus.OK, b"{}" if kind == _JSON else b"", kind)

    def _serve(self, kind: str) -> None:
        self._authorise()
        path = self.path.partition("?")[0]
        if path not in _IGNORED and path != _TRACES:
            raise RequestRefusedError(HTTPStatus.NOT_FOUND, f"no {path} here: send traces to {_TRACES}")
        body = self._body()
        if kind not in {_JSON, _PROTOBUF}:
            text = f'content type "{kind}": send {_PROTOBUF} or {_JSON}'
            raise RequestRefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
        if path in _IGNORED:
            self.server.owner.count(ignored=1)
        else:
            self._take(body, kind)

    def _take(self, body: bytes, kind: str) -> None:
        try:
            events = decode_request(body, kind)
        except CodecError as error:
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, error.message) from None
        if not self.server.owner.take(events):
            raise RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the viewer is behind: send it again")
        self.server.owner.count(accepted=1)

    def _authorise(self) -> None:
        token = self.server.owner.token
        if not token:
            return
        scheme, _, given = self.headers.get("authorization", "").partition(" ")
        # The scheme's case does not matter (RFC 9110, section 11.1); the token's does.
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
            raise RequestRefusedError(HTTPStatus.UNAUTHORIZED, "a bearer token is needed")

    def _body(self) -> bytes:
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip", ""}:
            text = f'content encoding "{encoding}": send gzip or none'
            raise RequestRefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            self.close_connection = True
            raise RequestRefusedError(HTTPStatus.LENGTH_REQUIRED, "a content length is needed")
        # Count the digits before the conversion: Python raises for a number of thousands of digits.
        size = int(length[:12])
        if size > MAX_BODY or len(length) > len("999999999999"):
            self.close_connection = True
            raise RequestRefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY} bytes")
        try:
            body = self.rfile.read(size)
        except TimeoutError:
            self.close_connection = True
            raise RequestRefusedError(HTTPStatus.REQUEST_TIMEOUT, "the body did not come") from None
        if len(body) != size:
            self.close_connection = True
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, "the body was cut short")
        return inflate(body) if encoding == "gzip" else body

    def _wrong_method(self) -> None:
        self.close_connection = True
        self.server.owner.count(refused=1)
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"send traces by POST\n", "text/plain", ("Allow", "POST"))

    do_GET = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _wrong_method  # noqa: N815  # names of http.server

    def _refuse(self, error: RequestRefusedError, kind: str) -> None:
        """Answer with a google.rpc.Status, as OTLP requires, in the encoding of the request."""
        if error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND}:
            self.close_connection = True  # the body was not read
        message = error.message[:500].encode("utf-8", "replace")
        if kind == _PROTOBUF:
            length, size = b"", len(message)
            while size > 0x7F:
                length += bytes([size & 0x7F | 0x80])
                size >>= 7
            body = b"\x12" + length + bytes([size]) + message
        else:
            kind = _JSON
            body = json.dumps({"message": error.message[:500]}).encode()
        extra = {
            HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate", "Bearer"),
            HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After", "1"),
        }.get(error.status)
        self._answer(error.status, body, kind, extra)

    def _answer(self, status: HTTPStatus, body: bytes, kind: str, extra: tuple[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind or _JSON)
        self.send_header("Content-Length", str(len(body)))
        if extra is not None:
            self.send_header(*extra)
        self.close_connection = self.close_connection or self.server.crowded
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is http.server's
        """Print nothing: the screen uses the terminal."""
