"""Every limit that a value is compared with, and how many updates a judgement looks at."""

from __future__ import annotations

from typing import Final

__all__ = ["HEALTH_WINDOW", "WARM_UP_UPDATES", "TUIThresholds"]

HEALTH_WINDOW: Final = 3
"""Updates over which the verdict takes the worst level: it rises at once and calms after this many good ones."""
WARM_UP_UPDATES: Final = 3
"""Updates during which WARNING is muted and CRITICAL is labelled; nothing is hidden."""


class TUIThresholds:
    """The limits in force, shared by displays, alert rules and documentation.

    KL limits are on ``kl_divergence`` (nats per head-decision), compared with ``>=``. Clip fraction, normalised
    entropy and explained variance are absolute. Gradient norm and advantage std are factors of their own median.
    """

    KL_WARNING: Final = 0.015
    KL_CRITICAL: Final = 0.03
    CLIP_WARNING: Final = 0.25
    CLIP_CRITICAL: Final = 0.30
    ENTROPY_WARNING: Final = 0.30
    ENTROPY_CRITICAL: Final = 0.10
    EXPLAINED_VAR_WARNING: Final = 0.30
    EXPLAINED_VAR_CRITICAL: Final = 0.0
    GRAD_NORM_WARNING_FACTOR: Final = 3.0
    GRAD_NORM_CRITICAL_FACTOR: Final = 10.0
    ADVANTAGE_STD_WARNING_FACTOR: Final = 3.0
    ADVANTAGE_STD_CRITICAL_FACTOR: Final = 10.0
    RELATIVE_MIN_HISTORY: Final = 5
