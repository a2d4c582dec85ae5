"""A telemetry record's front matter: a TOML block at the top of ``docs/telemetry/TELE-*.md``."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from esper_core.errors import UsageError, nearest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Record", "find_records", "read_record_file"]

_BLOCK: Final = re.compile(r"\A(?:# [^\n]*\n\s*)?```toml\n(.*?)\n```", re.DOTALL)


class Emitter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The origin of the number.

    Attributes:
        event: kind of the event that carries it.
        field: field of the payload; ``heads.NAME`` for a field of each head.
    """

    event: str
    field: str


class Transport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The transport of the number: the hook, and the attribute on the wire."""

    hook: str
    attribute: str


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The place where the viewer stores it.

    Attributes:
        owner: ``module:Class``.
        field: holds the last value.
        type: as annotated.
        default: as ``repr``.
        history: field of its last values.
        maxlen: values the history holds.
        decimals: to which the history rounds them.
    """

    owner: str
    field: str
    type: str
    default: str
    history: str
    maxlen: int
    decimals: int = 4


class Display(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The display of the number.

    Attributes:
        consumer: ``module:Class.method`` that receives the event.
        widgets: names of the widgets that show it.
        drive: a value to emit.
        shows: the number that each widget must then show, with exactly these digits.
        head_view: the text that the head panel must then show.
    """

    consumer: str
    widgets: tuple[str, ...]
    drive: float
    shows: str
    head_view: str = "kl"


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of the number.

    Attributes:
        classify: ``module:function`` from value to level.
        warning: the limit.
        critical: the limit.
        direction: ``above`` when high is bad, ``below`` when low is.
        constants: names in ``TUIThresholds`` of the two limits.
    """

    classify: str
    warning: float
    critical: float
    direction: str
    constants: tuple[str, str]


class Front(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole front matter."""

    id: str
    title: str
    unit: str
    emitter: Emitter
    transport: Transport
    schema: Schema
    display: Display
    thresholds: Limits
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its file and its claims."""

    path: Path
    front: Front

    @property
    def of_heads(self) -> bool:
        """Whether every head has its own value of the number."""
        return self.front.emitter.field.startswith("heads.")

    @property
    def payload_field(self) -> str:
        """The field of the payload or of its heads."""
        return self.front.emitter.field.removeprefix("heads.")


def read_record_file(path: Path) -> Record:
    """Read one record.

    Raises:
        UsageError: no front matter, or a key is missing, unknown or of another type.
    """
    found = _BLOCK.match(path.read_text(encoding="utf-8"))
    if found is None:
        raise UsageError(f"{path}: no front matter", hint="a record begins with a ```toml block")
    try:
        plain: dict[str, Any] = tomllib.loads(found[1])
        front = msgspec.convert(plain, Front)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path}: {error}", hint="see the other records of docs/telemetry") from None
    return Record(path, front)


def find_records(names: list[str], folder: Path | None, start: Path) -> tuple[Path, list[Record]]:
    """The records asked for, or all of them.

    Args:
        names: record ids; none for all.
        folder: the folder of the records; None searches ``docs/telemetry`` from ``start`` upwards.
        start: the folder in which the search begins.

    Returns:
        The project's root, where the tests lie, and the records by id.

    Raises:
        UsageError: no folder, no such record, or a broken one.
    """
    if folder is None:
        places = [place / "docs" / "telemetry" for place in (start, *start.parents)]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise UsageError(
                f"no docs/telemetry in {start} or above it",
                hint="run it inside the repository, or give --records-dir",
            )
    files = {path.stem: path for path in sorted(folder.glob("TELE-*.md"))}
    wanted = [name.upper() for name in names] or list(files)
    for name in wanted:
        if name not in files:
            raise UsageError(
                f'no record "{name}" in {folder}{nearest(name, files)}', hint=f"there are: {', '.join(files)}"
            )
    return folder.resolve().parent.parent, [read_record_file(files[name]) for name in wanted]
