"""KL(old || new) of a multi-head policy: sums, and the rule that stops an update. Plain Python; see kl.md.

The sums themselves are made by :mod:`esper_core.kl.torch` or :mod:`esper_core.kl.numpy`, which this package does not
import: whoever has tensors takes the one, whoever has arrays the other, and both are held to the same tests.

The estimator is Schulman's k3 (http://joschu.net/blog/kl-approx.html): with r = log new(a|s) - log old(a|s) and
a drawn from the old policy, E[exp(r) - 1 - r] = KL(old || new), and every sample is >= 0.
"""

from __future__ import annotations

from esper_core.kl.stats import LOG_RATIO_LIMIT, KLStats
from esper_core.kl.stop import MAX_WINDOW, STOP_FACTOR, StopMonitor, StopOn, StopRule, stop_threshold

__all__ = [
    "LOG_RATIO_LIMIT",
    "MAX_WINDOW",
    "STOP_FACTOR",
    "KLStats",
    "StopMonitor",
    "StopOn",
    "StopRule",
    "stop_threshold",
]
