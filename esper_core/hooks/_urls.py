"""URLs as people may see them: without user, password and query, which may each be a secret."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["redact_urls"]

_USERINFO: Final = re.compile(r"(?<=://)[^/?#\s'\"]+(?=@)")
_QUERY: Final = re.compile(r"(://[^?#\s'\"]*\?)[^#\s'\"]+")


def redact_urls(text: str) -> str:
    """The text with user, password and query of every URL in it replaced by ``***``."""
    return _QUERY.sub(r"\1***", _USERINFO.sub("***", text)) if "://" in text else text
