"""When the verdict gets worse: one alert each time, never one a sample. Pure but for the list it keeps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from esper_core.health import VerdictKind

if TYPE_CHECKING:
    from esper_core.reading.model import ScreenModel

__all__ = ["Alert", "Alerts"]

_RANK: Final = {kind: place for place, kind in enumerate(reversed(VerdictKind))}
_CALM: Final = _RANK[VerdictKind.WARM_UP]


@dataclass(frozen=True, slots=True)
class Alert:
    """One change of a run's verdict.

    Attributes:
        time_ns: when the viewer saw it, unix nanoseconds.
        run: the run's label.
        update_id: its last update then.
        before: the verdict before; None when this was the first look.
        now: the verdict now.
        reason: why.
    """

    time_ns: int
    run: str
    update_id: int
    before: VerdictKind | None
    now: VerdictKind
    reason: str

    @property
    def worse(self) -> bool:
        """Whether this deserves a toast and a bell."""
        if _RANK[self.now] <= _CALM:
            return False
        return self.before is None or _RANK[self.now] > _RANK[self.before]


class Alerts:
    """The history of verdicts, of every run that was on show."""

    def __init__(self) -> None:
        self.history: deque[Alert] = deque(maxlen=500)
        self._last: dict[str, VerdictKind] = {}

    def see(self, model: ScreenModel, now_ns: int) -> Alert | None:
        """Note a change of the verdict of the run on show; frozen views are not looked at."""
        if model.frozen is not None or not model.selected:
            return None
        before = self._last.get(model.selected)
        kind = model.verdict.kind
        if before is kind:
            return None
        self._last[model.selected] = kind
        label = model.snapshot.plan.run_name or model.selected
        found = Alert(now_ns, label, model.snapshot.updates, before, kind, model.verdict.reason)
        if before is not None or found.worse:
            self.history.append(found)
            return found
        return None
