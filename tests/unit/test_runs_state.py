"""run.json: replaced whole, and judged by one function."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from esper_core.health import RunState
from esper_core.runs import (
    ProcessPresence,
    RunDir,
    RunRecord,
    SinkRecord,
    probe_process,
    process_identity,
    read_record,
    read_state,
    run_state,
    write_record,
)
from esper_core.runs.state import record_fault

if TYPE_CHECKING:
    from pathlib import Path

S = 1_000_000_000
NOW = 2_000_000 * S
ALIVE, GONE, UNKNOWABLE = ProcessPresence.ALIVE, ProcessPresence.GONE, ProcessPresence.UNKNOWABLE
BOOTED = ProcessPresence.BOOTED


def record(**changes: Any) -> RunRecord:
    """Alive and well: begun 1000 s ago, a tick a second, the last one and a heartbeat just now."""
    base = RunRecord(run_id="r", started_ns=NOW - 1000 * S, heartbeat_ns=NOW, progress=1000, progress_ns=NOW)
    return msgspec.structs.replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "presence", "expected"),
    [
        pytest.param({}, ALIVE, RunState.LIVE, id="well"),
        pytest.param({}, GONE, RunState.CRASHED, id="gone at once, however fresh the heartbeat"),
        pytest.param({}, UNKNOWABLE, RunState.LIVE, id="a fresh heartbeat wins over a pid that cannot be looked for"),
        pytest.param({}, BOOTED, RunState.LIVE, id="a fresh heartbeat of another machine of that name"),
        pytest.param({"heartbeat_ns": NOW - 15 * S}, UNKNOWABLE, RunState.LIVE, id="three intervals are not late"),
        pytest.param({"heartbeat_ns": NOW - 16 * S}, ALIVE, RunState.STALE, id="late, process there"),
        pytest.param({"heartbeat_ns": NOW - 16 * S}, UNKNOWABLE, RunState.STALE, id="late, process unknowable"),
        pytest.param({"heartbeat_ns": NOW - 16 * S}, GONE, RunState.CRASHED, id="late, process gone"),
        pytest.param({"heartbeat_ns": NOW - 16 * S}, BOOTED, RunState.CRASHED, id="late, host booted since"),
        pytest.param(
            {"heartbeat_ns": NOW - 16 * S, "heartbeat_interval_s": 10.0}, UNKNOWABLE, RunState.LIVE, id="slower promise"
        ),
        pytest.param({"heartbeat_ns": NOW + 14 * S}, UNKNOWABLE, RunState.LIVE, id="clock a little ahead"),
        pytest.param({"heartbeat_ns": NOW + 3600 * S}, UNKNOWABLE, RunState.STALE, id="heartbeat from the future"),
        pytest.param({"progress_ns": NOW - 59 * S}, ALIVE, RunState.LIVE, id="a minute may pass"),
        pytest.param({"progress_ns": NOW - 61 * S}, ALIVE, RunState.STALLED, id="no progress"),
        pytest.param({"progress_ns": NOW - 61 * S}, UNKNOWABLE, RunState.STALLED, id="no progress, pid unseen"),
        pytest.param(
            {"progress": 10, "progress_ns": NOW - 500 * S}, ALIVE, RunState.LIVE, id="slow ticks may take longer"
        ),
        pytest.param(
            {"progress": 10, "progress_ns": NOW - 501 * S, "started_ns": NOW - 1000 * S},
            ALIVE,
            RunState.STALLED,
            id="ten mean ticks are enough",
        ),
        pytest.param(
            {"progress": 0, "progress_ns": 0, "started_ns": NOW - 119 * S}, ALIVE, RunState.LIVE, id="starting"
        ),
        pytest.param(
            {"progress": 0, "progress_ns": 0, "started_ns": NOW - 121 * S}, ALIVE, RunState.STALLED, id="never began"
        ),
        pytest.param({"state": RunState.DONE, "heartbeat_ns": 0}, GONE, RunState.DONE, id="done is final"),
        pytest.param({"state": RunState.STOPPED, "heartbeat_ns": 0}, ALIVE, RunState.STOPPED, id="stopped is final"),
        pytest.param(
            {"state": RunState.FAILED}, ALIVE, RunState.FAILED, id="failed is final, however fresh the heartbeat"
        ),
    ],
)
def test_run_state(changes: dict[str, Any], presence: ProcessPresence, expected: RunState) -> None:
    assert run_state(record(**changes), now_ns=NOW, probe=lambda _: presence) is expected


def test_an_ended_run_asks_for_no_process() -> None:
    def fail(_: RunRecord) -> ProcessPresence:
        raise AssertionError

    assert run_state(record(state=RunState.DONE), now_ns=NOW, probe=fail) is RunState.DONE


def test_an_end_written_just_before_the_process_went_is_not_taken_for_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is read, the trainer writes its end and exits, and only then its process is looked for."""
    run = RunDir(tmp_path)
    write_record(run, own(heartbeat_ns=time.time_ns()))

    def ends_meanwhile(_: object) -> ProcessPresence:
        write_record(run, own(state=RunState.DONE))
        return GONE

    monkeypatch.setattr(run_state, "__kwdefaults__", {**(run_state.__kwdefaults__ or {}), "probe": ends_meanwhile})
    found, state = read_state(run)
    assert state is RunState.DONE
    assert found is not None
    assert found.state is RunState.DONE


def test_no_record_is_unknown() -> None:
    assert run_state(None) is RunState.UNKNOWN


def own(**changes: Any) -> RunRecord:
    """A record of the calling process."""
    me = process_identity()
    base = RunRecord(
        run_id="r",
        pid=me.pid,
        host=me.host,
        boot_id=me.boot_id,
        pid_namespace=me.pid_namespace,
        process_start=me.process_start,
        process_start_ns=me.process_start_ns,
    )
    return msgspec.structs.replace(base, **changes)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, ALIVE, id="this process"),
        pytest.param({"host": "pod-7"}, UNKNOWABLE, id="another host name"),
        pytest.param({"process_start": 1, "process_start_ns": 1}, GONE, id="the pid was reused"),
        pytest.param({"process_start": 1, "process_start_ns": 0}, GONE, id="the pid was reused, a run of 0.1"),
        pytest.param({"process_start": 1}, ALIVE, id="the boot time moved with the clock"),
        pytest.param({"process_start_ns": 1}, ALIVE, id="the clock was set"),
        pytest.param({"process_start": 0, "process_start_ns": 0}, ALIVE, id="start unknown"),
        pytest.param({"pid": 2**22 + 1}, GONE, id="no such process"),
        pytest.param({"pid": 2**70}, GONE, id="no pid at all"),
        pytest.param({"pid": 0}, UNKNOWABLE, id="no pid"),
        pytest.param({"pid_namespace": "pid:[1]"}, UNKNOWABLE, id="another container"),
        pytest.param({"pid_namespace": ""}, UNKNOWABLE, id="namespace unknown"),
        pytest.param({"boot_id": "another"}, BOOTED, id="booted since"),
        pytest.param({"boot_id": "another", "host": "elsewhere"}, UNKNOWABLE, id="another machine"),
        pytest.param({"boot_id": ""}, UNKNOWABLE, id="boot unknown"),
    ],
)
def test_probe_process(changes: dict[str, Any], expected: ProcessPresence) -> None:
    assert probe_process(own(**changes)) is expected


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, ALIVE), ({"pid": 2**22 + 1}, GONE), ({"host": "b"}, UNKNOWABLE)]
)
def test_a_system_without_boot_id_and_namespaces_knows_its_processes_too(
    changes: dict[str, Any], expected: ProcessPresence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.setattr("esper_core.runs.process._boot_id", str)
    monkeypatch.setattr("esper_core.runs.process._pid_namespace", str)
    assert probe_process(own(**changes)) is expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_process_is_gone_even_before_it_is_reaped() -> None:
    script = (
        "import msgspec, sys, time; from esper_core.runs import process_identity;"
        "sys.stdout.buffer.write(msgspec.json.encode(process_identity()) + b'\\n'); sys.stdout.flush(); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        seen = RunRecord(run_id="r", **msgspec.json.decode(child.stdout.readline()))
        assert probe_process(seen) is ALIVE
        os.kill(child.pid, signal.SIGSTOP)
        assert probe_process(seen) is ALIVE
        child.kill()
        deadline = time.monotonic() + 250
        while probe_process(seen) is not GONE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert probe_process(seen) is GONE
        child.wait()
    assert probe_process(seen) is GONE


def test_a_record_comes_back_as_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    written = own(state=RunState.STOPPED, message="é", sinks=[SinkRecord(name="journal", lost=2, lag_s=0.5)])
    write_record(run, written)
    assert read_record(run) == written
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"run_id": "r", "later": [1]}')
    assert read_record(RunDir(tmp_path)) == RunRecord(run_id="r")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b'\xef\xbb\xbf{"run_id": "r"}')
    assert read_record(RunDir(tmp_path)) == RunRecord(run_id="r")
    assert record_fault(RunDir(tmp_path)) is None


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "loop", "empty", "damaged"])
def test_what_lies_in_the_place_of_the_record_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    words = put(kind, path)
    assert read_record(RunDir(tmp_path)) is None
    fault = record_fault(RunDir(tmp_path))
    assert fault is not None
    assert words in fault.reason
    assert fault.remedy


def put(kind: str, path: Path) -> str:
    """Put something else in the place of a file; return what it should be called."""
    match kind:
        case "fifo":
            os.mkfifo(path)
            return "a FIFO"
        case "directory":
            path.mkdir()
            return "a directory"
        case "socket":
            with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path.name)
            return "a socket"
        case "loop":
            path.symlink_to(path)
            return "symbolic links"
        case "empty":
            path.touch()
            return "is empty"
    path.write_bytes(b'{"run_id": 3}')
    return "no record of a run"


@pytest.mark.parametrize("content", [b"", b"{", b'{"run_id": 3}', b"\0" * 64])
def test_what_is_no_record_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    assert read_record(RunDir(tmp_path)) is None
    assert read_record(RunDir(tmp_path / "missing")) is None


def test_a_failed_write_leaves_the_old_record_and_no_litter(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_record(run, RunRecord(run_id="old"))
    script = (
        "import resource, signal, sys; from pathlib import Path; from esper_core.runs import *;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10));"
        "write_record(RunDir(Path(sys.argv[1])), RunRecord(run_id='new'))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "OSError" in done.stderr
    assert read_record(run) == RunRecord(run_id="old")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_readers_never_see_half_a_record(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_record(run, RunRecord(run_id="0"))
    stop = threading.Event()
    missing: list[int] = []

    def read() -> None:
        while not stop.is_set():
            if read_record(run) is None:
                missing.append(1)

    def write(name: str) -> None:
        for count in range(200):
            write_record(run, RunRecord(run_id=f"{name}{count}" * (count % 7 + 1)), durable=False)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join(250)
    stop.set()
    reader.join(250)
    assert not missing


def test_a_text_that_utf8_cannot_encode_is_written_escaped(tmp_path: Path) -> None:
    """A file name that is no text may stand in what somebody reports: the heartbeat goes on."""
    run = RunDir(tmp_path, "r")
    write_record(run, record(message=os.fsdecode(b"caf\xe9")))
    found = read_record(run)
    assert found is not None
    assert found.message == r"caf\udce9"
