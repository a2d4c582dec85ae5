"""``esper compare``: groups by configuration, seeds as mean and spread, what differs, and the plot."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from typing import TYPE_CHECKING, Any

import pytest

from esper_core import monitor, open_run
from esper_core.cli.main import main
from esper_core.reading.compare import Stat, compare

if TYPE_CHECKING:
    from pathlib import Path


def recorded(folder: Path, *, seed: int, target_kl: float, kl: float, returns: float, **more: Any) -> Path:
    """A run of three updates whose numbers are given."""
    with monitor(
        "Toy-v0",
        name=f"seed{seed}",
        seed=seed,
        target_kl=target_kl,
        sinks=["journal"],
        kl_on=more.pop("kl_on", "joint"),
        kl_warning=0.1,
        kl_critical=0.2,
        settings={"run": {"dir": str(folder)}},
    ) as run:
        for step in range(1, 4):
            run.episode(returns * step)
            run.ppo_update(kl=[kl], env_steps=100 * step)
    assert run.path is not None
    return run.path


@pytest.fixture
def four_runs(tmp_path: Path) -> list[str]:
    return [
        str(recorded(tmp_path, seed=0, target_kl=0.01, kl=0.01, returns=10.0)),
        str(recorded(tmp_path, seed=1, target_kl=0.01, kl=0.03, returns=20.0)),
        str(recorded(tmp_path, seed=0, target_kl=0.02, kl=0.15, returns=30.0)),
        str(recorded(tmp_path, seed=0, target_kl=0.02, kl=0.15, returns=30.0)),
    ]


def test_loops_that_differ_in_what_only_their_updates_tell_are_no_seeds_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def loop(*heads: str, **plan: Any) -> str:
        settings = {"run": {"dir": str(tmp_path)}, "ppo": {"clip_range": 0.3}}
        with monitor("Toy-v0", heads=heads, sinks=["journal"], settings=settings, **plan) as run:
            run.ppo_update(kl=[[0.01] * max(len(heads), 2)])
        return str(run.path)

    runs = [loop("a", "b"), loop("a", "b", seed=1), loop("a", "c"), loop("a", granularity="token")]
    found = compare([open_run(path) for path in runs])
    assert [len(group.runs) for group in found.groups] == [2, 1, 1]
    assert found.differing == {
        "loop.heads": (["a", "b"], ["a", "c"], ["a"]),
        "loop.granularity": ("step", "step", "token"),
    }
    # A loop's learning rate is not Esper's default, and nobody told it.
    told = {key for key in found.groups[0].config if key.startswith("ppo.")}
    assert told == {"ppo.target_kl", "ppo.stop_on", "ppo.stop_rule", "ppo.clip_range"}
    capsys.readouterr()
    assert main(["eval", runs[0]]) == 64
    assert "keeps its policy itself" in capsys.readouterr().err


def test_seeds_of_one_configuration_are_one_group_with_mean_and_spread(four_runs: list[str]) -> None:
    found = compare([open_run(path) for path in [*four_runs, four_runs[0]]])
    assert [(group.name, len(group.runs)) for group in found.groups] == [("A", 2), ("B", 2)]
    first = found.groups[0]
    assert [run.seed for run in first.runs] == [0, 1]
    # Three episodes of 1, 2 and 3 times the return: their mean is twice it.
    assert first.stat(lambda run: run.last_return) == Stat(30.0, statistics.stdev([20.0, 40.0]), 2)
    assert first.stat(lambda run: run.last_kl).mean == pytest.approx(0.02)
    assert found.differing == {"ppo.target_kl": (0.01, 0.02)}
    assert found.notes == ()


def test_the_table_says_what_differs(four_runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *four_runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["GROUP", "RUNS", "VERDICTS"]
    assert "JOINT KL" in lines[0]
    assert lines[1].split() == [
        "A",
        "2",
        "2",
        "healthy",
        "3",
        "30.0",
        "±",
        "14.1",
        "0.0200",
        "±",
        "0.0141",
        "0%",
        "0,",
        "1",
    ]
    assert lines[2].split()[2:4] == ["2", "warm-up"]
    assert ["ppo.target_kl", "0.01", "0.02"] in [line.split() for line in lines]


def test_json_has_the_curves(four_runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--json", *four_runs[:2]]) == 0
    document = json.loads(capsys.readouterr().out)
    (group,) = document["groups"]
    assert document["differing"] == {}
    assert group["runs"][0]["env_steps"] == [100, 200, 300]
    assert group["runs"][1]["kl"] == pytest.approx([0.03] * 3)
    assert group["return_mean_100"] == {"mean": 30.0, "deviation": pytest.approx(14.142135623), "runs": 2}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_plot_is_written(
    four_runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / f"plot.{suffix}"
    assert main(["compare", *four_runs, "--plot", str(path)]) == 0
    assert f"plot written to {path}" in capsys.readouterr().out
    head = path.read_bytes()[:400]
    assert head.startswith(b"\x89PNG") if suffix == "png" else b"<svg" in head or b"<?xml" in head
    assert path.stat().st_size > 10_000


def test_what_cannot_be_compared_is_said(four_runs: list[str], tmp_path: Path) -> None:
    weighted = recorded(tmp_path, seed=0, target_kl=0.01, kl=0.01, returns=1.0, kl_on="weighted")
    lost = tmp_path / "copy"
    shutil.copytree(four_runs[0], lost)
    (lost / "config.toml").write_text("not = = toml")
    found = compare([open_run(four_runs[0]), open_run(weighted), open_run(lost)])
    assert len(found.groups) == 3
    assert any("config.toml: Invalid value" in note for note in found.notes)
    assert any("different KLs, weighted and joint" in note for note in found.notes)


def test_wrong_arguments_are_one_sentence(
    four_runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", four_runs[0], "--plot", "plot.bmp"]) == 64
    assert "expected a file that ends in .png, .svg, .pdf" in capsys.readouterr().err
    assert main(["compare", four_runs[0], "--plot", str(tmp_path / "no" / "plot.png")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert main(["compare", "nosuchrun", "--dir", str(tmp_path)]) == 64


def test_a_run_without_updates_has_no_figures(tmp_path: Path) -> None:
    with monitor("Toy-v0", sinks=["journal"], settings={"run": {"dir": str(tmp_path)}}) as run:
        pass
    found = compare([open_run(run.path or "")])
    (only,) = found.groups[0].runs
    assert (only.last_return, only.last_kl, only.stopped_share) == (None, None, None)
    assert Stat.of([None, math.nan, math.inf]) == Stat(None, None, 0)
    huge = Stat.of([1e308, -1e308, 1.7e308])
    assert (huge.mean, huge.deviation) == pytest.approx((1.7e308 / 3, 1.4012e308), rel=1e-3)
    assert Stat.of([0.0, 0.0]) == Stat(0.0, 0.0, 2)


def test_a_return_beyond_all_columns_stays_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(recorded(tmp_path, seed=seed, target_kl=0.01, kl=0.03, returns=(seed + 1) * 1e299)) for seed in (0, 1)]
    assert main(["compare", *runs]) == 0
    assert "3.00e+299 ± 1.41e+299" in capsys.readouterr().out
