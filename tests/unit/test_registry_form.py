"""The registry has the form that weaver reads: what its JSON schema asks for, written out here.

The schema (``semconv.schema.json`` of open-telemetry/weaver) comes with no package. On 2026-11-25 its version of
2026-08-22 accepted every file; the rules below are its own, and where it leaves more open they are stricter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "esper_core" / "semconv" / "registry"
GROUPS = [
    group
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "manifest.yaml"
    for group in yaml.safe_load(path.read_text())["groups"]
]
BASE = {
    "id",
    "type",
    "brief",
    "note",
    "extends",
    "attributes",
    "display_name",
    "deprecated",
    "stability",
    "annotations",
}
MORE = {
    "attribute_group": set(),
    "entity": {"name"},
    "span": {"span_kind", "events", "entity_associations"},
    "event": {"name", "body", "entity_associations"},
    "metric": {"metric_name", "instrument", "unit", "entity_associations"},
}
NEEDED = {
    "attribute_group": set(),
    "entity": {"name"},
    "span": {"span_kind"},
    "event": {"name"},
    "metric": {"metric_name", "instrument", "unit"},
}
ONE_OF = {
    "stability": {"stable", "development", "alpha", "beta", "release_candidate"},
    "span_kind": {"client", "server", "producer", "consumer", "internal"},
    "instrument": {"counter", "gauge", "histogram", "updowncounter"},
    "requirement_level": {"required", "recommended", "opt_in"},
    "role": {"identifying", "descriptive"},
}
CONDITIONAL = {"conditionally_required", "recommended", "opt_in"}
SCALARS = {"string", "int", "double", "boolean"}
TYPES = SCALARS | {f"{name}[]" for name in SCALARS}
COMMON = {"brief", "note", "examples", "requirement_level", "role", "deprecated", "stability", "annotations"}


def faults(group: dict[str, Any]) -> list[str]:
    """What weaver would not read in a group."""
    kind = group.get("type", "")
    if kind not in MORE:
        return [f"type {kind!r}"]
    found = [f"{key} is not known" for key in group.keys() - BASE - MORE[kind]]
    found += [f"{key} is missing" for key in ({"id", "brief", "type"} | NEEDED[kind]) - group.keys()]
    found += _values(group)
    for attribute in group.get("attributes", []):
        found += [f"{group.get('id')}: {fault}" for fault in _attribute(attribute)]
    return found


def _values(item: dict[str, Any]) -> list[str]:
    named = ((key, item[key], allowed) for key, allowed in ONE_OF.items() if key in item)
    return [f"{key} {value!r}" for key, value, allowed in named if not _known(value, allowed)]


def _known(value: Any, allowed: set[str]) -> bool:
    """Whether a value is one of those allowed; a level of requirement may come with its condition in words."""
    if isinstance(value, dict):
        return "recommended" in allowed and value.keys() <= CONDITIONAL and all(map(_is_text, value.values()))
    return value in allowed


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _attribute(item: dict[str, Any]) -> list[str]:
    if "ref" in item:
        return _values(item) + [f"{key} is not known" for key in item.keys() - COMMON - {"ref", "tag"}]
    found = [f"{key} is missing" for key in {"id", "type", "stability", "brief"} - item.keys()]
    found += [f"{key} is not known" for key in item.keys() - COMMON - {"id", "type", "tag"}]
    members = item["type"].get("members") if isinstance(item.get("type"), dict) else None
    if members is None:
        return found + _values(item) + ([] if item.get("type") in TYPES else [f"type {item.get('type')!r}"])
    for member in members:
        found += [f"{key} of a member is missing" for key in {"id", "value", "stability"} - member.keys()]
    return found + _values(item)


@pytest.mark.parametrize("group", GROUPS, ids=[group["id"] for group in GROUPS])
def test_a_group_is_as_weaver_reads_it(group: dict[str, Any]) -> None:
    assert faults(group) == []


def test_ids_are_there_once_and_what_is_extended_exists() -> None:
    ids = [group["id"] for group in GROUPS]
    assert len(ids) == len(set(ids))
    assert {group["extends"] for group in GROUPS if "extends" in group} <= set(ids)
    assert {name for group in GROUPS for name in group.get("events", [])} <= set(ids)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "metrics"},
        {"instrument": "meter"},
        {"unit": None},
        {"attributes": [{"ref": "esper.run.id", "requirement_level": "always"}]},
        {"attributes": [{"ref": "esper.run.id", "requirement_level": {"sometimes": "on Mondays"}}]},
        {"attributes": [{"ref": "esper.run.id", "requirement_level": {"conditionally_required": ""}}]},
        {"attributes": [{"id": "esper.new", "type": "float", "stability": "development", "brief": "New."}]},
        {"summary": "more"},
    ],
)
def test_a_wrong_group_is_noticed(wrong: dict[str, Any]) -> None:
    right = next(group for group in GROUPS if group["type"] == "metric")
    changed = {key: value for key, value in (right | wrong).items() if value is not None}
    assert faults(changed)
