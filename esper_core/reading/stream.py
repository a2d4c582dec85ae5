"""The effective updates of a run on disk, one at a time; also of a journal whose lines are out of order."""

from __future__ import annotations

from itertools import compress, islice
from typing import TYPE_CHECKING, cast

from esper_core.errors import JournalError
from esper_core.events import PPOUpdatePayload
from esper_core.reading.attempts import Attempts, Once, attempt_begins, first_events
from esper_core.reading.cells import BLOCK_ROWS, Block, Cells, blocks_of, cells_of_columns, cells_of_events
from esper_core.reading.index import scan_index
from esper_core.runs.layout import journal_files
from esper_core.runs.reader import JournalReader
from esper_core.runs.state import read_record
from esper_core.semconv.codec import CodecError
from esper_core.semconv.columns import ColumnReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.reading.index import UpdateIndex
    from esper_core.runs.layout import RunDir
    from esper_core.runs.reader import JournalLine

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["out_of_order", "shape_updates", "sorted_updates", "stream_blocks", "stream_updates"]


def stream_updates(run: RunDir, reader: JournalReader | None = None) -> Iterator[Update]:
    """The effective updates of a run on disk by ascending id, one at a time: memory does not grow with the run.

    Args:
        run: the run.
        reader: a fresh reader of it, which then tells what could not be read; with None that is not asked for.
    """
    reader = JournalReader(run) if reader is None else reader
    index = scan_index(run)  # far cheaper than decoding, and it sees whether the lines lie in order
    if index.disordered:
        yield from _in_order(index, reader)
        return
    counting = _Counting(run)
    for event in reader.stream():
        if counting.takes(event):
            yield cast("Update", event)


def stream_blocks(index: UpdateIndex, reader: JournalReader) -> Iterator[Block]:
    """As :func:`stream_updates`, as blocks of cells: what tables are written from, at a quarter of the cost.

    Args:
        index: of the whole run.
        reader: a fresh reader of it.
    """
    if index.disordered:
        yield from blocks_of(_in_order(index, reader))
        return
    counting, columns = _Counting(index.run), ColumnReader()
    lines = reader.lines()
    while some := list(islice(lines, BLOCK_ROWS)):
        yield _block(some, reader, columns, counting)


def _in_order(index: UpdateIndex, reader: JournalReader) -> Iterator[Update]:
    for _ in reader.stream():
        pass  # only to count what cannot be read
    yield from sorted_updates(index)


class _Counting:
    """Which updates of a journal in order count; asked of each one once, in order."""

    def __init__(self, run: RunDir) -> None:
        self._attempts, self._once = Attempts(), Once()
        for event in first_events(run):
            self._attempts.begin(event.attempt, cast("int", attempt_begins(event)))

    def takes(self, event: TelemetryEvent[Payload]) -> bool:
        payload = event.payload
        return (
            isinstance(payload, PPOUpdatePayload) and not event.marked and self.counts(event.attempt, payload.update_id)
        )

    def counts(self, attempt: int, update_id: int) -> bool:
        return self._once.passes(attempt, update_id) and not self._attempts.replaced(attempt, update_id)

    def counts_all(self, attempt: int, ids: Sequence[int]) -> bool:
        """Take ids that follow each other if they follow the last one and all count; else none is taken."""
        if self._attempts.replaced(attempt, ids[-1]):
            return False  # and what is not replaced has no earlier id that is
        return self._once.continues(attempt, ids[0], len(ids))


def _block(lines: list[JournalLine], reader: JournalReader, columns: ColumnReader, counting: _Counting) -> Block:
    """The updates in some lines that count: most read by columns, the others one by one."""
    parts = list(map(cells_of_columns, columns.read([line.text for line in lines])))
    if len(parts) == 1 and len(parts[0].places) == len(lines) and _follow(parts[0], counting):
        return Block(len(lines), parts)
    known: list[tuple[int, int] | None] = [None] * len(lines)
    for part in parts:
        for place, attempt, update_id in zip(part.places, *_keys(part), strict=True):
            known[place] = attempt, update_id
    places: dict[int, int] = {}  # of a line read by columns -> of its row
    events: dict[int, Update] = {}
    rows = 0
    for place, (line, key) in enumerate(zip(lines, known, strict=True)):
        if key is not None:
            if counting.counts(*key):
                places[place] = rows
                rows += 1
            continue
        for event in reader.events(line):
            if counting.takes(event):
                events[rows] = cast("Update", event)
                rows += 1
    kept = [_kept(part, places) for part in parts]
    return Block(rows, [*kept, *cells_of_events(list(events), list(events.values()))])


def _follow(part: Cells, counting: _Counting) -> bool:
    """Whether updates of one attempt all count because they follow the last one without a gap, as almost all do."""
    attempts, ids = _keys(part)
    if len(set(attempts)) > 1 or ids != list(range(ids[0], ids[0] + len(ids))):
        return False
    return counting.counts_all(attempts[0], ids)


def _keys(part: Cells) -> tuple[Sequence[int], Sequence[int]]:
    """Attempts and update ids of a part."""
    return cast("Sequence[int]", part.columns["attempt"]), cast("Sequence[int]", part.columns["update_id"])


def _kept(part: Cells, places: dict[int, int]) -> Cells:
    """The rows of a part that count, at their places in the block."""
    stays = [place in places for place in part.places]
    moved = [places[place] for place in part.places if place in places]
    if len(moved) == len(stays):
        return Cells(moved, part.columns)
    return Cells(moved, {name: list(compress(values, stays)) for name, values in part.columns.items()})


def shape_updates(run: RunDir, diverging: AbstractSet[int]) -> Iterator[PPOUpdatePayload]:
    """Updates that between them have every head and divergence of a run on disk, whether they count or not.

    Of each attempt the first that has heads, which stay the same within it; of one whose journal has divergences, which
    an update may have and the next one not, all.

    Args:
        run: the run.
        diverging: the attempts with divergences, see :attr:`~esper_core.reading.index.UpdateIndex.diverging`.

    Raises:
        JournalError: a file of the journal cannot be read.
    """
    for attempt in sorted({item.attempt for item in journal_files(run, rank=0)}):
        for event in JournalReader(run, attempt=attempt).stream():
            if isinstance(event.payload, PPOUpdatePayload):
                yield event.payload
                if event.payload.heads and attempt not in diverging:
                    break


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
