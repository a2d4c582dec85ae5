"""An update or an evaluation as named points: what a tracker that draws curves (TensorBoard, W&B, MLflow) is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.health import HealthLevel
from esper_core.semconv.names import EVALUATION_GAUGES, GAUGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from esper_core.events import PolicyEvaluated, PPOUpdatePayload

__all__ = ["evaluation_points", "points"]


def points(payload: PPOUpdatePayload, *, clean: Callable[[str], str] = str) -> Iterator[tuple[str, float]]:
    """Name and value of every number of an update that is a gauge: what was not measured has no point.

    Names: ``ppo/FIELD``, ``head/NAME/FIELD``, ``divergence/NAME/per_decision`` and ``.../per_step``. NaN and Inf are
    values; a level is its severity (0 unknown to 4 non-finite).

    Args:
        payload: the update.
        clean: makes of a head's or divergence's name what the tracker allows. Names that it makes equal end with
            ``_2``, ``_3``, ..., so that no number stands for another's; a name that was allowed keeps itself.
    """
    for gauge in GAUGES:
        if not gauge.head:
            yield from _point(f"ppo/{gauge.field}", getattr(payload, gauge.field))
    per_head = [gauge.field.partition(".")[2] for gauge in GAUGES if gauge.head]
    names = _distinct([head.name for head in payload.heads], clean)
    for name, head in zip(names, payload.heads, strict=True):
        for field in per_head:
            yield from _point(f"head/{name}/{field}", getattr(head, field))
    names = _distinct([item.name for item in payload.divergences], clean)
    for name, item in zip(names, payload.divergences, strict=True):
        yield from _point(f"divergence/{name}/per_decision", item.per_decision)
        yield from _point(f"divergence/{name}/per_step", item.per_step)


def evaluation_points(payload: PolicyEvaluated) -> Iterator[tuple[str, float]]:
    """Name and value of every number of an evaluation that is a gauge, as ``evaluation/FIELD``: see :func:`points`."""
    for gauge in EVALUATION_GAUGES:
        yield from _point(f"evaluation/{gauge.field}", getattr(payload, gauge.field))


def _distinct(names: Sequence[str], clean: Callable[[str], str]) -> list[str]:
    """The cleaned names, each once. Heads keep their order over a run, so each keeps its name."""
    made = [clean(name) for name in names]
    if len(set(made)) == len(made):
        return made
    taken = {new for name, new in zip(names, made, strict=True) if name == new}
    for index, (name, new) in enumerate(zip(names, made, strict=True)):
        if name == new:
            continue
        candidates = (new, *(f"{new}_{number}" for number in range(2, len(names) + 2)))
        made[index] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(made[index])
    return made


def _point(name: str, value: HealthLevel | float | None) -> Iterator[tuple[str, float]]:
    if value is not None:
        yield name, float(value.severity if isinstance(value, HealthLevel) else value)
