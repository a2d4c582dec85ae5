"""The plugin interface: hook specifications, their marker and context, and the declaration of an environment.

A sink is a class ``Sink(config)`` registered in the entry-point group ``esper.sinks``. It implements any subset of
:class:`SinkHooks` with ``@hookimpl``. A complete sink, which ``esper ppo --sink ./lines.py:LinesSink`` runs when the
file begins with ``from esper_core.hooks import hookimpl``::

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
* ``event_kinds``: the kinds that the hook ``esper_event`` receives: ``"all"``, ``"recorded"`` or a collection of kinds.
* ``requires``: names of other sinks that must be on.
* ``keeps_record``: True when the sink keeps the run's record on disk. When it loses events, no number of the run is
  reliable.
* ``every_rank``: True when each rank of a run of several has one, and not rank 0 alone. Rank 0 tells the updates, which
  are of all ranks; the others tell that they started and ended, their episodes and their metrics.
* ``any_thread``: True when an inline sink may be called from any thread, one call at a time. Then finished episodes
  come from one that the training does not wait for; else they come, as all events do, from the trainer's.
* ``check_report() -> str``: a line that ``esper sinks check`` prints after the marked event was delivered (an endpoint,
  a response, a latency); raise to fail the check with that message.
* ``replay_report() -> str``: lines that ``esper replay --to NAME`` prints at its end: what was sent, what cannot be.

An environment is an :class:`EnvironmentPlugin`, registered in the entry-point group ``esper.environments``.
"""

from __future__ import annotations

from esper_core.hooks._context import (
    ChildRun,
    CloseReason,
    Delivery,
    EventForm,
    EventKinds,
    Secret,
    SinkContext,
    SinkMode,
    StatusReport,
)
from esper_core.hooks._environments import EnvironmentPlugin, PlotEpisode, ShowEpisode, TrainedPolicy
from esper_core.hooks._specs import HOOK_API, HOOK_NAMES, PROJECT, SinkHooks, hookimpl, hookspec
from esper_core.masking import redact

__all__ = [
    "HOOK_API",
    "HOOK_NAMES",
    "PROJECT",
    "ChildRun",
    "CloseReason",
    "Delivery",
    "EnvironmentPlugin",
    "EventForm",
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
    "redact",
]
