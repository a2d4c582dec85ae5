"""The process that builds: started in a group of its own, waited for, and ended with everything it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esper_core.ppo.compiled.plan import Plan

__all__ = ["BuildFailedError", "BuildInterruptedError", "build_apart"]

_LOOK_S: Final = 0.05
_WORDS: Final = 200
"""Characters of a failure that are shown."""


class BuildFailedError(Exception):
    """The step could not be built; the text says why."""


class BuildInterruptedError(Exception):
    """The run was asked to stop meanwhile."""


def build_apart(plan: Plan, folder: Path, should_stop: Callable[[], bool]) -> Path:
    """Build a step in another process.

    Args:
        plan: of the step.
        folder: everything is written in here, the compiler's temporary files included.
        should_stop: looked at all the time; True ends the build.

    Returns:
        The file.

    Raises:
        BuildFailedError: there is none.
        BuildInterruptedError: because of ``should_stop``.
    """
    plan_file, file, told = folder / "plan", folder / "step.pt2", folder / "told"
    plan_file.write_bytes(msgspec.msgpack.encode(plan))
    # As this process finds its modules, and not from the working directory.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
    command = [
        sys.executable or "python3",
        "-P",
        "-W",
        "ignore",
        "-m",
        "esper_core.ppo.compiled.build",
        str(plan_file),
        str(file),
    ]
    try:
        with told.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # closes when this process ends, however it ends: then the other one does too
                stdout=out,
                stderr=out,
                env=environment,
                cwd=folder,
                start_new_session=True,  # a Ctrl-C of the terminal is for this process, which ends the other one
            )
    except OSError as error:
        raise BuildFailedError(f"{command[0]}: {error.strerror}") from error
    try:
        while process.poll() is None:
            if should_stop():
                raise BuildInterruptedError
            time.sleep(_LOOK_S)
    finally:
        _end(process)
    if process.returncode or not file.is_file():
        said = told.read_text(encoding="utf-8", errors="replace").replace(f"{folder}{os.sep}", "")
        raise BuildFailedError(_reason(said, process.returncode))
    return file


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its compilers, if they still run."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _reason(told: str, code: int) -> str:
    """The compiler's first error, else the last line that was told."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line]  # the compiler's; Python's classes have a capital E
    line = errors[0] if errors else lines[-1] if lines else f"it ended with exit code {code}"
    return line[:_WORDS]
