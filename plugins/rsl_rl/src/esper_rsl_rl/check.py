"""``esper adapters check rsl_rl``: a tiny training in which rsl_rl's KL and Esper's are the same number.

rsl_rl compares its ``kl_mean`` with ``desired_kl`` before each step, Esper measures after the last one. They meet where
one minibatch is the whole rollout and the last step has no gradient: rsl_rl's last KL is then that of what remains.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from esper_core.monitoring.adapter import AdapterCheck, Compared
from esper_rsl_rl.algorithm import PPO

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.events import PPOUpdatePayload

__all__ = ["Reaching", "check", "configuration"]

UPDATES = 3
EPOCHS = 4


class Reaching(VecEnv):
    """Follow a number with the first joint and keep the others still; an episode has 10 steps.

    Args:
        num_envs: environments side by side.
    """

    def __init__(self, num_envs: int = 16) -> None:
        self.num_envs, self.num_actions, self.max_episode_length = num_envs, 3, 10
        self.device = "cpu"
        self.cfg: dict[str, Any] = {}
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self._draw()

    def _draw(self) -> None:
        self._seen = torch.randn(self.num_envs, 6) * 3 + 1  # neither centred nor scaled: a normaliser has work to do

    def get_observations(self) -> Any:
        """What the policy sees."""
        return TensorDict({"policy": self._seen.clone()}, batch_size=[self.num_envs])

    def step(self, actions: Any) -> Any:
        """Take one step in every environment."""
        reward = -0.1 * (actions[:, 0] - self._seen[:, 0]).square() - 0.01 * actions[:, 1:].square().sum(-1)
        self.episode_length_buf = self.episode_length_buf + 1
        done = self.episode_length_buf >= self.max_episode_length
        self.episode_length_buf = torch.where(done, 0, self.episode_length_buf)
        self._draw()
        return self.get_observations(), reward, done.long(), {"time_outs": done.float()}


def configuration(*, esper: dict[str, Any], normalised: bool = False, **algorithm: Any) -> dict[str, Any]:
    """A configuration of rsl_rl's runner for :class:`Reaching`.

    Args:
        esper: what :func:`esper_core.monitor` takes.
        normalised: whether observations are.
        algorithm: more of PPO's.
    """
    network = {"class_name": "MLPModel", "hidden_dims": [16], "activation": "elu", "obs_normalization": normalised}
    return {
        "num_steps_per_env": 16,
        "save_interval": 1000,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": network | {"distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
        "critic": network,
        "algorithm": {"class_name": "esper_rsl_rl:PPO", "esper": esper, **algorithm},
    }


class _Kept(PPO):
    """Keeps every update, and rsl_rl's last KL of each."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.updates: list[tuple[float, PPOUpdatePayload]] = []
        self._steps = 0
        self.optimizer.register_step_pre_hook(self._still)

    def _still(self, *_: object) -> None:
        """Let the last step of an update move nothing: SGD without a gradient."""
        self._steps += 1
        if self._steps % EPOCHS == 0:
            self.optimizer.zero_grad()

    def update(self) -> dict[str, float]:
        losses = super().update()
        if self.last is not None:
            self.updates.append((float(self._in_loop[-1]), self.last))
        return losses


def check(folder: Path) -> AdapterCheck:
    """Train and compare."""
    torch.set_num_threads(1)  # of this command's own process: more are slower on a network this small
    torch.manual_seed(0)
    cfg = configuration(
        esper={"name": "check", "sinks": [], "settings": {"run": {"dir": str(folder)}}},
        optimizer="sgd",
        learning_rate=1e-2,
        num_learning_epochs=EPOCHS,
        num_mini_batches=1,
        schedule="adaptive",
        desired_kl=0.01,
    )
    cfg["algorithm"]["class_name"] = _Kept
    with contextlib.redirect_stdout(io.StringIO()):  # rsl_rl prints its networks
        runner = OnPolicyRunner(Reaching(), cfg, device="cpu")
        runner.learn(UPDATES)
    kept: _Kept = runner.alg
    kept.close()
    return AdapterCheck(
        updates=len(kept.updates),
        expected=UPDATES,
        compared=tuple(
            Compared(
                what=f"update {update.update_id}, whose last step moved nothing",
                name="kl_mean",
                theirs=theirs,
                ours=update.kl_joint or 0.0,
                tolerance=2e-6,  # rsl_rl's is in float32
            )
            for theirs, update in kept.updates
        ),
        notes=(
            "elsewhere they differ by definition: rsl_rl measures before each step, in the adaptive schedule only",
            "rsl_rl's is without the move of its observation normaliser, which Esper shows as a divergence",
        ),
    )
