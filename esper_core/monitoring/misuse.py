"""The error of a loop that calls a monitor wrongly, and the guard around every public call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from esper_core.errors import UsageError

__all__ = ["Guarded", "MisuseError", "never_harms", "quiet_numbers"]

F = TypeVar("F", bound=Callable[..., Any])


class MisuseError(UsageError):
    """A loop called its monitor wrongly; the message says what was given and what is needed."""


class Guarded(Protocol):
    """What :func:`never_harms` needs of the object whose methods it wraps."""

    strict: bool

    def _ready(self, call: str) -> bool:
        """Whether the call is to do its work. Raises MisuseError when it may not be made."""

    def _failed(self, call: str, error: Exception) -> None:
        """Tell once that a call failed, and count it."""


def quiet_numbers() -> np.errstate:
    """NaN and Inf of a loop are counted and reported: no warning of NumPy's, which a loop may have made an error."""
    return np.errstate(all="ignore")


def never_harms(default: object) -> Callable[[F], F]:
    """Keep telemetry's faults out of the loop: a call that fails is told, counted, and returns ``default``.

    Only :class:`MisuseError` is raised, for the caller's own arguments, and not even that with ``strict=False``. The
    wrapped method belongs to a :class:`Guarded`.
    """

    def wrap(method: F) -> F:
        name = method.__name__

        @functools.wraps(method)
        def guarded(self: Guarded, *args: Any, **kwargs: Any) -> Any:
            try:
                if not self._ready(name):
                    return default
                with quiet_numbers():
                    return method(self, *args, **kwargs)
            except MisuseError as error:
                if self.strict:
                    raise
                self._failed(name, error)
            except Exception as error:  # noqa: BLE001  # a sink's or a disk's fault must not end a training
                self._failed(name, error)
            return default

        return cast("F", guarded)

    return wrap
