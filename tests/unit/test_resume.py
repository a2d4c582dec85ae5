"""A run that was interrupted goes on as if it had not been, where its environments can be brought back."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from present import creator

from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig, RunConfig
from esper_core.envs.adapter import make_task
from esper_core.ppo import Checkpointer, PPOAgent, Trainer, load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.numeric
UPDATES = 5
STEPS = 16


class Drifting(gym.Env[Any, Any]):
    """Random walks with random ends, from its own generator; ``forgetful`` shows what the seed does not decide."""

    observation_space = gym.spaces.Box(-9, 9, (2,), np.float64)
    action_space = gym.spaces.Discrete(3, start=-1)
    count = itertools.count()

    def __init__(self, *, forgetful: bool = False) -> None:
        self.forgetful = forgetful
        self.place = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place[0] += 0.1 * action
        self.place[1] = next(self.count) % 7 if self.forgetful else self.np_random.normal()
        return self.place, -abs(float(self.place[0])), bool(self.np_random.random() < 0.08), False, {}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    gym.register("Drifting-v0", creator(Drifting), max_episode_steps=40)
    torch.set_num_threads(1)
    yield
    del gym.registry["Drifting-v0"]


def config_of(**env: Any) -> EsperConfig:
    return EsperConfig(
        env=EnvConfig(id="Drifting-v0", n_envs=3, **({"seed_episodes": True} | env)),
        ppo=PPOConfig(
            rollout_steps=STEPS,
            epochs=2,
            minibatch_size=16,
            hidden=(8,),
            learning_rate_schedule="linear",
            normalise_observations=True,
            normalise_rewards=True,
        ),
        run=RunConfig(updates=UPDATES, seed=3),
    )


def attempt(
    config: EsperConfig, path: Path, *, resumes: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Trainer:
    task = make_task(config.env, seed=config.run.seed)
    agent = PPOAgent(task.heads, task.obs_shape, config.ppo, seed=config.run.seed)
    resume = load_checkpoint(path) if resumes else None
    trainer = Trainer(
        agent, task, config, should_stop=should_stop, checkpointer=Checkpointer(path, interval_s=0.0), resume=resume
    )
    trainer.run()
    task.close()
    return trainer


def left(path: Path) -> dict[str, Any]:
    """Everything that a checkpoint holds, as values that compare."""
    found = load_checkpoint(path)
    return {
        "policy": {name: weight.tolist() for name, weight in found.state["policy"].items()},
        "adam": [value.tolist() for item in found.state["optimizer"]["state"].values() for value in item.values()],
        "generators": [found.state[name].tolist() for name in ("sampling", "order")],
        "counts": (found.update_id, found.env_steps, found.episodes, found.recent_returns, found.running),
        "places": [{**place, "actions": place["actions"].tolist()} for place in found.places],
    }


def stop_at(cut: int) -> Callable[[], bool]:
    """Asks to stop from that question on."""
    calls = itertools.count()
    return lambda: next(calls) >= cut


def test_interrupted_and_uninterrupted_runs_agree_bit_for_bit(tmp_path: Path) -> None:
    """Stopped in the middle of rollouts and of updates, again and again: as the run in one go."""
    config = config_of()
    attempt(config, tmp_path / "whole.pt")
    path = tmp_path / "cut.pt"
    # Should_stop is read before each step and each minibatch: 16 + 6 an update.
    for cut in (30, 40, 30, 19):
        attempt(config, path, resumes=path.exists(), should_stop=stop_at(cut))
        assert load_checkpoint(path).update_id < UPDATES
    attempt(config, path, resumes=True)
    assert left(path) == left(tmp_path / "whole.pt")


def test_a_killed_run_goes_on_from_its_last_checkpoint_as_if_it_had_not_been(tmp_path: Path) -> None:
    config = config_of()
    attempt(config, tmp_path / "whole.pt")
    path = tmp_path / "cut.pt"

    def die() -> bool:
        if path.exists() and load_checkpoint(path).update_id == 2 and next(calls) == 9:
            raise ZeroDivisionError
        return False

    calls = itertools.count()
    with pytest.raises(ZeroDivisionError):
        attempt(config, path, should_stop=die)
    attempt(config, path, resumes=True)
    assert left(path) == left(tmp_path / "whole.pt")


def test_without_seeded_episodes_a_resumed_run_begins_new_ones(tmp_path: Path) -> None:
    config = config_of(seed_episodes=False)
    attempt(config, tmp_path / "whole.pt")
    path = tmp_path / "cut.pt"
    attempt(replace_updates(config, 2), path)
    attempt(config, path, resumes=True)
    found = load_checkpoint(path)
    assert (found.places, found.update_id) == ((), UPDATES)
    assert left(path)["policy"] != left(tmp_path / "whole.pt")["policy"]


def test_an_environment_that_comes_out_elsewhere_begins_a_new_episode_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(kwargs={"forgetful": True})
    path = tmp_path / "cut.pt"
    attempt(replace_updates(config, 1), path)
    attempt(config, path, resumes=True)
    said = [record.getMessage() for record in caplog.records if record.name == "esper.ppo"]
    assert said
    assert all("begins a new episode: the same seed and actions led to another observation" in line for line in said)
    assert load_checkpoint(path).update_id == UPDATES


def replace_updates(config: EsperConfig, updates: int) -> EsperConfig:
    from msgspec.structs import replace as changed

    return changed(config, run=changed(config.run, updates=updates))
