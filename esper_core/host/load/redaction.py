"""Keeps the configuration's secrets out of logs, ``run.json``, the journal and error messages.

A sink's exception may quote its own request, token and URL included, so all text that the host writes about a sink is
redacted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from esper_core.hooks import Secret, redact_urls

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Redaction"]

_SHORTEST: Final = 4
"""Characters. Shorter secrets are not masked: they would mask ordinary words, and tokens are longer."""


@dataclass(slots=True)
class Redaction:
    """Replaces known secrets by ``***``, and user, password and query of every URL."""

    _values: list[str] = field(default_factory=list)

    def learn(self, options: Any) -> None:
        """Collect every ``Secret`` in a sink's options, at any depth."""
        self._values += [value for value in _secrets(options) if len(value) >= _SHORTEST]
        self._values.sort(key=len, reverse=True)  # a longer secret may contain a shorter one

    def __call__(self, text: str) -> str:
        """Return the text with every known secret replaced, and without passwords in URLs."""
        text = redact_urls(text)
        for value in self._values:
            if value in text:
                text = text.replace(value, "***")
        return text


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _secrets(item)
