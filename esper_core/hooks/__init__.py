"""What plugin authors import: the hook specifications, their marker and context, and what an environment declares.

A sink is a class ``Sink(config)`` registered in the entry-point group ``esper.sinks``. It implements any subset of
:class:`SinkHooks` with ``@hookimpl`` and may declare:

* ``Config``: a ``msgspec.Struct``; its table is ``[sink.NAME]``. Without it the sink takes no options.
* ``delivery``: ``"all"`` (default), ``"inline"`` or ``"latest"``.
* ``requires``: names of other sinks that must be on.
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
    Secret,
    SinkContext,
    SinkMode,
    StatusReport,
)
from esper_core.hooks._environments import EnvironmentPlugin, PlotEpisode, ShowEpisode, TrainedPolicy
from esper_core.hooks._specs import HOOK_API, HOOK_NAMES, PROJECT, SinkHooks, hookimpl, hookspec

__all__ = [
    "HOOK_API",
    "HOOK_NAMES",
    "PROJECT",
    "ChildRun",
    "CloseReason",
    "Delivery",
    "EnvironmentPlugin",
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
]
