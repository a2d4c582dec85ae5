"""Evaluations beside the updates whose policy played: columns of a table that runs without any do not have."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final, cast

from esper_core.events import PolicyEvaluated
from esper_core.reading.cells import Block, Cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["EVALUATION_COLUMNS", "beside"]

_OF_THE_ROW: Final = frozenset({"update_id", "env_steps"})
_FIELDS: Final = tuple(item.name for item in fields(PolicyEvaluated) if item.name not in _OF_THE_ROW)
EVALUATION_COLUMNS: Final = tuple(f"evaluation.{name}" for name in _FIELDS)
"""Names of the columns; what an update of the table has itself is not among them."""


def beside(block: Block, evaluations: Mapping[int, PolicyEvaluated]) -> Block:
    """The block with the evaluations of its updates; the cells of the other updates are None.

    Args:
        block: of effective updates of one run.
        evaluations: of that run, by update id.
    """
    return Block(block.rows, [_part(part, evaluations) for part in block.parts])


def _part(part: Cells, evaluations: Mapping[int, PolicyEvaluated]) -> Cells:
    played = [evaluations.get(update_id) for update_id in cast("Sequence[int]", part.columns["update_id"])]
    if not any(played):
        return part
    own = {
        column: [None if one is None else getattr(one, name) for one in played]
        for column, name in zip(EVALUATION_COLUMNS, _FIELDS, strict=True)
    }
    return Cells(part.places, {**part.columns, **own})
