"""What MLflow allows as the name of a metric or parameter, and a configuration as flat parameters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["flat", "part_name"]

_REFUSED: Final = re.compile(r"[^\w.\- :]")
_LONGEST: Final = 250
"""Letters of a whole name."""
_LONGEST_PART: Final = 200
"""Of a head's name: the kind before it and the field behind it take the rest."""


def part_name(name: str) -> str:
    """A head's or divergence's name as one part of a metric's: MLflow allows letters, digits and ``_-. :`` in one."""
    cleaned = _REFUSED.sub("_", name)[:_LONGEST_PART]
    return cleaned if cleaned.strip(".") else "_" * len(cleaned)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value as text of every leaf; an empty table is none."""
    for key, value in tree.items():
        name = f"{prefix}{_REFUSED.sub('_', key)}"
        if isinstance(value, dict):
            yield from flat(value, f"{name}.")
        else:
            yield name[:_LONGEST], ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
