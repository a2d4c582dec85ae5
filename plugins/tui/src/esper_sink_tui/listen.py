"""An OTLP/HTTP receiver for the viewer: decodes traces into typed events. On aiohttp, in its own thread.

Of metrics it reads what trainers take of their machines.
It validates all input: sizes are limited before and after decompression, and in sum over all bodies that are being
read; a slow client is disconnected, and a malformed request is answered with the status code that OTLP defines and has
no other effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import resource
import socket
import ssl
import threading
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from esper_core.errors import UsageError
from esper_sink_tui.addresses import DEFAULT_PORT, is_loopback
from esper_sink_tui.intake import (
    JSON,
    MAX_BODY,
    PROTOBUF,
    Batch,
    RequestRefusedError,
    inflate,
    read_batch,
    read_systems,
    refusal,
    success,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.runs.state import SystemRecord

__all__ = ["Limits", "Receiver"]

_TRACES: Final = "/v1/traces"
_METRICS: Final = "/v1/metrics"
_LOGS: Final = "/v1/logs"
_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_SERVER: Final = "esper-sanctum"
_BACKLOG: Final = 1024
_HEADERS: Final = 64
_OTHER_FILES: Final = 64
"""File descriptors for the rest of the viewer."""
_LINGER_S: Final = 2.0
"""Seconds for which the rest of a refused body is read and dropped, so that the client reads the answer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a receiver.

    Attributes:
        connections: open connections; one more is answered with 503.
        bodies: bytes of the bodies that are being read, over all connections; a request beyond is answered with 503.
        head_s: seconds from a connection's start, or its last answer, until the next request's headers are complete.
        body_s: seconds for reading a body, and for a TLS handshake.
    """

    connections: int = 2048
    bodies: int = 64 * 1024 * 1024
    head_s: float = 60.0
    body_s: float = 15.0


class Receiver:
    """Listens in its own thread until closed.

    Args:
        take: gets the decoded events of a request; returns False when there is no room, which is answered with 503.
        reject: gets the number of spans of a request that could not be decoded, by run id ("" when it is unknown).
        measure: gets what the trainers of runs take of their machines, by run id.
        host: address to bind to.
        port: 0 takes a free one.
        token: bearer token that every request must carry; empty for none.
        tls: certificate and key files, or None.
        limits: its limits.

    Raises:
        UsageError: neither token nor TLS beyond loopback, the address is taken, or a file cannot be read.
    """

    def __init__(
        self,
        take: Callable[[list[TelemetryEvent[Payload]]], bool],
        *,
        reject: Callable[[Mapping[str, int]], None] | None = None,
        measure: Callable[[Mapping[str, SystemRecord]], None] | None = None,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        token: str = "",
        tls: tuple[Path, Path] | None = None,
        limits: Limits | None = None,
    ) -> None:
        if not is_loopback(host) and not token and tls is None:
            raise UsageError(
                f"refusing to listen on {host}: anyone who reaches it could write to this screen",
                hint="give --token (or ESPER_SANCTUM_TOKEN) or --tls-cert and --tls-key, or listen on 127.0.0.1",
            )
        self.take = take
        self.reject = reject
        self.measure = measure
        self.token = token
        self.limits = Limits() if limits is None else limits
        self.accepted = 0
        """Requests of traces that were accepted."""
        self.refused = 0
        """Requests and connections that were refused."""
        self.ignored = 0
        """Requests of logs, and of metrics that tell nothing of a trainer's machine."""
        self.rejected = 0
        """Spans of accepted requests that could not be decoded."""
        self._bodies = 0
        self._tls = None if tls is None else _context(tls)
        self._socket = _bound(host, port)
        self.host, self.port = self._socket.getsockname()[:2]
        self.url = f"{'https' if tls is not None else 'http'}://{_bracketed(self.host)}:{self.port}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sanctum-listen", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and close all connections; a request that is being answered has one second to end."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(5.0)
        self._socket.close()

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        # A failed connection is the client's problem, and the terminal shows the screen.
        loop.set_exception_handler(lambda *_: None)
        room = min(self.limits.connections, _files() - _OTHER_FILES)
        log = logging.getLogger("esper_sink_tui.aiohttp")
        log.propagate = False  # a handler of the root logger would write to the screen
        log.addHandler(logging.NullHandler())
        manager = web.Server(self._answer)

        def connection() -> _Connection:
            return _Connection(
                manager,
                loop=loop,
                receiver=self,
                room=room,
                keepalive_timeout=self.limits.head_s,
                logger=log,
                access_log=None,
                auto_decompress=False,  # aiohttp's decompression has no limit per body
                lingering_time=_LINGER_S,
                max_headers=_HEADERS,
            )

        handshake_s = None if self._tls is None else self.limits.body_s
        server = await loop.create_server(
            connection, sock=self._socket, ssl=self._tls, ssl_handshake_timeout=handshake_s, backlog=_BACKLOG
        )
        self._ready.set()
        async with server:
            await self._end.wait()
            server.close()
            manager.pre_shutdown()
            await manager.shutdown(1.0)

    # --- one request --------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        kind = request.content_type if "content-type" in request.headers else ""
        try:
            body = await self._exchange(request, kind)
        except RequestRefusedError as error:
            return self.refuse(error, kind)
        return _response(HTTPStatus.OK, body, kind)

    async def _exchange(self, request: web.BaseRequest, kind: str) -> bytes:
        """Handle one request and return the body of the answer.

        Raises:
            RequestRefusedError: the request is not accepted.
        """
        if request.method != "POST":
            raise RequestRefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "send traces by POST")
        if request.version >= (1, 1) and len(request.headers.getall("host", ())) != 1:
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, "one Host header is needed", close=True)
        self._authorise(request)
        path = request.rel_url.raw_path
        if path not in {_TRACES, _METRICS, _LOGS}:
            raise RequestRefusedError(HTTPStatus.NOT_FOUND, f"no {path} here: send traces to {_TRACES}")
        if kind not in {JSON, PROTOBUF}:
            text = f'content type "{kind}": send {PROTOBUF} or {JSON}'
            raise RequestRefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip", ""}:
            text = f'content encoding "{encoding}": send gzip or none'
            raise RequestRefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
        body = await self._body(request)
        if encoding == "gzip":
            body = inflate(body)
        if path != _TRACES:
            systems = read_systems(body, kind) if path == _METRICS and self.measure is not None else {}
            if systems and self.measure is not None:
                self.measure(systems)
            self.ignored += not systems
            return success(kind)
        batch = read_batch(body, kind)
        if not self.take(batch.events):
            raise RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the viewer is behind: send it again")
        self._count(batch)
        return success(kind, batch)

    def _count(self, batch: Batch) -> None:
        self.accepted += 1
        self.rejected += sum(batch.rejected.values())
        if batch.rejected and self.reject is not None:
            self.reject(batch.rejected)

    def _authorise(self, request: web.BaseRequest) -> None:
        if not self.token:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # The scheme's case does not matter (RFC 9110, section 11.1); the token's does.
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.encode("utf-8", "surrogateescape"), self.token.encode()
        ):
            raise RequestRefusedError(HTTPStatus.UNAUTHORIZED, "a bearer token is needed")

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Read the body as sent, within the limits for one request and for all together."""
        length = request.content_length
        if length is None and "chunked" not in request.headers.get("transfer-encoding", "").lower():
            raise RequestRefusedError(HTTPStatus.LENGTH_REQUIRED, "a content length is needed", close=True)
        if (length or 0) > MAX_BODY:
            raise _too_large()
        await _expected(request)
        held = 0
        parts = []
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for part in request.content.iter_any():
                    held += len(part)
                    self._bodies += len(part)
                    if held > MAX_BODY:
                        raise _too_large()
                    if self._bodies > self.limits.bodies:
                        text = "too many requests at a time: send it again"
                        raise RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, text, close=True)
                    parts.append(part)
        except TimeoutError:
            raise RequestRefusedError(HTTPStatus.REQUEST_TIMEOUT, "the body did not come", close=True) from None
        except (web.RequestPayloadError, OSError) as error:
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, f"the body is broken: {error}", close=True) from None
        finally:
            self._bodies -= held
        return b"".join(parts)

    def refuse(self, error: RequestRefusedError, kind: str) -> web.Response:
        """Count, and answer with a google.rpc.Status in the request's own encoding, as OTLP asks for."""
        self.refused += 1
        kind = kind if kind == PROTOBUF else JSON
        response = _response(error.status, refusal(error.message, kind), kind)
        extra = {
            HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate", "Bearer"),
            HTTPStatus.METHOD_NOT_ALLOWED: ("Allow", "POST"),
            HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After", "1"),
        }.get(error.status)
        if extra is not None:
            response.headers[extra[0]] = extra[1]
        if error.close:
            response.force_close()
        return response


class _Connection(web.RequestHandler):
    """One connection; refused when too many are open."""

    __slots__ = ("_receiver", "_room", "_server")

    def __init__(self, manager: web.Server, *, receiver: Receiver, room: int, **settings: object) -> None:
        super().__init__(manager, **settings)  # type: ignore[arg-type]  # as aiohttp's own Server passes them
        self._receiver = receiver
        self._server = manager
        self._room = room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer with 503 and close when too many connections are open."""
        if len(self._server.connections) >= self._room and isinstance(transport, asyncio.Transport):
            self._receiver.refused += 1
            self.close()
            transport.write(_BUSY)
            transport.close()
            return
        super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp cannot parse, as any other refused request."""
        super().handle_error(request, status, exc, message)  # raises when an answer was already sent in part
        text = (
            "the viewer failed on this request" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else message or "not HTTP"
        )
        return self._receiver.refuse(RequestRefusedError(HTTPStatus(status), text, close=True), JSON)


def _response(status: HTTPStatus, body: bytes, kind: str) -> web.Response:
    return web.Response(status=status, body=body, headers={"Content-Type": kind, "Server": _SERVER})


def _too_large() -> RequestRefusedError:
    return RequestRefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY} bytes", close=True)


async def _expected(request: web.BaseRequest) -> None:
    """Answer ``Expect: 100-continue``; called when the headers are accepted."""
    expect = request.headers.get("expect", "").strip().lower()
    if not expect or request.version < (1, 1):
        return
    if expect != "100-continue":
        raise RequestRefusedError(
            HTTPStatus.EXPECTATION_FAILED, f'expectation "{expect}": only 100-continue', close=True
        )
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _context(tls: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(*tls)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"cannot use {tls[0]} and {tls[1]}: {error}", hint="both files in PEM form") from error
    return context


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", hint="choose another port"
        ) from error


def _files() -> int:
    """Raise the limit of open files as far as the system allows, and return it; each connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65536)
    wanted = min(wanted, 65536)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
