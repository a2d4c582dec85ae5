"""The page: an HTTP server of the standard library, in daemon threads, that knows when it was last read."""

from __future__ import annotations

import errno
import socket
import threading
import time
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, ClassVar, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from esper_core.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ScrapePage"]

_POLL_S: Final = 0.1
"""How long the server takes at most to notice that it is to end."""


class ScrapePage:
    """Serves one registry.

    The port is taken at once, so that one in use is told before training starts; requests are answered after
    :meth:`start`.

    Args:
        host: a name or an address, IPv4 or IPv6.
        port: 0 for any free one.

    Raises:
        SinkError: the address cannot be served on.
    """

    def __init__(self, host: str, port: int) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._app = make_wsgi_app(self.registry)
        self._collecting = threading.Lock()
        self._changed = threading.Condition()
        self._scrapes = 0
        self._seen_end = False
        self._closing = False
        self._closed = threading.Event()
        self._server = _bound(host, port)
        self._server.set_app(self._answer)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self._server.server_address[:2]
        name = host.decode() if isinstance(host, bytes | bytearray) else str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/metrics"

    @property
    def scrapes(self) -> int:
        """How often it was read."""
        return self._scrapes

    def start(self) -> None:
        """Answer requests from now on. Returns at once."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="esper-prometheus", daemon=True
        )
        self._thread.start()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # One at a time: of two collections at once the exporter gives one reader both, and the other one nothing.
        with self._collecting:
            closing = self._closing
            answer: Iterable[bytes] = self._app(environ, start_response)
        if environ.get("PATH_INFO") != "/favicon.ico":
            with self._changed:
                self._scrapes += 1
                self._seen_end = closing
                self._changed.notify_all()
        return answer

    def close(self, linger_s: float = 0.0) -> None:
        """Wait for a scrape that reads the end of the run, then end the server. A second call waits for the first.

        Args:
            linger_s: how long at most; without an earlier scrape nobody is waited for.
        """
        with self._changed:
            first, self._closing = not self._closing, True
        if not first:
            self._closed.wait(linger_s + 1.0)
            return
        until = time.monotonic() + linger_s
        with self._changed:
            while self._scrapes and not self._seen_end and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
        if self._thread is not None:
            self._server.shutdown()
        self._server.server_close()
        self._closed.set()


class _Handler(WSGIRequestHandler):
    timeout = 10
    """Seconds for a request to arrive: a client that stays silent holds one daemon thread no longer."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
        """Say nothing: standard error is the user's."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close: ClassVar[bool] = False  # type: ignore[misc]  # the base has it as an attribute of objects

    def server_bind(self) -> None:
        """Bind without asking a name server for this host's name, as the base does: that may take seconds."""
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours, and standard error is the user's."""


def _bound(host: str, port: int) -> _Server:
    where = f"{host}:{port}"
    try:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        kind = type("_Server", (_Server,), {"address_family": family})
        server: _Server = kind(found[:2], _Handler)
    except OSError as error:
        raise _refusal(where, error) from None
    except (UnicodeError, OverflowError) as error:
        raise SinkError(f'sink "prometheus" cannot serve on {where}: {error}', hint=_HOST_HINT) from None
    return server


_HOST_HINT: Final = "set sink.prometheus.host to an address of this machine, for example 127.0.0.1"


def _refusal(where: str, error: OSError) -> SinkError:
    if error.errno == errno.EADDRINUSE:
        return SinkError(
            f'sink "prometheus" cannot serve on {where}: the port is in use, perhaps by another run',
            hint="set sink.prometheus.port to a free port, or to 0 for any free one",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return SinkError(
            f'sink "prometheus" cannot serve on {where}: this user may not use the port',
            hint="set sink.prometheus.port to a port from 1024 on",
        )
    return SinkError(f'sink "prometheus" cannot serve on {where}: {error.strerror or error}', hint=_HOST_HINT)
