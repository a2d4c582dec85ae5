"""Generate everything that repeats the registry: ``names.py``, ``registry/gauges.yaml`` and the reference page.

``python -m esper_core.semconv.generate`` writes them, ``--check`` says which are stale (exit code 1). Needs PyYAML,
which only developers have; what it writes needs nothing.

The registry is in the file format of OpenTelemetry Weaver (``weaver registry check -r esper_core/semconv/registry``
reads it). What the format has no word for stands under ``annotations.esper``: ``unit`` of an attribute, ``gauge`` (the
last value is a gauge of that name), ``cardinality`` (series a run has at most), ``observable``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from esper_core.semconv.attributes import attribute_specs

__all__ = ["REGISTRY", "Registry", "load_registry", "main", "outputs"]

REGISTRY: Final = Path(__file__).parent / "registry"
_ROOT: Final = Path(__file__).resolve().parents[2]
_GAUGES_FILE: Final = "gauges.yaml"
_SCALARS: Final = ("string", "int", "double", "boolean")
Group = Mapping[str, Any]


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


def load_registry(folder: Path = REGISTRY) -> Registry:
    """Read every YAML file of the registry; a name that is defined twice or referred to in vain is an error."""
    groups: list[Group] = []
    for path in sorted(folder.glob("*.yaml")):
        groups += (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("groups", [])
    attributes: dict[str, Group] = {}
    for group in groups:
        for item in group.get("attributes", ()):
            if "id" in item and attributes.setdefault(item["id"], item) is not item:
                raise ValueError(f"{group['id']}: attribute {item['id']} is defined twice")
    for group in groups:
        for item in group.get("attributes", ()):
            if "ref" in item and item["ref"] not in attributes:
                raise ValueError(f"{group['id']}: no attribute {item['ref']} in the registry")
    return Registry(tuple(groups), attributes)


def annotation(item: Group, key: str) -> Any:
    """One value under ``annotations.esper``, or None."""
    return item.get("annotations", {}).get("esper", {}).get(key)


def type_name(attribute: Group) -> str:
    """The attribute's type; an enumeration is a string."""
    kind = attribute["type"]
    return kind if isinstance(kind, str) else "string"


# --- gauges.yaml --------------------------------------------------------------------------------


def _gauges(registry: Registry) -> list[dict[str, Any]]:
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


def _gauges_yaml(registry: Registry) -> str:
    lines = [
        "# Generated from the annotations in ppo.yaml by python -m esper_core.semconv.generate; do not edit.",
        "groups:",
    ]
    for gauge in _gauges(registry):
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


# --- names.py -----------------------------------------------------------------------------------

_NAMES_HEAD: Final = '''"""Every name of Esper's telemetry. Generated from the registry; do not edit.

``python -m esper_core.semconv.generate`` writes this module.
"""
# ruff: noqa: E501  # one generated line a name

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["ATTRIBUTES", "GAUGES", "METRICS", "SCHEMA_URL", "Gauge", "Metric"]


class Metric(NamedTuple):
    """One metric: what an instrument is created from."""

    name: str
    instrument: str
    unit: str
    brief: str
    attributes: tuple[str, ...]


class Gauge(NamedTuple):
    """The last value of one field of an update; ``head``: one point a head."""

    name: str
    unit: str
    brief: str
    field: str
    head: bool


'''


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _call(name: str, values: Sequence[object]) -> str:
    return f"{name}({', '.join(map(_literal, values))})"


def _names_py(registry: Registry, schema_url: str) -> str:
    lines = [_NAMES_HEAD + f"SCHEMA_URL: Final = {json.dumps(schema_url)}", "", "# fmt: off"]
    lines += ["ATTRIBUTES: Final[dict[str, str]] = {"]
    lines += [f"    {json.dumps(key)}: {json.dumps(type_name(item))}," for key, item in registry.attributes.items()]
    lines += ["}", '"""Attribute names and their types."""', "", "METRICS: Final[dict[str, Metric]] = {"]
    for group in registry.of_type("metric"):
        if _is_gauge_of_field(registry, group):
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
    for gauge in _gauges(registry):
        values = tuple(gauge[key] for key in ("name", "unit", "brief", "field", "head"))
        lines.append(f"    {_call('Gauge', values)},")
    lines += [")", '"""Last values of an update, in the payload\'s order."""', "# fmt: on", ""]
    return "\n".join(lines)


def _is_gauge_of_field(registry: Registry, group: Group) -> bool:
    name = group.get("metric_name")
    return name is not None and any(annotation(item, "gauge") == name for item in registry.attributes.values())


# --- docs/reference/telemetry.md ----------------------------------------------------------------

_PAGE_HEAD: Final = """<!-- Generated from the registry by python -m esper_core.semconv.generate; do not edit. -->
# Telemetry reference

Every span, span event, metric and attribute that Esper emits. Names, types and units come from the registry
(`esper_core/semconv/registry`, in the format of OpenTelemetry Weaver), to which the code is held by tests.

- KL is in nats; UCUM has no word for it, so its unit is `{nat}`. What else has no UCUM unit stands in braces too.
  `1` marks shares between 0 and 1 (explained variance reaches below 0).
- An attribute that was not measured is absent, never 0. Inside the parallel arrays `esper.ppo.head.*` an entry that was
  not measured is an empty value. NaN and infinities stand in attributes and never in metrics: they are counted by
  `esper.ppo.non_finite` and `esper.ppo.non_finite_fields`.
- Cardinality is the number of series one run makes at most. The update's id is never a metric attribute.
- A gauge is stamped by the SDK when it is collected, not when the update ended; histograms keep every update.
- In Prometheus dots become underscores, counters end in `_total`, unit `s` appends `_seconds`, `1` on a gauge `_ratio`.
"""


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ").strip()


def _attribute_row(registry: Registry, name: str) -> str:
    item = registry.attributes[name]
    kind = item["type"]
    shown = kind if isinstance(kind, str) else "string: " + ", ".join(member["value"] for member in kind["members"])
    unit = annotation(item, "unit")
    return f"| `{name}` | {_cell(shown)} | {f'`{unit}`' if unit else ''} | {_cell(item['brief'])} |"


def _page(registry: Registry) -> str:
    lines = [_PAGE_HEAD, "## Spans", "", "| span | meaning | attributes |", "|---|---|---|"]
    for group in registry.of_type("span"):
        name = group["id"].removeprefix("span.")
        brief = group["brief"].partition(": ")[2]
        attributes = registry.attributes_of(group)
        shown = ", ".join(f"`{item}`" for item in attributes)
        if len(attributes) > 4:
            shown = f"[{len(attributes)}](#{_anchor(name)})"
        lines.append(f"| `{name}` | {_cell(brief[:1].upper() + brief[1:])} | {shown} |")
    lines += ["", "Every span also carries `esper.run.id`, `esper.run.attempt` and `esper.rank`.", ""]
    lines += ["## Span events", "", 'With `[otel] events = "log"` these are log events, with `"both"` both.', ""]
    lines += ["| event | meaning | attributes |", "|---|---|---|"]
    for group in registry.of_type("event"):
        shown = ", ".join(f"`{item}`" for item in registry.attributes_of(group))
        lines.append(f"| `{group['name']}` | {_cell(group['brief'])} | {shown} |")
    lines += ["", "## Metrics", "", "| metric | type | unit | attributes | cardinality | meaning |"]
    lines += ["|---|---|---|---|---|---|"]
    for group in registry.of_type("metric"):
        kind = "counter" if group["instrument"] == "counter" else group["instrument"]
        shown = ", ".join(f"`{item}`" for item in registry.attributes_of(group))
        lines.append(
            f"| `{group['metric_name']}` | {kind} | `{group['unit']}` | {shown} "
            f"| {_cell(annotation(group, 'cardinality'))} | {_cell(group['brief'])} |"
        )
    lines += ["", "## Attributes", ""]
    for group in registry.of_type("attribute_group"):
        title = group["id"].removeprefix("attributes.")
        lines += [f"### {title}", "", _cell(group["brief"]), "", "| attribute | type | unit | meaning |"]
        lines += ["|---|---|---|---|"]
        lines += [_attribute_row(registry, name) for name in registry.attributes_of(group)]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _anchor(title: str) -> str:
    return title.replace(".", "").replace(" ", "-")


# --- all of them --------------------------------------------------------------------------------


def outputs() -> dict[Path, str]:
    """What each generated file should contain."""
    manifest = yaml.safe_load((REGISTRY / "manifest.yaml").read_text(encoding="utf-8"))
    registry = load_registry()
    handwritten = Registry(
        tuple(group for group in registry.groups if not _is_gauge_of_field(registry, group)), registry.attributes
    )
    gauges = _gauges_yaml(handwritten)
    whole = Registry((*handwritten.groups, *yaml.safe_load(gauges)["groups"]), registry.attributes)
    return {
        REGISTRY / _GAUGES_FILE: gauges,
        Path(__file__).parent / "names.py": _names_py(whole, manifest["schema_url"]),
        _ROOT / "docs" / "reference" / "telemetry.md": _page(whole),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the generated files, or with ``--check`` say which are stale. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m esper_core.semconv.generate", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file is stale")
    check = parser.parse_args(arguments).check
    stale = 0
    for path, text in outputs().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if check:
            print(f"stale: {path.relative_to(_ROOT)}; run python -m esper_core.semconv.generate", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(_ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
