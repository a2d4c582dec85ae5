"""Finds what installed distributions register, from their metadata alone; imports only the object that is loaded."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, metadata, version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ADAPTER_GROUP",
    "COMMAND_GROUP",
    "CORE",
    "ENVIRONMENT_GROUP",
    "SINK_GROUP",
    "Installed",
    "command_extras",
    "duplicates",
    "installed",
    "versions_of",
]

CORE: Final = "esper-core"
"""The distribution of this package."""

SINK_GROUP: Final = "esper.sinks"
ENVIRONMENT_GROUP: Final = "esper.environments"
COMMAND_GROUP: Final = "esper.commands"
ADAPTER_GROUP: Final = "esper.adapters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A sink, environment or command, as registered in the metadata of its distribution.

    Attributes:
        name: the name by which it is selected.
        distribution: for example ``esper-sink-tui``.
        version: version of the distribution.
        value: ``package.module:object``.
    """

    name: str
    distribution: str
    version: str
    value: str

    @property
    def summary(self) -> str:
        """The distribution's summary, without the kind that it begins with; empty when it has none."""
        try:
            text = metadata(self.distribution)["Summary"] or ""
        except (PackageNotFoundError, KeyError, ValueError):  # ValueError: a distribution without a name
            return ""
        kind, _, rest = text.partition(": ")
        return rest if rest and kind.startswith("Esper ") else text

    def load(self) -> Any:
        """Import the object. Raises whatever the import of its module raises."""
        return EntryPoint(name=self.name, value=self.value, group="").load()


def installed(group: str) -> dict[str, Installed]:
    """All entries of one group by name, sorted; the first one when a name occurs twice."""
    found: dict[str, Installed] = {}
    for point in entry_points(group=group):
        dist = point.dist
        distribution, version = (dist.name, dist.version) if dist is not None else ("", "")
        found.setdefault(
            point.name, Installed(name=point.name, distribution=distribution, version=version, value=point.value)
        )
    return dict(sorted(found.items()))


def duplicates(group: str) -> dict[str, tuple[str, ...]]:
    """Names that more than one distribution registers, with those distributions."""
    claims: dict[str, set[str]] = {}
    for point in entry_points(group=group):
        dist = point.dist
        claims.setdefault(point.name, set()).add(f"{dist.name if dist is not None else ''} ({point.value})")
    return {name: tuple(sorted(who)) for name, who in claims.items() if len(who) > 1}


COMMAND_EXTRAS: Final = frozenset({"sanctum", "verify"})
"""Extras that are called like the command that their plugin brings; the others are called like sinks."""


def command_extras() -> frozenset[str]:
    """Extras of the core that install the plugin of the command with the same name."""
    try:
        return COMMAND_EXTRAS & frozenset(metadata(CORE).get_all("Provides-Extra") or ())
    except PackageNotFoundError:  # run from a source tree that is not installed
        return frozenset()


def versions_of(distributions: Iterable[str]) -> tuple[str, ...]:
    """``name==version`` of Python and of those distributions that are installed, for a run's record."""
    found = [f"python=={platform.python_version()}"]
    for name in distributions:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    return tuple(found)
