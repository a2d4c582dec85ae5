"""The hub: delivers each hook call to one channel per sink, each with its guard; closes all within one deadline.

The emitter calls one typed hook caller. For each sink a relay is registered there: it passes the event to the sink's
channel and cannot raise. The sink itself is registered with a plugin manager of its own, which its channel calls.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from esper_core.config.schema import DeliveryConfig
from esper_core.errors import SinkError, error_text
from esper_core.events import EVENTS
from esper_core.hooks import CloseReason, SinkContext, SinkHooks, hookimpl
from esper_core.host.deliver.closing import close_together
from esper_core.host.deliver.guard import Guard
from esper_core.host.deliver.inline_channel import InlineChannel
from esper_core.host.deliver.latest_channel import LatestChannel
from esper_core.host.deliver.queue_channel import FULL_WAIT_S, QueueChannel
from esper_core.host.load.discovery import LoadedSink
from esper_core.host.load.inspection import inspect_sink, new_manager
from esper_core.host.process.started import owned_by
from esper_core.host.remedies import check_or_leave_out
from esper_core.masking import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from esper_core.events import SinkStatusChanged
    from esper_core.host.deliver.channel import Channel
    from esper_core.host.deliver.closing import Closable
    from esper_core.reading.account import SinkAccount

__all__ = ["ActiveSink", "Hub"]

EVENT_HOOKS: Final = frozenset(spec.hook for spec in EVENTS.values())
"""The hooks that carry one kind of event each."""
_ON_REQUEST: Final = frozenset(spec.hook for spec in EVENTS.values() if spec.on_request)
OPEN_TIMEOUT_S: Final = 10.0
REPLAY_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveSink:
    """A sink and its instance."""

    loaded: LoadedSink
    instance: Any


class Hub:
    """Delivers events to sinks. A fault of one sink reaches neither the emitter nor another sink.

    Args:
        sinks: created sinks, in the order of the configuration.
        context: passed to every sink, with a logger and a ``report`` of the sink's own.
        delivery: ``[delivery.NAME]`` tables.
        on_interrupt: called when a KeyboardInterrupt was raised in a sink's code.
        clock: monotonic seconds, for back-off, waits, lag and deadlines.

    Attributes:
        hooks: the typed caller.
        heard: the kinds of event that any sink or observer receives; others need not be built.
        one_thread: whether an inline sink hears finished episodes and must have all its calls from one thread.
    """

    def __init__(
        self,
        sinks: Sequence[ActiveSink],
        context: SinkContext,
        delivery: Mapping[str, DeliveryConfig] | None = None,
        *,
        on_interrupt: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._delivery = dict(delivery or {})
        self._on_interrupt = on_interrupt
        self._clock = clock
        self._lock = threading.Lock()
        self._changes: dict[str, SinkStatusChanged] = {}
        self._manager = new_manager()
        self._channels: dict[str, Channel] = {}
        self._named: dict[str, bool] = {}
        self._callers: dict[str, Any] = {}
        self._contexts: dict[str, SinkContext] = {}
        self.hooks: SinkHooks = cast("SinkHooks", self._manager.hook)
        self.heard: set[str] = set()
        self.one_thread = False
        # pluggy calls the last registered first.
        for sink in reversed(sinks):
            self._add(sink)

    # --- building -----------------------------------------------------------------------------

    def guard(
        self, name: str, *, distribution: str = "", version: str = "", owner: str = "", keeps_record: bool = False
    ) -> Guard:
        """Create a guard whose changes of state this hub reports."""
        options = self._delivery.get(name.split("/", maxsplit=1)[0], DeliveryConfig())
        return Guard(
            name,
            distribution=distribution,
            version=version,
            owner=owner,
            keeps_record=keeps_record,
            max_failures=options.max_failures,
            logger=logging.getLogger("esper.host"),
            on_change=self._changed,
            on_interrupt=self._on_interrupt,
            clock=self._clock,
        )

    def add_first(self, name: str, instance: object) -> None:
        """Register an inline observer of the core. It receives each event before the sinks do."""
        seen = inspect_sink(type(instance), name)
        loaded = LoadedSink(
            name=name,
            spec=name,
            factory=type(instance),
            hooks=seen.hooks,
            delivery="inline",
            any_thread=seen.any_thread,
        )
        self._add(ActiveSink(loaded=loaded, instance=instance))
        self._channels[name].open()

    def _add(self, sink: ActiveSink) -> None:
        loaded = sink.loaded
        guard = self.guard(
            loaded.name,
            distribution=loaded.distribution,
            version=loaded.version,
            owner=loaded.owner,
            keeps_record=loaded.keeps_record,
        )
        caller = new_manager()
        caller.register(sink.instance, name=loaded.name)
        context = replace(self._context, logger=logging.getLogger(f"esper.sink.{loaded.name}"), report=guard.report)
        channel = self._channel(loaded, guard, caller.hook, context)
        heard = self._heard_by(loaded)
        self._manager.register(_Relays(channel, heard), name=loaded.name)
        self.heard |= {spec.kind for spec in EVENTS.values() if spec.hook in heard}
        self.one_thread |= channel.delivery == "inline" and not loaded.any_thread and not heard.isdisjoint(_ON_REQUEST)
        self._channels[loaded.name] = channel
        self._callers[loaded.name] = caller.hook
        self._contexts[loaded.name] = context
        self._named[loaded.name] = loaded.named

    def _heard_by(self, loaded: LoadedSink) -> frozenset[str]:
        """The event hooks that a sink receives: its own, and those of its ``event_kinds`` through ``esper_event``."""
        heard = loaded.hooks & EVENT_HOOKS
        if getattr(loaded.factory, "event_kinds", None) == "recorded" and not self._context.episodes:
            heard -= _ON_REQUEST
        return heard

    def _channel(self, loaded: LoadedSink, guard: Guard, hook: Any, context: SinkContext) -> Channel:
        options = self._delivery.get(loaded.name, DeliveryConfig())
        mode = loaded.delivery if options.mode == "default" else options.mode
        callers = {
            name: _caller(own if (own := getattr(hook, name)).get_hookimpls() else hook.esper_event)
            for name in EVENT_HOOKS
        }

        def deliver(name: str, event: Any) -> None:
            if answers := callers[name](event):
                _refuse_deferred(name, answers)

        opener: Callable[[], object] | None = None
        closer: Callable[[object], object] | None = None
        counter: Callable[[], object] | None = None
        if "esper_sink_opened" in loaded.hooks:
            opener = partial(hook.esper_sink_opened, context=context)
        if "esper_sink_closed" in loaded.hooks:
            closer = _closer(hook)
        if "esper_sink_cut_off" in loaded.hooks:
            counter = hook.esper_sink_cut_off
        ends: dict[str, Any] = {"opener": opener, "closer": closer, "counter": counter}
        if mode == "inline":
            return InlineChannel(guard, deliver, **ends)
        if mode == "latest":
            return LatestChannel(guard, deliver, **ends)
        replaying = self._context.mode == "replay"
        return QueueChannel(
            guard,
            deliver,
            size=options.queue_size,
            patience_s=REPLAY_PATIENCE_S if replaying else FULL_WAIT_S,
            once=not replaying,
            **ends,
        )

    # --- opening ------------------------------------------------------------------------------

    def open(self, *, strict: bool = True, timeout_s: float = OPEN_TIMEOUT_S) -> list[str]:
        """Open every sink, those with a thread of their own at the same time.

        Args:
            strict: raise when a sink that the user named does not open; False disables it instead.
            timeout_s: seconds for all sinks together.

        Returns:
            A line for each sink that did not open and is not required.

        Raises:
            SinkError: a sink that the user named did not open.
        """
        notices: list[str] = []
        refused: SinkError | None = None
        for channel in self._channels.values():
            channel.open()
        end = self._clock() + timeout_s
        for name, channel in reversed(self._channels.items()):
            error = channel.opened(max(0.0, end - self._clock()))
            if error is None:
                continue
            message = redact(error_text(error))
            channel.guard.disable(f"did not open: {message}")
            origin = f"{channel.guard.distribution} {channel.guard.version}".strip()
            what = f'sink "{name}"{f" ({origin})" if origin else ""} did not open: {message}'
            if strict and self._named[name]:
                refused = refused or SinkError(what, hint=check_or_leave_out(name))
            else:
                notices.append(f"{what}; going on without it")
        if refused is not None:
            self.close(CloseReason.FAILED, 1.0)
            raise refused
        return notices

    # --- while it runs ------------------------------------------------------------------------

    def call(self, name: str, hook: str) -> list[Any]:
        """Call one sink's contribution hook (``esper_span_processors``) with its own context. May raise."""
        guard = self._channels[name].guard
        with guard.place, owned_by(guard.owner):
            answers = getattr(self._callers[name], hook)(context=self._contexts[name])
        return [item for answer in answers for item in (answer or [])]

    def _changed(self, change: SinkStatusChanged) -> None:
        with self._lock:
            self._changes[change.sink] = change

    def drain_status(self) -> tuple[SinkStatusChanged, ...]:
        """Return the newest change of state of each sink since the last call. Only the emitter's thread calls this."""
        if not self._changes:
            return ()
        with self._lock:
            changes, self._changes = tuple(self._changes.values()), {}
        return changes

    def statuses(self) -> tuple[SinkAccount, ...]:
        """Every sink's counters now, in the order of the configuration."""
        return tuple(channel.report() for channel in reversed(self._channels.values()))

    def drain(self, timeout_s: float, *, should_stop: Callable[[], bool] = bool) -> bool:
        """Wait until every queue is empty; False when nothing was delivered for ``timeout_s``, or on a stop request."""
        waiting, moved = -1, time.monotonic()
        while (left := sum(channel.pending() for channel in self._channels.values())) > 0:
            if left != waiting:
                waiting, moved = left, time.monotonic()
            elif time.monotonic() - moved > timeout_s:
                return False
            if should_stop():
                return False
            time.sleep(0.005)
        return True

    def in_child(self) -> None:
        """In a forked child: the channels' threads are gone, and a lock that one of them held is held for ever."""
        self._lock = threading.Lock()
        for channel in self._channels.values():
            channel.in_child()

    # --- closing ------------------------------------------------------------------------------

    def close(self, reason: CloseReason, deadline_s: float, also: Iterable[Closable] = ()) -> tuple[SinkAccount, ...]:
        """Close every sink, and everything in ``also``, at the same time within one deadline.

        Args:
            reason: passed to each sink.
            deadline_s: seconds for all together.
            also: span processors and metric readers.

        Returns:
            The final counters; the state of a sink that was cut off is ``cut_off``.
        """
        close_together((*reversed(self._channels.values()), *also), reason, deadline_s, clock=self._clock)
        return self.statuses()


def _caller(hook: Any) -> Callable[[Any], Sequence[object]]:
    """Calls one sink's hook with an event, and returns what it answered."""
    match hook.get_hookimpls():
        case [only] if only.argnames == ("event",) and not (only.hookwrapper or only.wrapper):
            # Nothing to arrange between several: a plain call does the same at half the cost.
            function = only.function
            return lambda event: () if (answer := function(event)) is None else (answer,)
    return lambda event: cast("Sequence[object]", hook(event=event))


def _refuse_deferred(name: str, answers: Sequence[object]) -> None:
    """A wrapped ``async def`` or generator, which loading cannot see: it returned, and nothing of it ran.

    Raises:
        TypeError: counted as the sink's failure.
    """
    for answer in answers:
        if inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
            if inspect.iscoroutine(answer) or inspect.isgenerator(answer):
                answer.close()
            raise TypeError(f"{name} returned a {type(answer).__name__}, which nobody runs; write a plain method")


def _closer(hook: Any) -> Callable[[object], object]:
    return lambda reason: hook.esper_sink_closed(reason=reason)


class _Relays:
    """Registered in a sink's place, with one relay per hook. Compared by identity, as pluggy's registry needs."""

    def __init__(self, channel: Channel, hooks: Iterable[str]) -> None:
        for hook in hooks:
            setattr(self, hook, _relay(channel, hook))


def _relay(channel: Channel, hook: str) -> Callable[..., None]:
    """The hook implementation registered in a sink's place: puts the event into the sink's channel. It cannot raise."""

    def relay(event: Any) -> None:
        channel.put(hook, event)

    # What a display in a thread has shown, an inline journal has written: kill -9 may come between the two.
    return cast("Callable[..., None]", hookimpl(relay, tryfirst=channel.delivery == "inline"))
