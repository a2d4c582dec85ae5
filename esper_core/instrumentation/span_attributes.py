"""Puts an event's attributes on its span: the SDK's own way, or a shorter one with the same result.

The SDK checks every value and every entry of every array for its type, which is a fifth of an update's telemetry. The
values of ``semconv.attributes`` are of the plain types already, because the journal needs them so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.attributes import BoundedAttributes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span

    from esper_core.semconv.attributes import AttributeValue

__all__ = ["set_plain_attributes"]


def set_plain_attributes(span: Span, attributes: Mapping[str, AttributeValue]) -> None:
    """Set attributes on a span that is being recorded; as ``span.set_attributes``, without a check of each value.

    With limits that could cut a value or drop one, and on spans of another kind than the SDK's, the span's own method
    is called. Call it from the thread that opened the span and will end it.

    Args:
        span: is being recorded.
        attributes: names that are not empty; values of exactly the types str, bool, int, float and tuples of these.
    """
    held = getattr(span, "_attributes", None)
    if type(held) is BoundedAttributes and held.max_value_len is None:
        # The span's mapping, its dict and its lock are private: an SDK that has none, or others, gets the slow way.
        inner, lock = getattr(held, "_dict", None), getattr(held, "_lock", None)
        room = held.maxlen is None or (type(inner) is dict and len(inner) + len(attributes) <= held.maxlen)
        if type(inner) is dict and lock is not None and room:
            with lock:
                for key in inner.keys() & attributes.keys():
                    del inner[key]  # a key that is set again moves to the end, as in the SDK
                inner.update(attributes)
            return
    span.set_attributes(attributes)
