"""The lock of a run: one trainer at a time, however the one before ended, and readers that only ask."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.errors import EsperError, UsageError
from esper_core.runs import RunDir, create_run, is_locked, lock_owner
from esper_core.runs.held import HeldRun
from esper_core.runs.lock import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_HOLDER = """
import os, sys, time
from pathlib import Path
from esper_core.errors import UsageError
from esper_core.runs import RunDir
from esper_core.runs.held import HeldRun

for line in sys.stdin:
    command = line.strip()
    if command == "hold":
        try:
            held = HeldRun(RunDir(Path(sys.argv[1])))
        except UsageError as error:
            print("refused", error.message, flush=True)
        else:
            print("held", flush=True)
    elif command == "fork":
        child = os.fork()
        if child == 0:
            print(os.getpid(), flush=True)
            time.sleep(600)
            os._exit(0)
    elif command == "close":
        held.close()
        print("closed", flush=True)
"""


class Holder:
    """A process that holds a run when it is told to."""

    def __init__(self, run: RunDir) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, command: str) -> str:
        self.send(command)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create_run(tmp_path, name="locked")


@pytest.fixture
def start(run: RunDir) -> Any:
    """Start a process that can hold the run; it is killed at the end of the test."""
    started: list[Holder] = []

    def begin() -> Holder:
        started.append(Holder(run))
        return started[-1]

    yield begin
    for holder in started:
        if holder.process.poll() is None:
            holder.kill()


def test_of_two_processes_at_once_one_holds_the_run(run: RunDir, start: Callable[[], Holder]) -> None:
    pair = [start(), start()]
    for _ in range(20):
        for holder in pair:
            holder.send("hold")
        said = [holder.answer() for holder in pair]
        won = next(holder for holder, words in zip(pair, said, strict=True) if words == "held")
        assert sorted(words.split()[0] for words in said) == ["held", "refused"]
        refused = next(words for words in said if words != "held")
        assert f"run {run.run_id} is being trained (pid {won.process.pid} on " in refused
        assert won.do("close") == "closed"
    assert not (run.path / LOCK_NAME).exists()


def test_a_killed_trainer_leaves_no_lock(run: RunDir, start: Callable[[], Holder]) -> None:
    first = start()
    assert first.do("hold") == "held"
    assert is_locked(run) is True
    owner = lock_owner(run)
    assert owner is not None
    assert owner.pid == first.process.pid
    first.kill()
    assert is_locked(run) is False
    with HeldRun(run) as held:
        assert is_locked(run) is True
        assert held.former == owner
        held.begin()
    assert is_locked(run) is None


def test_a_forked_child_does_not_keep_it_after_the_trainers_death(run: RunDir, start: Callable[[], Holder]) -> None:
    first = start()
    assert first.do("hold") == "held"
    child = int(first.do("fork"))
    try:
        first.kill()
        os.kill(child, 0)
        assert is_locked(run) is False
        HeldRun(run).close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_ends_gives_nothing_back(run: RunDir) -> None:
    with HeldRun(run) as held:
        held.begin()
        child = os.fork()
        if child == 0:
            held.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert is_locked(run) is True
        assert (run.path / ".run.json.reserve").exists()


def test_a_second_holder_in_one_process_is_refused(run: RunDir) -> None:
    refused: list[str] = []

    def hold() -> None:
        try:
            HeldRun(run).close()
        except UsageError as error:
            refused.append(error.message)

    with HeldRun(run):
        thread = threading.Thread(target=hold)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "is being trained by this process" in refused[0]
    hold()
    assert len(refused) == 1


def test_readers_ask_without_taking_it(run: RunDir, start: Callable[[], Holder]) -> None:
    """Neither does a reader that asks all the time refuse a trainer, nor does its closing drop the trainer's lock."""
    (run.path / LOCK_NAME).touch()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_locked(run)
            lock_owner(run)

    readers = [threading.Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(50):
            HeldRun(run).close()
        with HeldRun(run):
            assert start().do("hold").startswith("refused")
    finally:
        stop.set()
        for reader in readers:
            reader.join()


@pytest.mark.parametrize("words", [b"", b"no json", b'{"pid": 1}', b"\0" * 9000])
def test_what_the_file_says_refuses_nobody(run: RunDir, words: bytes) -> None:
    (run.path / LOCK_NAME).write_bytes(words)
    assert is_locked(run) is False
    assert lock_owner(run) is None
    HeldRun(run).close()


def test_the_lock_of_a_living_process_that_does_not_hold_it_refuses_nobody(run: RunDir) -> None:
    with HeldRun(run):
        words = (run.path / LOCK_NAME).read_bytes()
    (run.path / LOCK_NAME).write_bytes(words)
    HeldRun(run).close()


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_what_is_no_file_is_one_sentence(run: RunDir, tmp_path: Path, kind: str) -> None:
    place = run.path / LOCK_NAME
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        (tmp_path / "precious").write_text("kept")
        place.symlink_to(tmp_path / "precious")
    assert is_locked(run) is None
    with pytest.raises(EsperError, match=f"cannot lock .*{LOCK_NAME}: "):
        HeldRun(run)
    if kind == "link":
        assert (tmp_path / "precious").read_text() == "kept"


def test_a_descriptor_that_someone_closed_is_taken_again(run: RunDir) -> None:
    said: list[str] = []
    with HeldRun(run, on_notice=said.append) as held:
        assert held._lock is not None
        assert held._lock._fd is not None
        os.close(held._lock._fd)
        assert is_locked(run) is False
        held.check()
        assert is_locked(run) is True
    assert not said


def test_a_deleted_directory_is_made_again_and_locked_with_what_it_held(run: RunDir) -> None:
    import shutil

    said: list[str] = []
    with HeldRun(run, on_notice=said.append) as held:
        held.write("config.toml", b"preset = 'none'\n")
        shutil.rmtree(run.path)
        held.check()
        held.check()
        assert said == [f"{run.path} was deleted, and has been made again"]
        assert run.config_path.read_bytes() == b"preset = 'none'\n"
        assert is_locked(run) is True


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_notice(run: RunDir, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No file system of that kind can be mounted here: the two calls of the kernel answer as it would."""

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with HeldRun(run) as held, HeldRun(run) as other:
        assert os.strerror(number) in held.unlocked
        assert "do not resume this run while it trains" in other.unlocked
        assert is_locked(run) is None


def test_without_locks_of_the_open_file_flock_does_the_same(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, start: Callable[[], Holder]
) -> None:
    monkeypatch.setattr("esper_core.runs.lock._OWN_FILE", False)
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_locked(run)

    reader = threading.Thread(target=ask)
    (run.path / LOCK_NAME).touch()
    assert is_locked(run) is False
    reader.start()
    try:
        for _ in range(3):
            with HeldRun(run):
                assert is_locked(run) is True
                with pytest.raises(UsageError, match="by this process"):
                    HeldRun(run)
    finally:
        stop.set()
        reader.join()


def test_what_a_killed_trainer_left_half_written_is_deleted(run: RunDir) -> None:
    (run.path / ".checkpoint.pt.12345.1.partial").write_bytes(bytes(1000))
    (run.path / ".mine").touch()
    with HeldRun(run) as held:
        held.begin()
    assert sorted(path.name for path in run.path.iterdir()) == [".mine", "telemetry"]


def test_an_attempt_that_does_not_begin_leaves_the_run_as_it_was(run: RunDir, start: Callable[[], Holder]) -> None:
    first = start()
    assert first.do("hold") == "held"
    first.kill()
    (run.path / ".checkpoint.pt.12345.1.partial").touch()
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    HeldRun(run).close()
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before
    assert is_locked(run) is False
