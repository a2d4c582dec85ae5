"""The contract of every sink, as tests: subclass it, name the sink, run pytest."""

from __future__ import annotations

import os
import signal
import time
import unittest
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from esper_core.errors import ConfigError
from esper_core.events import EVENTS, PPOUpdatePayload
from esper_core.hooks import CloseReason, Secret, hookimpl
from esper_core.host.deliver.hub import EVENT_HOOKS
from esper_core.host.load.inspection import inspect_sink
from esper_core.host.load.options import sink_options
from esper_core.testing._events import awkward_updates, make_event, make_update, one_of_each
from esper_core.testing._harness import SinkHarness, _resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from esper_core.host.load.inspection import InspectedSink

__all__ = ["SinkContract"]

_UPDATES = 50
_UPDATE_HOOK = EVENTS[PPOUpdatePayload.kind].hook
_FORK_S = 30.0
"""Seconds. A forked child either hangs for ever or ends at once, which on a loaded machine takes seconds."""


class SinkContract:
    """Tests that every sink passes.

    Subclass it in a test module::

        class TestMySink(SinkContract):
            sink = MySink
            config = {"port": 8125}

    Attributes:
        sink: the sink's class.
        config: a valid ``[sink.NAME]`` table; override :meth:`table` when it needs a free port or a folder.
        bad_configs: tables that must be refused.
        call_limit_s: the longest that ``esper_ppo_updated`` may take on average, in seconds of its thread's CPU time.
        deadline_s: seconds within which it has to close.
    """

    sink: ClassVar[type]
    config: ClassVar[Mapping[str, Any]] = {}
    bad_configs: ClassVar[Sequence[Mapping[str, Any]]] = ()
    call_limit_s: ClassVar[float] = 0.05
    deadline_s: ClassVar[float] = 3.0

    def table(self, tmp_path: Path) -> dict[str, Any]:  # noqa: ARG002  # for overrides
        """The table to open the sink with."""
        return dict(self.config)

    def harness(self, tmp_path: Path, sink: type | None = None) -> SinkHarness:
        """A harness around the sink."""
        return SinkHarness(
            sink or self.sink, self.table(tmp_path), run_dir=tmp_path, deadline_s=self.deadline_s, name="contract"
        )

    # --- what it declares ---------------------------------------------------------------------

    def test_host_accepts_the_class(self) -> None:
        """Hooks are marked, known and well-formed."""
        _require(bool(inspect_sink(self.sink, f"sink {self.sink.__name__}").hooks), "it implements a hook")

    def test_an_unknown_key_is_refused(self, tmp_path: Path) -> None:
        """A misspelt key in the configuration raises an error that names the key."""
        loaded, _ = _resolve(self.sink, "contract")
        try:
            sink_options(loaded, self.table(tmp_path) | {"no_such_key": 1})
        except ConfigError as error:
            message = str(error)
            _require("no_such_key" in message or "takes no options" in message, f"the error names the key: {message}")
        else:
            _fail("the key no_such_key was accepted")

    def test_bad_tables_are_refused(self) -> None:
        """Each table of ``bad_configs`` raises a ConfigError."""
        loaded, _ = _resolve(self.sink, "contract")
        for table in self.bad_configs:
            try:
                sink_options(loaded, table)
            except ConfigError:
                continue
            _fail(f"accepted: {dict(table)}")

    def test_secrets_do_not_show(self, tmp_path: Path) -> None:
        """The ``repr`` of the config contains no secret."""
        loaded, _ = _resolve(self.sink, "contract")
        options = sink_options(loaded, self.table(tmp_path))
        for item in msgspec.structs.fields(loaded.config_type) if loaded.config_type is not None else ():
            value = getattr(options, item.name)
            if isinstance(value, Secret) and value:
                _require(value.reveal() not in repr(options), f"{item.name} shows in repr(config)")

    # --- what it does with events -------------------------------------------------------------

    def test_it_takes_one_event_of_each_kind(self, tmp_path: Path) -> None:
        """A short run: nothing raises, nothing is lost, and it closes in time."""
        with self.harness(tmp_path) as harness:
            harness.send(*one_of_each())
            _require(harness.drain(), "the sink took every event")
        self._flawless(harness)

    def test_it_takes_awkward_updates(self, tmp_path: Path) -> None:
        """None, NaN, Inf, no heads, 64 heads, line breaks and quotes are data like any other."""
        with self.harness(tmp_path) as harness:
            harness.send(*awkward_updates())
            harness.drain()
        self._flawless(harness)

    def test_it_takes_a_marked_event(self, tmp_path: Path) -> None:
        """A marked event, as ``esper sinks check`` sends it, is delivered like any other."""
        with self.harness(tmp_path) as harness:
            harness.send(make_event(make_update(), marked=True))
            harness.drain()
        self._flawless(harness)

    def test_it_is_not_slow(self, tmp_path: Path) -> None:
        """On average an update costs at most ``call_limit_s`` of CPU time in the thread that delivers it.

        CPU time, so that the result does not depend on other programs on the machine. Waiting for a disk or a network
        does not count: a queued sink waits in its own thread, and other tests cover a sink that waits for ever.
        """
        timed, spent_s = _timed(self.sink)
        with self.harness(tmp_path, timed) as harness:
            harness.send(*(make_update(index) for index in range(1, _UPDATES + 1)))
            harness.drain()
        self._flawless(harness)
        mean_s = sum(spent_s) / max(1, len(spent_s))
        _require(
            mean_s <= self.call_limit_s,
            f"one update took {mean_s:.4f} s of CPU time, the limit is {self.call_limit_s} s",
        )

    # --- faults -------------------------------------------------------------------------------

    def test_it_goes_on_after_a_failure(self, tmp_path: Path) -> None:
        """One call that raises is contained and counted, and the next events arrive."""
        flaky = _flaky(self.sink)
        with self.harness(tmp_path, flaky) as harness:
            harness.send(make_update(1))
            harness.drain()
            for number in (2, 3):
                harness.send(make_update(number))
                harness.drain()
        report = harness.report
        _require(report.failures == 1, f"one failure was counted: {report}")
        _require(report.lost == 1, f"one loss was counted: {report}")
        _require(report.delivered >= 2, f"the next events arrived: {report}")

    def test_it_closes_without_an_event(self, tmp_path: Path) -> None:
        """A run that fails at once still closes the sink."""
        harness = self.harness(tmp_path)
        with harness:
            pass
        self._flawless(harness)

    def test_it_closes_for_every_reason(self, tmp_path: Path) -> None:
        """Every close reason (done, stopped, failed, disabled) closes the sink within the deadline."""
        for reason in CloseReason:
            harness = self.harness(tmp_path)
            with harness:
                harness.send(make_update())
                harness.close(reason)
            self._flawless(harness)

    def test_a_forked_child_leaves_it_alone(self, tmp_path: Path) -> None:
        """A forked child (for example an environment's worker) does not hang and does not affect the parent's sink."""
        if not hasattr(os, "fork"):
            raise unittest.SkipTest("this platform does not fork")
        with self.harness(tmp_path) as harness:
            harness.send(make_update(1))
            harness.drain()
            _require(_in_forked_child(harness) == 0, f"the child ended by itself within {_FORK_S:.0f} s")
            harness.send(make_update(2))
            harness.drain()
        self._flawless(harness)

    def _flawless(self, harness: SinkHarness) -> None:
        report = harness.report
        _require(not report.cut_off, f"it closed within {self.deadline_s} s: {report}")
        _require(report.failures == 0 and report.lost == 0, f"nothing failed or was lost: {report}")


def _require(condition: bool, what: str) -> None:
    if not condition:
        _fail(what)


def _fail(what: str) -> None:
    raise AssertionError(f"not so: {what}")


def _flaky(sink: type) -> type:
    """The same sink with a first update that raises before the sink's own code runs."""
    seen = _hears_updates(sink)

    class Flaky(sink):  # type: ignore[misc]  # the base is the sink under test
        raised = False

        def fail_once(self) -> None:
            if not self.raised:
                self.raised = True
                raise RuntimeError("made to fail by the contract")

    class FlakyInOne(Flaky):
        @hookimpl
        def esper_ppo_updated(self, event: Any) -> None:
            self.fail_once()
            super().esper_ppo_updated(event=event)

    class FlakyInAll(Flaky):
        @hookimpl
        def esper_event(self, event: Any) -> None:
            if isinstance(event.payload, PPOUpdatePayload):
                self.fail_once()
            super().esper_event(event=event)

    return FlakyInAll if _UPDATE_HOOK in seen.catch_all else FlakyInOne


def _timed(sink: type) -> tuple[type, list[float]]:
    """The same sink, and a list of the CPU seconds of each update in the thread that delivers it."""
    seen = _hears_updates(sink)
    spent_s: list[float] = []

    class TimedInOne(sink):  # type: ignore[misc]  # the base is the sink under test
        @hookimpl
        def esper_ppo_updated(self, event: Any) -> None:
            begun = time.thread_time()
            super().esper_ppo_updated(event=event)
            spent_s.append(time.thread_time() - begun)

    class TimedInAll(sink):  # type: ignore[misc]  # as above
        @hookimpl
        def esper_event(self, event: Any) -> None:
            begun = time.thread_time()
            super().esper_event(event=event)
            spent_s.append(time.thread_time() - begun)

    return (TimedInAll if _UPDATE_HOOK in seen.catch_all else TimedInOne), spent_s


def _hears_updates(sink: type) -> InspectedSink:
    seen = inspect_sink(sink, sink.__name__)
    if _UPDATE_HOOK not in seen.hooks:
        raise unittest.SkipTest(f"the sink receives no update; event hooks: {', '.join(sorted(EVENT_HOOKS))}")
    return seen


def _in_forked_child(harness: SinkHarness) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads: that is the case here
        pid = os.fork()
    if pid == 0:
        try:
            harness.send(make_update(99))
            harness.close()
            os._exit(0)
        finally:
            os._exit(1)
    end = time.monotonic() + _FORK_S
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1
