"""``esper sanctum --web``: the same viewer in a browser, through textual-serve, on loopback.

Each browser tab gets its own viewer process. textual-serve has no authentication, so it accepts connections from this
machine only, and only from pages that it served itself.
"""

from __future__ import annotations

import re
import shlex
import sys
from typing import TYPE_CHECKING, Any, Final

from esper_core.errors import EXIT_OK, UsageError
from esper_sink_tui.addresses import is_loopback, parse_address

if TYPE_CHECKING:
    import argparse

__all__ = ["serve", "viewer_words"]

_PORT: Final = 8000
_FONT: Final = re.compile(r"<link[^>]*https://fonts\.googleapis\.com[^>]*>")
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; frame-ancestors 'none'; connect-src 'self'"
)


def viewer_words(args: argparse.Namespace) -> list[str]:
    """The command that runs for each tab."""
    words = [sys.executable, "-m", "esper_core", "sanctum", *args.runs, "--dir", args.dir, "--theme", args.theme]
    if args.ascii:
        words.append("--ascii")
    return words


def serve(args: argparse.Namespace) -> int:
    """Serve until interrupted.

    Raises:
        UsageError: textual-serve is missing, or the address is not loopback.
    """
    text = args.web if ":" in args.web else f"{args.web}:{_PORT}"
    host, port = parse_address(text)
    if not is_loopback(host):
        raise UsageError(
            f"refusing to serve on {host}: the page has no log-in",
            hint="serve on 127.0.0.1 and reach it with: ssh -L 8000:127.0.0.1:8000 HOST",
        )
    try:
        from aiohttp import web  # noqa: PLC0415  # an extra
        from textual_serve.server import Server  # noqa: PLC0415  # as above
    except ImportError as error:
        raise UsageError("--web needs textual-serve", hint="pip install 'esper-sink-tui[web]'") from error

    allowed = {f"{name}:{port}" for name in (host, "localhost", "127.0.0.1", "[::1]")}

    @web.middleware
    async def own_pages_only(request: Any, handler: Any) -> Any:
        """Check host and origin: without it a page of another site could open a socket to this server."""
        origin = request.headers.get("Origin", "")
        if request.host not in allowed or (origin and origin.partition("://")[2] not in allowed):
            raise web.HTTPForbidden(text="only this machine's own pages\n")
        answer = await handler(request)
        if getattr(answer, "content_type", "") == "text/html":
            # textual-serve's page loads a font from another host, which would learn of the viewer: remove the link.
            answer.text = _FONT.sub("", answer.text)
            answer.headers["Content-Security-Policy"] = f"{_POLICY} ws://{request.host}"
        return answer

    class LoopbackServer(Server):
        """Rejects requests from other hosts and origins."""

        async def _make_app(self) -> Any:
            app = await super()._make_app()
            app.middlewares.append(own_pages_only)
            return app

    print(f"sanctum on http://{host}:{port} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    server = LoopbackServer(shlex.join(viewer_words(args)), host=host, port=port, title="Sanctum")
    try:
        server.serve()
    except OSError as error:
        raise UsageError(f"cannot serve on {host}:{port}: {error.strerror}", hint="choose another port") from error
    return EXIT_OK
