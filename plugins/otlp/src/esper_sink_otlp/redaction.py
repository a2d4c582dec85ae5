"""The one place that every text of the sink passes: no token, password or key of a URL gets out."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from esper_core.hooks import redact_urls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Redaction"]

_SHORTEST: Final = 4
"""Shorter secrets would mask ordinary words; nobody's token is that short."""
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")


class Redaction:
    """Replaces secrets by ``***``: the known ones as they are, and user, password and query of every URL.

    Args:
        headers: values that are sent.
        urls: endpoints, with their user, password and query.
        env: proxies and their passwords.
    """

    def __init__(self, headers: Iterable[str], urls: Iterable[str], env: Mapping[str, str]) -> None:
        proxies = [value for name, value in env.items() if name.lower() in _PROXIES]
        found = {part for value in headers for part in (value, value.rpartition(" ")[2])}
        for url in (*urls, *proxies):
            found |= _of_url(url)
        found |= {form(value) for value in tuple(found) for form in (unquote, lambda text: quote(text, safe=""))}
        # A secret may hold another: the longest first.
        self._values = sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        text = redact_urls(text)
        for value in self._values:
            if value in text:
                text = text.replace(value, "***")
        return text


def _of_url(url: str) -> set[str]:
    """User's password, the header it becomes, and what its query says."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
    except ValueError:  # brackets without an address
        return {url}
    found = {value for _, value in parse_qsl(parts.query)} | {parts.query}
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if password:
        found |= {password, base64.b64encode(f"{user}:{password}".encode()).decode()}
    elif user:
        found.add(user)  # a token alone: https://TOKEN@host
    return found
