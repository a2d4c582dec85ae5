"""What the commands say of a run: its start, its limits, its end and what to do next."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from esper_core.cli._words import limits_text, next_commands, program, start_lines, stop_text
from esper_core.config.layers import load_config
from esper_core.config.schema import PPOConfig, RunConfig
from esper_core.events import HeadStats
from esper_core.health import KLLimits
from esper_core.testing import make_heads, make_update

if TYPE_CHECKING:
    from esper_core.ppo.task import Task


def test_the_stop_is_told_as_both_kls() -> None:
    assert stop_text(PPOConfig(target_kl=0.02), 1).startswith("early stop: KL above 0.03 nats")
    five = stop_text(PPOConfig(target_kl=0.02), 5)
    assert "KL above 0.03 nats a decision" in five
    assert "as a joint KL 0.15 with all 5 heads active" in five
    assert "as a joint KL 0.06 with 2.0 of 5 heads usually active" in stop_text(PPOConfig(target_kl=0.02), 5, 2.0)
    joint = stop_text(PPOConfig(target_kl=0.02, stop_on="joint"), 5, 2.0)
    assert "joint KL above 0.03 nats a step" in joint
    assert "0.015 a decision" in joint
    assert stop_text(PPOConfig(target_kl=0), 5) == "early stop: off (target_kl = 0)"


@pytest.mark.parametrize("on", ["weighted", "joint"])
def test_heads_with_one_choice_do_not_count_in_the_lines_of_the_start(tmp_path: Path, on: str) -> None:
    resolved = load_config(no_file=True, sets=[f"ppo.stop_on={on}", f"health.kl_on={on}"], cwd=tmp_path)
    single = {"move": 4} | {f"fixed{index}": 1 for index in range(4)}
    text = "\n".join(start_lines(resolved, heads=single, run="runs/x", sinks=()))
    assert "with one head that chooses, per decision and per step are the same" in text
    assert "active" not in text
    two = "\n".join(start_lines(resolved, heads=single | {"slot": 3}, run="runs/x", sinks=()))
    assert "with all 2 heads active" in two
    assert "with 2.0 of 2 heads active" in two


def test_heads_with_one_choice_are_not_usually_active() -> None:
    from esper_core.ppo.heads import HeadSpec
    from esper_core.training.attempt import _usually_active

    class Fixed:
        heads = (HeadSpec("operation", 2), HeadSpec("fixed", 1), HeadSpec("slot", 3))
        causal_table = ((True, True, False), (True, True, True))

    assert _usually_active(cast("Task", Fixed())) == 1.5


def test_the_end_sets_no_joint_kl_beside_the_same_number() -> None:
    from esper_core.cli import _words

    heads = (HeadStats(name="move", kl=0.01, decisions=64, share=1.0, weight=1.0), HeadStats(name="fixed"))
    last = make_update(1, 0.01, heads=heads)
    assert "joint" not in _words._kl_text(last, KLLimits())
    assert "carries" not in _words._kl_text(last, KLLimits())


@pytest.mark.parametrize(
    ("joint_stops", "heads", "on", "line"),
    [
        (29, 5, "weighted", "1 early stop; on the joint KL the same limit would have stopped 29 updates"),
        (1, 5, "weighted", "1 early stop; on the joint KL the same limit would have stopped 1 update"),
        (29, 5, "joint", "1 early stop"),
        (1, 1, "weighted", "1 early stop"),
        (None, 5, "weighted", "1 early stop"),
    ],
)
@pytest.mark.parametrize("more", [(), (HeadStats(name="fixed"),)])
def test_the_end_says_how_often_the_joint_rule_would_have_stopped(
    joint_stops: int | None, heads: int, on: str, line: str, more: tuple[HeadStats, ...]
) -> None:
    """A head with one choice changes nothing: it decides nothing."""
    from esper_core.cli import _words
    from esper_core.health import RunState
    from esper_core.ppo.train_result import TrainResult

    made = (*make_heads(names=[f"head{index}" for index in range(heads)]), *more)
    result = TrainResult(
        state=RunState.DONE,
        reason="150 updates",
        updates=150,
        env_steps=1,
        episodes=0,
        early_stops=1,
        joint_stops=joint_stops,
        return_mean_100=None,
        last=make_update(150, heads=made, stop_on=on),
    )
    assert _words._stops_text(result) == line


def test_the_factor_of_the_stop_is_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words derive from the one constant."""
    from esper_core.cli import _words
    from esper_core.kl import stop

    monkeypatch.setattr(stop, "STOP_FACTOR", 2.5)
    monkeypatch.setattr(_words, "STOP_FACTOR", stop.STOP_FACTOR)
    assert "early stop: KL above 0.05 nats (2.5 x target_kl 0.02)" in _words.stop_text(PPOConfig(target_kl=0.02), 1)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (RunConfig(episodes=20), "until 20 episodes"),
        (RunConfig(episodes=20, updates=5), "until 20 episodes or 5 updates"),
        (RunConfig(), "until it is stopped"),
    ],
)
def test_the_limits_are_told(run: RunConfig, text: str) -> None:
    assert limits_text(run) == text


def test_commands_are_printed_as_this_shell_can_run_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beside = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{beside}{os.pathsep}/usr/bin")
    assert program() == "esper"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert program() == str(beside / "esper")
    monkeypatch.chdir(beside.parent.parent)
    assert program() == os.path.relpath(beside / "esper")
    monkeypatch.chdir("/")  # as an environment may have done: what counts is the folder of the shell
    assert program(tmp_path) == str(beside / "esper")
    again = next_commands("runs/x", has_checkpoint=True, has_journal=False, commands={}, start=tmp_path)
    assert again[0][0] == f"{beside / 'esper'} eval runs/x"
    printed = next_commands("runs/my run", has_checkpoint=True, has_journal=True, commands={"sanctum": "look at it"})
    assert [command.split("'")[0].split()[-1] for command, _ in printed] == ["sanctum", "replay", "export", "eval"]
    assert all("'runs/my run'" in command for command, _ in printed)
    assert next_commands("r", has_checkpoint=False, has_journal=False, commands={"sanctum": "look at it"}) == []


def test_the_way_back_is_the_first_next_command_of_a_stopped_run() -> None:
    kept: dict[str, Any] = {"has_checkpoint": True, "has_journal": True, "commands": {}}
    stopped = next_commands("runs/x", stopped=True, **kept)
    assert stopped[0][0].endswith("ppo --resume runs/x")
    assert stopped[1:] == next_commands("runs/x", **kept)
    assert [
        words.split()[-2:] for words, _ in next_commands("x", has_checkpoint=True, has_journal=False, commands={})
    ] == [["eval", "x"]]
