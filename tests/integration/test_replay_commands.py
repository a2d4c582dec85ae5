"""``esper replay``, ``esper runs`` and ``esper export`` on recorded and on running runs, through the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.events import HeadStats, PPOUpdatePayload
from esper_core.reading import open_run
from esper_core.semconv.codec import decode

if TYPE_CHECKING:
    from collections.abc import Callable

    StartPython = Callable[..., subprocess.Popen[str]]

DRIFT = Path(__file__).parents[2] / "docs" / "examples" / "runs" / "drift"
DEADLINE_S = 250

RECORDER = """
from pathlib import Path
from esper_core.hooks import hookimpl
from esper_core.semconv.codec import encode

class Recorder:
    '''Writes what it is given, and in which mode.'''

    @hookimpl
    def esper_sink_opened(self, context):
        environment = context.resource.get("esper.run.environment")
        Path(OUT + ".mode").write_text(f"{context.mode} {context.run_id} {environment}")

    def write(self, event):
        with Path(OUT).open("ab") as out:
            out.write(encode(event, {}) + b"\\n")
        SLEEP

    @hookimpl
    def esper_run_started(self, event):
        self.write(event)

    @hookimpl
    def esper_ppo_updated(self, event):
        self.write(event)

    @hookimpl
    def esper_policy_health_changed(self, event):
        self.write(event)

    @hookimpl
    def esper_run_finished(self, event):
        self.write(event)
"""


def recorder(folder: Path, sleep: str = "") -> tuple[str, Path]:
    """A sink in a file, and where it writes."""
    out = folder / "played.jsonl"
    source = RECORDER.replace("OUT", repr(str(out))).replace("SLEEP", sleep or "pass")
    (folder / "recorder.py").write_text(source)
    return f"{folder / 'recorder.py'}:Recorder", out


@pytest.fixture
def drift(tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(DRIFT, tmp_path / "drift"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def journal_of(run: Path) -> Path:
    return next((run / "telemetry").iterdir())


# --- printing -----------------------------------------------------------------------------------


def test_replay_prints_every_update_and_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(DRIFT)]) == 0
    out = capsys.readouterr().out.splitlines()
    updates = [line for line in out if line.startswith("update ")]
    assert len(updates) == 21
    assert out[0].startswith("run ")
    assert any("critical" in line and "early stop 1/4" in line for line in updates)
    assert any("warning" in line for line in updates)
    assert "non-finite" in updates[-1]
    assert any(line.startswith("  policy level rose from healthy to critical at KL 0.0307") for line in out)
    assert "reward of environment 0 is nan" in updates[-1]
    assert out[-1].startswith("21 updates; failed; verdict failed: NaN or Inf")


def test_replay_passes_over_damage_and_says_so(drift: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = journal_of(drift)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:300] + b"\n"
    file.write_bytes(b"".join(lines)[:-100])
    assert main(["replay", str(drift)]) == 0
    captured = capsys.readouterr()
    assert sum(line.startswith("update ") for line in captured.out.splitlines()) == 20
    assert "2 damaged lines in the journal passed over" in captured.err
    assert f"{file}:4: " in captured.err
    assert "torn: the write was cut short" in captured.err


def test_replay_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs" / "empty" / "telemetry").mkdir(parents=True)
    assert main(["replay", "empty"]) == 0
    assert "no updates in runs/empty" in capsys.readouterr().out


def test_replay_names_the_nearest_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(DRIFT, tmp_path / "runs" / "20260101T000000Z-drift-aaaaaa")
    assert main(["replay", "20260101T000000Z-drfit-aaaaaa"]) == 64
    error = capsys.readouterr().err
    assert 'did you mean "20260101T000000Z-drift-aaaaaa"?' in error
    assert str(tmp_path / "runs") in error
    assert "Traceback" not in error


def test_replay_to_a_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -m esper_core replay {DRIFT} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


class Clock:
    """Stands in for the module time: a sleep takes exactly as long as it says."""

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


def test_replay_keeps_the_pace_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [event.time_ns for event in open_run(DRIFT).events()]
    seconds = (times[-1] - times[0]) / 1e9
    clock = Clock()
    monkeypatch.setattr("esper_core.cli.replay.time", clock)
    assert main(["replay", str(DRIFT), "--speed", "4"]) == 0
    assert clock.slept == pytest.approx(seconds / 4)
    assert main(["replay", str(DRIFT), "--speed", "0"]) == 64
    assert "--speed 0 is no pace" in capsys.readouterr().err


def test_replay_runs_and_export_import_no_torch() -> None:
    pytest.importorskip("esper_sink_console", reason="it plays a run into the console")
    script = (
        "import sys; from esper_core.cli.main import main\n"
        f"assert main(['replay', {str(DRIFT)!r}]) == 0\n"
        f"assert main(['replay', {str(DRIFT)!r}, '--to', 'console']) == 0\n"
        f"assert main(['runs', '--dir', {str(DRIFT.parent)!r}]) == 0\n"
        f"assert main(['export', {str(DRIFT)!r}]) == 0\n"
        "heavy = {'torch', 'textual', 'numpy', 'gymnasium'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- into sinks ---------------------------------------------------------------------------------


def test_replay_plays_every_event_with_its_own_ids_and_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sink, out = recorder(tmp_path)
    assert main(["replay", str(DRIFT), "--to", sink]) == 0
    played = [event for line in out.read_bytes().splitlines() for event in decode(line)]
    assert played == list(open_run(DRIFT).events())
    run_id = played[0].run_id
    assert (tmp_path / "played.jsonl.mode").read_text() == f"replay {run_id} make_drift:Garden-v0"
    assert f"{len(played)} events of {run_id} played into {sink}" in capsys.readouterr().err
    kept = sorted(path.name for path in DRIFT.iterdir())
    assert kept == ["config.toml", "run.json", "summary.json", "telemetry"]


def test_replay_waits_for_a_slow_sink_and_loses_nothing(tmp_path: Path) -> None:
    sink, out = recorder(tmp_path, "import time; time.sleep(0.03)")
    (tmp_path / "esper.toml").write_text("[delivery.Recorder]\nqueue_size = 2\n")
    assert main(["replay", str(DRIFT), "--to", sink]) == 0
    assert out.read_bytes().count(b"\n") == len(list(open_run(DRIFT).events()))


def test_a_sink_that_fails_is_counted_named_and_makes_the_replay_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sink, _ = recorder(tmp_path, "raise RuntimeError('no')")
    assert main(["replay", str(DRIFT), "--to", sink]) == 1
    error = capsys.readouterr().err
    assert "disabled" in error
    assert "Traceback" not in error
    events = len(list(open_run(DRIFT).events()))
    assert f"{events} events of {open_run(DRIFT).run_id} read for {sink}: Recorder took 0 and lost " in error
    assert "played into" not in error


def test_a_duplicate_update_is_played_once(drift: Path, tmp_path: Path) -> None:
    file = journal_of(drift)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines, *lines[1:5]]))
    sink, out = recorder(tmp_path)
    assert main(["replay", str(drift), "--to", sink]) == 0
    updates = [line for line in out.read_bytes().splitlines() if b'"name":"esper.ppo.update"' in line]
    assert len(updates) == 21


def test_the_journal_cannot_be_replayed_into(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("esper_sink_journal")
    assert main(["replay", str(DRIFT), "--to", "journal"]) == 64
    assert "cannot be replayed into" in capsys.readouterr().err


SPANS = """
from esper_core.hooks import hookimpl

class Spans:
    @hookimpl
    def esper_span_processors(self, context):
        from opentelemetry.sdk.trace import SpanProcessor
        class Keep(SpanProcessor):
            def on_end(self, span):
                with open(OUT, "a") as file:
                    ids = span.context
                    print(span.name, f"{ids.trace_id:032x}", f"{ids.span_id:016x}", span.start_time, span.end_time,
                          len(span.attributes), len(span.events), file=file)
        return [Keep()]
"""


def test_span_processors_are_given_the_spans_as_they_were(tmp_path: Path) -> None:
    out = tmp_path / "spans.txt"
    (tmp_path / "spans.py").write_text(SPANS.replace("OUT", repr(str(out))))
    assert main(["replay", str(DRIFT), "--to", "./spans.py:Spans"]) == 0
    seen = [line.split()[:5] for line in out.read_text().splitlines()]
    expected = [
        [span.name, event.trace.trace_id, span.span_id, str(span.start_ns), str(span.end_ns)]
        for event in open_run(DRIFT).events()
        for span in event.trace.spans
    ]
    assert sorted(seen) == sorted(expected)


# --- following ----------------------------------------------------------------------------------

WRITE = """
import time
from pathlib import Path
from esper_core.config.schema import EsperConfig
from esper_core.events import PPOUpdatePayload, RunStarted
from esper_core.health import HealthLevel
from esper_core.host.session import Session
from esper_core.runs import create_run

with Session(EsperConfig(sinks=("journal",)), run=create_run(Path("runs"), name="live")) as session:
    session.emitter.emit_run_started(RunStarted(environment="none"))
    for number in range(1, COUNT + 1):
        session.emitter.begin_update(number)
        session.emitter.emit_ppo_update(
            PPOUpdatePayload(update_id=number, kl_divergence=0.001, health=HealthLevel.HEALTHY)
        )
        session.progress(updates=number, env_steps=number)
        print(number, flush=True)
        time.sleep(0.02)
"""


def test_follow_ships_a_running_journal_until_its_end(start_python: StartPython, tmp_path: Path) -> None:
    pytest.importorskip("esper_sink_journal", reason="a journal that grows needs its writer")
    writer = start_python(WRITE.replace("COUNT", "25"), cwd=tmp_path)
    assert writer.stdout is not None
    writer.stdout.readline()
    follower = subprocess.run(
        [sys.executable, "-m", "esper_core", "replay", "live", "--follow"],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    lines = follower.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("update ")] == [str(n) for n in range(1, 26)]
    assert lines[-1].startswith("25 updates; done; verdict healthy")
    assert writer.wait(DEADLINE_S) == 0


def test_follow_ends_when_the_trainer_was_killed(start_python: StartPython, tmp_path: Path) -> None:
    pytest.importorskip("esper_sink_journal", reason="a journal that grows needs its writer")
    writer = start_python(WRITE.replace("COUNT", "100000"), cwd=tmp_path)
    assert writer.stdout is not None
    last = 0
    while last < 10:
        last = int(writer.stdout.readline())
    writer.kill()
    writer.wait(DEADLINE_S)
    finished = last + len(writer.stdout.read().split())
    run = open_run("live")
    record = json.loads((run.path / "run.json").read_text())
    record["heartbeat_ns"] -= 60_000_000_000  # instead of waiting until the promise is broken
    (run.path / "run.json").write_text(json.dumps(record))
    done = subprocess.run(
        [sys.executable, "-m", "esper_core", "replay", "live", "--follow"],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    numbers = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("update ")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= finished
    assert "; crashed; verdict crashed" in done.stdout


def test_a_followed_replay_ends_at_a_signal(start_python: StartPython, tmp_path: Path) -> None:
    pytest.importorskip("esper_sink_journal", reason="a journal that grows needs its writer")
    writer = start_python(WRITE.replace("COUNT", "100000"), cwd=tmp_path)
    assert writer.stdout is not None
    writer.stdout.readline()
    sink, out = recorder(tmp_path)
    follower = subprocess.Popen(
        [sys.executable, "-m", "esper_core", "replay", "live", "--follow", "--to", sink],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE_S
    while (not out.exists() or out.read_bytes().count(b"\n") < 5) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(follower.pid, signal.SIGTERM)
    _, error = follower.communicate(timeout=DEADLINE_S)
    assert follower.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in error
    assert out.read_bytes().count(b"\n") >= 5


# --- lists and tables ---------------------------------------------------------------------------


def test_runs_lists_state_verdict_kl_return_and_age(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(DRIFT, tmp_path / "runs" / "20260101T000000Z-old-aaaaaa")
    shutil.copytree(DRIFT, tmp_path / "runs" / "20260201T000000Z-new-bbbbbb")
    (tmp_path / "runs" / "20260301T000000Z-torn-cccccc" / "telemetry").mkdir(parents=True)
    assert main(["runs"]) == 0
    heading, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading == ["RUN", "STATE", "VERDICT", "UPDATES", "KL", "RETURN", "AGE"]
    assert [row[0][17:20] for row in rows] == ["tor", "new", "old"]
    assert rows[0][1:4] == ["unknown", "unknown", "0"]
    assert rows[1][1:4] == ["failed", "failed", "21"]
    assert main(["runs", "-n", "1"]) == 0
    assert "and 2 older; -n 0 shows all" in capsys.readouterr().out


def test_runs_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--dir", str(DRIFT.parent), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["run"] == "drift"
    assert row["verdict"] == "failed"
    assert row["updates"] == 21
    assert row["environment"] == "make_drift:Garden-v0"
    assert row["kl_divergence"] is None


def test_one_unreadable_run_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(DRIFT, tmp_path / "runs" / "20260101T000000Z-good-aaaaaa")
    bad = tmp_path / "runs" / "20260201T000000Z-bad-bbbbbb" / "telemetry" / "1-0-0001.otlp.jsonl"
    bad.mkdir(parents=True)
    assert main(["runs"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[2] for row in rows] == ["unreadable", "failed"]
    assert main(["replay", "bad"]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_no_runs_says_where_and_what_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    assert f"no runs in {tmp_path / 'runs'}; start one with: esper ppo" in capsys.readouterr().out


def test_export_has_a_column_for_every_scalar_field_and_head(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(DRIFT), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    updates = list(open_run(DRIFT).updates())
    assert len(rows) == len(updates) == 21
    own = {item.name for item in fields(PPOUpdatePayload)} - {"heads", "early_stop", "kl_by_epoch", "divergences"}
    heads = {
        f"head.{head}.{item.name}"
        for head in ("slot", "blueprint", "tempo", "tempo_offset", "operations")
        for item in fields(HeadStats)
        if item.name != "name"
    }
    assert own | heads | {"run", "attempt", "time", "early_stop.epoch", "early_stop.head"} <= set(rows[0])
    for row, event in zip(rows, updates, strict=True):
        payload = event.payload
        assert int(row["update_id"]) == payload.update_id
        assert row["health"] == payload.health.value
        assert row["run"] == event.run_id
        assert (float(row["kl_divergence"]) if row["kl_divergence"] else None) == payload.kl_divergence
        for head in payload.heads:
            assert (float(row[f"head.{head.name}.kl"]) if row[f"head.{head.name}.kl"] else None) == head.kl
        stop = payload.early_stop
        assert row["early_stop.epoch"] == ("" if stop is None else str(stop.epoch))


def test_export_as_json_lines_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "updates.jsonl"
    assert main(["export", str(DRIFT), str(DRIFT), "-o", str(out)]) == 0
    assert "42 updates of 2 runs written to" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 42
    assert rows[0]["update_id"] == 1
    assert rows[0]["time"].endswith("Z")
    assert None not in rows[-1].values()


def test_export_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(DRIFT), "-o", str(tmp_path / "no" / "such.csv")]) == 1
    error = capsys.readouterr().err
    assert "cannot write" in error
    assert "No such file" in error
    assert main(["export", str(DRIFT), "-o", "/dev/full"]) == 1
    assert "No space left" in capsys.readouterr().err
