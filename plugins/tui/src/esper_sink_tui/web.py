"""``esper sanctum --web``: the same viewer in a browser, through textual-serve, on loopback.

Each browser tab gets its own viewer process. textual-serve has no authentication: this module lets it accept
connections from this machine only, from pages that it served itself, and from browsers that came with the token, which
is in the URL that the command prints. Other users of the machine do not have it.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
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
_TOKEN: Final = "token"  # noqa: S105  # the name of the parameter
_RECONNECT: Final = """<script>
(() => {  // a connection that broke (sleep, a lost tunnel, a restarted server) comes back; one that was closed does not
  const Native = window.WebSocket;
  let leaving = false, wait = 500;
  addEventListener("beforeunload", () => { leaving = true; });
  const again = () => fetch(location.href, {cache: "no-store"})
    .then((answer) => { if (answer.ok) location.reload(); else later(); }, later);
  const later = () => { if (!leaving) setTimeout(again, wait = Math.min(wait * 2, 8000)); };
  window.WebSocket = class extends Native {
    constructor(...words) {
      super(...words);
      this.addEventListener("close", (event) => { if (!event.wasClean) later(); });
    }
  };
})();
</script>"""


def viewer_words(args: argparse.Namespace) -> list[str]:
    """The command that runs for each tab."""
    words = [sys.executable, "-m", "esper_core", "sanctum", *args.runs, "--dir", args.dir, "--theme", args.theme]
    if args.ascii:
        words.append("--ascii")
    return words


def serve(args: argparse.Namespace, token: str = "") -> int:
    """Serve until interrupted.

    Args:
        args: of the command.
        token: that a browser must bring; empty makes one.

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

    token = token or secrets.token_urlsafe(24)
    cookie = f"esper-sanctum-{port}"  # cookies belong to a host, whichever the port

    @web.middleware
    async def own_pages_only(request: Any, handler: Any) -> Any:
        """Check host and origin: without it a page of another site could open a socket to this server. And the token.

        It is taken from the URL once, and then from a cookie, so that it leaves the address bar and its history.
        """
        origin = request.headers.get("Origin", "")
        if request.host not in allowed or (origin and origin.partition("://")[2] not in allowed):
            raise web.HTTPForbidden(text="only this machine's own pages\n")
        if hmac.compare_digest(request.query.get(_TOKEN, "").encode(), token.encode()):
            rest = {key: value for key, value in request.query.items() if key != _TOKEN}
            onward = web.HTTPSeeOther(request.rel_url.with_query(rest))
            onward.set_cookie(cookie, token, httponly=True, samesite="Lax")
            raise onward
        if not hmac.compare_digest(request.cookies.get(cookie, "").encode(), token.encode()):
            raise web.HTTPForbidden(text="open the address that esper sanctum --web printed: it holds the token\n")
        answer = await handler(request)
        if getattr(answer, "content_type", "") == "text/html":
            # textual-serve's page loads a font from another host, which would learn of the viewer: remove the link.
            answer.text = _FONT.sub("", answer.text).replace("<head>", f"<head>{_RECONNECT}", 1)
            answer.headers["Content-Security-Policy"] = f"{_POLICY} ws://{request.host}"
            answer.headers["Referrer-Policy"] = "no-referrer"
        return answer

    class LoopbackServer(Server):
        """Rejects requests from other hosts and origins."""

        async def _make_app(self) -> Any:
            app = await super()._make_app()
            app.middlewares.append(own_pages_only)
            return app

    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # each line of it would repeat the token
    print(f"sanctum on http://{host}:{port}/?{_TOKEN}={token} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    server = LoopbackServer(shlex.join(viewer_words(args)), host=host, port=port, title="Sanctum")
    try:
        server.serve()
    except OSError as error:
        raise UsageError(f"cannot serve on {host}:{port}: {error.strerror}", hint="choose another port") from error
    return EXIT_OK
