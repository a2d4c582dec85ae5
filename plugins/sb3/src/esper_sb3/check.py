"""``esper adapters check sb3``: a tiny training in which SB3's KL and Esper's are the same number.

SB3 measures ``approx_kl`` before each step, Esper after the last one. They meet where SB3 stops early and one minibatch
is the whole rollout: it measures the policy, finds it too far, and takes no further step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from stable_baselines3 import PPO

from esper_core.monitoring.adapter import AdapterCheck, Compared
from esper_sb3.callback import EsperCallback

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.events import PPOUpdatePayload

__all__ = ["check"]

UPDATES = 3
STEPS = 256


class _Kept(EsperCallback):
    """Keeps every update, and stands for no sink at all."""

    def __init__(self, folder: Path) -> None:
        super().__init__("check", sinks=[], signals=False, settings={"run": {"dir": str(folder)}})
        self.updates: list[PPOUpdatePayload] = []

    def _report(self) -> None:
        had = self._rollout is not None
        super()._report()
        if had and self.last is not None:
            self.updates.append(self.last)


def check(folder: Path) -> AdapterCheck:
    """Train and compare."""
    torch.set_num_threads(1)  # of this command's own process: more are slower on a network this small
    callback = _Kept(folder)
    model = PPO(
        "MlpPolicy",
        "CartPole-v1",
        n_steps=STEPS,
        batch_size=STEPS,
        n_epochs=10,
        target_kl=1e-5,
        learning_rate=1e-2,
        seed=0,
        device="cpu",
    )
    model.learn(UPDATES * STEPS, callback=callback)
    compared = [
        Compared(
            what=f"update {update.update_id}, stopped before its second step",
            name="train/approx_kl",
            theirs=update.library_kl,
            ours=update.kl_joint,
            # SB3 sums exp(r) - 1 - r in float32: its own cancellation error.
            tolerance=1e-6,
        )
        for update in callback.updates
        if update.library_kl is not None and update.kl_joint is not None and update.early_stop is not None
    ]
    return AdapterCheck(
        updates=len(callback.updates),
        expected=UPDATES,
        compared=tuple(compared),
        notes=("elsewhere they differ by definition: approx_kl is the last epoch's mean, each before its step",),
    )
