"""The manifests for Kubernetes: as the published schemas have them, around the files that run everywhere else."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rules import rules

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "collector-config"
FILES = sorted((CONFIG / "kubernetes").glob("*.yaml"))
MODELS = {
    "v1": "cloudcoil.models.kubernetes.core.v1",
    "apps/v1": "cloudcoil.models.kubernetes.apps.v1",
    "batch/v1": "cloudcoil.models.kubernetes.batch.v1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}
GIVEN = {"esper-agent-token", "esper-gateway-tls", "esper-gateway-tokens", "esper-gateway-ca"}
"""Secrets and the authority's certificate: commands in the files' heads make them."""


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


ALL = [(path.name, document) for path in FILES for document in documents(path)]
WORKLOADS = [(name, item) for name, item in ALL if item["kind"] in {"DaemonSet", "Deployment", "Job"}]


def named(kind: str, file: str) -> dict[str, dict[str, Any]]:
    """The documents of a kind in one file, by name."""
    return {item["metadata"]["name"]: item for name, item in ALL if name == file and item["kind"] == kind}


def containers(workload: dict[str, Any]) -> list[dict[str, Any]]:
    spec = workload["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def ids(values: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [f"{name}-{item['kind']}" for name, item in values]


def test_the_folder_has_what_the_page_names() -> None:
    assert {path.stem for path in FILES} == {
        *("agent-daemonset", "agent-sidecar", "gateway", "monitors", "prometheus", "prometheus-rule")
    }


# --- the published schemas ------------------------------------------------------------------------


def check(document: dict[str, Any]) -> dict[str, Any]:
    """The document as its published model understands it; keys that the model does not know are gone.

    Raises:
        ValueError: a value is missing, or is not what the schema asks for.
    """
    model = getattr(importlib.import_module(MODELS[document["apiVersion"]]), document["kind"])
    found: dict[str, Any] = model.model_validate(document).model_dump(by_alias=True, exclude_unset=True, mode="json")
    return found


@pytest.mark.parametrize(("name", "document"), ALL, ids=ids(ALL))
def test_each_document_is_what_its_schema_asks_for_and_nothing_more(name: str, document: dict[str, Any]) -> None:
    assert check(document) == document, name


@pytest.mark.parametrize("wrong", ["a key that is not known", "a value of another type", "a value that is missing"])
def test_the_schemas_notice_what_is_wrong(wrong: str) -> None:
    document = documents(CONFIG / "kubernetes" / "agent-daemonset.yaml")[-1]
    (container,) = containers(document)
    if wrong == "a key that is not known":
        container["imagePolicy"] = "Always"
        assert check(document) != document
        return
    if wrong == "a value of another type":
        container["ports"][0]["containerPort"] = "no number"
    else:
        del document["spec"]["selector"]
    with pytest.raises(ValueError, match="containerPort" if wrong == "a value of another type" else "selector"):
        check(document)


# --- what no schema says ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "workload"), WORKLOADS, ids=ids(WORKLOADS))
def test_every_name_leads_somewhere(name: str, workload: dict[str, Any]) -> None:
    template = workload["spec"]["template"]
    if workload["kind"] != "Job":
        assert workload["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    volumes = {item["name"]: item for item in template["spec"]["volumes"]}
    for volume in volumes.values():
        for kind, source in (("ConfigMap", "configMap"), ("PersistentVolumeClaim", "persistentVolumeClaim")):
            wanted = volume.get(source, {}).get("name") or volume.get(source, {}).get("claimName")
            assert wanted is None or wanted in named(kind, name) or wanted in GIVEN
        assert volume.get("secret", {}).get("secretName") in {None, *GIVEN}
    mounted = {mount["name"] for container in containers(workload) for mount in container["volumeMounts"]}
    assert mounted == set(volumes)
    for container in containers(workload):
        ports = {item["name"] for item in container.get("ports", [])}
        for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
            assert container.get(probe, {}).get("httpGet", {}).get("port") in {None, *ports}
    for service in named("Service", name).values():
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        (container,) = containers(workload)
        assert {item["targetPort"] for item in service["spec"]["ports"]} <= {
            item["name"] for item in container["ports"]
        }


@pytest.mark.parametrize(("name", "workload"), WORKLOADS, ids=ids(WORKLOADS))
def test_no_container_may_more_than_it_needs(name: str, workload: dict[str, Any]) -> None:
    assert workload["spec"]["template"]["spec"]["automountServiceAccountToken"] is False, name
    for container in containers(workload):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_images_are_of_the_version_that_is_tested() -> None:
    tested = yaml.safe_load((CONFIG / "compose.yaml").read_text())["services"]["collector"]["image"]
    used = {item["image"] for _, workload in WORKLOADS for item in containers(workload) if item["name"] != "trainer"}
    assert used == {tested}


@pytest.mark.parametrize(
    ("name", "file"),
    [("agent-daemonset", "agent"), ("agent-sidecar", "agent"), ("gateway", "gateway")],
)
def test_collectors_run_the_same_file_as_everywhere(name: str, file: str) -> None:
    (config,) = named("ConfigMap", f"{name}.yaml").values()
    text = (CONFIG / f"{file}.yaml").read_text()
    assert config["data"] == {f"{file}.yaml": text}
    (workload,) = (item for other, item in WORKLOADS if other == f"{name}.yaml")
    (container,) = (item for item in containers(workload) if item["name"] == file)
    assert container["args"] == [f"--config=/etc/esper/{file}.yaml"]
    own = {item["name"] for item in container["env"] if item["name"].startswith("ESPER_")}
    assert own == {variable for variable in own if f"${{env:{variable}" in text}, (
        "a variable that the file does not read"
    )
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    for item in container["env"]:
        if item.get("value", "").startswith("/"):
            assert any(item["value"].startswith(path) for path in paths), item


def test_the_rules_are_the_rule_files() -> None:
    (rule,) = named("PrometheusRule", "prometheus-rule.yaml").values()
    assert rule["spec"] == yaml.safe_load(rules())


def test_prometheus_is_set_as_its_file_says_and_finds_rules_and_monitors() -> None:
    given = yaml.safe_load((CONFIG / "prometheus" / "prometheus.yml").read_text())
    (prometheus,) = named("Prometheus", "prometheus.yaml").values()
    spec = prometheus["spec"]
    assert spec["otlp"]["promoteResourceAttributes"] == given["otlp"]["promote_resource_attributes"]
    assert spec["tsdb"]["outOfOrderTimeWindow"] == given["storage"]["tsdb"]["out_of_order_time_window"]
    for selector, kind, file in (
        ("ruleSelector", "PrometheusRule", "prometheus-rule.yaml"),
        ("serviceMonitorSelector", "ServiceMonitor", "monitors.yaml"),
        ("podMonitorSelector", "PodMonitor", "monitors.yaml"),
    ):
        (found,) = named(kind, file).values()
        assert spec[selector]["matchLabels"].items() <= found["metadata"]["labels"].items()


def test_monitors_scrape_the_collectors_under_the_names_that_the_rules_know() -> None:
    (service_monitor,) = named("ServiceMonitor", "monitors.yaml").values()
    (service,) = named("Service", "gateway.yaml").values()
    assert service_monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = service_monitor["spec"]["endpoints"]
    assert endpoint["port"] in {item["name"] for item in service["spec"]["ports"]}
    (pod_monitor,) = named("PodMonitor", "monitors.yaml").values()
    (pods,) = pod_monitor["spec"]["podMetricsEndpoints"]
    for name, workload in WORKLOADS:
        if name.startswith("agent"):
            labels = workload["spec"]["template"]["metadata"]["labels"]
            assert pod_monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
            ports = {port["name"] for item in containers(workload) for port in item.get("ports", [])}
            assert pods["port"] in ports
    jobs = {item["relabelings"][0]["replacement"] for item in (endpoint, pods)}
    assert jobs == {"esper-gateway", "esper-agent"}
    assert all(f'job="{job}"' in rules() or job in rules() for job in jobs)
