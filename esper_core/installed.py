"""What installed distributions announce, from their metadata alone: nothing is imported here but what is named."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

__all__ = ["COMMAND_GROUP", "ENVIRONMENT_GROUP", "SINK_GROUP", "Installed", "duplicates", "installed"]

SINK_GROUP: Final = "esper.sinks"
ENVIRONMENT_GROUP: Final = "esper.environments"
COMMAND_GROUP: Final = "esper.commands"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A sink, environment or command as the metadata of its distribution announces it.

    Attributes:
        name: what it is selected by.
        distribution: for example ``esper-sink-tui``.
        version: of the distribution.
        value: ``package.module:object``.
    """

    name: str
    distribution: str
    version: str
    value: str

    def load(self) -> Any:
        """Import the object. Whatever its module raises is raised."""
        return EntryPoint(name=self.name, value=self.value, group="").load()


def installed(group: str) -> dict[str, Installed]:
    """Everything of one group by name, sorted; the first one where a name occurs twice."""
    found: dict[str, Installed] = {}
    for point in entry_points(group=group):
        dist = point.dist
        distribution, version = (dist.name, dist.version) if dist is not None else ("", "")
        found.setdefault(
            point.name, Installed(name=point.name, distribution=distribution, version=version, value=point.value)
        )
    return dict(sorted(found.items()))


def duplicates(group: str) -> dict[str, tuple[str, ...]]:
    """Names that more than one distribution claims, with those distributions."""
    claims: dict[str, set[str]] = {}
    for point in entry_points(group=group):
        dist = point.dist
        claims.setdefault(point.name, set()).add(f"{dist.name if dist is not None else ''} ({point.value})")
    return {name: tuple(sorted(who)) for name, who in claims.items() if len(who) > 1}
