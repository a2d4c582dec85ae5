"""ConsoleSink: prints events as lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from esper_core.health import HealthLevel
from esper_core.hooks import hookimpl
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.glyphs import to_ascii
from esper_core.reading.numbers import plain, rate
from esper_core.reading.sentences import sentence
from esper_core.reading.trend import trend
from esper_core.reading.updateline import update_line
from esper_sink_console._lines import COMPACT_BELOW, advice
from esper_sink_console._screen import BarScreen, PlainScreen, Screen, WhileRead, animates, wants_ascii

if TYPE_CHECKING:
    from esper_core.events import (
        Payload,
        PolicyEvaluated,
        PPOUpdatePayload,
        RunFinished,
        RunStarted,
        SinkStatusChanged,
        TelemetryEvent,
    )
    from esper_core.hooks import CloseReason, Delivery, SinkContext
    from esper_core.reading.glyphs import Role

__all__ = ["ConsoleConfig", "ConsoleSink"]

_INDENT = 7
"""Indent of a second line, in columns: it begins below the update's number."""


class ConsoleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.console]``."""

    stream: Annotated[Literal["stderr", "stdout"], Meta(description="where the lines go")] = "stderr"
    bar: Annotated[bool, Meta(description="a progress bar beneath the lines, on a terminal")] = True
    every: Annotated[
        int, Meta(ge=1, description="print every nth update; one that needs attention is always printed")
    ] = 1
    advice: Annotated[bool, Meta(description="a second line: which head carries the KL, and what to try")] = True
    ascii: Annotated[bool, Meta(description="no glyphs beyond ASCII, even where they could be shown")] = False


class ConsoleSink:
    """Prints progress, one line per update, and a suggestion when the KL is high.

    On a terminal a bar with the time left is drawn below the lines; without one, and with ``TERM=dumb``, plain lines.
    ``NO_COLOR`` is honoured. A replay prints the lines without the bar.
    """

    Config = ConsoleConfig
    delivery: Delivery = "all"

    def __init__(self, config: ConsoleConfig | None = None) -> None:
        self._config = config if config is not None else ConsoleConfig()
        self._screen: Screen | None = None
        self._ascii = False
        self._run = SanctumAggregator()
        self._started: RunStarted | None = None
        self._episodes = 0
        self._replay = False

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Choose the output. The stream is looked up here, so that a redirection before the run has effect."""
        stream = sys.stdout if self._config.stream == "stdout" else sys.stderr
        self._replay = context.mode != "live"
        self._ascii = self._config.ascii or wants_ascii(stream)
        if animates(stream):
            self._screen = WhileRead(BarScreen(stream, bar=self._config.bar and not self._replay))
        else:
            self._screen = WhileRead(PlainScreen(stream))

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:  # noqa: ARG002  # the hook's signature
        """Restore the terminal."""
        if self._screen is not None:
            self._screen.close()

    @hookimpl
    def esper_run_started(self, event: TelemetryEvent[RunStarted]) -> None:
        """Store the planned limits, for the bar."""
        self._started = event.payload
        self._run.handle(event)
        if self._replay:
            self._say(event, "dim")

    @hookimpl
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Print one line, or two."""
        screen, update = self._screen, event.payload
        if screen is None:
            return
        self._episodes += update.episodes
        self._run.handle(event)
        tamiyo, policy = self._run.tamiyo, self._run.policy
        second = advice(update, policy=policy, ascii_only=self._ascii) if self._config.advice else None
        notable = (
            update.health.severity >= HealthLevel.WARNING.severity
            or update.outcome != "completed"
            or policy.head is not None
        )
        if notable or update.update_id % self._config.every == 0:
            screen.show(
                update_line(
                    update,
                    trend(tamiyo.judged_kl_history),
                    limits=tamiyo.limits,
                    compact=screen.width is not None and screen.width < COMPACT_BELOW,
                    draw=to_ascii if self._ascii else str,
                )
            )
            if second is not None:
                screen.show(second, indent=_INDENT)
        screen.progress(*self._progress(update))

    @hookimpl
    def esper_policy_evaluated(self, event: TelemetryEvent[PolicyEvaluated]) -> None:
        """Print what the policy earned where it did not learn."""
        self._say(event, "ok" if event.payload.better else "")

    @hookimpl
    def esper_sink_status_changed(self, event: TelemetryEvent[SinkStatusChanged]) -> None:
        """Print the sink's name, its new state and the reason."""
        self._say(event, "" if event.payload.state == "recovered" else "warn")

    @hookimpl
    def esper_run_finished(self, event: TelemetryEvent[RunFinished]) -> None:
        """Remove the bar; in a replay print how the run ended."""
        if self._screen is None:
            return
        self._screen.close()
        if self._replay:
            self._say(event, "dim")

    def _say(self, event: TelemetryEvent[Payload], role: Role) -> None:
        """Print the event's sentence, when it has one."""
        text = sentence(event, self._run.tamiyo.limits)
        if text is not None and self._screen is not None:
            self._screen.show(((text, role),))

    def _progress(self, update: PPOUpdatePayload) -> tuple[float, str]:
        """The fraction of the run that is done, 0..1, and its text, by the limit that is nearest."""
        started = self._started
        recent = "" if update.return_mean_100 is None else f", return {plain(update.return_mean_100, 1)} (last 100)"
        done = update.env_steps + update.steps + update.steps_forced
        known: list[tuple[float, str]] = []
        if started is not None:
            if started.updates_planned:
                known.append((update.update_id / started.updates_planned, f"{started.updates_planned} updates"))
            if started.steps_planned:
                known.append((done / started.steps_planned, f"{rate(started.steps_planned)} steps"))
            if started.episodes_planned:
                known.append((self._episodes / started.episodes_planned, f"{started.episodes_planned} episodes"))
        fraction, limit = max(known, default=(0.0, "no limit"))
        return min(1.0, fraction), f"of {limit}{recent}" if known else f"{rate(done)} steps, no limit{recent}"
