"""Sinks that do what no sink should, each with what Esper makes of it: tests run them, a page may list them.

``SUITE`` has one row a sink: what it does, how ``esper replay RUN --to`` ends with it, the sentence it prints. The
same host carries a sink in training. ``python tests/hostile/sinks.py`` prints the rows as a Markdown table.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from esper_core.hooks import hookimpl

FOR_EVER_S = 1000.0


@dataclass(frozen=True)
class Row:
    """One sink of the suite.

    Attributes:
        name: the class in this file.
        does: what it does.
        exit_code: of the command; 1 says that events were lost or a sink was cut off, as ``esper replay`` does.
        sentence: what is printed on stderr holds it (a regular expression).
        process: whether it needs a process of its own: it forks, or holds the process's end.
    """

    name: str
    does: str
    exit_code: int
    sentence: str
    process: bool = False


CAME_BACK = "a process that it forked came back as a copy of the trainer and was ended"
SUITE: list[Row] = []


def row(does: str, exit_code: int, sentence: str, *, process: bool = False) -> Any:
    """Add the decorated class to the suite."""

    def add(made: type) -> type:
        SUITE.append(Row(made.__name__, does, exit_code, sentence, process))
        return made

    return add


# --- refused when they are loaded ----------------------------------------------------------------


@row("has no hook at all", 64, "class NoHook implements no hook")
class NoHook:
    pass


@row("misspells a hook", 64, 'esper_ppo_update implements no known hook, did you mean "esper_ppo_updated"')
class WrongHook:
    @hookimpl
    def esper_ppo_update(self, event: Any) -> None: ...


@row("misspells a hook's argument", 64, 'asks for argument "evt", did you mean "event"')
class WrongArgument:
    @hookimpl
    def esper_ppo_updated(self, evt: Any) -> None: ...


@row("forgets the marker of a hook", 64, "lacks @hookimpl: it would never be called")
class NoMarker:
    def esper_ppo_updated(self, event: Any) -> None: ...


@row("writes a hook as async def", 64, "esper_ppo_updated is async: nobody awaits it")
class Async:
    @hookimpl
    async def esper_ppo_updated(self, event: Any) -> None:
        await asyncio.sleep(0)


@row("writes a hook as a generator", 64, "esper_ppo_updated is a generator: nobody iterates it")
class Generator:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> Any:
        yield event


@row("declares an unknown delivery", 64, 'delivery "sometimes" is not known')
class Delivery:
    delivery = "sometimes"

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None: ...


@row("declares a Config that is no msgspec.Struct", 64, "Config is no msgspec.Struct")
class BadConfig:
    class Config:
        port = 1

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None: ...


@row("requires a text instead of a tuple of names", 64, "requires is no sequence of sink names")
class Requires:
    requires = "console"

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None: ...


class _Hearing:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None: ...


@row("raises in its constructor", 64, 'sink "Constructor" cannot be created: ValueError: no')
class Constructor(_Hearing):
    def __init__(self) -> None:
        raise ValueError("no")


@row("calls sys.exit in its constructor", 64, 'sink "ConstructorExits" cannot be created: SystemExit: 0')
class ConstructorExits(_Hearing):
    def __init__(self) -> None:
        sys.exit(0)


@row("raises while it opens", 64, 'sink "Open" did not open: RuntimeError: no')
class Open(_Hearing):
    @hookimpl
    def esper_sink_opened(self, context: Any) -> None:
        raise RuntimeError("no")


@row("calls sys.exit while it opens", 64, 'sink "OpenExits" did not open: SystemExit: 3')
class OpenExits(_Hearing):
    @hookimpl
    def esper_sink_opened(self, context: Any) -> None:
        sys.exit(3)


# --- contained while they run --------------------------------------------------------------------


@row("raises for every update", 1, r"sink Raises disabled: 0 delivered, 8 lost, 5 failures.*RuntimeError: no")
class Raises:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        raise RuntimeError("no")


@row("raises in the trainer's own thread", 1, "sink Inline disabled: 0 delivered, 8 lost, 5 failures")
class Inline(Raises):
    delivery = "inline"


@row("calls sys.exit for every update", 1, "sink Exits disabled: 0 delivered, 8 lost, 5 failures.*SystemExit: 0")
class Exits:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        sys.exit(0)


@row("calls sys.exit in the trainer's own thread", 1, "sink InlineExits disabled: 0 delivered, 8 lost, 5 failures")
class InlineExits(Exits):
    delivery = "inline"


@row("raises an exception whose text raises", 1, r"sink NoText disabled.*Mute \(its text raised RuntimeError\)")
class NoText:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        class Mute(BaseException):
            def __str__(self) -> str:
                raise RuntimeError("no text either")

        raise Mute


@row("runs out of memory", 1, "sink Memory disabled.*MemoryError")
class Memory:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        raise MemoryError


@row("recurses for ever", 1, "sink Recursion disabled.*RecursionError")
class Recursion:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.esper_ppo_updated(event)


@row("returns a coroutine behind a wrapper", 1, "sink Wrapped disabled.*returned a coroutine, which nobody runs")
class Wrapped:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> Any:
        return self._later()

    async def _later(self) -> None: ...


@row("reports nonsense of itself", 0, "sink Reports closed: 8 delivered, 0 lost, 16 failures: context.report: lost=-5")
class Reports:
    @hookimpl
    def esper_sink_opened(self, context: Any) -> None:
        self.context = context

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.context.report("failing", "x", lost=-5)
        self.context.report("bogus", None, lost="many")


@row("raises while it closes", 1, "sink Close closed: 8 delivered, 1 lost, 1 failures: RuntimeError: no")
class Close(_Hearing):
    @hookimpl
    def esper_sink_closed(self, reason: Any) -> None:
        raise RuntimeError("no")


@row("never ends closing", 1, "sink CloseHangs cut_off: 8 delivered, 0 lost: cut off at the deadline", process=True)
class CloseHangs(_Hearing):
    @hookimpl
    def esper_sink_closed(self, reason: Any) -> None:
        time.sleep(FOR_EVER_S)


@row("closes the standard streams", 0, "events of .* played into", process=True)
class ClosesStreams:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        sys.stdout.close()
        sys.stderr.close()


# --- forks ---------------------------------------------------------------------------------------


@row(
    "forks, and the child returns",
    0,
    f"sink ForkReturns closed: 8 delivered, 0 lost, 8 failures: {CAME_BACK}",
    process=True,
)
class ForkReturns:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        if pid := os.fork():
            os.waitpid(pid, 0)


@row("forks in the trainer's own thread, and the child returns", 0, f"8 failures: {CAME_BACK}", process=True)
class InlineForkReturns(ForkReturns):
    delivery = "inline"


@row("forks while it opens, and the child returns", 0, f"1 failures: {CAME_BACK}", process=True)
class OpenForkReturns(_Hearing):
    @hookimpl
    def esper_sink_opened(self, context: Any) -> None:
        if pid := os.fork():
            os.waitpid(pid, 0)


@row("forks in its constructor, and the child returns", 0, "played into", process=True)
class ConstructorForkReturns(_Hearing):
    def __init__(self) -> None:
        if pid := os.fork():
            os.waitpid(pid, 0)


@row("forks, and the child calls sys.exit(7)", 0, "played into", process=True)
class ForkExits:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@row("forks, and the child raises", 0, r"forked by sink ForkRaises, ended with an error:\nValueError: in", process=True)
class ForkRaises:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        pid = os.fork()
        if pid == 0:
            raise ValueError("in the child")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


# --- hold the process's end ----------------------------------------------------------------------


@row("keeps a busy thread pool", 0, 'held by thread "ThreadPoolExecutor-.*_0" of sink Pool ', process=True)
class Pool(_Hearing):
    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.pool.submit(time.sleep, FOR_EVER_S)


@row("keeps a busy process pool", 0, "child process .* of sink Processes ", process=True)
class Processes(_Hearing):
    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1)
        self.pool.submit(time.sleep, FOR_EVER_S)


@row("leaves a thread that is no daemon", 0, 'held by thread "client" of sink Thread ', process=True)
class Thread(_Hearing):
    def __init__(self) -> None:
        threading.Thread(target=time.sleep, args=(FOR_EVER_S,), name="client", daemon=False).start()


@row("leaves a thread that one of its threads started", 0, 'held by thread "inner" of sink Threads ', process=True)
class Threads(_Hearing):
    @hookimpl
    def esper_sink_opened(self, context: Any) -> None:
        inner = threading.Thread(target=time.sleep, args=(FOR_EVER_S,), name="inner", daemon=False)
        outer = threading.Thread(target=inner.start)
        outer.start()
        outer.join()


@row("leaves a child process", 0, 'held by child process "helper" .* of sink Child ', process=True)
class Child(_Hearing):
    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        context.Process(target=time.sleep, args=(FOR_EVER_S,), name="helper").start()


@row("leaves an exit handler that waits", 0, r"held by exit handler time.sleep\(\) of sink ExitHandler ", process=True)
class ExitHandler(_Hearing):
    @hookimpl
    def esper_sink_opened(self, context: Any) -> None:
        atexit.register(time.sleep, FOR_EVER_S)


@row("takes its exit handler back", 0, "played into", process=True)
class ExitHandlerTakenBack(_Hearing):
    @hookimpl
    def esper_sink_opened(self, context: Any) -> None:
        atexit.register(self._wait)

    @hookimpl
    def esper_sink_closed(self, reason: Any) -> None:
        atexit.unregister(self._wait)

    def _wait(self) -> None:
        time.sleep(FOR_EVER_S)


def _written_by_a_child() -> None:
    print("the child has run", file=sys.stderr, flush=True)


@row("starts a child by spawn, which looks for its function by name", 0, "the child has run", process=True)
class Spawns(_Hearing):
    @hookimpl
    def esper_sink_opened(self, context: Any) -> None:
        child = multiprocessing.get_context("spawn").Process(target=_written_by_a_child)
        child.start()
        child.join()


@row(
    "forks, and the child goes on",
    0,
    r"process \d+, a fork of sink ForkGoesOn .*, goes on after the run, with this one's open files and pipes",
    process=True,
)
class ForkGoesOn(_Hearing):
    @hookimpl
    def esper_sink_opened(self, context: Any) -> None:
        if os.fork() == 0:
            for number in range(3):
                os.close(number)  # whoever reads the trainer's pipes need not wait for it
            time.sleep(15.0)
            os._exit(0)


@row(
    "keeps an object whose __del__ waits",
    0,
    r"held while Python takes itself apart.*\n(?s:.*)sinks\.py\", line \d+ in __del__",
    process=True,
)
class WaitsInDel(_Hearing):
    def __del__(self, wait: Any = time.sleep) -> None:
        wait(FOR_EVER_S)


def table() -> str:
    """The suite as a Markdown table."""
    lines = ["| sink | does | exit code | says |", "|---|---|---|---|"]
    lines += [f"| `{item.name}` | {item.does} | {item.exit_code} | `{item.sentence}` |" for item in SUITE]
    return "\n".join(lines)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        print(table())
