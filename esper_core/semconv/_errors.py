"""The one error of this package."""

from __future__ import annotations

from esper_core.errors import EsperError

__all__ = ["CodecError"]


class CodecError(EsperError):
    """Bytes or attributes do not encode an Esper event; the message names the attribute."""
