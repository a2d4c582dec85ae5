"""Who started which thread and child process, and who registered which exit handler: what may hold the process's end.

Recorded only while ``esper`` runs a command (:func:`recorded`), so that the line about what was left names the sink.
The recording wraps ``threading.Thread.start``, ``multiprocessing``'s ``Process.start`` and ``atexit.register``: Python
itself keeps neither the starter of a thread nor a list of exit handlers. Of a plain ``os.fork`` the parent's side is
recorded, without the child's id.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import sys
import sysconfig
import threading
import weakref
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper_core import forks
from esper_core.host.sink_files import shown_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["ExitHandler", "described", "forkers", "handler_now", "owned_by", "recorded", "running"]

_OWN: Final = str(Path(__file__).parents[2])
_STANDARD: Final = sysconfig.get_path("stdlib")
_PACKAGES: Final = ("site-packages", "dist-packages")


class _Running(threading.local):
    """Whose code this thread runs.

    Attributes:
        owner: in words, for example ``sink wandb (esper-sink-wandb 1.0)``; empty for nobody's in particular.
    """

    owner: str = ""


running: Final = _Running()
_starts: Final[weakref.WeakKeyDictionary[threading.Thread | BaseProcess, str]] = weakref.WeakKeyDictionary()
_handler: list[ExitHandler] = []
_forkers: dict[str, None] = {}


@contextlib.contextmanager
def owned_by(owner: str) -> Iterator[None]:
    """What is started in the with block, by this thread, is this owner's."""
    before, running.owner = running.owner, owner
    try:
        yield
    finally:
        running.owner = before


class ExitHandler:
    """Stands for a function that was given to ``atexit.register``, and is equal to it (for ``atexit.unregister``)."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.starter = _starter()

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        """Call the function; :func:`handler_now` returns this object meanwhile."""
        _handler.append(self)
        try:
            return self.function(*args, **kwargs)
        finally:
            _handler.pop()

    def __eq__(self, other: object) -> bool:
        return self.function == (other.function if isinstance(other, ExitHandler) else other)

    def __hash__(self) -> int:
        return hash(self.function)

    @property
    def name(self) -> str:
        """The function's name, with the module of a function that is not in a script."""
        function = self.function.func if isinstance(self.function, functools.partial) else self.function
        name = getattr(function, "__qualname__", type(function).__name__)
        module = getattr(function, "__module__", None) or ""
        return f"{shown_module(module)}.{name}" if module not in {"", "builtins", "__main__"} else name


def handler_now() -> ExitHandler | None:
    """The exit handler that runs, or None."""
    return _handler[-1] if _handler else None


def forkers() -> tuple[str, ...]:
    """Who has forked while it was recorded, in words as :func:`described` gives them."""
    return tuple(who for who in _forkers if who)


def described(thing: threading.Thread | BaseProcess | ExitHandler) -> str:
    """Who started it: `` of sink NAME (...)``, `` started in FILE, line N``, or nothing when that is not known."""
    return thing.starter if isinstance(thing, ExitHandler) else _starts.get(thing, "")


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    """Record what is started in the with block, by any thread."""
    start, launch, register = threading.Thread.start, BaseProcess.start, atexit.register

    @functools.wraps(start)
    def start_thread(self: threading.Thread) -> None:
        _starts[self] = _starter()
        start(self)

    @functools.wraps(launch)
    def start_process(self: BaseProcess) -> None:
        _starts[self] = _starter()
        launch(self)

    def register_handler(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        register(ExitHandler(function), *args, **kwargs)
        return function

    threading.Thread.start = start_thread  # type: ignore[method-assign]  # put back below
    BaseProcess.start = start_process  # type: ignore[method-assign]  # as above
    atexit.register = register_handler
    take_back = forks.in_parent(lambda: _forkers.setdefault(_starter()))
    try:
        yield
    finally:
        take_back()
        threading.Thread.start = start  # type: ignore[method-assign]  # the original
        BaseProcess.start = launch  # type: ignore[method-assign]  # as above
        atexit.register = register


def _starter() -> str:
    """Whose code starts something now; of a thread that belongs to a sink, the sink."""
    owner = running.owner
    if owner:
        return f" of {owner}"
    return _starts.get(threading.current_thread(), "") or _place()


def _place() -> str:
    """Where the first caller's code is that belongs neither to Python nor to Esper nor to an installed package."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # the documented way to a caller's frame
    while frame is not None:
        name = frame.f_code.co_filename
        ours = name.startswith((_OWN, "<"))
        if not ours and not (name.startswith(_STANDARD) or any(part in name for part in _PACKAGES)):
            return f" started in {name}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""
