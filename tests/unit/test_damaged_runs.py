"""Every command reads of a run folder what is right, and names what is not."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from esper_core.cli.main import main
from esper_core.events import Payload, RunStarted
from esper_core.health import RunState, VerdictKind
from esper_core.reading import open_run, scan_index
from esper_core.reading.attempts import Once
from esper_core.runs import JournalWriter, RunDir, RunRecord, SinkRecord, read_record, write_record
from esper_core.testing import make_event, make_update

pytest.importorskip("esper_sink_console", reason="replays runs onto the terminal; the sinks are plugins")

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "20260101T000000Z-calm-aaaaaa"
CONSOLE = SinkRecord(name="console", keeps_record=False)
BASE_NS = 1_790_000_000_000_000_000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run to damage: 60 calm updates, done."""
    path = tmp_path / "runs" / NAME
    (path / "telemetry").mkdir(parents=True)
    directory = RunDir(path)
    writer = JournalWriter(directory, attempt=1, rank=0, resource={})
    events: list[Payload] = [
        RunStarted(run_name="calm", environment="CartPole-v1"),
        *(make_update(number) for number in range(1, 61)),
    ]
    for number, payload in enumerate(events):
        writer.append(make_event(payload, run_id=NAME, time_ns=BASE_NS + number * 10**9))
    writer.close()
    sinks = [SinkRecord(name="journal", keeps_record=True)]
    write_record(directory, RunRecord(run_id=NAME, state=RunState.DONE, updates=60, heartbeat_ns=BASE_NS, sinks=sinks))
    directory.config_path.write_text('[env]\nid = "CartPole-v1"\n')
    directory.summary_path.write_text('{"kl_divergence": 0.01, "return_mean_100": 79.0}')
    return path


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command: exit code, output, errors."""

    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def journal(run: Path) -> Path:
    [found] = (run / "telemetry").iterdir()
    return found


def change(run: Path, **changes: object) -> None:
    record = read_record(RunDir(run))
    assert record is not None
    write_record(RunDir(run), msgspec.structs.replace(record, **changes))


# --- no journal ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sinks", "reason"),
    [
        ([], "60 updates, but this run kept no journal (it had no sinks)"),
        (
            [SinkRecord(name="console", keeps_record=False)],
            "60 updates, but this run kept no journal (its sinks: console)",
        ),
        ([SinkRecord(name="journal", keeps_record=True)], "60 updates, but the journal of this run is gone from "),
    ],
)
def test_a_run_without_a_journal_is_spoken_of_as_that_everywhere(
    sinks: list[SinkRecord], reason: str, run: Path, say: Callable[..., tuple[int, str, str]]
) -> None:
    shutil.rmtree(run / "telemetry")
    change(run, sinks=sinks, updates=60, state=RunState.DONE)
    for words in (("replay", run), ("replay", run, "--to", "console"), ("export", run)):
        code, out, err = say(*words)
        assert (code, out) == (1, "")
        assert reason in err
    code, out, err = say("runs", "--dir", run.parent)
    assert out.splitlines()[1].split()[1:7] == ["done", "no", "journal", "60", "0.0100", "79.0"]
    judged = open_run(run).verdict()
    assert judged.kind is VerdictKind.UNKNOWN
    assert judged.reason.startswith(reason)
    code, out, err = say("sanctum", run, "--once", "--json")
    assert code == 3
    assert json.loads(out)["verdict"]["reason"].startswith(reason)
    code, out, err = say("sanctum", run, "--once")
    assert "upd 60" in out
    assert "no update yet" not in out
    assert "no run yet" not in out


def test_one_run_without_a_journal_hides_no_other_from_an_export(
    run: Path, say: Callable[..., tuple[int, str, str]]
) -> None:
    bare = Path(shutil.copytree(run, run.with_name("20260102T000000Z-bare-bbbbbb")))
    shutil.rmtree(bare / "telemetry")
    change(bare, sinks=[], updates=60, state=RunState.DONE)
    code, out, err = say("export", bare, run)
    assert code == 1
    assert len(out.splitlines()) == 61  # with the heading
    assert "bare-bbbbbb: 60 updates, but this run kept no journal" in err


def test_updates_that_the_journal_lacks_make_the_verdict_lossy(
    run: Path, say: Callable[..., tuple[int, str, str]]
) -> None:
    change(run, updates=64, state=RunState.DONE)
    code, out, _ = say("replay", run)
    assert code == 0
    assert "60 of 64 updates, the others are not in its journal" in out
    assert "lossy: updates 61 to 64 are not in its journal" in out
    assert json.loads(say("sanctum", run, "--once", "--json")[1])["verdict"]["kind"] == "lossy"


# --- journals out of order ----------------------------------------------------------------------


@pytest.mark.parametrize("order", ["reversed", "shuffled", "twice", "each twice", "the last first"])
def test_lines_out_of_order_and_lines_twice_change_no_number(
    order: str, run: Path, say: Callable[..., tuple[int, str, str]]
) -> None:
    code, table, _ = say("export", run)
    listed = json.loads(say("runs", "--json", "--dir", run.parent)[1])
    screen = json.loads(say("sanctum", run, "--once", "--json")[1])
    lines = journal(run).read_bytes().splitlines(keepends=True)
    match order:
        case "reversed":
            lines.reverse()
        case "shuffled":
            random.Random(7).shuffle(lines)  # a test's choice
        case "twice":
            lines += lines
        case "each twice":
            lines = [line for line in lines for _ in range(2)]
        case _:
            lines = lines[-3:] + lines[:-3]
    journal(run).write_bytes(b"".join(lines))
    assert say("export", run) == (code, table, "")
    again = json.loads(say("runs", "--json", "--dir", run.parent)[1])
    assert [{**row, "age_s": 0} for row in again] == [{**row, "age_s": 0} for row in listed]
    shown = json.loads(say("sanctum", run, "--once", "--json")[1])
    for part in ("verdict", "kl", "early_stop", "progress"):
        assert shown[part] == screen[part], part
    code, out, err = say("replay", run)
    assert code == 0
    assert sum(line.startswith("update ") for line in out.splitlines()) == 60
    assert ("again" in err) == ("twice" in order)
    assert ("behind a later one" in err) == ("twice" not in order)


def test_an_attempt_out_of_order_still_replaces_what_it_made_anew(run: Path) -> None:
    second = journal(run).with_name("2-0-0001.otlp.jsonl")
    lines = [
        line.replace(b'"esper.run.attempt","value":{"intValue":"1"}', b'"esper.run.attempt","value":{"intValue":"2"}')
        for line in journal(run).read_bytes().splitlines(keepends=True)
    ]
    updates = [line for line in lines if b'"name":"esper.ppo.update"' in line][50:]
    second.write_bytes(b"".join(reversed(updates)))
    found = [(event.attempt, event.payload.update_id) for event in open_run(run).updates()]
    assert found == [(1 if number <= 50 else 2, number) for number in range(1, 61)]
    assert [scan_index(RunDir(run)).update_id(place) for place in range(60)] == list(range(1, 61))


def test_once_passes_each_id_once_in_any_order() -> None:
    ids = [*range(1, 200)] * 2
    random.Random(3).shuffle(ids)  # a test's choice
    once = Once()
    passed = [number for number in ids if once.passes(1, number)]
    assert sorted(passed) == list(range(1, 200))
    assert once.repeated == 199
    assert once._seen == {1: [(1, 199)]}  # its memory does not grow with the run
    assert once.passes(2, 5)


# --- files that are none ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "directory", "loop", "broken"])
@pytest.mark.parametrize("name", ["run.json", "config.toml", "summary.json", "checkpoint.pt", "trainer.log", "journal"])
def test_no_command_waits_for_or_falls_over_what_is_no_file(
    kind: str, name: str, run: Path, say: Callable[..., tuple[int, str, str]]
) -> None:
    path = journal(run) if name == "journal" else run / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "broken":  # opens as a file does and gives nothing, as on a broken disk
        if not Path("/proc/self/mem").exists():
            pytest.skip("Linux alone has /proc/self/mem")
        path.symlink_to("/proc/self/mem")
    else:
        path.symlink_to(path.name)
    code, out, err = say("runs", "--dir", run.parent)
    assert code == 0
    assert f"cannot read {path}" in err
    assert ("unreadable" if name == "journal" else " 60 ") in out
    code, out, err = say("replay", run)
    assert f"cannot read {path}" in err
    assert code == (1 if name == "journal" else 0)
    say("export", run)
    code, out, err = say("sanctum", run, "--once")
    assert code == {"run.json": 3, "journal": 1}.get(name, 0)
    assert f"cannot read {path}" in err
    if name in {"config.toml", "checkpoint.pt"}:
        code, _, err = say("eval", run)
        assert code == 64
        assert f"cannot read {path}" in err


def test_a_byte_order_mark_changes_nothing(run: Path, say: Callable[..., tuple[int, str, str]]) -> None:
    before = say("export", run)
    for path in (run / "run.json", run / "config.toml", run / "summary.json", journal(run)):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert say("export", run) == before
    assert say("runs", "--dir", run.parent)[2] == ""


def test_a_renamed_copy_with_a_damaged_record_is_read_by_the_viewer_too(
    run: Path, say: Callable[..., tuple[int, str, str]]
) -> None:
    copy = Path(shutil.copytree(run, run.with_name("backup")))
    os.truncate(copy / "run.json", 100)
    _, out, err = say("sanctum", copy, "--once", "--json")
    assert json.loads(out)["unread"] == {"events": 0, "lines": 0}
    assert json.loads(out)["kl"]["value"] == json.loads(say("sanctum", run, "--once", "--json")[1])["kl"]["value"]
    assert "is no record of a run" in err


@pytest.mark.parametrize("kind", ["loop", "file"])
def test_a_folder_of_runs_that_is_none_is_said(
    kind: str, tmp_path: Path, say: Callable[..., tuple[int, str, str]]
) -> None:
    base = tmp_path / "base"
    if kind == "loop":
        base.symlink_to(base.name)
    else:
        base.touch()
    for words in (("runs",), ("replay", "latest"), ("eval", "latest"), ("runs", "prune", "--keep", "0", "--yes")):
        code, out, err = say(*words, "--dir", base)
        assert (code, out) == (64, "")
        assert f"cannot read the folder of runs {base}" in err
