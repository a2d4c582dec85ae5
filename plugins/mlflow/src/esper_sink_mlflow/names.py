"""What MLflow allows as the name of a metric or parameter, and a configuration as flat parameters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["flat", "metric_name"]

_REFUSED: Final = re.compile(r"[^\w.\- :]")
_LONGEST: Final = 250


def metric_name(point: str) -> str:
    """The name of a point in MLflow, which allows letters, digits and ``_-. :/``, at most 250 of them, as a path.

    ``head/NAME/kl`` stays in three parts: a slash in a head's name becomes ``_``, as everything else that is refused.
    """
    kind, _, rest = point.partition("/")
    name, _, field = rest.rpartition("/")
    if not name:
        return point
    room = _LONGEST - len(kind) - len(field) - 2
    cleaned = _REFUSED.sub("_", name)[:room]
    return f"{kind}/{'_' * len(cleaned) if not cleaned.strip('.') else cleaned}/{field}"


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value as text of every leaf; an empty table is none."""
    for key, value in tree.items():
        name = f"{prefix}{_REFUSED.sub('_', key)}"
        if isinstance(value, dict):
            yield from flat(value, f"{name}.")
        else:
            yield name[:_LONGEST], ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
