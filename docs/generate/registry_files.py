"""What repeats the registry in the package: ``registry/gauges.yaml`` and ``names.py``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import yaml

from esper_core.semconv.attributes import attribute_specs
from registry import REGISTRY, Group, Registry, annotation, load_registry, type_name
from tables import template

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCALARS: Final = ("string", "int", "double", "boolean")


def gauges(registry: Registry) -> list[dict[str, Any]]:
    """The gauges that annotations ask for, in the payload's order."""
    fields = {spec.key: spec for spec in attribute_specs("ppo_updated")}
    found = []
    for key, attribute in registry.attributes.items():
        name = annotation(attribute, "gauge")
        if name is None:
            continue
        if key not in fields:
            raise ValueError(f"attribute {key}: only fields of an update can be gauges")
        array = type_name(attribute) not in _SCALARS
        found.append(
            {
                "name": name,
                "unit": annotation(attribute, "unit"),
                "brief": "Last update: " + attribute["brief"],
                "field": fields[key].field,
                "head": array,
            }
        )
    return found


def gauges_yaml(registry: Registry) -> str:
    """The text of ``gauges.yaml``: the gauges that annotations ask for."""
    lines = [
        "# Generated from the annotations in ppo.yaml by docs/generate; do not edit.",
        "groups:",
    ]
    for gauge in gauges(registry):
        lines += [
            f"  - id: metric.{gauge['name']}",
            "    type: metric",
            f"    metric_name: {gauge['name']}",
            "    stability: development",
            f"    brief: {json.dumps(gauge['brief'])}",
            "    instrument: gauge",
            f"    unit: {json.dumps(gauge['unit'])}",
        ]
        if gauge["head"]:
            lines += ["    attributes:", "      - ref: esper.ppo.head.name", "        requirement_level: required"]
        cardinality = '"number of heads"' if gauge["head"] else "1"
        lines += ["    annotations:", "      esper:", f"        cardinality: {cardinality}"]
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _call(name: str, values: Sequence[object]) -> str:
    return f"{name}({', '.join(map(_literal, values))})"


def names_py(registry: Registry, schema_url: str) -> str:
    """The text of ``names.py``: every name, for the code that emits and reads."""
    lines = [template("names.py.txt") + f"SCHEMA_URL: Final = {json.dumps(schema_url)}", "", "# fmt: off"]
    lines += ["ATTRIBUTES: Final[dict[str, str]] = {"]
    lines += [f"    {json.dumps(key)}: {json.dumps(type_name(item))}," for key, item in registry.attributes.items()]
    lines += ["}", '"""Attribute names and their types."""', "", "METRICS: Final[dict[str, Metric]] = {"]
    for group in registry.of_type("metric"):
        if is_gauge_of_field(registry, group):
            continue
        values = (
            group["metric_name"],
            group["instrument"],
            group["unit"],
            group["brief"],
            tuple(registry.attributes_of(group)),
        )
        lines.append(f"    {json.dumps(group['metric_name'])}: {_call('Metric', values)},")
    lines += ["}", '"""Metrics that are more than the last value of a field."""', ""]
    lines += ["GAUGES: Final[tuple[Gauge, ...]] = ("]
    for gauge in gauges(registry):
        values = tuple(gauge[key] for key in ("name", "unit", "brief", "field", "head"))
        lines.append(f"    {_call('Gauge', values)},")
    lines += [")", '"""Last values of an update, in the payload\'s order."""', "# fmt: on", ""]
    return "\n".join(lines)


def is_gauge_of_field(registry: Registry, group: Group) -> bool:
    """Whether the group is the last value of a field, which ``gauges.yaml`` holds."""
    name = group.get("metric_name")
    return name is not None and any(annotation(item, "gauge") == name for item in registry.attributes.values())


def registry_files() -> tuple[Registry, dict[str, str]]:
    """The whole registry, its generated gauges included, and the text of the two files."""
    manifest = yaml.safe_load((REGISTRY / "manifest.yaml").read_text(encoding="utf-8"))
    read = load_registry()
    handwritten = Registry(tuple(item for item in read.groups if not is_gauge_of_field(read, item)), read.attributes)
    written = gauges_yaml(handwritten)
    whole = Registry((*handwritten.groups, *yaml.safe_load(written)["groups"]), read.attributes)
    return whole, {
        "esper_core/semconv/registry/gauges.yaml": written,
        "esper_core/semconv/names.py": names_py(whole, manifest["schema_url"]),
    }
