"""The agent: a multi-head PPO policy, its update, and the loop around it. Imports torch."""

from __future__ import annotations

from esper_core.ppo.agent import PPOAgent
from esper_core.ppo.checkpoint_file import load_checkpoint, save_checkpoint
from esper_core.ppo.checkpointer import Checkpointer
from esper_core.ppo.heads import HeadSpec
from esper_core.ppo.rollout import Batch, Rollout
from esper_core.ppo.train_result import TrainResult
from esper_core.ppo.trainer import Trainer

__all__ = [
    "Batch",
    "Checkpointer",
    "HeadSpec",
    "PPOAgent",
    "Rollout",
    "TrainResult",
    "Trainer",
    "load_checkpoint",
    "save_checkpoint",
]
