"""Checkpoints: whole or absent, of the same shape, and resumed exactly."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from heard_updates import weights

from esper_core.config.schema import EsperConfig, PPOConfig, RunConfig
from esper_core.errors import ConfigError, EsperError
from esper_core.events import PPOUpdatePayload
from esper_core.ppo import Checkpointer, HeadSpec, PPOAgent, Trainer, load_checkpoint, save_checkpoint
from esper_core.ppo.checkpoint_fit import restore

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.numeric


def config(**run: Any) -> EsperConfig:
    return EsperConfig(
        ppo=PPOConfig(rollout_steps=4, epochs=2, minibatch_size=4, hidden=(8,)), run=RunConfig(**({"seed": 3} | run))
    )


def trained(toys: Any, path: Path, **run: Any) -> tuple[PPOAgent, Any]:
    task = toys.task(toys.Counter(4))
    chosen = config(**run)
    agent = PPOAgent(task.heads, task.obs_shape, chosen.ppo, seed=3)
    return agent, Trainer(agent, task, chosen, checkpointer=Checkpointer(path)).run()


def test_round_trip(toys: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    agent, result = trained(toys, path, updates=3)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.update_id, checkpoint.env_steps, checkpoint.episodes) == (3, 12, 3)
    assert checkpoint.recent_returns == (4.0, 4.0, 4.0)
    assert checkpoint.heads == (HeadSpec("action", 2),)
    assert checkpoint.obs_shape == (2,)
    assert checkpoint.config == agent.config
    assert result.updates == 3
    assert [item.name for item in tmp_path.iterdir()] == ["checkpoint.pt"], "nothing is left beside it"


def test_loaded_agent_acts_like_the_saved_one(toys: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    agent, _ = trained(toys, path, updates=2)
    loaded = PPOAgent.load(path)
    observations = np.random.default_rng(0).normal(size=(50, 2))
    assert torch.equal(weights(loaded), weights(agent))
    np.testing.assert_array_equal(loaded.act(observations), agent.act(observations))
    assert loaded.act(observations[0], deterministic=True).shape == ()


def test_run_directory_is_loaded_by_its_path(toys: Any, tmp_path: Path) -> None:
    from esper_core.reading import open_run
    from esper_core.runs import create_run

    run = create_run(tmp_path, name="try")
    agent, _ = trained(toys, run.checkpoint, updates=1)
    assert torch.equal(weights(PPOAgent.load(run.path)), weights(agent))
    assert torch.equal(weights(PPOAgent.load(run.run_id, base=tmp_path)), weights(agent))
    assert torch.equal(weights(PPOAgent.load(run)), weights(agent))
    assert torch.equal(weights(PPOAgent.load(open_run(run.run_id, tmp_path))), weights(agent))


def test_resumed_run_goes_on_exactly_where_it_was(toys: Any, tmp_path: Path) -> None:
    """Weights, optimizer, generators and counts: two halves equal one whole, since an episode ended at the seam."""
    whole, _ = trained(toys, tmp_path / "whole.pt", updates=4)
    path = tmp_path / "half.pt"
    trained(toys, path, updates=2)

    task = toys.task(toys.Counter(4))
    # The toy counts its episodes in what it shows: begin with as many as the first half saw, one reset included.
    task.env.envs[0].episodes = 2
    chosen = config(updates=4)
    agent = PPOAgent(task.heads, task.obs_shape, chosen.ppo, seed=3)
    result = Trainer(agent, task, chosen, resume=load_checkpoint(path), resumed_from=1).run()
    assert (result.updates, result.env_steps, result.episodes) == (4, 16, 4)
    assert torch.equal(weights(agent), weights(whole))
    assert torch.equal(agent.sampling_generator.get_state(), whole.sampling_generator.get_state())
    assert torch.equal(agent.order_generator.get_state(), whole.order_generator.get_state())


def test_resume_tells_the_first_update_to_come(toys: Any, tmp_path: Path) -> None:
    from esper_core.emitter import TelemetryEmitter
    from esper_core.hooks import SinkHooks

    seen: list[Any] = []

    class Recorder(SinkHooks):
        def esper_run_started(self, event: Any) -> None:
            seen.append(event.payload)

        def esper_ppo_updated(self, event: Any) -> None:
            seen.append(event.payload)

    path = tmp_path / "checkpoint.pt"
    trained(toys, path, updates=2)
    task = toys.task(toys.Counter(4))
    chosen = config(updates=3)
    agent = PPOAgent(task.heads, task.obs_shape, chosen.ppo, emitter=TelemetryEmitter(Recorder(), attempt=2))
    Trainer(agent, task, chosen, resume=load_checkpoint(path), resumed_from=1).run()
    started, update = seen
    assert (started.first_update_id, started.resumed_from) == (3, 1)
    assert isinstance(update, PPOUpdatePayload)
    assert (update.update_id, update.env_steps) == (3, 12)


def test_limit_that_was_reached_already_ends_at_once(toys: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    trained(toys, path, updates=2)
    task = toys.task(toys.Counter(4))
    agent = PPOAgent(task.heads, task.obs_shape, config().ppo)
    result = Trainer(agent, task, config(updates=2), resume=load_checkpoint(path)).run()
    assert (result.updates, result.reason, result.last) == (2, "2 of 2 updates", None)


# --- when -----------------------------------------------------------------------------------------------


def test_one_at_the_first_update_then_by_time_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("esper_core.ppo.checkpointer.time.monotonic", lambda: now[0])
    written: list[float] = []
    checkpointer = Checkpointer(tmp_path / "checkpoint.pt", interval_s=10)
    for second in range(26):
        now[0] = float(second)
        if checkpointer.completed():
            checkpointer.write(lambda _: written.append(now[0]))
    checkpointer.write(lambda _: written.append(now[0]), final=True)
    assert written == [0, 10, 20, 25]
    checkpointer.write(lambda _: written.append(now[0]), final=True)
    assert written == [0, 10, 20, 25], "nothing new, nothing written"


def test_failed_run_keeps_its_last_good_checkpoint(toys: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    task = toys.task(toys.Counter(20, poison="reward", at=10))
    chosen = config(updates=9)
    agent = PPOAgent(task.heads, task.obs_shape, chosen.ppo)
    result = Trainer(agent, task, chosen, checkpointer=Checkpointer(path, interval_s=0)).run()
    assert result.state == "failed"
    assert load_checkpoint(path).update_id == 2


# --- bad files ------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("damage", ["torn", "empty", "noise", "other"])
def test_damaged_file_is_one_clear_error(toys: Any, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.pt"
    trained(toys, path, updates=1)
    content = path.read_bytes()
    if damage == "other":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes({"torn": content[: len(content) // 2], "empty": b"", "noise": b"\x00" * 4096}[damage])
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "checkpoint.pt"
    torch.save({"format": 1, "state": Evil()}, path)
    with pytest.raises(ConfigError):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ConfigError):
        load_checkpoint(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("heads", "obs_shape", "hidden", "message"),
    [
        ([HeadSpec("action", 3)], (2,), (8,), r"another heads: action \(2\), this run has action \(3\)"),
        ([HeadSpec("action", 2)], (5,), (8,), r"another observation shape: \(2,\), this run has \(5,\)"),
        ([HeadSpec("action", 2)], (2,), (9,), r"another ppo.hidden: \(8,\), this run has \(9,\)"),
    ],
)
def test_checkpoint_of_another_shape(
    toys: Any, tmp_path: Path, heads: list[HeadSpec], obs_shape: tuple[int, ...], hidden: tuple[int, ...], message: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    trained(toys, path, updates=1)
    agent = PPOAgent(heads, obs_shape, PPOConfig(hidden=hidden))
    with pytest.raises(ConfigError, match=message):
        restore(agent, load_checkpoint(path))


def test_crash_while_writing_leaves_the_old_file(toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    agent, _ = trained(toys, path, updates=1)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    agent.updates = 99
    with pytest.raises(EsperError, match=r"cannot write checkpoint .*: No space left on device"):
        save_checkpoint(path, agent)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_failed_run_keeps_what_it_had_learned_since_the_last_checkpoint(toys: Any, tmp_path: Path) -> None:
    """The reward of update 3 is NaN: updates 1 and 2 are kept although the interval had not passed."""
    path = tmp_path / "checkpoint.pt"
    task = toys.task(toys.Counter(20, poison="reward", at=10))
    chosen = config(updates=9)
    agent = PPOAgent(task.heads, task.obs_shape, chosen.ppo)
    result = Trainer(agent, task, chosen, checkpointer=Checkpointer(path, interval_s=1e9)).run()
    assert (result.state, result.updates) == ("failed", 3)
    assert load_checkpoint(path).update_id == 2
    assert torch.equal(weights(PPOAgent.load(path)), weights(agent))


def test_full_disk_while_training_is_logged_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpointer = Checkpointer(path, interval_s=0)
    broken = True

    def save(target: Path) -> None:
        if broken:
            raise EsperError(f"cannot write checkpoint {target}: No space left on device")
        target.write_text("whole", encoding="utf-8")

    assert checkpointer.completed()
    checkpointer.write(save)
    assert "training goes on without a new checkpoint: cannot write checkpoint" in caplog.text
    with pytest.raises(EsperError, match="No space left"):
        checkpointer.write(save, final=True)
    broken = False
    checkpointer.write(save, final=True)
    assert path.read_text(encoding="utf-8") == "whole"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("update_id", -7),
        ("episodes", True),
        ("recent_returns", ["a"]),
        ("seed", -1),
        ("obs_shape", [10**9]),
        ("heads", [("a", 10**9)]),
    ],
)
def test_numbers_that_no_agent_has_are_refused_before_anything_is_built(
    key: str, value: object, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, PPOAgent([HeadSpec("a", 2)], (4,), PPOConfig(hidden=(8,))))
    content = torch.load(path, weights_only=True)
    torch.save({**content, key: value}, path)
    with pytest.raises(ConfigError, match="lacks what a checkpoint holds"):
        load_checkpoint(path)
    torch.save({**content, "config": {**content["config"], "hidden": [10_000_000, 10_000_000]}}, path)
    with pytest.raises(ConfigError, match="weights is claimed"):
        load_checkpoint(path)
