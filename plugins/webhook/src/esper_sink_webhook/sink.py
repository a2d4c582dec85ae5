"""The sink: which events are told, in which words, and what became of each message."""

from __future__ import annotations

import math
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from esper_core.errors import ConfigError, SinkError
from esper_core.health import HealthLevel
from esper_core.hooks import SinkContext, hookimpl
from esper_core.reading.sentences import health_changed, run_finished, run_started
from esper_core.runs import RunDir
from esper_sink_webhook.config import WebhookConfig
from esper_sink_webhook.levels import LevelNews
from esper_sink_webhook.outbox import Outbox
from esper_sink_webhook.post import Outcome, Target, url_fault
from esper_sink_webhook.watching import Watch

if TYPE_CHECKING:
    from esper_core.events import (
        Payload,
        PolicyHealthChanged,
        PPOUpdatePayload,
        RunFinished,
        RunStarted,
        TelemetryEvent,
    )
    from esper_sink_webhook.shapes import Message, Occasion

__all__ = ["WebhookSink"]

_READY_S: Final = 30.0
"""Seconds for the watcher to start: the sink's own thread waits, training does not."""


class WebhookSink:
    """Tells a webhook, ntfy or Slack when a run starts, worsens, recovers, finishes or crashes.

    Args:
        config: the options.

    Raises:
        ConfigError: the URL cannot be used. No message of this sink repeats it.
    """

    Config: ClassVar[type[WebhookConfig]] = WebhookConfig

    def __init__(self, config: WebhookConfig) -> None:
        url = config.url.reveal() if config.url is not None else ""
        fault = url_fault(url) if url else "is not set"
        if fault:
            raise ConfigError(
                f"[sink.webhook] url {fault}", hint="set it in esper.toml, or as ESPER_SINK__WEBHOOK__URL"
            )
        token = config.token.reveal() if config.token is not None else ""
        if not token.isascii() or not token.isprintable():
            raise ConfigError("[sink.webhook] token holds characters that a header cannot have")
        self._config = config
        self._target = Target(url=url, token=token, shape=config.shape, timeout_s=config.timeout_s)
        self._news = LevelNews(HealthLevel(config.least), config.pause_s)
        self._context = SinkContext(run_id="")
        self._started: RunStarted | None = None
        self._outbox: Outbox | None = None
        self._watch: Watch | None = None
        self._last: Outcome | None = None
        self._failing = False
        self._owner = os.getpid()

    @property
    def watcher_pid(self) -> int | None:
        """Process id of the watcher, None where none watches."""
        return self._watch.pid if self._watch is not None else None

    # --- hooks --------------------------------------------------------------------------------

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Start the outbox, and the watcher. Ranks other than 0 say nothing: a run has one voice.

        Raises:
            SinkError: a replay: what is told is past.
        """
        self._context = context
        if context.mode == "replay":
            raise SinkError(
                'sink "webhook" cannot be replayed into: it would tell of what is past',
                hint="use: esper replay RUN, which prints it",
            )
        if context.rank != 0:
            return
        checking = context.mode == "check"
        self._outbox = Outbox(self._target, None if checking else self._config.retry_s, self._outcome)
        if context.mode == "live" and "crashed" in self._config.on:
            self._start_watch()

    def _start_watch(self) -> None:
        context = self._context
        run_json = RunDir(context.run_dir, context.run_id).record_path if context.run_dir is not None else None
        message = self._message("crashed", "", pid=os.getpid(), host=socket.gethostname())
        try:
            self._watch = Watch(self._target, message, run_json, self._config.retry_s)
        except OSError as error:
            context.logger.warning("webhook: no watcher, so a crash will not be told: %s", error.strerror)

    @hookimpl
    def esper_run_started(self, event: TelemetryEvent[RunStarted]) -> None:
        """Tell, and look whether the watcher watches."""
        self._started = event.payload
        self._tell("started", event, run_started(event.payload, event.attempt, run=self._context.run_id))
        if self._watch is not None and not self._watch.ready(_READY_S):
            self._context.report("failing", "the watcher did not start: a crash will not be told")

    @hookimpl
    def esper_policy_health_changed(self, event: TelemetryEvent[PolicyHealthChanged]) -> None:
        """Tell of a level that matters, now or when the pause is over."""
        self._news.changed(event)
        self._tell_level()

    @hookimpl
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Tell of a level that has waited for the pause's end; in a check, send one message."""
        if event.marked:
            self._tell("check", event, "a test message of esper sinks check: it works")
        self._tell_level()

    @hookimpl
    def esper_run_finished(self, event: TelemetryEvent[RunFinished]) -> None:
        """Tell how the run ended."""
        ended = event.payload
        self._tell(
            "finished",
            event,
            f"run {self._context.run_id}: {run_finished(ended, alone=True)}",
            state=ended.state.value,
            reason=ended.reason,
            updates=ended.updates,
            env_steps=ended.env_steps,
        )

    @hookimpl
    def esper_sink_closed(self) -> None:
        """End the watcher, send what is left and count what was not sent."""
        if os.getpid() != self._owner:
            return
        if self._watch is not None:
            self._watch.run_over()
        if self._outbox is not None:
            self._tell_unsent(self._outbox.close(self._config.close_timeout_s))
        if self._watch is not None:
            self._watch.close()

    @hookimpl
    def esper_sink_cut_off(self) -> None:
        """Count what was not sent: the host's deadline came before the sink's own."""
        if self._outbox is not None:
            self._tell_unsent(self._outbox.unsent())

    def _tell_unsent(self, unsent: int) -> None:
        if unsent:
            why = f": {self._last.words}" if self._last is not None and not self._last.ok else ""
            self._context.report("failing", f"{unsent} messages were not sent when time was over{why}", lost=unsent)

    def check_report(self) -> str:
        """Wait for the answer to the check's message.

        Raises:
            SinkError: it was not taken; the message says why.
        """
        if self._outbox is None or not self._outbox.settled(self._config.timeout_s + 1.0) or self._last is None:
            raise SinkError(f"{self._target.place}: no answer within {self._config.timeout_s:g} s")
        if not self._last.ok:
            raise SinkError(self._last.words)
        return f"{self._target.place} took the message: {self._last.words}"

    # --- inside -------------------------------------------------------------------------------

    def _tell_level(self) -> None:
        event = self._news.due()
        if event is None:
            return
        change = event.payload
        occasion: Occasion = "worsened" if change.current.severity > change.previous.severity else "recovered"
        limits = self._started.limits if self._started is not None else None
        words = health_changed(change, alone=True, **({"limits": limits} if limits is not None else {}))
        self._tell(
            occasion,
            event,
            f"run {self._context.run_id}: {words} (update {change.update_id})",
            level=change.current.value,
            previous=change.previous.value,
            update_id=change.update_id,
            kl_divergence=change.kl_divergence,
            kl_joint=change.kl_joint,
            head=change.head,
        )

    def _tell(self, occasion: str, event: TelemetryEvent[Payload], text: str, **more: str | float | None) -> None:
        if self._outbox is None or occasion not in {*self._config.on, "check"}:
            return
        self._context = replace(self._context, attempt=event.attempt)
        self._outbox.put(self._message(occasion, text, **more) | {"time": event.time_ns / 1e9})

    def _message(self, occasion: str, text: str, **more: str | float | None) -> Message:
        environment = self._context.resource.get("esper.run.environment")
        common: Message = {
            "event": occasion,
            "text": text,
            "run_id": self._context.run_id,
            "name": self._started.run_name if self._started is not None else None,
            "environment": str(environment) if environment is not None else None,
            "attempt": self._context.attempt,
        }
        return common | {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in more.items()
        }

    def _outcome(self, outcome: Outcome | None) -> None:
        """What became of a message. In the outbox's thread."""
        if outcome is None:
            self._context.report("failing", "too many messages wait; the oldest was dropped", lost=1)
            return
        self._last = outcome
        if self._context.mode == "check":
            return  # check_report says it
        if not outcome.ok:
            self._failing = True
            self._context.report("failing", f"a message was lost: {outcome.words}", lost=1)
        elif self._failing:
            self._failing = False
            self._context.report("recovered", f"messages arrive again: {outcome.words}")
