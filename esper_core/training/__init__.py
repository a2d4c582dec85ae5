"""From a configuration to a run: joins task, agent, trainer and session, and writes what a run's directory holds.

``esper ppo`` and :func:`esper_core.train` call the same :func:`train_attempt`; it prints nothing and leaves exit codes
to its caller. Importing this package loads no torch.
"""

from __future__ import annotations

from esper_core.training.call import train
from esper_core.training.outcome import Outcome, Started
from esper_core.training.start import train_attempt

__all__ = ["Outcome", "Started", "train", "train_attempt"]
