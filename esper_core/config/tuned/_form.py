"""What a preset of the core is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Tuned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A preset and the environments it was made for.

    Attributes:
        name: for ``--preset NAME``.
        environments: ids whose training takes it when no preset is named; ``*`` stands for anything. The first preset
            with a match is the one.
        tables: ``run``, ``env`` and ``ppo``; the limit in ``run`` is used only when no other limit is given. ``env.id``
            is what ``--preset NAME`` alone trains; the preset of a family leaves it out.
    """

    name: str
    environments: tuple[str, ...]
    tables: Mapping[str, Mapping[str, Any]]
