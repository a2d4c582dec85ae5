"""Tables that are files of a kind of their own, written whole or not at all: SQLite and Parquet."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import tempfile
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, cast

from esper_core.errors import EsperError, UsageError
from esper_core.reading.cells import Block, Cells
from esper_core.reading.table import cell_type
from esper_core.reading.written import write_jsonl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["new_file", "write_parquet", "write_sqlite"]

TABLE: Final = "updates"
_SQLITE: Final = {int: "INTEGER", bool: "INTEGER", float: "REAL", str: "TEXT"}
_DUCKDB: Final = {int: "BIGINT", bool: "BOOLEAN", float: "DOUBLE", str: "VARCHAR"}
_INT64: Final = range(-(2**63), 2**63)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to write, and move it there at the end of the block; after an error it is removed.

    Raises:
        UsageError: ``path`` is there already, before or after.
        EsperError: nothing can be written there.
    """
    _refuse_present(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            made = Path(folder, path.name)
            yield made
            _refuse_present(path)
            made.replace(path)
    except OSError as error:
        raise EsperError(f"cannot write {path}: {error.strerror or error}", hint="name another file") from error


def _refuse_present(path: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already", hint="remove it, or name another file")


def write_sqlite(blocks: Iterable[Block], names: Sequence[str], path: Path) -> int:
    """Write updates into a new SQLite file, table ``updates``.

    What was not measured is NULL. SQLite has no NaN: it is the text ``NaN``, which sorts behind every number;
    infinities are REAL. Whole numbers beyond 64 bits are the nearest REAL.

    Returns:
        Rows written.

    Raises:
        EsperError: SQLite refuses, for example more than 2,000 columns.
    """
    columns = _column_names(names)
    table = ", ".join(
        f"{_quoted(column)} {_SQLITE[cell_type(name)]}" for column, name in zip(columns, names, strict=True)
    )
    written = 0
    try:
        with contextlib.closing(sqlite3.connect(path)) as file, file:
            file.execute("PRAGMA synchronous = OFF")  # the file is moved to its place when it is whole
            file.execute(f"CREATE TABLE {TABLE} ({table})")
            insert = f"INSERT INTO {TABLE} VALUES ({', '.join('?' * len(names))})"  # noqa: S608  # names are not in it
            for block in blocks:
                file.executemany(insert, _sqlite_rows(block, names))
                written += block.rows
    except sqlite3.Error as error:
        raise EsperError(f"SQLite cannot take these updates: {error}", hint="esper export --csv takes any") from error
    return written


def _sqlite_rows(block: Block, names: Sequence[str]) -> Sequence[Sequence[object]]:
    rows: list[Sequence[object]] = [()] * block.rows
    for part in block.parts:
        columns = [_sqlite_column(part, name) for name in names]
        for place, cells in zip(part.places, zip(*columns, strict=True), strict=True):
            rows[place] = cells
    return rows


def _sqlite_column(part: Cells, name: str) -> Sequence[object]:
    values = part.columns.get(name)
    if values is None:
        return [None] * len(part.places)
    if set(map(type, values)) <= {float, NoneType} and not any(map(math.isnan, cast("Any", filter(None, values)))):
        return values
    return list(map(_sqlite_value, values))


def _sqlite_value(value: object) -> object:
    if isinstance(value, float):
        return value if value == value else "NaN"  # noqa: PLR0124  # what SQLite would make NULL
    if isinstance(value, int):
        return value if value in _INT64 else str(value)  # which the column's affinity makes the nearest REAL
    return value if value is None else _text(str(value))


def write_parquet(blocks: Iterable[Block], names: Sequence[str], path: Path) -> int:
    """Write updates into a Parquet file with DuckDB.

    What was not measured is null, NaN and infinities are themselves, and ``time`` is a timestamp in UTC.

    Returns:
        Rows written.

    Raises:
        UsageError: DuckDB is not installed.
        EsperError: DuckDB refuses, for example whole numbers beyond 64 bits.
    """
    duckdb = _duckdb()
    columns = _column_names(names)
    types = {"time": "TIMESTAMP", **{name: _DUCKDB[cell_type(name)] for name in names if name != "time"}}
    table = ", ".join(f"{_literal(column)}: '{types[name]}'" for column, name in zip(columns, names, strict=True))
    lines = path.with_suffix(".jsonl")
    with lines.open("w", encoding="utf-8") as out:
        written = write_jsonl((_renamed(block, names, columns) for block in blocks), out)
    read = f"read_json({_literal(str(lines))}, format='newline_delimited', columns={{{table}}})"
    try:
        with contextlib.closing(duckdb.connect()) as engine:
            engine.execute(f"COPY (SELECT * FROM {read}) TO {_literal(str(path))} (FORMAT parquet)")  # noqa: S608
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise EsperError(f"DuckDB cannot take these updates: {reason}", hint="esper export --csv takes any") from error
    return written


def _renamed(block: Block, names: Sequence[str], columns: Sequence[str]) -> Block:
    """A block with the columns' names in the file, and with text that a file in UTF-8 can hold."""
    parts = [
        Cells(
            part.places,
            {
                column: _texts(part.columns[name]) if cell_type(name) is str else part.columns[name]
                for name, column in zip(names, columns, strict=True)
                if name in part.columns
            },
        )
        for part in block.parts
    ]
    return Block(block.rows, parts)


def _texts(values: Sequence[object]) -> Sequence[object]:
    known = {value: None if value is None else _text(str(value)) for value in set(values)}
    return [known[value] for value in values]


def _duckdb() -> Any:
    """The module, which has no types for mypy where it is not installed."""
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise UsageError(
            "--parquet needs duckdb, which is not installed", hint="pip install 'esper-core[parquet]'"
        ) from error
    return duckdb


def _column_names(names: Sequence[str]) -> list[str]:
    """Names that both engines can hold: they tell no capitals apart, so that the second ``Head`` is ``Head#2``."""
    seen: dict[str, int] = {}
    found = []
    for name in map(_text, names):
        seen[name.casefold()] = place = seen.get(name.casefold(), 0) + 1
        found.append(name if place == 1 else f"{name}#{place}")
    return found


def _text(value: str) -> str:
    """Text that a file in UTF-8 can hold."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
