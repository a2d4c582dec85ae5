"""The telemetry registry, ``esper_core/semconv/registry``, in the file format of OpenTelemetry Weaver.

``weaver registry check -r esper_core/semconv/registry`` reads it. Properties that the format does not have are under
``annotations.esper``: ``unit`` of an attribute, ``gauge`` (the last value is a gauge of that name) and ``cardinality``
(series a run has at most).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

REGISTRY: Final = Path(__file__).resolve().parents[2] / "esper_core" / "semconv" / "registry"
Group: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True, slots=True)
class Registry:
    """The registry's groups, and its attributes by name."""

    groups: tuple[Group, ...]
    attributes: Mapping[str, Group]

    def of_type(self, kind: str) -> Iterator[Group]:
        """Groups of one type: ``metric``, ``span``, ``event`` or ``attribute_group``."""
        return (group for group in self.groups if group["type"] == kind)

    def attributes_of(self, group: Group) -> list[str]:
        """Attribute names of a group, those it extends first."""
        names: list[str] = []
        if "extends" in group:
            parent = next(item for item in self.groups if item["id"] == group["extends"])
            names += self.attributes_of(parent)
        return names + [item.get("id") or item["ref"] for item in group.get("attributes", ())]


def registry_of(found: Iterable[Group]) -> Registry:
    """A registry of these groups.

    Raises:
        ValueError: an attribute is defined twice, or referred to and not defined.
    """
    groups = tuple(found)
    attributes: dict[str, Group] = {}
    for group in groups:
        for item in group.get("attributes", ()):
            if "id" in item and attributes.setdefault(item["id"], item) is not item:
                raise ValueError(f"{group['id']}: attribute {item['id']} is defined twice")
    for group in groups:
        for item in group.get("attributes", ()):
            if "ref" in item and item["ref"] not in attributes:
                raise ValueError(f"{group['id']}: no attribute {item['ref']} in the registry")
    return Registry(groups, attributes)


def load_registry(folder: Path = REGISTRY) -> Registry:
    """Read every YAML file of the registry, as weaver does."""
    groups: list[Group] = []
    for path in sorted(folder.glob("*.yaml")):
        groups += (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("groups", [])
    return registry_of(groups)


def annotation(item: Group, key: str) -> Any:
    """One value under ``annotations.esper``, or None."""
    return item.get("annotations", {}).get("esper", {}).get(key)
