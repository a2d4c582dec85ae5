"""What TensorBoard shows of an event: tags, scalars and text, as protocol buffers."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar, text

from esper_core.semconv.points import evaluation_points, points

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper_core.events import PolicyEvaluated, PPOUpdatePayload, RunStarted

_REFUSED: Final = re.compile(r"[^-\w.]")
"""In a part of a tag: tensorboardX makes ``_`` of what a tag may not have, and a slash begins another part."""

__all__ = ["described", "evaluation_summary", "text_summary", "update_summary"]


def update_summary(payload: PPOUpdatePayload) -> Summary:
    """All scalars of an update in one record."""
    return _together(points(payload, clean=_part))


def evaluation_summary(payload: PolicyEvaluated) -> Summary:
    """All scalars of an evaluation in one record."""
    return _together(evaluation_points(payload))


def _together(found: Iterable[tuple[str, float]]) -> Summary:
    together = Summary()
    for tag, value in found:
        point = scalar(tag, 0.0)  # given a NaN it warns, once a tag and update, on the program's terminal
        point.value[0].simple_value = value
        together.MergeFrom(point)
    return together


def _part(name: str) -> str:
    return _REFUSED.sub("_", name)


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
