"""The pages ``events.md`` and ``hooks.md`` of ``docs/reference/``, from docstrings."""

from __future__ import annotations

import inspect
import re

from esper_core import events, hooks
from tables import class_table, event_table, markdown, summary


def events_page() -> str:
    """The reference of every event and its fields."""
    parts = ["# Events\n\n", f"{summary(events.__doc__)}\n"]
    order: list[type] = [events.TelemetryEvent, events.TraceRef, events.SpanRef, *events.PAYLOADS.values()]
    order += [events.HeadStats, events.EarlyStop, events.SinkLoss]
    for cls in order:
        kind = getattr(cls, "kind", None)
        hook = f"\n\nHook: `esper_{kind}`." if isinstance(kind, str) else ""
        parts.append(f"\n## {cls.__name__}\n\n{summary(cls.__doc__)}{hook}\n\n{event_table(cls)}\n")
    return "".join(parts)


def hooks_page() -> str:
    """The reference of every hook and of the types that plugins receive or declare."""
    parts = ["# Hooks\n\n", f"Hook API {hooks.HOOK_API}. {summary(hooks.__doc__)}\n"]
    for name in hooks.HOOK_NAMES:
        method = getattr(hooks.SinkHooks, name)
        signature = str(inspect.signature(method)).replace("'", "").replace("(self, ", "(")
        parts.append(f"\n## {name}\n\n```python\n{name}{signature}\n```\n\n{summary(method.__doc__)}\n")
    parts.append(f"\n## SinkContext\n\n{summary(hooks.SinkContext.__doc__)}\n\n{class_table(hooks.SinkContext)}\n")
    plugin = hooks.EnvironmentPlugin
    parts.append(f"\n## EnvironmentPlugin\n\n{summary(plugin.__doc__)}\n\n{class_table(plugin)}\n")
    parts += [_protocol(protocol, "__call__") for protocol in (hooks.ShowEpisode, hooks.PlotEpisode)]
    parts.append(_protocol(hooks.TrainedPolicy, "act"))
    parts.append(f"\n## Secret\n\n{summary(hooks.Secret.__doc__)}\n")
    reasons = ", ".join(f"`{reason.value}`" for reason in hooks.CloseReason)
    parts.append(f"\n## CloseReason\n\n{summary(hooks.CloseReason.__doc__)} One of {reasons}.\n")
    parts.append(f"\n## ChildRun\n\n{summary(hooks.ChildRun.__doc__)}\n\n")
    for name in ("run_dir", "pid", "poll", "request_stop"):
        member = vars(hooks.ChildRun)[name]
        parts.append(f"- `{name}`: {summary(member.__doc__)}\n")
    parts.append(_protocol(hooks.StatusReport, "__call__", shown="context.report"))
    return "".join(parts)


def _protocol(protocol: type, method: str, *, shown: str = "") -> str:
    """A section on a protocol of one method: its signature, and a line an argument."""
    called = vars(protocol)[method]
    signature = str(inspect.signature(called)).replace("'", "").replace("(self, ", "(")
    name = shown or (protocol.__name__ if method == "__call__" else method)
    text, _, rest = inspect.cleandoc(called.__doc__ or "").partition("\n\nArgs:\n")
    arguments, _, returns = rest.partition("\n\nReturns:\n")
    parts = [f"\n## {protocol.__name__}\n\n{summary(protocol.__doc__)}\n"]
    parts.append(f"\n```python\n{name}{signature}\n```\n\n{markdown(text)}\n")
    lines = [f"- {markdown(' '.join(item.split()))}\n" for item in re.split(r"\n(?=    \w+:)", arguments) if item]
    parts += ["\n", *lines] if lines else []
    parts += [f"\nReturns {markdown(' '.join(returns.split()))}\n"] if returns else []
    return "".join(parts)
