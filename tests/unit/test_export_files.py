"""``esper export``: columns of divergences, SQLite and Parquet; what comes back is what the journal holds."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("esper_sink_journal", reason="the journal holds what is exported")

from esper_core import monitor, open_run
from esper_core.cli._progress import counted
from esper_core.cli.main import main
from esper_core.events import Divergence
from esper_core.reading.table import cell_type, columns, heading, row

DRIFT = Path(__file__).parents[2] / "docs" / "examples" / "runs" / "drift"
REFERENCE = Divergence(name="kl", estimator="k3", per_decision=0.002, per_step=-0.25)
TEACHER = Divergence(name="kl", reference="teacher", estimator="k1", per_decision=math.nan)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a loop that is not ours: numbers of every kind, heads told apart by capitals alone."""
    settings = {"run": {"dir": str(tmp_path_factory.mktemp("runs"))}}
    with monitor("Toy", heads=("a", "A"), sinks=["journal"], settings=settings) as made:
        made.skipped("nothing to learn from")
        made.ppo_update(kl={"a": [0.01], "A": [0.02]}, env_steps=2**70)
        made.ppo_update(kl={"a": [math.nan], "A": [0.02]}, grad_norm=math.inf, divergences=(REFERENCE, TEACHER))
    assert made.path is not None
    return made.path


def expected(run: Path) -> list[dict[str, Any]]:
    return [row(event) for event in open_run(run).updates()]


def test_a_divergence_has_columns_also_when_it_comes_late(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "updates.csv"
    assert main(["export", str(run), "-o", str(out)]) == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
    parts = ("reference", "estimator", "direction", "per_decision", "per_step")
    assert [rows[2][f"divergence.kl.{part}"] for part in parts] == [
        "reference_model",
        "k3",
        "policy_reference",
        "0.002",
        "-0.25",
    ]
    assert rows[2]["divergence.kl#2.reference"] == "teacher"  # one name, two references: both are there
    assert rows[2]["divergence.kl#2.per_decision"] == "nan"
    assert rows[1]["divergence.kl.per_step"] == ""
    assert rows[1]["head.A.kl"] == "0.02"  # though the first update was skipped and has no heads


def test_every_column_has_a_type_that_its_cells_have(run: Path) -> None:
    assert {cell_type(name) for name in columns()} == {int, float, str, bool}
    for path in (run, DRIFT):
        for cells in expected(path):
            for name, value in cells.items():
                assert value is None or isinstance(value, cell_type(name))


def same(value: Any, cell: Any) -> bool:
    """Whether a cell of SQLite is a value of ours."""
    if isinstance(value, float) and math.isnan(value):
        return bool(cell == "NaN")
    if isinstance(value, int) and abs(value) > 2**63:
        return bool(cell == float(value))
    return bool(cell == value and (cell is None) == (value is None))


@pytest.mark.parametrize("which", ["monitor", "ours"])
def test_sqlite_gives_back_what_the_journal_holds(run: Path, tmp_path: Path, which: str) -> None:
    path, out = run if which == "monitor" else DRIFT, tmp_path / "updates.sqlite"
    assert main(["export", str(path), "--sqlite", str(out)]) == 0
    with closing(sqlite3.connect(out)) as file:
        file.row_factory = sqlite3.Row
        found = file.execute("SELECT * FROM updates").fetchall()
    wanted = expected(path)
    names = heading(event.payload for event in open_run(path).updates())
    assert len(found) == len(wanted)
    assert [name.replace("#2", "") for name in found[0].keys()] == [name.replace("#2", "") for name in names]  # noqa: SIM118  # a row iterates over its values
    for cells, line in zip(wanted, found, strict=True):
        for name, cell in zip(names, tuple(line), strict=True):
            assert same(cells.get(name), cell), name


def test_not_a_number_is_no_null_and_infinity_is_a_number(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "updates.sqlite"
    assert main(["export", str(run), "--sqlite", str(out)]) == 0
    query = 'SELECT kl_divergence, grad_norm, typeof(grad_norm), "head.a.kl", "head.A.kl#2" FROM updates'
    with closing(sqlite3.connect(out)) as file:
        skipped, calm, broken = file.execute(query).fetchall()
    assert skipped == (None, None, "null", None, None)
    assert calm[3:] == (0.01, 0.02)
    assert broken == ("NaN", math.inf, "real", "NaN", 0.02)


@pytest.mark.parametrize("form", ["--sqlite", "--parquet"])
def test_a_file_that_is_there_stays_as_it_is(
    run: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    out.write_text("mine", encoding="utf-8")
    assert main(["export", str(run), form, str(out)]) == 64
    assert "is there already" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "mine"
    assert main(["export", str(run), form, str(tmp_path / "no" / "file")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert main(["export", str(run), form, str(out), "-o", str(out)]) == 64
    assert main(["export", str(tmp_path / "none"), form, str(tmp_path / "new")]) == 64
    assert sorted(tmp_path.iterdir()) == [out]


def test_what_sqlite_cannot_hold_is_one_sentence_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = tuple(f"h{place}" for place in range(300))  # 2,400 columns
    with monitor("Toy", heads=heads, sinks=["journal"], settings={"run": {"dir": str(tmp_path)}}) as made:
        made.ppo_update(kl={head: [0.01] for head in heads})
    out = tmp_path / "new.sqlite"
    capsys.readouterr()
    assert main(["export", str(made.path), "--sqlite", str(out)]) == 1
    assert "too many columns" in capsys.readouterr().err
    assert not out.exists()


def test_without_duckdb_the_extra_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert main(["export", str(run), "--parquet", str(tmp_path / "new.parquet")]) == 64
    assert "pip install 'esper-core[parquet]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.loops
@pytest.mark.skipif(importlib.util.find_spec("duckdb") is None, reason="duckdb is absent: make test-loops installs it")
def test_parquet_gives_back_what_the_journal_holds(tmp_path: Path) -> None:
    import duckdb  # absent in the development environment

    settings = {"run": {"dir": str(tmp_path / "runs")}}
    with monitor("It's", heads=("a'", "A'"), sinks=["journal"], settings=settings) as made:
        made.skipped("nothing to learn from")
        made.ppo_update(kl=[[0.01, math.nan]], grad_norm=math.inf, env_steps=2**53 + 1, divergences=(TEACHER,))
    for path in (made.path, DRIFT):
        assert path is not None
        out = tmp_path / f"it's {path.name}.parquet"
        assert main(["export", str(path), "--parquet", str(out)]) == 0
        with closing(duckdb.connect()) as engine:
            found = engine.execute("SELECT * REPLACE (CAST(time AS VARCHAR) AS time) FROM read_parquet(?)", [str(out)])
            lines = found.fetchall()
        names = heading(event.payload for event in open_run(path).updates())
        for cells, line in zip(expected(path), lines, strict=True):
            for name, cell in zip(names, line, strict=True):
                value = cells.get(name)
                if name == "time":
                    assert str(cell).rstrip("0") == str(value).replace("T", " ").rstrip("Z").rstrip("0")
                elif isinstance(value, float) and math.isnan(value):
                    assert math.isnan(cell)
                else:
                    assert (cell, cell is None) == (value, value is None), name


def test_progress_is_drawn_on_a_terminal_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    clock = iter(range(1000))
    monkeypatch.setattr("esper_core.cli._progress.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("esper_core.cli._progress.note_over", drawn.append)

    def shown(*, terminal: bool) -> list[str]:
        drawn.clear()
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
        assert sum(1 for _ in counted(iter(range(120)), "updates written", 1200)) == 120
        return list(drawn)

    assert shown(terminal=False) == []
    assert shown(terminal=True) == [
        "50 of 1,200 updates written",
        "100 of 1,200 updates written",
        "",
    ]


@pytest.mark.parametrize("words", [["export", "-o", "updates.csv"], ["compare"], ["report", "-o", "report.html"]])
def test_long_commands_say_how_far_they_are(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("esper_core.cli._progress._FIRST_S", 0.0)
    monkeypatch.setattr("esper_core.cli._progress._LOOK", 1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main([words[0], str(DRIFT), *words[1:]]) == 0
    shown = capsys.readouterr().err
    assert "updates" in shown
    assert shown.endswith("\r\x1b[K")
