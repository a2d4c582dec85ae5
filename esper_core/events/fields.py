"""What a field of an event means, said once: text, unit, gauge and names as metadata of the dataclass field.

Attributes, gauges, codec, the weaver registry and the reference pages are made of it; nothing repeats it.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["About", "about", "about_field", "measured"]

_KEY: Final = "esper"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What one field means and how it appears outside.

    Attributes:
        brief: one sentence, in Markdown.
        unit: UCUM, or a word in braces where UCUM has none (``{nat}``); ``1`` only for shares, because Prometheus
            appends ``_ratio`` to it. Empty for text and numbers that count nothing.
        gauge: True: the last value is the gauge ``esper.ppo.last.<attribute>`` of an update, or ``esper.eval.last.`` of
            an evaluation; a text: that name after ``last.``.
            Of a head's field one point a head.
        name: the attribute's name below the event's namespace, where it is not the field's.
        key: the whole attribute name, where another event's field describes it: the same thing has the same name on
            every span.
        implied: the default goes without saying: it is not written, and a reader who misses it means it. Keeps lines
            short where nearly every value is the default.
        examples: values the registry shows; without them those of the type.
        stability: of the name, in the words of OpenTelemetry.
    """

    brief: str
    unit: str = ""
    gauge: bool | str = False
    name: str = ""
    key: str = ""
    implied: bool = False
    examples: tuple[Any, ...] = ()
    stability: str = "development"


def about(brief: str, **more: Any) -> Mapping[str, About]:
    """Metadata for ``field(metadata=about(...))`` of a field that is required. ``more``: as :class:`About`."""
    return MappingProxyType({_KEY: About(brief=brief, **more)})


def measured(brief: str, *, default: object = None, **more: Any) -> Any:
    """A field with a default: None where the number was not measured.

    ::

        kl_joint: float | None = measured("KL(old || new) per unforced environment step.", unit="{nat}", gauge=True)

    Args:
        brief: as :class:`About`.
        default: what the field is when nobody sets it, and when an older writer did not know it.
        more: as :class:`About`.
    """
    return field(default=default, metadata=about(brief, **more))


def about_field(item: Field[Any]) -> About:
    """What a field says about itself.

    Raises:
        TypeError: it says nothing: it was declared without :func:`measured` or :func:`about`.
    """
    found = item.metadata.get(_KEY)
    if not isinstance(found, About):
        raise TypeError(f"field {item.name} says nothing about itself; declare it with measured(...)")
    return found
