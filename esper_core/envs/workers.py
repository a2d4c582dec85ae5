"""Environments in worker processes, for ``[env] vector = "async"``: one process an environment.

Workers are started by multiprocessing's fork server (on Windows they are spawned), and never forked from this process:
its threads, locks, open files and accelerator stay out of them, and the lock of the run with them. What a worker needs
travels by cloudpickle, so an environment may be registered anywhere, in a script too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState

from esper_core.deadline import within
from esper_core.envs.faults import DEAD_PROCESS, place_of
from esper_core.errors import EnvironmentContractError, EnvironmentUnsupportedError, EsperError, UsageError, error_text
from esper_core.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Make = Callable[[], gym.Env[Any, Any]]

__all__ = ["Workers", "in_workers"]

_METHOD: Final = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_PRELOAD: Final = ["gymnasium", "esper_core.envs.workers", "esper_core.envs.gate", "esper_core.envs.episodes"]
"""Imported once, by the fork server, and not by each worker."""
_GUARD: Final = 'a script calls esper_core.train() under `if __name__ == "__main__":`, since its workers import it'
_MOST: Final = 512
"""Worker processes that one run may start."""
_CLOSES_S: Final = 5.0
"""Seconds that the environment made for its spaces may take to close."""
_ARRIVES_S: Final = 5.0
"""Seconds in which an error arrives that a worker has announced."""


def in_workers(makers: Sequence[Make], name: str) -> AsyncVectorEnv:
    """Start a worker for each environment.

    Args:
        makers: make one environment each; the first is called here too, for its spaces.
        name: the environment's id, for messages.

    Raises:
        UsageError: called while a worker imports the user's script.
        EnvironmentUnsupportedError: a worker ended while it made its environment, or one cannot be sent to it.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(f'{name}: env.vector = "async" cannot start workers while a worker starts', hint=_GUARD)
    if len(makers) > _MOST:
        raise EnvironmentUnsupportedError(
            f'{name}: env.vector = "async" would start {len(makers)} processes for env.n_envs',
            hint=f'lower env.n_envs to at most {_MOST}, or set env.vector = "sync"',
        )
    if _METHOD == "forkserver":
        _start_forkserver()
    try:
        return Workers(
            [partial(_made, os.getpid(), make, f"{name}, environment {index}") for index, make in enumerate(makers)],
            copy=False,
            context=_METHOD,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
    except (TypeError, pickle.PicklingError) as error:
        if "pickle" not in str(error):
            raise
        raise EnvironmentUnsupportedError(
            f"{name} cannot be sent to a worker process: {error}",
            hint='env.vector = "sync" makes it in this process; register a class or function of a module instead',
        ) from error
    except DEAD_PROCESS as error:
        raise EnvironmentUnsupportedError(
            f"{name}: a worker process ended while it made its environment",
            hint=f'its own words stand above; env.vector = "sync" makes all in one process; {_GUARD}',
        ) from error


def _start_forkserver() -> None:
    """Start it so that Ctrl-C does not reach its workers while they begin: until :func:`_made` they hold it back.

    One that runs already, another part of the program's, stays as it is.
    """
    from multiprocessing import forkserver, resource_tracker  # noqa: PLC0415  # not on Windows

    resource_tracker.ensure_running()  # first: starting it lets the signal through again
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOAD)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Workers(AsyncVectorEnv):
    """Gymnasium's, but for errors: what an environment raises in its worker is raised here once, nothing is printed."""

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raise the first error of the lowest environment. Workers that failed have ended."""
        rows = [row for row, success in enumerate(successes) if not success]
        if not rows:
            return
        found: list[tuple[int, BaseException]] = []
        with contextlib.suppress(queue.Empty):
            for _ in rows:
                row, _, error, _ = self.error_queue.get(timeout=_ARRIVES_S)
                found.append((row, error))
        self._state = AsyncState.DEFAULT
        if not found:
            raise EOFError
        raise min(found, key=lambda item: item[0])[1]


class _Probe(gym.Wrapper[Any, Any, Any, Any]):
    """The environment that is made here for its spaces alone: how it closes is told when its workers' own do."""

    def close(self) -> None:
        with contextlib.suppress(Exception), within(_CLOSES_S):
            super().close()


class _Told(gym.Wrapper[Any, Any, Any, Any]):
    """Makes of what an environment raises in a worker an error that can travel, and that names the place."""

    def __init__(self, env: gym.Env[Any, Any], place: str) -> None:
        super().__init__(env)
        self._place = place

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            return self.env.step(action)
        except Exception as error:
            raise self._told(error) from error

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            return self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._told(error) from error

    def close(self) -> None:
        """Close, and print what that raises: the trainer no longer listens."""
        try:
            self.env.close()
        except Exception as error:  # noqa: BLE001  # the worker is at its end
            line = one_line(f"esper: {self._place}: closing it failed: {error_text(error)}")
            print(f"{line}\n", end="", file=sys.stderr, flush=True)  # at once: other workers print beside it

    def _told(self, error: Exception) -> Exception:
        if isinstance(error, EsperError):
            return error
        where = place_of(error.__traceback__)
        hint = f"in {where}" if where else 'env.vector = "sync" shows where'
        if isinstance(error, AssertionError) and "daemonic processes" in str(error):
            hint = f'{hint}; env.vector = "sync" steps it in the trainer\'s process, where it may start others'
        told = EnvironmentContractError(f"{self._place} raised {' '.join(error_text(error).split())}", hint=hint)
        told.add_note(f"In the worker process:\n{''.join(traceback.format_exception(error)).rstrip()}")
        return told


def _made(trainer: int, make: Make, place: str) -> gym.Env[Any, Any]:
    """Make an environment; in a worker, leave Ctrl-C to the trainer, which closes the workers in order."""
    if os.getpid() == trainer:
        return _Probe(make())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # what was held back is dropped by this
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return _Told(make(), place)
