"""The hook specifications: one class, one frozen argument each.

Called through a typed caller (``cast(SinkHooks, pm.hook)``), so that mypy checks hook name, argument name and payload
type. Exceptions never reach the trainer or another sink: the host counts them, disables a sink after five in a
row and reports it through ``esper_sink_status_changed``. Within one sink events come in the order they were
emitted and never concurrently; between sinks no order is promised. Write no defaults in implementations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor

    from esper_core.events import (
        EpisodeFinished,
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
"""Raised when a hook changes in a way that an existing sink could notice."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class SinkHooks:
    """Everything a sink may implement. Subclassing is optional and buys type checking of the overrides."""

    # --- lifecycle ----------------------------------------------------------------------------

    @hookspec
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Open what the sink needs. Called once, before any event, in the sink's own thread (inline: the emitter's).

        Raising refuses the sink: a sink that someone named ends the start with one clear error.
        """

    @hookspec
    def esper_sink_closed(self, reason: CloseReason) -> None:
        """Flush and close. Called once, after the last event, in a thread of its own, inside the one deadline."""

    # --- telemetry ----------------------------------------------------------------------------

    @hookspec
    def esper_run_started(self, event: TelemetryEvent[RunStarted]) -> None:
        """A run, or another attempt at it, began. The first event of an attempt."""

    @hookspec
    def esper_episode_finished(self, event: TelemetryEvent[EpisodeFinished]) -> None:
        """One episode ended. The most frequent event: up to thousands a second; keep it cheap."""

    @hookspec
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """One PPO update ended, was skipped or interrupted. Never displaced by a lesser event."""

    @hookspec
    def esper_policy_health_changed(self, event: TelemetryEvent[PolicyHealthChanged]) -> None:
        """The policy's level changed. Follows the update that changed it."""

    @hookspec
    def esper_sink_status_changed(self, event: TelemetryEvent[SinkStatusChanged]) -> None:
        """A sink began to fail, lost events, recovered or was disabled: telemetry about telemetry."""

    @hookspec
    def esper_run_finished(self, event: TelemetryEvent[RunFinished]) -> None:
        """The run ended in an orderly way. The last event of an attempt."""

    @hookspec
    def esper_event(self, event: TelemetryEvent[Any]) -> None:
        """Any event of the kinds that the class's ``event_kinds`` declares: for a sink that treats all kinds alike.

        ``event_kinds`` is ``"all"``, ``"recorded"`` (all, finished episodes only with ``[otel] episodes``) or a
        collection of kinds, for example ``{"run_started", "ppo_updated"}``. Kinds that a later version adds come too
        with the first two. One sink hears a kind through this hook or through the kind's own, not through both.
        Priorities in a full queue, and ``latest`` delivery, follow the kind.

        .. versionadded:: 0.1.0
        """

    # --- OpenTelemetry SDK --------------------------------------------------------------------

    @hookspec
    def esper_span_processors(self, context: SinkContext) -> list[SpanProcessor]:
        """Span processors to attach to the run's tracer provider. Called once, before ``esper_sink_opened``.

        They run behind the host's guard and are closed by it. Not called under an application's own provider.
        """
        raise AssertionError  # a specification is never called

    @hookspec
    def esper_metric_readers(self, context: SinkContext) -> list[MetricReader]:
        """Metric readers to attach to the run's meter provider. Called once, as ``esper_span_processors``."""
        raise AssertionError  # a specification is never called

    # --- the terminal -------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def esper_foreground(self, child: ChildRun) -> bool | None:
        """Own the terminal, in the main thread, while training runs in a child process.

        Return True when the user left the screen (training may go on), None to decline. At most one sink.
        """


HOOK_NAMES: Final = tuple(name for name in vars(SinkHooks) if name.startswith("esper_"))
