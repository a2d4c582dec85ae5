"""Makes ``drift/``: a small real run that learns, drifts, is stopped early and ends in NaN.

    python docs/examples/runs/make_drift.py [FOLDER]

The environment is a garden with three slots; the policy has five heads. From the twelfth update on the environment
changes the rewarded choices with every update and doubles the reward each time: the policy changes faster and faster,
its KL reaches WARNING and CRITICAL, and updates stop early. At last the reward is NaN, which ends the run. Every number
is measured in this training.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from esper_core.cli.main import main as esper
from esper_core.runs import find_run, read_record, write_record

HEADS = ("slot", "blueprint", "tempo", "tempo_offset", "operations")
CHOICES = (3, 4, 3, 2, 4)
CONTEXTS = 4
EPISODE = 8
ROLLOUT = 32
GROWTH = 2.0


class Garden(gym.Env[np.ndarray, np.ndarray]):
    """Observes a context; rewards one choice of each head in it.

    Args:
        drift_at: step of this environment from which the rewarded choices and the reward change with every rollout.
        broken_at: step from which its reward is NaN.
    """

    head_names = HEADS
    conditioning_head = "operations"
    # Rows: wait, germinate, prune, fossilize. Which heads have an effect.
    causal_table = np.array([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1]], dtype=bool)

    def __init__(self, drift_at: int = 0, broken_at: int = 0) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (CONTEXTS,), np.float32)
        self.action_space = gym.spaces.MultiDiscrete(list(CHOICES))
        self._drift_at = drift_at
        self._broken_at = broken_at
        self._steps = 0
        self._context = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed, options=options)
        return self._shown(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Reward each head that has an effect and made the rewarded choice."""
        active = self.causal_table[action[-1]]
        days = max(0, self._steps - self._drift_at + ROLLOUT) // ROLLOUT
        liked = (self._context + days + np.arange(len(CHOICES))) % np.array(CHOICES)
        reward = float(((action == liked) & active).sum()) * GROWTH**days
        if self._steps >= self._broken_at:
            reward = float("nan")
        self._steps += 1
        return self._shown(), reward, self._steps % EPISODE == 0, False, {}

    def _shown(self) -> np.ndarray:
        self._context = int(self.np_random.integers(CONTEXTS))
        shown: np.ndarray = np.eye(CONTEXTS, dtype=np.float32)[self._context]
        return shown


def main(folder: Path) -> None:
    """Train, and keep the files that a reader of runs needs: no checkpoint, no name of this machine."""
    with tempfile.TemporaryDirectory() as place:
        words = ["ppo", "--no-config", "--sinks", "journal", "--env", "make_drift:Garden-v0", "--seed", "1"]
        words += ["--updates", "40", "--run-name", "drift", "--dir", place]
        settings = {
            "env.n_envs": 16,
            "env.kwargs.drift_at": ROLLOUT * 11,
            "env.kwargs.broken_at": ROLLOUT * 20,
            "ppo.rollout_steps": ROLLOUT,
            "ppo.minibatch_size": 64,
            "ppo.epochs": 4,
            "ppo.learning_rate": 0.004,
            "ppo.normalise_advantage": "false",
            "ppo.max_grad_norm": 1e9,
            "ppo.target_kl": 0.02,
        }
        code = esper([*words, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))])
        run = find_run("latest", Path(place))
        record = read_record(run)
        if record is None:
            raise SystemExit(f"no run was made (exit code {code})")
        record.host = record.boot_id = record.pid_namespace = ""
        record.pid = record.process_start = 0
        write_record(run, record)
        run.config_path.write_text(run.config_path.read_text().replace(f'"{place}"', '"runs"'))
        shutil.rmtree(folder, ignore_errors=True)
        kept = shutil.ignore_patterns("checkpoint*", "trainer.log")
        shutil.copytree(run.path, folder, ignore=kept)
    print(f"made {folder}; look at it with: esper replay {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "drift")
elif "Garden-v0" not in gym.registry:
    gym.register("Garden-v0", entry_point=Garden)  # type: ignore[arg-type]  # its protocol asks for every keyword; it gives those of the id
