"""Training with every signal on ends in the very same weights and generator states as training with none."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torch")

pytestmark = pytest.mark.numeric

# A whole session, as `esper ppo` opens it, around a trainer; what is compared is printed at the end.
TRAIN = """
import hashlib, json, random, sys
import gymnasium as gym
import numpy as np
import torch
from pathlib import Path
from esper_core.config.schema import EnvConfig, EsperConfig, OtelConfig, PPOConfig, RunConfig
from esper_core.envs.adapter import make_task
from esper_core.host.session import Session
from esper_core.ppo.agent import PPOAgent
from esper_core.ppo.trainer import Trainer
from esper_core.runs import create_run

class Both(gym.ActionWrapper):
    # A head that chooses, and a Gaussian one.
    def __init__(self, **kwargs):
        super().__init__(gym.make("CartPole-v1", **kwargs))
        self.action_space = gym.spaces.Tuple((gym.spaces.Discrete(2), gym.spaces.Box(-1, 1, (1,))))

    def action(self, action):
        return action[0] if action[1][0] < 0.5 else 1 - action[0]

gym.register("Both-v0", Both)
sinks, sdk = json.loads(sys.argv[1])
torch.set_num_threads(1)
random.seed(11)
np.random.seed(11)
torch.manual_seed(11)
config = EsperConfig(
    sinks=tuple(sinks),
    otel=OtelConfig(sdk=sdk, episodes=True),
    ppo=PPOConfig(
        rollout_steps=32, minibatch_size=32, epochs=2, normalise_observations=True, normalise_rewards=True
    ),
    env=EnvConfig(id="Both-v0", n_envs=2),
    run=RunConfig(updates=6, seed=5),
)
task = make_task(config.env, seed=5)
agent = PPOAgent(task.heads, task.obs_shape, config.ppo, seed=5)
run = create_run(Path("runs"))
with Session(config, run=run, environment=task.name, heads=agent.layout.names) as session:
    trainer = Trainer(
        agent, task, config, emitter=session.emitter, should_stop=session.stop, on_progress=session.progress
    )
    result = trainer.run()
task.close()

def digest(data):
    return hashlib.sha256(data).hexdigest()

weights = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
legacy = np.random.get_state()
print(json.dumps({
    "updates": result.updates,
    "weights": digest(weights.numpy().tobytes()),
    "optimizer": digest(b"".join(
        value.numpy().tobytes() for state in agent.optimizer.state_dict()["state"].values()
        for value in state.values() if isinstance(value, torch.Tensor)
    )),
    "random": digest(repr(random.getstate()).encode()),
    "numpy": digest(legacy[1].tobytes() + str(legacy[2:]).encode()),
    "torch": digest(torch.get_rng_state().numpy().tobytes()),
    "sampling": digest(agent.sampling_generator.get_state().numpy().tobytes()),
    "order": digest(agent.order_generator.get_state().numpy().tobytes()),
    "delivered": sum(sink.delivered for sink in session.report.sinks),
    "kl": result.last.kl_divergence,
}))
"""
EXPORTING = """
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from esper_core.hooks import hookimpl

class Exporting:
    @hookimpl
    def esper_span_processors(self, context):
        return [SimpleSpanProcessor(InMemorySpanExporter())]

    @hookimpl
    def esper_metric_readers(self, context):
        return [InMemoryMetricReader()]

    @hookimpl
    def esper_ppo_updated(self, event):
        assert event.payload.kl_divergence is not None
"""


def _train(folder: Path, sinks: list[str], sdk: str) -> dict[str, Any]:
    words = [sys.executable, "-c", TRAIN, json.dumps([sinks, sdk])]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_weights_and_generators_are_the_same_with_every_signal_and_with_none(tmp_path: Path) -> None:
    (tmp_path / "exporting.py").write_text(EXPORTING)
    installed = [name for name in ("console", "journal") if _is_installed(name)]
    with_all = _train(tmp_path, [*installed, "./exporting.py:Exporting"], "always")
    without = _train(tmp_path, [], "never")
    assert with_all.pop("delivered") >= 6 * (len(installed) + 1)
    assert without.pop("delivered") == 0
    assert with_all["updates"] == 6
    assert with_all == without


def _is_installed(name: str) -> bool:
    from esper_core.host.load.discovery import installed_sinks

    return name in installed_sinks()
