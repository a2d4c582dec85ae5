"""Finds what installed distributions register, from their metadata alone; imports only the object that is loaded."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, metadata, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    for entry in _entries(group):
        found.setdefault(entry.name, entry)
    return dict(sorted(found.items()))


def _entries(group: str) -> tuple[Installed, ...]:
    """The entries of one group, of every distribution that can be imported now."""
    return _described(group, tuple((path, _changed(path)) for path in sys.path))


@lru_cache(maxsize=8)
def _described(group: str, places: tuple[tuple[str, int], ...]) -> tuple[Installed, ...]:
    """The entries of one group; names and versions are parsed from files, and a start asks a dozen times."""
    found = []
    for point in _scanned(places).select(group=group):
        about: Mapping[str, str] = point.dist.metadata if point.dist is not None else {}
        distribution, version = about.get("Name") or "", about.get("Version") or ""
        found.append(Installed(name=point.name, distribution=distribution, version=version, value=point.value))
    return tuple(found)


@lru_cache(maxsize=1)
def _scanned(_places: tuple[tuple[str, int], ...]) -> Any:
    """One look into every distribution, for all groups: the files are as many as packages."""
    return entry_points()


def _changed(path: str) -> int:
    """When a folder of ``sys.path`` last gained or lost a distribution, ns since 1970; 0 where there is none."""
    try:
        return Path(path).stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


def duplicates(group: str) -> dict[str, tuple[str, ...]]:
    """Names that more than one distribution registers, with those distributions."""
    claims: dict[str, set[str]] = {}
    for entry in _entries(group):
        claims.setdefault(entry.name, set()).add(f"{entry.distribution} ({entry.value})")
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
