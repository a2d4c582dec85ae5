"""The hook specifications: one class, one frozen argument each.

Called through a typed caller (``cast(SinkHooks, pm.hook)``), so that mypy checks hook name, argument name and payload
type. Exceptions never reach the trainer or another sink: the host counts them, disables a sink after five in a
row and reports it through ``esper_sink_status_changed``. Each sink receives its events in the order in which they
were emitted and never concurrently; between sinks there is no fixed order. Implementations must not give their
argument a default: pluggy would not pass it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LogRecordProcessor
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor

    from esper_core.events import (
        EpisodeFinished,
        PolicyEvaluated,
        PolicyHealthChanged,
        PPOUpdatePayload,
        RunFinished,
        RunStarted,
        SinkStatusChanged,
        TelemetryEvent,
    )
    from esper_core.hooks._context import ChildRun, CloseReason, SinkContext

PROJECT: Final = "esper"
HOOK_API: Final = 1
"""The version of the hooks. It increases when a hook changes incompatibly for existing sinks."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class SinkHooks:
    """The hooks that a sink may implement. Subclassing is optional; it makes type checkers check the overrides."""

    # --- lifecycle ----------------------------------------------------------------------------

    @hookspec
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Open what the sink needs. Called once, before any event, in the sink's own thread (inline: the emitter's).

        An exception disables the sink; when the user named the sink, the start fails with one error instead.
        """

    @hookspec
    def esper_sink_closed(self, reason: CloseReason) -> None:
        """Flush and close. Called once, after the last event, in a thread of its own, inside the one deadline."""

    @hookspec
    def esper_sink_cut_off(self) -> None:
        """Report as lost what the sink has taken and not passed on: the host waits no longer for its end.

        Called when the deadline is over, or Ctrl-C ended it, while the sink opens, delivers or closes in another
        thread. It has 0.25 s; of what it reports later, and of what its other threads report, nothing is counted. For
        a sink that keeps a queue of its own.

        .. versionadded:: 0.1.0
        """

    # --- telemetry ----------------------------------------------------------------------------

    @hookspec
    def esper_run_started(self, event: TelemetryEvent[RunStarted]) -> None:
        """A run, or a further attempt at it, began. The first event of an attempt."""

    @hookspec
    def esper_episode_finished(self, event: TelemetryEvent[EpisodeFinished]) -> None:
        """One episode ended. The most frequent event, up to thousands a second: an implementation must be fast."""

    @hookspec
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """One PPO update ended, was skipped or interrupted. A full queue drops events of lower priority first."""

    @hookspec
    def esper_policy_health_changed(self, event: TelemetryEvent[PolicyHealthChanged]) -> None:
        """The policy's level changed. Emitted after the update that changed it."""

    @hookspec
    def esper_policy_evaluated(self, event: TelemetryEvent[PolicyEvaluated]) -> None:
        """The policy was evaluated (``run.eval_every``). Emitted after the update whose policy played.

        .. versionadded:: 0.1.0
        """

    @hookspec
    def esper_sink_status_changed(self, event: TelemetryEvent[SinkStatusChanged]) -> None:
        """A sink began to fail, lost events, recovered or was disabled."""

    @hookspec
    def esper_run_finished(self, event: TelemetryEvent[RunFinished]) -> None:
        """The run ended: done, stopped or failed, but not killed. The last event of an attempt."""

    @hookspec
    def esper_event(self, event: TelemetryEvent[Any]) -> None:
        """Any event of the kinds that the class's ``event_kinds`` declares, for a sink that handles all kinds alike.

        ``event_kinds`` is ``"all"``, ``"recorded"`` (all, finished episodes only with ``[otel] episodes``) or a
        collection of kinds, for example ``{"run_started", "ppo_updated"}``. The first two include kinds that a later
        version adds. One sink receives a kind through this hook or through the kind's own hook, not through both.
        Priorities in a full queue, and ``latest`` delivery, depend on the kind.

        .. versionadded:: 0.1.0
        """

    # --- OpenTelemetry SDK --------------------------------------------------------------------

    @hookspec
    def esper_span_processors(self, context: SinkContext) -> list[SpanProcessor]:
        """Span processors to attach to the run's tracer provider. Called once, before ``esper_sink_opened``.

        The host's guard wraps them, and the host closes them. Not called under an application's own provider.
        """
        raise AssertionError  # a specification is never called

    @hookspec
    def esper_metric_readers(self, context: SinkContext) -> list[MetricReader]:
        """Metric readers to attach to the run's meter provider. Called once, as ``esper_span_processors``."""
        raise AssertionError  # a specification is never called

    @hookspec
    def esper_log_record_processors(self, context: SinkContext) -> list[LogRecordProcessor]:
        """Log record processors to attach to the run's logger provider. Called once, as ``esper_span_processors``.

        Called only with ``[otel] events = "log"`` or ``"both"``: an update's events are then log records. A sink that
        contributes span processors and no log record processor carries no log events, which the start says.
        OpenTelemetry Python marks its logs as in development (``opentelemetry.sdk._logs``).

        .. versionadded:: 0.1.0
        """
        raise AssertionError  # a specification is never called

    # --- the terminal -------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def esper_foreground(self, child: ChildRun) -> bool | None:
        """Own the terminal, in the main thread, while training runs in a child process.

        Return True when the user left the screen (training may go on), None to decline. At most one sink.
        """


HOOK_NAMES: Final = tuple(name for name in vars(SinkHooks) if name.startswith("esper_"))
