"""Events of every kind for the tests of the wire form: any, and one of a payload."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import Enum
from typing import Any

from hypothesis import strategies as st

from esper_core.events import PAYLOADS, Payload, SpanRef, TelemetryEvent, TraceRef
from esper_core.semconv.attributes import SPAN_NAMES, AttributeValue

__all__ = ["RESOURCE", "any_event", "event_of", "event_strategy", "record_strategy", "value_strategy"]

RESOURCE: dict[str, AttributeValue] = {
    "service.name": "esper",
    "service.version": "0.1.0",
    "process.pid": 17,
    "ratio": 1.0,
    "flag": True,
}


# Strategies are derived from the payloads' types: a new field needs no change here.
_SCALARS: dict[object, st.SearchStrategy[Any]] = {
    float: st.floats(),  # NaN and infinities included
    int: st.integers(-(2**63), 2**64),  # beyond int64 too: a seed may be
    bool: st.booleans(),
    str: st.text(max_size=12),
}


def value_strategy(hint: object) -> st.SearchStrategy[object]:
    origin = typing.get_origin(hint)
    if origin in {types.UnionType, typing.Union}:
        return st.one_of(*(value_strategy(part) for part in typing.get_args(hint)))
    if origin is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if origin is tuple:
        return st.lists(value_strategy(typing.get_args(hint)[0]), max_size=4).map(tuple)
    if hint is type(None):
        return st.none()
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return record_strategy(hint)
    return _SCALARS[hint]


def record_strategy(owner: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(owner)
    values = {item.name: value_strategy(hints[item.name]) for item in dataclasses.fields(owner)}
    return st.fixed_dictionaries(values).map(lambda found: owner(**found))


_id = st.integers(1, 2**64 - 1).map(lambda value: f"{value:016x}")


@st.composite
def event_strategy(draw: st.DrawFn, kind: str) -> TelemetryEvent[Payload]:
    span_ids = draw(st.lists(_id, min_size=4, max_size=4, unique=True))
    start, end = sorted(draw(st.lists(st.integers(0, 2**63), min_size=2, max_size=2)))
    outer = draw(st.sampled_from([None, span_ids[3]]))
    own = SpanRef(name=SPAN_NAMES[kind], span_id=span_ids[0], parent_span_id=outer, start_ns=start, end_ns=end)
    spans: tuple[SpanRef, ...] = (own,)
    if kind == "ppo_updated" and draw(st.booleans()):
        iteration = dataclasses.replace(own, name="esper.iteration", span_id=span_ids[1])
        rollout = dataclasses.replace(own, name="esper.rollout", span_id=span_ids[2], parent_span_id=span_ids[1])
        own = dataclasses.replace(own, parent_span_id=span_ids[1])
        spans = (iteration, rollout, own) if draw(st.booleans()) else (iteration, own)
    return TelemetryEvent(
        time_ns=end,
        run_id=draw(st.text(min_size=1, max_size=12)),
        attempt=draw(st.integers(1, 2**64)),
        rank=draw(st.integers(0, 2**64)),
        marked=draw(st.booleans()),
        trace=TraceRef(trace_id=f"{draw(st.integers(1, 2**128 - 1)):032x}", spans=spans),
        payload=draw(record_strategy(PAYLOADS[kind])),
    )


any_event = st.sampled_from(list(PAYLOADS)).flatmap(event_strategy)


def event_of(payload: Payload, *, run_id: str = "r", number: int = 1, end_ns: int = 1_000) -> TelemetryEvent[Payload]:
    own = SpanRef(name=SPAN_NAMES[payload.kind], span_id=f"{number:016x}", start_ns=end_ns - 1, end_ns=end_ns)
    return TelemetryEvent(
        time_ns=end_ns, run_id=run_id, trace=TraceRef(trace_id=f"{number:032x}", spans=(own,)), payload=payload
    )
