"""The page ``docs/reference/telemetry.md``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_core.semconv.attributes import UPDATE_ID
from esper_core.semconv.identity import ATTEMPT, RANK, RUN_ID
from esper_core.semconv.log_events import severity
from esper_core.semconv.system import SYSTEM_METRICS
from registry import annotation
from tables import template

if TYPE_CHECKING:
    from registry import Registry


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ").strip()


def _attribute_row(registry: Registry, name: str) -> str:
    item = registry.attributes[name]
    kind = item["type"]
    shown = kind if isinstance(kind, str) else "string: " + ", ".join(member["value"] for member in kind["members"])
    unit = annotation(item, "unit")
    return f"| `{name}` | {_cell(shown)} | {f'`{unit}`' if unit else ''} | {_cell(item['brief'])} |"


_EVERYWHERE: Final = (RUN_ID, ATTEMPT, RANK)


def telemetry_page(registry: Registry) -> str:
    """Every span, span event, metric and attribute, from the registry."""
    lines = [template("telemetry.md.txt"), "## Spans", "", "| span | meaning | attributes |", "|---|---|---|"]
    for group in registry.of_type("span"):
        name = group["id"].removeprefix("span.")
        brief = group["brief"].partition(": ")[2]
        attributes = registry.attributes_of(group)
        shown = ", ".join(f"`{item}`" for item in attributes)
        if len(attributes) > 4:
            shown = f"[{len(attributes)}](#{_anchor(name)})"
        lines.append(f"| `{name}` | {_cell(brief[:1].upper() + brief[1:])} | {shown} |")
    everywhere = "{}, {} and {}".format(*(f"`{item}`" for item in _EVERYWHERE))
    lines += ["", f"Every span also carries {everywhere}.", ""]
    lines += ["## Span events", "", 'With `[otel] events = "log"` these are log events, with `"both"` both.']
    lines += [
        f"A log event also carries {everywhere}, `{UPDATE_ID}`, its span's ids and a severity, which is that of the"
    ]
    lines += ["last column: [events as logs](../how-to/log-events.md).", ""]
    lines += ["| event | meaning | attributes | as a log event |", "|---|---|---|---|"]
    for group in registry.of_type("event"):
        shown = ", ".join(f"`{item}`" for item in registry.attributes_of(group))
        level = severity(group["name"]).text
        lines.append(f"| `{group['name']}` | {_cell(group['brief'])} | {shown} | {level} |")
    lines += ["", "## Metrics", "", f"Every point also carries {everywhere}.", ""]
    lines += ["| metric | type | unit | attributes | cardinality | meaning |"]
    lines += ["|---|---|---|---|---|---|"]
    for group in registry.of_type("metric"):
        shown = ", ".join(f"`{item}`" for item in registry.attributes_of(group) if item not in _EVERYWHERE)
        lines.append(
            f"| `{group['metric_name']}` | {group['instrument']} | `{group['unit']}` | {shown} "
            f"| {_cell(annotation(group, 'cardinality'))} | {_cell(group['brief'])} |"
        )
    lines += _of_the_process()
    lines += ["", "## Attributes", ""]
    for group in registry.of_type("attribute_group"):
        title = group["id"].removeprefix("attributes.")
        lines += [f"### {title}", "", _cell(group["brief"]), "", "| attribute | type | unit | meaning |"]
        lines += ["|---|---|---|---|"]
        lines += [_attribute_row(registry, name) for name in registry.attributes_of(group)]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _of_the_process() -> list[str]:
    """The metrics under names that OpenTelemetry gave; its own registry defines them and their attributes."""
    lines = ["", "### Of the trainer's process", ""]
    lines += [
        "OpenTelemetry's own names, measured with every heartbeat; `[run] system_metrics = false` switches them off."
    ]
    lines += ["`hw.gpu.*` needs the package `nvidia-ml-py`, and a driver that tells which processes compute.", ""]
    lines += ["| metric | type | unit | attributes | cardinality | meaning |", "|---|---|---|---|---|---|"]
    for metric in SYSTEM_METRICS.values():
        shown = ", ".join(f"`{item}`" for item in metric.attributes)
        cells = (f"`{metric.name}`", metric.instrument, f"`{metric.unit}`", shown, metric.cardinality, metric.brief)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _anchor(title: str) -> str:
    return title.replace(".", "").replace(" ", "-")
