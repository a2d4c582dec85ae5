"""The suite of hostile sinks (``tests/hostile/sinks.py``): each ends as its row says, without a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loaded_file import load_file

from esper_core.cli.main import main
from esper_core.config.schema import EsperConfig
from esper_core.events import RunStarted
from esper_core.host.session import Session
from esper_core.runs import create_run
from esper_core.testing import make_update

pytest.importorskip("esper_sink_journal", reason="the sinks are played a journal")
FILE = Path(__file__).parents[1] / "hostile" / "sinks.py"
UPDATES = 8
GUARD_S = 250


SUITE = load_file(FILE, "esper_hostile_sinks")
ALONE = [row for row in SUITE.SUITE if row.process]
TOGETHER = [row for row in SUITE.SUITE if not row.process]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight updates."""
    run = create_run(tmp_path_factory.mktemp("runs"))
    config = EsperConfig(sinks=("journal",))
    with Session(config, run=run, install_signal_handlers=False, on_notice=lambda _: None) as session:
        session.emitter.emit_run_started(RunStarted(environment="x"))
        for number in range(1, UPDATES + 1):
            session.emitter.emit_ppo_update(make_update(number))
    return run.path


def _held(row: Any, code: int, said: str) -> None:
    assert code == row.exit_code, said
    assert re.search(row.sentence, said), said
    assert "Traceback" not in said
    assert "unexpected" not in said


@pytest.mark.parametrize("row", TOGETHER, ids=lambda row: row.name)
def test_a_hostile_sink_ends_as_its_row_says(row: Any, recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["replay", str(recorded), "--to", f"{FILE}:{row.name}"])
    _held(row, code, capsys.readouterr().err)


@pytest.mark.parametrize("row", ALONE, ids=lambda row: row.name)
def test_a_sink_that_forks_or_holds_the_process_ends_as_its_row_says(row: Any, recorded: Path) -> None:
    """The guard is reached by a child that lives on as well: it holds the pipes."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "esper_core", "replay", str(recorded)]
    done = subprocess.run(
        [*command, "--to", f"{FILE}:{row.name}", "--set", "run.close_timeout_s=0.5"],
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
    _held(row, done.returncode, done.stderr)
    ends = [line for line in done.stderr.splitlines() if "played into" in line or "read for" in line]
    assert len(ends) == 1, "the end is said once, by one process"


def test_every_hostile_sink_is_in_the_table() -> None:
    table = SUITE.table()
    names = [row.name for row in SUITE.SUITE]
    assert len(names) == len(set(names))
    assert all(f"| `{name}` |" in table for name in names)
