"""HTML and SVG made of elements: whatever is not markup already is text, and is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from esper_core.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Markup", "element", "joined", "table"]

_VOID = frozenset({"meta"})


class Markup(str):
    """Text that is markup. Only this module and constants make it."""

    __slots__ = ()


def _safe(part: str) -> str:
    """Text for a page: escaped, without control characters and without what UTF-8 cannot hold."""
    if isinstance(part, Markup):
        return part
    return escape(one_line(part)).encode("utf-8", "replace").decode()


def joined(parts: Iterable[str]) -> Markup:
    """Parts one after another."""
    return Markup("".join(map(_safe, parts)))


def element(name: str, /, *parts: str, **attributes: str | float | bool | None) -> Markup:
    """An element.

    Args:
        name: of the element.
        parts: its content; text is escaped, markup is taken as it is.
        attributes: by name, with ``_`` for ``-`` and one at the end of a Python keyword; None leaves one out, True
            writes the name alone.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        words.append(label if value is True else f'{label}="{_safe(str(value))}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if name in _VOID else f"{opening}{joined(parts)}</{name}>")


def table(caption: str, heading: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> Markup:
    """A table with a caption; the first cell of a row names the row. It scrolls within itself, by keyboard too."""
    body = joined(
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    )
    head = element("tr", *(element("th", cell, scope="col") for cell in heading))
    whole = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", body),
        class_="numbers" if numbers else None,
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)
