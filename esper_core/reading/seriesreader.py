"""Reads a run's series for plots, again and again while it goes on: each time only what was added."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from esper_core.errors import EsperError
from esper_core.health import HealthLevel
from esper_core.reading.returns import return_to_show
from esper_core.reading.series import Series, peaks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_core.events import PolicyEvaluated, PPOUpdatePayload
    from esper_core.reading.index import UpdateIndex
    from esper_core.reading.series import Update
    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_core.reading.source import Source

__all__ = ["SeriesReader"]

_POINTS: Final = 160
_BITE: Final = 4 * 1024 * 1024


class SeriesReader:
    """One run's KL and return over all its updates, from its index where it has one, else from memory.

    For one thread at a time: the index is its own.

    Args:
        source: of the run.
        points: about how many updates of a long run are read whole.
    """

    def __init__(self, source: Source, *, points: int = _POINTS) -> None:
        self._source = source
        self._points = points
        self._index = source.index()
        self._read: dict[tuple[int, int], Update] = {}

    def read(
        self,
        snapshot: SanctumSnapshot,
        *,
        group: str = "",
        heard: Sequence[Update] = (),
        evaluations: Sequence[PolicyEvaluated] = (),
    ) -> Series:
        """The series as it is now.

        Args:
            snapshot: the run's newest.
            group: its experiment.
            heard: the effective updates in memory, ascending: all that is known of a run received over the network.
            evaluations: likewise.
        """
        index = self._index
        if index is None:
            return self._heard(snapshot, group, heard, evaluations)
        while index.extend(_BITE):
            pass
        length = len(index)
        last = (index.update_id(length - 1), index.kl(length - 1)) if length else None
        return self._series(
            snapshot,
            group,
            curve=(index.update_ids, index.kls),
            last=last,
            broken=index.broken,
            resumes=index.resumes,
            read=self._updates(index),
            evaluations=index.evaluations,
        )

    def _heard(
        self,
        snapshot: SanctumSnapshot,
        group: str,
        heard: Sequence[Update],
        evaluations: Sequence[PolicyEvaluated],
    ) -> Series:
        on = snapshot.tamiyo.limits.on
        ids = [item.payload.update_id for item in heard]
        kls = [item.payload.judged_kl(on) for item in heard]
        read = list(heard[:: _stride(len(heard), self._points)])
        read += [] if not heard or read[-1] is heard[-1] else [heard[-1]]
        return self._series(
            snapshot,
            group,
            curve=(ids, [math.nan if value is None else value for value in kls]),
            last=(ids[-1], kls[-1]) if ids else None,
            broken=[item.payload.update_id for item in heard if item.payload.health is HealthLevel.NON_FINITE],
            resumes=snapshot.resumes,
            read=read,
            evaluations=evaluations,
        )

    def _series(
        self,
        snapshot: SanctumSnapshot,
        group: str,
        *,
        curve: tuple[Sequence[int], Sequence[float]],
        last: tuple[int, float | None] | None,
        broken: Sequence[int],
        resumes: Sequence[int],
        read: Sequence[Update],
        evaluations: Sequence[PolicyEvaluated],
    ) -> Series:
        xs, ys, joined = peaks(*curve, self._points * 2)
        returns = (return_to_show(item.payload) for item in read)
        return Series(
            self._source.label,
            group,
            tuple(xs),
            tuple(ys),
            tuple(item.payload.update_id for item in read),
            tuple(math.nan if value is None else value for value in returns),
            joined,
            snapshot.tamiyo.limits if self._index is None else self._index.limits,
            broken=tuple(broken),
            resumes=tuple(resumes),
            stops=tuple(sorted({*_stopped(item.payload for item in read), *_stopped(snapshot.recent)})),
            last=last,
            read=tuple(read),
            evaluations=tuple(evaluations),
        )

    def _updates(self, index: UpdateIndex) -> list[Update]:
        """Some updates of the whole run, and its last: those of the time before are kept, not read again."""
        places = range(len(index))
        known, self._read = self._read, {}
        for at in sorted({*places[:: _stride(len(index), self._points)], *places[-1:]}):
            key = (index.attempt(at), index.update_id(at))
            found = known.get(key)
            if found is None:
                try:
                    found = index.event(at)
                except (OSError, EsperError):  # tried again the next time
                    continue
            self._read[key] = found
        return list(self._read.values())


def _stride(length: int, points: int) -> int:
    """Every how many-th update is read whole: a power of two, so that a run that grows keeps what was read of it."""
    return 1 << max(math.ceil(length / points) - 1, 0).bit_length()


def _stopped(updates: Iterable[PPOUpdatePayload]) -> tuple[int, ...]:
    return tuple(item.update_id for item in updates if item.early_stop is not None)
