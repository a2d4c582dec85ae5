"""Tells an environment's breach of contract from an exception of its own, which passes unchanged."""

from __future__ import annotations

import sysconfig
import traceback
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
import numpy as np

from esper_core.envs.contract import STEP_REMEDY, described
from esper_core.errors import EnvironmentContractError, EsperError
from esper_core.masking import MASK, may_be_secret_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["DEAD_PROCESS", "broken_by_contract", "given_text", "own_fault", "place_in_environment", "place_of"]

_ESPER: Final = str(Path(__file__).parents[1])
_GYMNASIUM: Final = str(Path(gym.__file__).parent)
_LIBRARIES: Final = (_ESPER, _GYMNASIUM, str(Path(np.__file__).parent))
_ENVIRONMENTS: Final = tuple(
    str(Path(_GYMNASIUM) / "envs" / kind) for kind in ("box2d", "classic_control", "mujoco", "phys2d", "toy_text")
)
_BASE: Final = str(Path(_GYMNASIUM) / "core.py")
"""The file of gymnasium.Env and its wrappers, whose abstract methods raise NotImplementedError."""
_PYTHON: Final = sysconfig.get_path("stdlib")
_SHOWN: Final = 3
_ENDS_S: Final = 5.0
"""Seconds in which a process whose pipe is closed has ended."""
DEAD_PROCESS: Final = (EOFError, BrokenPipeError, ConnectionResetError)
"""What the pipe to a process raises that has ended."""


def own_fault(
    error: BaseException, name: str, what: str, env: gym.vector.VectorEnv[Any, Any, Any]
) -> EsperError | None:
    """What to raise instead of an exception that a call of an environment raised; None to raise it as it is.

    Args:
        error: the exception.
        name: the environment's id.
        what: what was called, for the message.
        env: the environment, for what its processes left.
    """
    if isinstance(error, EsperError):
        inner = error.args[0] if error.args else None
        # An asynchronous environment makes the exception anew, of the exception that came from the other process.
        return inner if isinstance(inner, EsperError) else None
    if isinstance(error, SystemExit):
        return EnvironmentContractError(
            f"{name} called exit({error.code!r}) in {place_of(error.__traceback__) or what}",
            hint="an environment ends an episode with terminated or truncated, and fails by raising an exception",
        )
    processes = getattr(env.unwrapped, "processes", None)
    if processes and isinstance(error, DEAD_PROCESS):
        ended = wait([process.sentinel for process in processes], _ENDS_S)
        for process in processes:
            process.join(_ENDS_S if process.sentinel in ended else 0)
        codes = [
            f"environment {row}: exit code {process.exitcode}"
            for row, process in enumerate(processes)
            if process.exitcode is not None
        ]
        return EnvironmentContractError(
            f"{name}: the process of an environment has ended in {what} ({_few(codes) or 'no exit code'})",
            hint="exit() or a crash of native code ended it; a negative exit code is the number of a signal",
        )
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, NotImplementedError) and frames and frames[-1].filename == _BASE:
        return EnvironmentContractError(
            f"{name} does not implement {frames[-1].name}()", hint="write the method, as gymnasium declares it"
        )
    if broken_by_contract(error):
        return EnvironmentContractError(
            f"{name}: Gymnasium cannot take what {what} returned: {type(error).__name__}: {error}",
            hint=f"{STEP_REMEDY}; gymnasium.utils.env_checker.check_env(env) examines an environment",
        )
    return None


def broken_by_contract(error: BaseException) -> bool:
    """Whether Gymnasium raised it on what an environment returned: no frame is of the environment's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = all(frame.filename.startswith(_LIBRARIES) for frame in frames)
    environments = any(frame.filename.startswith(_ENVIRONMENTS) for frame in frames)
    inside = bool(frames) and frames[-1].filename.startswith(_LIBRARIES[1:])
    # The last error of an environment in another process is raised again here, by this function.
    return libraries and inside and not environments and frames[-1].name != "_raise_if_errors"


def place_of(trace: TracebackType | None) -> str:
    """File, line and function of the last frame that is neither ours nor the library part of Gymnasium's."""
    frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith((*_LIBRARIES, "<"))]
    return _last(frames)


def place_in_environment(error: BaseException) -> str:
    """File, line and function of the last frame, when it is of an environment, Gymnasium's own included; else empty."""
    frames = traceback.extract_tb(error.__traceback__)
    return _last(
        [
            frame
            for frame in frames
            if not frame.filename.startswith((*_LIBRARIES, "<")) or frame.filename.startswith(_ENVIRONMENTS)
        ]
    )


def _last(frames: list[traceback.FrameSummary]) -> str:
    """The last of these frames, of Python's own library only when there is no other."""
    others = [frame for frame in frames if not frame.filename.startswith(_PYTHON) or "site-packages" in frame.filename]
    frames = others or frames
    if not frames:
        return ""
    return f"{frames[-1].filename}, line {frames[-1].lineno}, {frames[-1].name}()"


def given_text(kwargs: Mapping[str, Any]) -> str:
    """What ``[env.kwargs]`` holds, as a remedy for an error of the environment; empty when it holds nothing."""
    if not kwargs:
        return ""
    words = [
        f"{name} = {MASK if may_be_secret_name(name) else described(value).rpartition(', ')[2]}"
        for name, value in kwargs.items()
    ]
    return f"is it what [env.kwargs] gives? {_few(words)}"


def _few(words: list[str]) -> str:
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
