"""What plugin authors import: the hook specifications, their marker and context, and what an environment declares.

A sink is a class ``Sink(config)`` registered in the entry-point group ``esper.sinks``. It implements any subset of
:class:`SinkHooks` with ``@hookimpl``. A whole one, that ``esper ppo --sink ./lines.py:LinesSink`` runs once the file
begins with ``from esper_core.hooks import hookimpl``::

    class LinesSink:
        event_kinds = "recorded"

        @hookimpl
        def esper_sink_opened(self, context):
            self.file = (context.run_dir / "events.txt").open("a")

        @hookimpl
        def esper_event(self, event):
            print(event.time_ns, event.kind, event.payload, file=self.file)

        @hookimpl
        def esper_sink_closed(self, reason):
            self.file.close()

It may declare:

* ``Config``: a ``msgspec.Struct``; its table is ``[sink.NAME]``. Without it the sink takes no options.
* ``delivery``: ``"all"`` (default), ``"inline"`` or ``"latest"``.
* ``event_kinds``: what the hook ``esper_event`` hears: ``"all"``, ``"recorded"`` or a collection of kinds.
* ``requires``: names of other sinks that must be on.
* ``keeps_record``: True when the sink keeps the run's record on disk: what it loses makes every number doubtful.
* ``check_report() -> str``: a line that ``esper sinks check`` prints after the marked event was delivered (an endpoint,
  an answer, a latency); raise to fail the check with that message.
* ``replay_report() -> str``: lines that ``esper replay --to NAME`` prints at its end: what was sent, what never can be.

An environment is an :class:`EnvironmentPlugin`, registered in the entry-point group ``esper.environments``.
"""

from __future__ import annotations

from esper_core.hooks._context import (
    ChildRun,
    CloseReason,
    Delivery,
    EventKinds,
    Secret,
    SinkContext,
    SinkMode,
    StatusReport,
)
from esper_core.hooks._environments import EnvironmentPlugin, PlotEpisode, ShowEpisode, TrainedPolicy
from esper_core.hooks._specs import HOOK_API, HOOK_NAMES, PROJECT, SinkHooks, hookimpl, hookspec
from esper_core.hooks._urls import redact_urls

__all__ = [
    "HOOK_API",
    "HOOK_NAMES",
    "PROJECT",
    "ChildRun",
    "CloseReason",
    "Delivery",
    "EnvironmentPlugin",
    "EventKinds",
    "PlotEpisode",
    "Secret",
    "ShowEpisode",
    "SinkContext",
    "SinkHooks",
    "SinkMode",
    "StatusReport",
    "TrainedPolicy",
    "hookimpl",
    "hookspec",
    "redact_urls",
]
