"""Schedules of learning rate, clip range and entropy coefficient: by the share of the run that is done, or by the KL.

Plain Python. ``kl_adaptive`` is the rule of rsl_rl (and of NVIDIA's trainers), applied once an update to the KL after
its last step instead of at every minibatch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from esper_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

    from esper_core.config.schema import PPOConfig, RunConfig
    from esper_core.events import PPOUpdatePayload

__all__ = ["SCHEDULES", "adapted_rate", "desired_kl", "refuse_impossible", "share_left"]

FACTOR: Final = 1.5
LOWEST: Final = 1e-5
HIGHEST: Final = 1e-2
SCHEDULES: Final = ("learning_rate_schedule", "clip_range_schedule", "entropy_coef_schedule")
"""Their keys in ``[ppo]``."""
_PLANNED: Final = frozenset({"linear", "cosine"})


def share_left(schedule: str, fraction_done: float) -> float:
    """What a schedule leaves of the configured value, from 1 to 0.

    Args:
        schedule: ``linear`` or ``cosine``; any other leaves all of it.
        fraction_done: of the planned run; beyond 1 counts as 1.
    """
    done = min(max(fraction_done, 0.0), 1.0)
    if schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0


def desired_kl(config: PPOConfig) -> float:
    """The KL that ``kl_adaptive`` steers to, nats; 0 when none is named."""
    return config.desired_kl or config.target_kl


def adapted_rate(rate: float, update: PPOUpdatePayload, config: PPOConfig) -> float:
    """The learning rate after an update, by the KL that ``ppo.stop_on`` means.

    Divided by 1.5 above twice the desired KL, multiplied by it below half of it, within 1e-5 and 1e-2. A rate that is
    configured beyond a bound is never moved further away, and not pulled back at once. An update without a KL, or with
    none at all (nothing moved), leaves the rate alone.
    """
    kl = update.kl_joint if config.stop_on == "joint" else update.kl_divergence
    if kl is None or not math.isfinite(kl) or update.non_finite:
        return rate
    if kl > 2.0 * desired_kl(config):
        return min(rate, max(LOWEST, rate / FACTOR))
    if 0.0 < kl < 0.5 * desired_kl(config):
        return max(rate, min(HIGHEST, rate * FACTOR))
    return rate


def refuse_impossible(ppo: PPOConfig, run: RunConfig | None = None, *, asked: Collection[str] = SCHEDULES) -> None:
    """Raise a ConfigError for a schedule that cannot be followed.

    Args:
        ppo: the configuration.
        run: its limits; None to refuse only what can never be followed.
        asked: the schedules that the user chose. One of a preset or of the run that is resumed leaves its value
            constant in a run without a limit.
    """
    planned = run is None or bool(run.updates or run.steps or run.episodes)
    for key in asked:
        schedule = getattr(ppo, key)
        if schedule in _PLANNED and not planned:
            raise ConfigError(
                f'ppo.{key} = "{schedule}" needs a planned end, and this run has no limit',
                hint='set run.updates, run.steps or run.episodes, or leave the schedule "constant"',
            )
    if ppo.learning_rate_schedule == "kl_adaptive" and not desired_kl(ppo):
        raise ConfigError(
            'ppo.learning_rate_schedule = "kl_adaptive" needs a KL to steer to, and ppo.target_kl is 0',
            hint="set ppo.desired_kl, for example to 0.01; it switches no early stop on",
        )
