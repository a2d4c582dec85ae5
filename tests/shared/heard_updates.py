"""What an agent's updates told, and its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from esper_core.emitter import TelemetryEmitter
from esper_core.hooks import SinkHooks

if TYPE_CHECKING:
    from esper_core.ppo import PPOAgent

__all__ = ["Recorder", "listen", "weights"]


class Recorder(SinkHooks):
    """Remembers every update event."""

    def __init__(self) -> None:
        self.updates: list[Any] = []

    def esper_ppo_updated(self, event: Any) -> None:
        self.updates.append(event)


def listen(agent: PPOAgent) -> Recorder:
    recorder = Recorder()
    agent.emitter = TelemetryEmitter(recorder)
    return recorder


def weights(agent: PPOAgent) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach().clone()
