"""One message to one URL: tried again within a limit, and no word about it holds the URL. Standard library only.

A webhook's URL is its password. Messages name scheme and host alone, and never an exception's own text where a library
may have put the URL there.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from esper_sink_webhook.shapes import rendered

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_sink_webhook.shapes import Message, Shape

__all__ = ["Outcome", "Target", "deliver", "url_fault"]

_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0
_RETRYABLE: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Target:
    """Where messages go. Its ``repr`` shows no secret.

    Attributes:
        url: a secret.
        token: sent as ``Authorization: Bearer``; a secret; empty for none.
        shape: of the body.
        timeout_s: of one request.
    """

    url: str
    token: str
    shape: Shape
    timeout_s: float

    @property
    def place(self) -> str:
        """Scheme and host, which are no secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def __repr__(self) -> str:
        return f"Target({self.place}/***)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one message.

    Attributes:
        ok: it was taken: a status from 200 to 299.
        words: what was answered, or why there was no answer; without secrets.
        retryable: another try may succeed.
        wait_s: how long the receiver asked to wait.
    """

    ok: bool
    words: str
    retryable: bool = False
    wait_s: float = 0.0


def url_fault(url: str) -> str:
    """What is wrong with a URL, in words that do not repeat it; empty when it can be used."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "has to begin with https:// or http:// and a host"
    if parts.username or parts.password:
        return "holds a user; give a token as sink.webhook.token instead"
    if not url.isascii() or any(not character.isprintable() or character == " " for character in url):
        return "holds characters that a URL cannot have"
    return "" if port != 0 else "has port 0"


def deliver(
    target: Target,
    message: Message,
    until: Callable[[], float],
    wait: Callable[[float], object] = time.sleep,
    *,
    once: bool = False,
) -> Outcome:
    """Send a message, and again until it is taken, is refused for good, or the time is over.

    Args:
        target: where to.
        message: what.
        until: returns the monotonic time after which no further try begins; it may come nearer meanwhile.
        wait: waits for so many seconds, or less when the end has come nearer.
        once: do not try again.
    """
    pause = _FIRST_WAIT_S
    while True:
        outcome = _send(target, message, max(0.05, min(target.timeout_s, until() - time.monotonic())))
        if once or outcome.ok or not outcome.retryable:
            return outcome
        left = until() - time.monotonic()
        wanted = max(pause, outcome.wait_s)
        if left <= 0 or outcome.wait_s > left:
            return outcome
        wait(min(wanted, left))
        if time.monotonic() >= until():
            return outcome
        pause = min(_LONGEST_WAIT_S, pause * 2)


def _send(target: Target, message: Message, timeout_s: float) -> Outcome:
    headers, body = rendered(message, target.shape)
    headers["User-Agent"] = "esper-sink-webhook"
    if target.token:
        headers["Authorization"] = f"Bearer {target.token}"
    request = urllib.request.Request(target.url, data=body, headers=headers, method="POST")  # noqa: S310  # checked
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            return Outcome(ok=True, words=f"HTTP {answer.status}")
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            retryable = error.code in _RETRYABLE or error.code >= 500
            return Outcome(
                ok=False,
                words=f"{target.place} answered {error.code}",
                retryable=retryable,
                wait_s=_seconds(error.headers.get("Retry-After")),
            )
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Outcome(ok=False, words=f"{target.place}: {_cause(error)}", retryable=not isinstance(error, ValueError))


def _cause(error: BaseException) -> str:
    """Why there was no answer. Of other exceptions the kind alone: their text may quote the URL."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return _cause(error.reason)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _seconds(text: str | None) -> float:
    """``Retry-After`` as seconds; a date is not read."""
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 7 else 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is a failure: a message sent on as GET says nothing, and a secret belongs to one host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


_OPENER: Final = urllib.request.build_opener(_NoRedirect)
