"""EsperCallback through real trainings: the number, the last update, the stop, every space, an unharmed training."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from present import payloads_of
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import CallbackList, EveryNTimesteps
from torch.distributions import Normal, kl_divergence

from esper_core import open_run
from esper_core.errors import UsageError
from esper_core.events import RunStarted
from esper_core.health import RunState
from esper_sb3 import EsperCallback

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.events import PPOUpdatePayload


torch.set_num_threads(1)  # two are many times slower on these small networks when the other core is busy


class Toy(gym.Env[Any, Any]):
    """Four steps an episode over any action space; reward for small actions."""

    def __init__(self, space: gym.Space[Any]) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        seen = np.full(3, self.steps / 4, np.float32)
        return seen, -float(np.square(np.asarray(action, dtype=float)).sum()), self.steps == 4, False, {}

    def action_masks(self) -> Any:
        """For MaskablePPO: odd steps forbid the last option of each head, even ones leave the first head one."""
        assert isinstance(self.action_space, gym.spaces.MultiDiscrete)
        masks = [np.ones(width, dtype=bool) for width in self.action_space.nvec]
        if self.steps % 2:
            for mask in masks:
                mask[-1] = False
        else:
            masks[0][1:] = False
        return np.concatenate(masks)


class Keep(EsperCallback):
    """Keeps the updates, and the policies before and after each."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__("kept", **{"sinks": ["journal"], "settings": {"run": {"dir": str(folder)}}, **options})
        self.updates: list[PPOUpdatePayload] = []
        self.before: list[Any] = []
        self.pairs: list[tuple[Any, Any, Any]] = []

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        assert self._rollout is not None
        self.before.append((copy.deepcopy(self.model.policy), self._rollout.observations.clone()))

    def _report(self) -> None:
        had = self._rollout is not None
        super()._report()
        if had:
            assert self.last is not None
            self.updates.append(self.last)
            self.pairs.append((*self.before[-1], copy.deepcopy(self.model.policy)))


def trained(space: gym.Space[Any], callback: Any, *, updates: int = 3, algorithm: Any = PPO, **options: Any) -> Any:
    settings = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu", "learning_rate": 1e-2}
    model = algorithm("MlpPolicy", Toy(space), **(settings | options))
    model.learn(updates * 64, callback=callback)
    return model


SPACES = {
    "discrete": (gym.spaces.Discrete(3), ("action",), "categorical"),
    "multi-discrete": (gym.spaces.MultiDiscrete([3, 2]), ("action_0", "action_1"), "categorical"),
    "multi-binary": (gym.spaces.MultiBinary(3), ("action_0", "action_1", "action_2"), "bernoulli"),
    "box": (gym.spaces.Box(-1, 1, (2,)), ("action_0", "action_1"), "gaussian"),
}


@pytest.mark.parametrize("name", SPACES)
def test_every_update_of_every_space_reaches_the_journal_the_last_one_included(tmp_path: Path, name: str) -> None:
    space, heads, kind = SPACES[name]
    callback = Keep(tmp_path)
    trained(space, callback)
    assert callback.run is not None
    run = open_run(callback.run.path or "")
    updates = [event.payload for event in run.updates()]
    assert [update.update_id for update in updates] == [1, 2, 3]
    assert [update.env_steps for update in updates] == [64, 128, 192]
    assert run.record is not None
    assert run.record.state is RunState.DONE
    for update in updates:
        assert tuple(head.name for head in update.heads) == heads
        assert {head.kind for head in update.heads} == {kind}
        assert update.kl_divergence is not None
        assert update.kl_divergence > 0
        assert update.kl_joint == pytest.approx(update.kl_divergence * len(heads))
        assert update.kl_first_minibatch == pytest.approx(0.0, abs=1e-6)
        assert update.library == "stable-baselines3"
        assert update.library_kl is not None
        assert (update.epochs, update.minibatches) == (2, 4)
        assert update.episodes == 16
        assert update.return_mean is not None


def test_the_kl_of_gaussians_is_the_closed_form_of_the_policies_before_and_after(tmp_path: Path) -> None:
    callback = Keep(tmp_path)
    trained(SPACES["box"][0], callback)
    for update, (before, observations, after) in zip(callback.updates, callback.pairs, strict=True):
        with torch.no_grad():
            old, new = (policy.get_distribution(observations).distribution for policy in (before, after))
        expected = kl_divergence(Normal(old.mean, old.stddev), Normal(new.mean, new.stddev)).double()
        assert [head.kl for head in update.heads] == pytest.approx(expected.mean(0).tolist(), rel=1e-4)
        assert update.kl_estimator == "exact"


def test_actions_that_the_policy_squashes_are_those_that_it_took(tmp_path: Path) -> None:
    callback = EsperCallback("x", sinks=["journal"], settings={"run": {"dir": str(tmp_path)}})
    trained(SPACES["box"][0], callback, updates=1, use_sde=True, policy_kwargs={"squash_output": True})
    update = callback.last
    assert update is not None
    assert update.kl_first_minibatch == pytest.approx(0.0, abs=1e-6)
    assert update.kl_joint is not None
    assert update.kl_joint > 0
    assert update.entropy is None, "that of the Normal before the squash is another number"


def test_the_kl_of_choices_is_k3_of_the_very_samples(tmp_path: Path) -> None:
    """Against SB3's own ``evaluate_actions``, whose joint log-probability is that of the only head."""
    callback = Keep(tmp_path)
    kept: list[Any] = []

    class More(Keep):
        def _on_rollout_end(self) -> None:
            super()._on_rollout_end()
            assert self._rollout is not None
            kept.append((self._rollout.actions.clone(), self._rollout.stored.clone()))

    callback = More(tmp_path)
    trained(SPACES["discrete"][0], callback)
    for update, (_, observations, after), (actions, stored) in zip(callback.updates, callback.pairs, kept, strict=True):
        with torch.no_grad():
            _, log_prob, _ = after.evaluate_actions(observations, actions.flatten())
        r = log_prob.double() - stored.double()
        assert update.kl_joint == pytest.approx(float((torch.expm1(r) - r).mean()), rel=1e-3, abs=1e-7)


def test_the_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    for space, _, _ in SPACES.values():
        with_it = trained(space, Keep(tmp_path), target_kl=0.01)
        without = trained(space, None, target_kl=0.01)
        for one, other in zip(with_it.policy.parameters(), without.policy.parameters(), strict=True):
            assert torch.equal(one, other)


def test_an_early_stop_of_sb3_is_reported_with_the_steps_it_took(tmp_path: Path) -> None:
    callback = Keep(tmp_path)
    trained(SPACES["discrete"][0], callback, target_kl=1e-9)
    for update in callback.updates:
        assert update.outcome == "early_stopped"
        assert update.minibatches < update.minibatches_planned == 4
        assert update.early_stop is not None
        assert update.early_stop.value is None
        assert update.stop_on == "joint"
        assert update.stop_threshold == pytest.approx(1.5e-9)
        assert "stopped by stable-baselines3" in update.reason
    assert callback.run is not None
    (started,) = payloads_of(RunStarted, [next(open_run(callback.run.path or "").events())])
    assert (started.kl_on, started.kl_warning) == ("joint", 1e-9)


def test_a_causal_mask_says_which_heads_had_an_effect(tmp_path: Path) -> None:
    def second_only_after_one(actions: Any) -> Any:
        return torch.stack([torch.ones(len(actions), dtype=torch.bool), actions[:, 0] == 1], 1)

    callback = Keep(tmp_path, heads=("kind", "place"), causal_mask=second_only_after_one)
    trained(SPACES["multi-discrete"][0], callback)
    kind, place = callback.updates[0].heads
    assert (kind.name, kind.decisions) == ("kind", 64)
    assert 0 < place.decisions < 64


def test_legal_masks_of_maskable_ppo_count_as_choices(tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
    callback = Keep(tmp_path)
    trained(SPACES["multi-discrete"][0], callback, algorithm=contrib.MaskablePPO)
    for update in callback.updates:
        first, second = update.heads
        assert first.decisions == 32, "on every other step the first head has one option"
        assert second.decisions == 32, "and on the others the second has one of its two left"
        assert update.steps == 64


def test_what_it_cannot_watch_is_refused_before_the_first_step(tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
    with pytest.raises(UsageError, match="A2C is not PPO"):
        A2C("MlpPolicy", "CartPole-v1", device="cpu").learn(100, callback=Keep(tmp_path))
    with pytest.raises(UsageError, match="DQN is not PPO"):
        DQN("MlpPolicy", "CartPole-v1", device="cpu").learn(100, callback=Keep(tmp_path))
    with pytest.raises(UsageError, match=r"RecurrentPPO is not supported: .* hidden states"):
        contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", device="cpu").learn(100, callback=Keep(tmp_path))
    with pytest.raises(UsageError, match="heads: 3 names for 1 heads"):
        trained(SPACES["discrete"][0], Keep(tmp_path, heads=("a", "b", "c")))
    with pytest.raises(UsageError, match="causal_mask: expected a function of the actions"):
        Keep(tmp_path, causal_mask=[True, False])
    with pytest.raises(UsageError, match="heads: expected different names"):
        Keep(tmp_path, heads="ab")
    inside = EveryNTimesteps(32, CallbackList([Keep(tmp_path)]))
    with pytest.raises(UsageError, match="inside EveryNTimesteps hears neither rollouts nor every step") as refused:
        trained(SPACES["discrete"][0], inside)
    assert "callback=[EsperCallback(...), EveryNTimesteps(...)]" in str(refused.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_callback_in_lists_of_callbacks_hears_all(tmp_path: Path) -> None:
    callback = Keep(tmp_path)
    trained(SPACES["discrete"][0], CallbackList([CallbackList([callback])]), updates=2)
    assert [update.env_steps for update in callback.updates] == [64, 128]


def test_a_second_learn_is_a_run_of_its_own(tmp_path: Path) -> None:
    callback = Keep(tmp_path)
    model = trained(SPACES["discrete"][0], callback, updates=2)
    model.learn(64, callback=callback, reset_num_timesteps=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert [update.env_steps for update in callback.updates] == [64, 128, 192]
    assert callback.updates[-1].update_id == 1


def test_ctrl_c_ends_learn_in_order(tmp_path: Path) -> None:
    script = """
import torch
torch.set_num_threads(1)
from stable_baselines3 import PPO
from esper_sb3 import EsperCallback
class Say(EsperCallback):
    def _on_rollout_end(self):
        super()._on_rollout_end()
        print("ready", flush=True)
PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu").learn(10**9, callback=Say("x", sinks=["journal"]))
print("after learn", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    assert out.endswith("after learn\n")
    (path,) = (tmp_path / "runs").iterdir()
    record = open_run(path).record
    assert record is not None
    assert (record.state, record.message) == (RunState.STOPPED, "SIGINT")


def test_a_fault_in_the_users_mask_is_told_once_and_ends_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Any) -> Any:
        raise ZeroDivisionError("no mask today")

    callback = Keep(tmp_path, causal_mask=broken)
    with pytest.raises(AssertionError):  # the test's own callback expects an update
        trained(SPACES["multi-discrete"][0], callback)
    plain = EsperCallback("x", causal_mask=broken, sinks=["journal"], settings={"run": {"dir": str(tmp_path)}})
    trained(SPACES["multi-discrete"][0], plain)
    assert plain.run is not None
    assert plain.run.counts.failures == 3
    told = capsys.readouterr().err
    assert told.count("the pass after the update failed, training goes on without it: ZeroDivisionError") >= 1
