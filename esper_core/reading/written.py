"""Blocks of cells as CSV and as JSON lines; a column is converted at once, not cell by cell."""

from __future__ import annotations

import csv
import io
import json
import re
from types import NoneType
from typing import TYPE_CHECKING, Final, TextIO

import msgspec

from esper_core.reading.table import json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from esper_core.reading.cells import Block, Cells

__all__ = ["write_csv", "write_jsonl"]

_encode: Final = msgspec.json.Encoder().encode
_QUOTED: Final = re.compile('[,"\r\n]')
"""What csv may put in quotes; it is asked."""


def write_csv(blocks: Iterable[Block], names: Sequence[str], out: TextIO) -> int:
    """Write updates under a heading.

    Empty cells for what was not measured; ``nan`` and ``inf`` as any reader of CSV takes them.

    Returns:
        Rows written.
    """
    csv.writer(out, lineterminator="\n").writerow(names)
    written = 0
    for block in blocks:
        lines = [""] * block.rows
        for part in block.parts:
            for place, line in zip(part.places, _csv_lines(part, names), strict=True):
                lines[place] = line
        out.write("\n".join([*lines, ""]))
        written += block.rows
    return written


def _csv_lines(part: Cells, names: Sequence[str]) -> Iterable[str]:
    empty = [""] * len(part.places)
    columns = [_texts(part.columns[name], _csv_text, "") if name in part.columns else empty for name in names]
    return map(",".join, zip(*columns, strict=True))


def write_jsonl(blocks: Iterable[Block], out: TextIO) -> int:
    """Write updates as one JSON object a line.

    What was not measured is left out; NaN and infinities are the strings ``NaN``, ``Infinity``, ``-Infinity``.

    Returns:
        Lines written.
    """
    written = 0
    for block in blocks:
        lines = [""] * block.rows
        for part in block.parts:
            for place, line in zip(part.places, _json_objects(part.columns), strict=True):
                lines[place] = line
        out.write("\n".join([*lines, ""]))
        written += block.rows
    return written


def _json_objects(columns: dict[str, Sequence[object]]) -> Iterable[str]:
    """Each row as a JSON object without what was not measured."""
    found: list[Sequence[str]] = []
    whole = True
    for name, values in columns.items():
        key = json.dumps(name, ensure_ascii=False)
        holes = values.count(None)
        if holes < len(values):
            whole = whole and not holes
            texts = _texts(values, _json_text, "")
            found.append([f"{key}: {text}" if text else "" for text in texts])
    return (f"{{{', '.join(cells if whole else filter(None, cells))}}}" for cells in zip(*found, strict=True))


def _texts(values: Sequence[object], convert: Callable[[object], str], missing: str) -> Sequence[str]:
    """Each value as text, and ``missing`` for None."""
    kinds = set(map(type, values))
    if NoneType in kinds:
        if len(kinds) == 1:
            return [missing] * len(values)
        known = iter(_texts([value for value in values if value is not None], convert, missing))
        return [missing if value is None else next(known) for value in values]
    if kinds in ({float}, {int}):
        return _number_texts(values, convert)
    if all(issubclass(kind, str) for kind in kinds):  # few different ones, as a rule
        texts = {value: convert(value) for value in set(values)}
        return [texts[value] for value in values]
    return list(map(convert, values))


def _number_texts(values: Sequence[object], convert: Callable[[object], str]) -> Sequence[str]:
    """As repr writes numbers. msgspec is many times faster, and differs where repr has an exponent or no number."""
    try:
        joined = _encode(values)[1:-1].decode()
    except OverflowError:  # beyond 64 bits
        return list(map(convert, values))
    texts = joined.split(",")
    if "e" not in joined and "n" not in joined and "0.0000" not in joined:
        return texts
    return [
        convert(value) if "e" in text or "n" in text or "0.0000" in text else text
        for value, text in zip(values, texts, strict=True)
    ]


def _csv_text(value: object) -> str:
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    if not _QUOTED.search(text):
        return text
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow((text, ""))
    return out.getvalue().removesuffix(",\n")


def _json_text(value: object) -> str:
    return json.dumps(json_value(value), ensure_ascii=False)
