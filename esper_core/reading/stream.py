"""The effective updates of a run on disk, one at a time; also of a journal whose lines are out of order."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

from esper_core.errors import JournalError
from esper_core.events import PPOUpdatePayload
from esper_core.reading.attempts import Attempts, Once, attempt_begins, first_events
from esper_core.reading.index import scan_index
from esper_core.runs.layout import journal_files
from esper_core.runs.reader import JournalReader, open_journal
from esper_core.runs.state import read_record
from esper_core.semconv.codec import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.reading.index import UpdateIndex
    from esper_core.runs.layout import RunDir

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["out_of_order", "shape_updates", "sorted_updates", "stream_updates"]

_DIVERGENCE: Final = b"esper.ppo.divergence."
_BITE: Final = 1024 * 1024


def stream_updates(run: RunDir, reader: JournalReader | None = None) -> Iterator[Update]:
    """The effective updates of a run on disk by ascending id, one at a time: memory does not grow with the run.

    Args:
        run: the run.
        reader: a fresh reader of it, which then tells what could not be read; with None that is not asked for.
    """
    reader = JournalReader(run) if reader is None else reader
    index = scan_index(run)  # far cheaper than decoding, and it sees whether the lines lie in order
    if index.disordered:
        for _ in reader.stream():
            pass  # only to count what cannot be read
        yield from sorted_updates(index)
        return
    attempts, once = Attempts(), Once()
    for event in first_events(run):
        attempts.begin(event.attempt, cast("int", attempt_begins(event)))
    for event in reader.stream():
        payload = event.payload
        if not isinstance(payload, PPOUpdatePayload) or event.marked:
            continue
        if once.passes(event.attempt, payload.update_id) and not attempts.replaced(event.attempt, payload.update_id):
            yield cast("Update", event)


def shape_updates(run: RunDir) -> Iterator[PPOUpdatePayload]:
    """Updates that between them have every head and divergence of a run on disk, whether they count or not.

    Of each attempt the first that has heads, which stay the same within it; of one whose journal has divergences, which
    an update may have and the next one not, all.

    Raises:
        JournalError: a file of the journal cannot be read.
    """
    paths: dict[int, list[Path]] = {}
    for item in journal_files(run, rank=0):
        paths.setdefault(item.attempt, []).append(item.path)
    for attempt in sorted(paths):
        diverges = any(_holds(path, _DIVERGENCE) for path in paths[attempt])
        for event in JournalReader(run, attempt=attempt).stream():
            if isinstance(event.payload, PPOUpdatePayload):
                yield event.payload
                if event.payload.heads and not diverges:
                    break


def _holds(path: Path, word: bytes) -> bool:
    """Whether a file holds a word, far cheaper than decoding it. Of what the disk does not give the reader speaks."""
    file = open_journal(path)
    if file is None:
        return False
    with file, suppress(OSError):
        kept = b""
        while bite := file.read(_BITE):
            if word in kept + bite:
                return True
            kept = bite[-len(word) :]
    return False


def sorted_updates(index: UpdateIndex, last: int | None = None) -> Iterator[Update]:
    """Updates by ascending id, each read where it lies: for a journal that is out of order.

    Args:
        index: of the whole run.
        last: only so many of the last ones; None for all.
    """
    for place in range(0 if last is None else max(len(index) - last, 0), len(index)):
        try:
            yield index.event(place)
        except (CodecError, JournalError, OSError):
            continue


def out_of_order(run: RunDir, tail: list[TelemetryEvent[Payload]]) -> bool:
    """Whether a run's journal is out of order, so that its end does not hold its last updates.

    Asked of the end, and of the whole only when ``run.json`` knows of more updates than the end does.

    Args:
        run: the run.
        tail: the last events of its journal, as they lie there.
    """
    once, last = Once(), 0
    for event in tail:
        if isinstance(event.payload, PPOUpdatePayload) and not event.marked:
            once.passes(event.attempt, event.payload.update_id)
            last = max(last, event.payload.update_id)
    if once.late:
        return True
    record = read_record(run)
    return record is not None and record.updates > last and scan_index(run).disordered > 0
