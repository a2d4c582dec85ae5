"""What TensorBoard shows of an event: tags, scalars and text, as protocol buffers."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar, text

from esper_core.health import HealthLevel
from esper_core.semconv.names import GAUGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper_core.events import PPOUpdatePayload, RunStarted

__all__ = ["described", "scalars", "text_summary", "update_summary"]


def scalars(payload: PPOUpdatePayload) -> Iterator[tuple[str, float]]:
    """Tag and value of every number of an update that is a gauge: what was not measured has no point.

    Tags: ``ppo/FIELD``, ``head/NAME/FIELD``, ``divergence/NAME/per_decision`` and ``.../per_step``. NaN and Inf are
    values; a level is its severity (0 unknown to 4 non-finite).
    """
    for gauge in GAUGES:
        if not gauge.head:
            yield from _point(f"ppo/{gauge.field}", getattr(payload, gauge.field))
    per_head = [gauge.field.partition(".")[2] for gauge in GAUGES if gauge.head]
    for head in payload.heads:
        for field in per_head:
            yield from _point(f"head/{head.name}/{field}", getattr(head, field))
    for item in payload.divergences:
        yield from _point(f"divergence/{item.name}/per_decision", item.per_decision)
        yield from _point(f"divergence/{item.name}/per_step", item.per_step)


def _point(tag: str, value: HealthLevel | float | None) -> Iterator[tuple[str, float]]:
    if value is not None:
        yield tag, float(value.severity if isinstance(value, HealthLevel) else value)


def update_summary(payload: PPOUpdatePayload) -> Summary:
    """All scalars of an update in one record."""
    together = Summary()
    for tag, value in scalars(payload):
        together.MergeFrom(scalar(tag, value))
    return together


def text_summary(tag: str, markdown: str) -> Summary:
    """A text, which TensorBoard shows as Markdown on its page *Text*."""
    return text(tag, markdown)


def described(started: RunStarted) -> str:
    """The run's start as a table: environment, heads, seed, limits, versions."""
    rows = [(item.name, getattr(started, item.name)) for item in fields(started)]
    shown = [(name, _cell(value)) for name, value in rows if value not in (None, "", ())]
    return "\n".join(["| field | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in shown)])


def _cell(value: object) -> str:
    words = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return " ".join(words.split()).replace("|", "\\|")
