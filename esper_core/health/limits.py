"""Every limit that a value is compared with, and how many updates a judgement looks at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = ["DEFAULT_KL_LIMITS", "HEALTH_WINDOW", "WARM_UP_UPDATES", "KLLimits", "KLOn", "TUIThresholds"]

KLOn: TypeAlias = Literal["weighted", "joint"]
"""Which KL is judged: per head-decision (the record's), or joint per step."""

HEALTH_WINDOW: Final = 3
"""Updates over which the verdict takes the worst level: it rises at once and calms after this many good ones."""
WARM_UP_UPDATES: Final = 3
"""Updates during which WARNING is muted and CRITICAL is labelled; nothing is hidden."""


class TUIThresholds:
    """The record's limits, shared by displays, alert rules and documentation.

    Those on the KL are defaults: a run may have others, see :class:`KLLimits`. They are compared with ``>=``. Clip
    fraction, normalised entropy and explained variance are absolute. Gradient norm and advantage std are factors of
    their own median.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KLLimits:
    """The limits in force for one run: which KL is judged, and from which values on. ``RunStarted`` carries them.

    Attributes:
        on: ``weighted``, nats per head-decision; ``joint``, nats per step.
        warning: nats; WARNING from here on.
        critical: nats; CRITICAL from here on.
    """

    on: KLOn = "weighted"
    warning: float = TUIThresholds.KL_WARNING
    critical: float = TUIThresholds.KL_CRITICAL

    @property
    def name(self) -> str:
        """What the judged KL is called: ``KL``, or ``joint KL``."""
        return "joint KL" if self.on == "joint" else "KL"

    @property
    def fault(self) -> str:
        """Why a number cannot be judged by them, with the name of the limit in front; empty when it can."""
        for name, value in (("kl_warning", self.warning), ("kl_critical", self.critical)):
            if not math.isfinite(value) or value <= 0:
                return f"{name}: expected a finite number above 0 (is {value:g})"
        if self.warning >= self.critical:
            return f"kl_warning: {self.warning:g} is not below kl_critical, {self.critical:g}"
        return ""


DEFAULT_KL_LIMITS: Final = KLLimits()
"""Those of TELE-111."""
