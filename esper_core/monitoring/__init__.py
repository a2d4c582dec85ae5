"""``esper_core.monitor``: Esper's telemetry in a training loop that is not Esper's.

The loop keeps its policy, its optimizer and its logger. It tells the monitor the log-probabilities before and after an
update; what follows from them is measured, judged and emitted by the same code as Esper's own trainer.
"""

from __future__ import annotations

from esper_core.monitoring.loop import Monitor
from esper_core.monitoring.measurement import KL
from esper_core.monitoring.misuse import MisuseError
from esper_core.monitoring.opening import monitor
from esper_core.monitoring.ranks import Reduce

__all__ = ["KL", "MisuseError", "Monitor", "Reduce", "monitor"]
