"""Evaluator: plays episodes between updates, in environments of its own, and keeps the best policy's checkpoint."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import torch

from esper_core.events import PolicyEvaluated
from esper_core.ppo.evaluation import evaluate
from esper_core.ppo.failures import Failures

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.config.schema import RunConfig
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.task import Task

__all__ = ["Evaluator", "Recorder"]


class Recorder(Protocol):
    """Makes videos between updates; what fails there does not reach the training."""

    def due(self, update_id: int) -> bool:
        """Whether this update's policy is to be recorded."""
        ...

    def record(self, agent: PPOAgent, *, should_stop: Callable[[], bool], on_step: Callable[[], object]) -> None:
        """Record the agent as it is; ``on_step`` is called, and ``should_stop`` read, after each step."""
        ...


class _Stopped(Exception):  # noqa: N818  # no error: the evaluation is left
    """The run was asked to stop."""


class Evaluator:
    """Evaluates every ``run.eval_every`` updates; the same episodes each time, so that returns compare.

    The training's environments and generators are not touched: with and without it, a run learns the same weights.

    An evaluation whose environments fail does not harm the training: it is told, counted, and the next one plays in new
    environments. A row of failures is told once.

    Args:
        task: of the agent's shape, used for nothing else.
        config: the ``[run]`` table.
        seed: of the environments and of the sampling, apart from the training's.
        renew: closes a task whose environments failed (None where making one failed) and makes another.
        on_failure: called with a line of text beside the log's.

    Attributes:
        best: mean return and update id of the best evaluation so far; None before the first.
        task: in use, for its owner to close; None after it failed.
    """

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        *,
        seed: int,
        renew: Callable[[Task | None], Task],
        on_failure: Callable[[str], object] | None = None,
    ) -> None:
        self.best: tuple[float, int] | None = None
        self.task: Task | None = task
        self._config = config
        self._seed = seed
        self._renew = renew
        self._failures = Failures(on_failure)
        self._failed: Task | None = None

    @property
    def failures(self) -> int:
        """Evaluations that failed."""
        return self._failures.count

    def due(self, update_id: int) -> bool:
        """Whether this update's policy is to be evaluated."""
        return bool(self._config.eval_every) and update_id % self._config.eval_every == 0

    def play(
        self, agent: PPOAgent, *, env_steps: int, should_stop: Callable[[], bool], on_step: Callable[[], object]
    ) -> PolicyEvaluated | None:
        """Evaluate the agent as it is; a return above the best so far becomes the best.

        Args:
            agent: acts; normalised as in training, by statistics that stay as they are.
            env_steps: of the training, for the record.
            should_stop: read after each step.
            on_step: called after each step.

        Returns:
            What came of it; None when it was asked to stop, or failed.
        """
        begun = time.monotonic()

        def step_made() -> None:
            on_step()
            if should_stop():
                raise _Stopped

        try:
            if self.task is None:
                failed, self._failed = self._failed, None
                self.task = self._renew(failed)
            played = evaluate(
                agent,
                self.task,
                episodes=self._config.eval_episodes,
                seed=self._seed,
                deterministic=self._config.eval_deterministic,
                generator=torch.Generator().manual_seed(self._seed),
                on_step=step_made,
            )
        except Exception as error:  # noqa: BLE001  # code of the environment's author
            if not should_stop():  # told by step_made, or by an environment whose worker processes the signal ended
                self._fail(agent.updates, error)
            return None
        self._failures.over()
        this, before = (played.return_mean, agent.updates), self.best
        better = before is None or this[0] > before[0]
        best = this if before is None or better else before
        self.best = best
        return PolicyEvaluated(
            update_id=agent.updates,
            env_steps=env_steps,
            episodes=len(played.returns),
            deterministic=self._config.eval_deterministic,
            return_mean=played.return_mean,
            return_std=played.return_std,
            return_min=min(played.returns),
            return_max=max(played.returns),
            episode_length_mean=sum(played.lengths) / len(played.lengths),
            better=better,
            best_return_mean=best[0],
            best_update_id=best[1],
            duration_s=time.monotonic() - begun,
        )

    def _fail(self, update_id: int, error: Exception) -> None:
        """Count and tell it; the environments are not used again."""
        self._failed, self.task = self.task or self._failed, None
        self._failures.tell(
            f"the evaluation after update {update_id} failed, training goes on, and the next one plays in new "
            "environments",
            error,
        )
