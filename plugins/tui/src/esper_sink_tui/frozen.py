"""FrozenView: the update at which a view stands still while reading goes on. For callers that hold the watch's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.reading.model import Frozen

if TYPE_CHECKING:
    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_sink_tui.watched import Watched

__all__ = ["FrozenView"]


class FrozenView:
    """Where the view of the selected run stands; of a live view nowhere."""

    def __init__(self) -> None:
        self._at: int | None = None
        self._snapshot: SanctumSnapshot | None = None

    def __bool__(self) -> bool:
        return self._at is not None

    def freeze(self, watched: Watched | None) -> bool:
        """Stand at the update that is shown. True when there is one."""
        if watched is None or watched.snapshot.last is None:
            return False
        self._at, self._snapshot = watched.snapshot.updates, watched.snapshot
        return True

    def thaw(self) -> None:
        """Show the newest update again."""
        self._at = self._snapshot = None

    def step(self, watched: Watched | None, offset: int) -> bool:
        """Stand ``offset`` updates further on (negative: back), within the run. True when there is an update."""
        if watched is None or watched.snapshot.last is None:
            return False
        here = self._at if self._at is not None else watched.snapshot.updates
        target = watched.timeline.neighbour(here, offset)
        return self._stand(watched, target if target is not None else here)

    def step_to(self, watched: Watched | None, *, first: bool) -> bool:
        """Stand at the run's first or last update. True when there is one."""
        ends = watched.timeline.ends() if watched is not None and watched.snapshot.last is not None else None
        if watched is None or ends is None:
            return False
        return self._stand(watched, ends[0] if first else ends[1])

    def _stand(self, watched: Watched, update_id: int) -> bool:
        self._at, self._snapshot = update_id, watched.timeline.snapshot_at(update_id, watched.snapshot)
        return True

    def shown(self, watched: Watched) -> tuple[SanctumSnapshot, Frozen | None]:
        """What is shown of the run, and how far that lies behind."""
        if self._snapshot is None or self._at is None:
            return watched.snapshot, None
        behind = watched.timeline.distance(self._at, watched.snapshot.updates)
        return self._snapshot, Frozen(update_id=self._at, behind=behind)
