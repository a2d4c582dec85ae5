"""An update as named points: what a tracker that draws curves (TensorBoard, W&B, MLflow) is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.health import HealthLevel
from esper_core.semconv.names import GAUGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper_core.events import PPOUpdatePayload

__all__ = ["points"]


def points(payload: PPOUpdatePayload) -> Iterator[tuple[str, float]]:
    """Name and value of every number of an update that is a gauge: what was not measured has no point.

    Names: ``ppo/FIELD``, ``head/NAME/FIELD``, ``divergence/NAME/per_decision`` and ``.../per_step``. NaN and Inf are
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


def _point(name: str, value: HealthLevel | float | None) -> Iterator[tuple[str, float]]:
    if value is not None:
        yield name, float(value.severity if isinstance(value, HealthLevel) else value)
