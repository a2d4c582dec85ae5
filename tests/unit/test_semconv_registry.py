"""The registry names everything that is emitted, nothing else, and what is generated from it is fresh."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from esper_core.events import (
    PAYLOADS,
    EarlyStop,
    PolicyEvaluated,
    PPOUpdatePayload,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import HealthLevel, RunState
from esper_core.host.otel.resource import run_resource
from esper_core.semconv import names
from esper_core.semconv.attributes import (
    ITERATION_SPAN,
    ROLLOUT_SPAN,
    SPAN_NAMES,
    attribute_specs,
    common_attributes,
    span_events,
)
from esper_core.semconv.failure import ERROR_TYPE, EXCEPTION, EXCEPTION_MESSAGE, EXCEPTION_TYPE
from esper_core.semconv.rl import RL_SPANS
from registry import annotation, load_registry

REGISTRY = load_registry()
GROUPS = {group["id"]: group for group in REGISTRY.groups}
NAME = re.compile(r"(esper|rl)(\.[a-z][a-z0-9]*(_[a-z0-9]+)*)+")
FOREIGN = {ERROR_TYPE, EXCEPTION_TYPE, EXCEPTION_MESSAGE}
# UCUM units in use, or an annotation in braces, or a rate of one.
UNIT = re.compile(r"1|s|\{[a-z]+\}(/s)?")


GAUGES = tuple(gauge.name for gauge in (*names.GAUGES, *names.EVALUATION_GAUGES))


def test_an_attribute_defined_twice_or_referred_to_in_vain_is_refused(tmp_path: Path) -> None:
    def write(*attributes: dict[str, str]) -> None:
        group = {"id": "g", "type": "attribute_group", "attributes": list(attributes)}
        (tmp_path / "a.yaml").write_text(yaml.safe_dump({"groups": [group]}))

    write({"id": "esper.a"}, {"id": "esper.a"})
    with pytest.raises(ValueError, match=r"esper\.a is defined twice"):
        load_registry(tmp_path)
    write({"ref": "esper.b"})
    with pytest.raises(ValueError, match=r"no attribute esper\.b"):
        load_registry(tmp_path)


# --- form ---------------------------------------------------------------------------------------


def test_names_follow_the_conventions() -> None:
    for name in ({*REGISTRY.attributes} - FOREIGN) | {
        *names.METRICS,
        *GAUGES,
    }:
        assert NAME.fullmatch(name), name
        assert not name.endswith("_total"), name


def test_no_attribute_is_also_a_namespace_of_others() -> None:
    shared = {name for name in REGISTRY.attributes for other in REGISTRY.attributes if other.startswith(f"{name}.")}
    assert shared == {"rl.system"}  # the proposal's own: rl.system.version


def test_every_entry_says_what_it_means_in_a_sentence() -> None:
    for name, item in REGISTRY.attributes.items():
        assert item["brief"].endswith("."), name
        assert item["stability"] == "development", name
        assert "members" in item["type"] or item["examples"], name
    for group in REGISTRY.groups:
        assert group["brief"].endswith("."), group["id"]
        assert group["stability"] == "development"


def test_every_metric_has_a_unit_a_type_and_a_cardinality() -> None:
    for group in REGISTRY.of_type("metric"):
        assert group["id"] == f"metric.{group['metric_name']}"
        assert UNIT.fullmatch(group["unit"]), group["metric_name"]
        assert group["instrument"] in {"counter", "updowncounter", "histogram", "gauge"}
        assert annotation(group, "cardinality"), group["metric_name"]
    assert "esper.ppo.update_id" not in {name for spec in names.METRICS.values() for name in spec.attributes}


# --- the code and the registry are the same -----------------------------------------------------


def test_every_payload_field_is_an_attribute_of_its_type_and_the_reverse() -> None:
    emitted = {spec.key: spec.type for kind in PAYLOADS for spec in attribute_specs(kind)}
    assert {name: names.ATTRIBUTES[name] for name in emitted} == emitted
    others = {
        *common_attributes(run_id="r", attempt=1, rank=0),
        "esper.marked",
        *FOREIGN,
        "esper.ppo.field",
        "esper.run.kl_limit.level",
        *(f"esper.ppo.kl.{part}" for part in ("scope", "epoch", "value")),
    }
    assert set(names.ATTRIBUTES) == set(emitted) | others
    assert all(names.ATTRIBUTES[name] == "int" for name in ("esper.run.attempt", "esper.rank"))


@pytest.mark.parametrize("kind", list(PAYLOADS))
def test_every_span_carries_the_attributes_that_the_registry_lists_in_their_order(kind: str) -> None:
    group = GROUPS[f"span.{SPAN_NAMES[kind]}"]
    fails = [ERROR_TYPE] if kind in {"ppo_updated", "run_finished"} else []
    assert REGISTRY.attributes_of(group) == [spec.key for spec in attribute_specs(kind)] + fails
    assert group["span_kind"] == "internal"


def test_every_span_is_in_the_registry_and_the_reverse() -> None:
    spans = {group["id"].removeprefix("span.") for group in REGISTRY.of_type("span")}
    assert spans == {*SPAN_NAMES.values(), ITERATION_SPAN, ROLLOUT_SPAN, *(span.name for span in RL_SPANS)}


def test_every_span_event_is_in_the_registry_with_its_attributes_and_the_reverse() -> None:
    own = SpanRef(name="esper.ppo.update", span_id="1" * 16, start_ns=1, end_ns=1)
    payload = PPOUpdatePayload(
        update_id=1,
        kl_by_epoch=(0.1,),
        non_finite=1,
        early_stop=EarlyStop(epoch=1, minibatch=1, value=0.1, threshold=0.03, head="slot"),
    )
    event = TelemetryEvent(time_ns=1, run_id="r", trace=TraceRef(trace_id="1" * 32, spans=(own,)), payload=payload)
    types = {int: "int", float: "double", str: "string"}
    found = span_events(event)
    assert EXCEPTION in {item.name for item in found}
    emitted = {item.name: list(item.attributes) for item in found}
    listed = {group["name"]: REGISTRY.attributes_of(group) for group in REGISTRY.of_type("event")}
    assert emitted == listed
    for item in found:
        for name, value in item.attributes.items():
            assert names.ATTRIBUTES[name] == types[type(value)], name


def test_enumerations_list_every_value() -> None:
    members = {
        name: [member["value"] for member in item["type"]["members"]]
        for name, item in REGISTRY.attributes.items()
        if not isinstance(item["type"], str)
    }
    for name in ("esper.ppo.health", "esper.policy.health.current"):
        assert members[name] == [level.value for level in HealthLevel]
    assert members["esper.run.state"] == [state.value for state in RunState]


def test_gauges_name_fields_of_the_update() -> None:
    fields = {item.name for item in dataclasses.fields(PPOUpdatePayload)}
    for gauge in names.GAUGES:
        assert gauge.field.partition(".")[0] in fields
        assert gauge.head == gauge.field.startswith("heads.")
    assert {gauge.field for gauge in names.EVALUATION_GAUGES} <= {
        item.name for item in dataclasses.fields(PolicyEvaluated)
    }
    measured = {
        item.name
        for item in dataclasses.fields(PPOUpdatePayload)
        if str(item.type).startswith("float") and item.name != "kl_by_epoch"
    }
    assert measured <= {gauge.field for gauge in names.GAUGES}  # every measured number can be plotted


def test_the_reference_page_names_every_metric_and_attribute() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "telemetry.md").read_text(encoding="utf-8")
    for name in (
        *names.ATTRIBUTES,
        *names.METRICS,
        *GAUGES,
    ):
        assert f"`{name}`" in page


def test_entities_are_identified_by_what_every_point_carries() -> None:
    entities = {group["name"]: group["attributes"] for group in REGISTRY.of_type("entity")}
    roles = {name: {item["ref"]: item["role"] for item in attributes} for name, attributes in entities.items()}
    assert roles["esper.run"] == {
        "esper.run.id": "identifying",
        "esper.run.attempt": "identifying",
        "esper.rank": "identifying",
        "esper.run.environment": "descriptive",
        "esper.run.algorithm": "descriptive",
    }
    assert set(roles["esper.ppo.head"]) == {"esper.run.id", "esper.ppo.head.name"}


def test_every_resource_attribute_of_esper_is_in_the_registry_under_one_name() -> None:
    resource = run_resource(run_id="r", attempt=1, rank=0, environment="E", env={})
    own = {key for key in resource if key.startswith("esper.")}
    assert own == {"esper.run.id", "esper.run.attempt", "esper.rank", "esper.run.environment", "esper.run.algorithm"}
    assert own <= set(REGISTRY.attributes)


def test_the_schema_file_is_the_one_that_telemetry_names() -> None:
    """The format of OpenTelemetry's schema files, 1.1.0: its own URL ends with its newest version."""
    (path,) = (Path(__file__).parents[2] / "docs" / "telemetry" / "schemas").iterdir()
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["file_format"] == "1.1.0"
    assert content["schema_url"] == names.SCHEMA_URL
    assert names.SCHEMA_URL.endswith(f"/{path.name}")
    assert list(content["versions"]) == [path.name]
