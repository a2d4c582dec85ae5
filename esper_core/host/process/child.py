"""Runs the training in a child process, for a sink that owns the terminal.

The parent starts ``python -m esper_core.host.process.child`` and passes the command line over a pipe, so that a secret
in it does not appear in ``/proc/PID/cmdline``. The child is the leader of a new process session, so that the signals
of Ctrl-C and of a closed terminal reach the parent's screen only. Once the child's ``Session`` is open, it prints to
``trainer.log`` and writes the run's directory to a pipe; until then the parent keeps the child's output, to show why
a start failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from esper_core.errors import EsperError
from esper_core.host.load.selection import CHILD_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

    from esper_core.runs.layout import RunDir

__all__ = ["ChildFailedError", "ChildProcess", "announce_run", "start_child"]

START_TIMEOUT_S = 120.0
_SHOWN_BYTES = 4000


class ChildFailedError(EsperError):
    """The training process ended or timed out before its run directory existed.

    Attributes:
        exit_code: the child's exit code, so that a wrong flag still exits with 64.
    """

    def __init__(self, message: str, *, hint: str | None = None, code: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = code


class ChildProcess:
    """A running training in a child process: the implementation of ``ChildRun`` for foreground sinks.

    Args:
        process: the child.
        receive: the pipe to which it writes the run's directory.
        printed: what it prints until then.
        timeout_s: seconds within which it has to create its run.
    """

    def __init__(self, process: subprocess.Popen[bytes], receive: int, printed: IO[bytes], *, timeout_s: float) -> None:
        self._process = process
        self._receive = receive
        self._printed = printed
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s
        self._lock = threading.Lock()
        self._run_dir: Path | None = None
        self._failed: ChildFailedError | None = None

    @property
    def begun(self) -> bool:
        """Whether somebody has waited for the run's directory, and it came."""
        return self._run_dir is not None

    @property
    def run_dir(self) -> Path:
        """The run's directory, in any thread; waits until it exists.

        Raises:
            ChildFailedError: the child ended or timed out before that; the message is its output.
        """
        with self._lock:
            if self._run_dir is None and self._failed is None:
                named = _read_line(self._receive, self._end)
                os.close(self._receive)
                if named:
                    self._run_dir = Path(named)
                else:
                    self._failed = _failure(self._process, self._printed, self._timeout_s)
                self._printed.close()
            if self._run_dir is None:
                raise self._failed or ChildFailedError("the training process did not create its run")
            return self._run_dir

    @property
    def pid(self) -> int:
        """Process id of the trainer."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code of the trainer, or None while it runs; 128 + number when a signal ended it."""
        return _exit_code(self._process.poll())

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until the trainer ends; return its exit code, or None when it still runs after the time."""
        try:
            return _exit_code(self._process.wait(timeout_s))
        except subprocess.TimeoutExpired:
            return None

    def request_stop(self) -> None:
        """Send the trainer SIGTERM: it stops at the next step."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def detach(self) -> None:
        """Let the training continue after this process ends, without Python's warning about a running child."""
        self._process.returncode = self._process.poll() or 0


def start_child(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = START_TIMEOUT_S
) -> ChildProcess:
    """Start ``esper`` with these arguments in a child process, and return at once: its ``run_dir`` waits.

    Args:
        argv: the arguments after ``esper``; they may hold secrets.
        env: the child's environment; this process's own when None.
        timeout_s: seconds within which the child has to create its run.
    """
    receive, send = os.pipe()
    printed = tempfile.TemporaryFile()  # noqa: SIM115  # closed once the run exists; the child keeps its own copy
    try:
        environment = dict(os.environ if env is None else env) | {CHILD_VARIABLE: str(send)}
        process = subprocess.Popen(
            [sys.executable, "-m", "esper_core.host.process.child"],
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=printed,
            env=environment,
            pass_fds=(send,),
            start_new_session=True,
        )
    except BaseException:
        os.close(receive)
        printed.close()
        raise
    finally:
        os.close(send)
    assert process.stdin is not None  # asked for above  # noqa: S101
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(list(argv)).encode())
    return ChildProcess(process, receive, printed, timeout_s=timeout_s)


def _read_line(fd: int, end: float) -> str:
    """Read what the child writes until end of file; empty when it wrote nothing in time."""
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            if not selector.select(left):
                break
            part = os.read(fd, 4096)
            text += part
            if not part or text.endswith(b"\n"):
                break
    return text.decode(errors="surrogateescape").removesuffix("\n")


def _failure(process: subprocess.Popen[bytes], printed: IO[bytes], timeout_s: float) -> ChildFailedError:
    try:
        code = _exit_code(process.wait(2.0))
    except subprocess.TimeoutExpired:
        process.terminate()
        return ChildFailedError(f"the training process did not create its run within {timeout_s:.0f} s")
    printed.seek(0, os.SEEK_END)
    printed.seek(max(0, printed.tell() - _SHOWN_BYTES))
    output = printed.read().decode(errors="replace").strip().removeprefix("esper: ")
    return ChildFailedError(output or f"the training process ended with code {code} and no output", code=code or 1)


def _exit_code(code: int | None) -> int | None:
    return 128 - code if code is not None and code < 0 else code


# --- in the child -------------------------------------------------------------------------------


def announce_run(run: RunDir) -> None:
    """In a child: print to ``trainer.log`` from now on, and send the run's path to the parent. Elsewhere do nothing."""
    value = os.environ.get(CHILD_VARIABLE, "")
    if not value.isdigit():
        return
    announced, os.environ[CHILD_VARIABLE] = int(value), "announced"
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        log = os.open(run.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        with contextlib.suppress(BrokenPipeError):  # whoever looked is gone, and the training goes on
            os.write(announced, f"{run.path.resolve()}\n".encode(errors="surrogateescape"))
    finally:
        os.close(announced)


def _main() -> None:
    """Read the arguments from stdin and run ``esper`` with them."""
    argv = json.loads(sys.stdin.buffer.read())
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123  # a device, not a path to work with
        os.dup2(nothing.fileno(), 0)
    sys.argv = ["esper", *argv]
    runpy.run_module("esper_core", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
