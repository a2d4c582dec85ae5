"""Calls of a vector environment: whose fault an error is, what ends with a process, and what a forked child may do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from esper_core import forks
from esper_core.envs.faults import DEAD_PROCESS, own_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium as gym

__all__ = ["Calls"]


class Calls:
    """Calls one vector environment.

    Args:
        env: the environment.
        name: its id.
        given: a note for the environment's own exceptions: what it was made with.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], name: str, given: str = "") -> None:
        self._env = env
        self._name = name
        self._given = given
        self._place = forks.Place(f"environment {name}")
        self._dead = False

    def __call__(self, what: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call user code; an error that is not the user's own is told as one of the environment.

        A child that it forked ends here when it comes back: this is the trainer's code.
        """
        process = forks.process()
        try:
            answer = call(*args, **options)
        except BaseException as error:
            if os.getpid() != process:
                self._place.end(error)
            self._dead = isinstance(error, DEAD_PROCESS)
            if isinstance(error, KeyboardInterrupt):
                raise
            fault = own_fault(error, self._name, what, self._env)
            if fault is None:
                if self._given:
                    error.add_note(self._given)
                raise
            raise fault from error
        if os.getpid() != process:
            self._place.end()
        return answer

    def close(self) -> None:
        """Close the environments."""
        try:
            with self._place:
                if self._dead:
                    self._end_processes()
                else:
                    self._env.close()
        except DEAD_PROCESS:
            self._end_processes()
        except TimeoutError:  # the caller's deadline
            self._end_processes()
            raise

    def _end_processes(self) -> None:
        """End those that are left: one has ended, as step() or reset() has told, or does not answer."""
        base = self._env.unwrapped
        processes = getattr(base, "processes", ())
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(1.0)
            if process.is_alive():  # it ignores SIGTERM
                process.kill()
        base.closed = True
