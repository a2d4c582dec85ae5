"""The form in which a run gives its updates' events: on spans, as log records, or both."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from esper_core.config.schema import OtelConfig
from esper_core.runs.layout import journal_files
from esper_core.runs.lines import MAX_LINE_BYTES
from esper_core.runs.segments import open_journal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper_core.hooks import EventForm
    from esper_core.runs.layout import RunDir

__all__ = ["run_form"]

_LOGS: Final = b'"resourceLogs"'
_SPAN_EVENTS: Final = b'"events":['
_LINES: Final = 1000
"""Lines of a file that are looked at: the first update with an event tells."""


def run_form(run: RunDir) -> EventForm | None:
    """The form of a run's events: as its newest attempt's journal has it, else as ``config.toml`` does.

    Returns:
        None when no update has had an event yet and there is no usable ``config.toml``.

    Raises:
        JournalError: a journal file exists and cannot be read.
    """
    with_events = False
    for line in _first_lines(run):
        if _LOGS in line:
            return "both" if with_events else "log"
        if with_events:
            return "span"  # log records would stand behind their span
        with_events = _SPAN_EVENTS in line
    return "span" if with_events else _configured(run)


def _first_lines(run: RunDir) -> Iterator[bytes]:
    files = journal_files(run, rank=0)
    for item in (item for item in files if item.attempt == files[-1].attempt):
        file = open_journal(item.path)
        if file is not None:
            with file, suppress(OSError):  # a broken disk: the reader names it
                yield from islice(_lines(file), _LINES)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES):
        yield line


def _configured(run: RunDir) -> EventForm | None:
    try:
        table = tomllib.loads(run.config_path.read_text(encoding="utf-8"))["otel"]
        return msgspec.convert(table, OtelConfig).events
    except (OSError, KeyError, ValueError, msgspec.ValidationError):
        return None
