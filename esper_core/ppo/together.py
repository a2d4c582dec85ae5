"""Several ranks decide as one: what a rollout brought, whether to stop, whether the weights are the same."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from esper_core.errors import RanksError, error_text
from esper_core.ppo.collector import Collection, Fault
from esper_core.ppo.distributed import GroupReducer, part_of_rank, refuse_different_weights
from esper_core.updates import EpisodeSummary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.episodes import EpisodeTracker

__all__ = ["Together"]

_log = logging.getLogger("esper.ppo")

_ASKED: Final = -1
"""Asked to stop by something that is no signal."""


@dataclass(frozen=True, slots=True)
class _Report:
    """What a rank tells of its rollout; ``asked`` is 0 when it was not interrupted."""

    steps: int = 0
    asked: int = 0
    fault: Fault | None = None
    whole: bool = False
    episodes: EpisodeSummary = field(default_factory=EpisodeSummary)
    error: str = ""


class Together:
    """All ranks of a process group: one exchange after a rollout and one after an update.

    Args:
        group: of the ranks.
        check_updates: compare the weights after every so many updates; 0 never does.
    """

    def __init__(self, group: GroupReducer, *, check_updates: int) -> None:
        self._group = group
        self._check_updates = check_updates
        self.ranks = group.world_size

    def on_rollout(
        self, collected: Collection, episodes: EpisodeTracker, should_stop: Callable[[], bool]
    ) -> tuple[Collection, int, EpisodeSummary]:
        """Every rank has the same answer but its own batch. One that was interrupted stops all, one fault skips all."""
        own = _Report(
            collected.steps,
            _asked(should_stop) if collected.interrupted else 0,
            collected.fault,
            whole=collected.whole,
            episodes=episodes.drain(),
        )
        reports: list[_Report] = self._told(own)
        finished = episodes.joined([report.episodes for report in reports], self._group.rank)
        interrupted = _hand_on([report.asked for report in reports], should_stop)
        agreed = replace(collected, interrupted=interrupted, fault=_fault(reports))
        if not all(report.whole for report in reports):
            agreed = replace(agreed, batch=None, pack=None)
        return agreed, sum(report.steps for report in reports), finished

    def on_failure(self, error: BaseException) -> None:
        """The others raise a RanksError that names this rank; what hinders telling them is not told."""
        with contextlib.suppress(RanksError):  # they are gone: this rank's own error is the one to raise
            self._group.gather(_Report(error=error_text(error)))

    def on_update(self, should_stop: Callable[[], bool], agent: PPOAgent, *, due: bool) -> tuple[bool, bool]:
        """A rank that was asked stops all, and hands its signal on: every rank ends for the same reason.

        Returns:
            Whether to stop, and whether a checkpoint is due on any rank.
        """
        if self._check_updates and agent.updates % self._check_updates == 0:
            refuse_different_weights(agent, self._group)
        told = self._group.gather((_asked(should_stop) if should_stop() else 0, due))
        return _hand_on([asked for asked, _ in told], should_stop), any(waits for _, waits in told)

    def parts(self, content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Generators, places and running episodes of each rank."""
        return self._group.gather(part_of_rank(content))

    def last_parts(self, content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The same; none when the others are gone, which is logged."""
        try:
            return self.parts(content)
        except RanksError as error:
            _log.warning("the checkpoint holds rank 0's part alone: %s", error.message)
            return []

    def _told(self, own: _Report) -> list[_Report]:
        reports: list[_Report] = self._group.gather(own)
        for rank, report in enumerate(reports):
            if report.error:
                raise RanksError(
                    f"rank {rank} of {self.ranks} failed: {report.error}",
                    hint="its own output has the rest; every rank's journal can be read",
                )
        return reports


def _asked(should_stop: Callable[[], bool]) -> int:
    """How a rank tells that it was asked to stop: the signal's number, where there was one."""
    return getattr(should_stop, "signal", None) or _ASKED


def _hand_on(asked: Sequence[int], should_stop: Callable[[], bool]) -> bool:
    """Whether any rank was asked to stop. This one is, too, by the first signal that a rank received."""
    signals = [told for told in asked if told > 0]
    request: Any = getattr(should_stop, "request", None)
    if any(asked) and request is not None:
        request(signals[0] if signals else None)
    return any(asked)


def _fault(reports: Sequence[_Report]) -> Fault | None:
    """The first rank's that met one, with the count of all."""
    faults = [(rank, report.fault) for rank, report in enumerate(reports) if report.fault is not None]
    if not faults:
        return None
    rank, first = faults[0]
    return Fault(f"{first.reason} (rank {rank})", sum(fault.count for _, fault in faults))
