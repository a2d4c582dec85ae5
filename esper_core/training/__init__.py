"""Trains a run from a configuration: joins task, agent, trainer and session, and writes the run's directory.

``esper ppo`` and :func:`esper_core.train` call the same :func:`train_attempt`; it prints nothing, and its caller sets
the exit code. Importing this package does not import torch.
"""

from __future__ import annotations

from esper_core.training.call import train
from esper_core.training.outcome import Outcome, Started
from esper_core.training.start import train_attempt

__all__ = ["Outcome", "Started", "train", "train_attempt"]
