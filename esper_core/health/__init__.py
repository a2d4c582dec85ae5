"""What a KL means: every limit, level, verdict and suggestion of Esper, as pure functions.

This package is the one source of every limit: console, journal tools, Sanctum, alert rules and documentation
take them from here. Nothing here reads a clock, a file or a tensor. KL is in nats throughout.
"""

from __future__ import annotations

from esper_core.health.advice import Suggestion, head_suggestion, state_suggestion, suggestion
from esper_core.health.heads import HEAD_DECISIONS, HeadLevel, PolicyLevel, head_levels, level_under, policy_level
from esper_core.health.judgement import Verdict, VerdictInput, verdict
from esper_core.health.kinds import VerdictKind
from esper_core.health.levels import (
    HealthLevel,
    RunState,
    classify_clip_fraction,
    classify_entropy,
    classify_explained_variance,
    classify_kl,
    classify_relative,
    update_level,
    verdict_level,
    worst,
)
from esper_core.health.limits import (
    DEFAULT_KL_LIMITS,
    HEALTH_WINDOW,
    WARM_UP_UPDATES,
    KLLimits,
    KLOn,
    TUIThresholds,
)
from esper_core.health.words import format_kl

__all__ = [
    "DEFAULT_KL_LIMITS",
    "HEAD_DECISIONS",
    "HEALTH_WINDOW",
    "WARM_UP_UPDATES",
    "HeadLevel",
    "HealthLevel",
    "KLLimits",
    "KLOn",
    "PolicyLevel",
    "RunState",
    "Suggestion",
    "TUIThresholds",
    "Verdict",
    "VerdictInput",
    "VerdictKind",
    "classify_clip_fraction",
    "classify_entropy",
    "classify_explained_variance",
    "classify_kl",
    "classify_relative",
    "format_kl",
    "head_levels",
    "head_suggestion",
    "level_under",
    "policy_level",
    "state_suggestion",
    "suggestion",
    "update_level",
    "verdict",
    "verdict_level",
    "worst",
]
