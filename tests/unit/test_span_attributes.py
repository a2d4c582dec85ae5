"""Attributes that are set the short way on a span: the span is the one that the SDK's own method gives."""

from __future__ import annotations

import math

import pytest
from opentelemetry.sdk.trace import Span, SpanLimits, TracerProvider
from opentelemetry.trace import INVALID_SPAN

from esper_core.instrumentation.span_attributes import set_plain_attributes

PLAIN = {"b": "text", "held": 2, "floats": (0.5, None, math.inf), "flag": True, "texts": ("slot", "tempo")}


def begun(limits: SpanLimits) -> Span:
    """A span that holds two attributes already."""
    span = TracerProvider(span_limits=limits, shutdown_on_exit=False).get_tracer("t").start_span("s")
    span.set_attributes({"held": 1, "kept": 1.0})
    assert isinstance(span, Span)
    return span


@pytest.mark.parametrize(
    "limits",
    [
        SpanLimits(),
        SpanLimits(max_span_attributes=6),
        SpanLimits(max_span_attributes=3),
        SpanLimits(max_span_attributes=0),
        SpanLimits(max_span_attribute_length=3),
    ],
    ids=["default", "just full", "over full", "none", "short texts"],
)
def test_the_span_equals_the_sdks(limits: SpanLimits, caplog: pytest.LogCaptureFixture) -> None:
    short, slow = begun(limits), begun(limits)
    set_plain_attributes(short, PLAIN)
    slow.set_attributes(PLAIN)
    assert list((short.attributes or {}).items()) == list((slow.attributes or {}).items())
    assert short.dropped_attributes == slow.dropped_attributes
    caplog.clear()


def test_a_span_of_another_kind_is_set_by_its_own_method() -> None:
    set_plain_attributes(INVALID_SPAN, PLAIN)
