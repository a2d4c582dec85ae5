"""What the trainer decides on: of one rank as it is, of several as all of them see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.collector import Collection
    from esper_core.ppo.episodes import EpisodeTracker
    from esper_core.updates import EpisodeSummary

__all__ = ["Agreement", "Alone"]


class Agreement(Protocol):
    """What the trainer asks before it decides. Every rank asks in the same order."""

    @property
    def ranks(self) -> int:
        """How many there are."""
        ...

    def on_rollout(
        self, collected: Collection, episodes: EpisodeTracker, should_stop: Callable[[], bool]
    ) -> tuple[Collection, int, EpisodeSummary]:
        """Agree on a rollout, and on whether it was interrupted.

        Returns:
            It, without a batch where any rank has none; the environment steps of all ranks; the episodes of all.
        """
        ...

    def on_failure(self, error: BaseException) -> None:
        """Tell the others, who wait for this rank's rollout, that there is none."""
        ...

    def on_update(self, should_stop: Callable[[], bool], agent: PPOAgent, *, due: bool) -> tuple[bool, bool]:
        """Agree, after an update, whether to stop, and whether a checkpoint is due on the rank that writes it."""
        ...

    def parts(self, content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What each rank alone goes on from, by rank, of the content that each would write; none with one rank.

        Raises:
            RanksError: others are gone.
        """
        ...

    def last_parts(self, content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """As :meth:`parts` at the end of a run: none when others are gone, which is logged."""
        ...


class Alone:
    """One rank agrees with itself."""

    ranks = 1

    def on_rollout(
        self,
        collected: Collection,
        episodes: EpisodeTracker,
        should_stop: Callable[[], bool],  # noqa: ARG002  # the protocol's
    ) -> tuple[Collection, int, EpisodeSummary]:
        """As it is."""
        return collected, collected.steps, episodes.drain()

    def on_failure(self, error: BaseException) -> None:
        """Nobody waits."""

    def on_update(
        self,
        should_stop: Callable[[], bool],
        agent: PPOAgent,  # noqa: ARG002  # the protocol's
        *,
        due: bool,
    ) -> tuple[bool, bool]:
        """As asked."""
        return should_stop(), due

    def parts(self, content: Mapping[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002  # the protocol's
        """None: the checkpoint itself has it."""
        return []

    def last_parts(self, content: Mapping[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002  # the protocol's
        """None, likewise."""
        return []
