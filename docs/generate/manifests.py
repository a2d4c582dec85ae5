"""The manifests for Kubernetes: frames of ``templates/kubernetes`` around the files that run everywhere else."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import Final

import yaml

from rules import rules
from tables import template

__all__ = ["FOLDER", "manifests"]

FOLDER: Final = "collector-config/kubernetes"
_CONFIG: Final = Path(__file__).resolve().parents[2] / "collector-config"
_NOTE: Final = "# Written by docs/generate from templates/kubernetes and {origin}: run `make docs`.\n"


def manifests() -> dict[str, str]:
    """Path from the root of the repository, and text, of every manifest that is made of another file."""
    return {
        f"{FOLDER}/agent-daemonset.yaml": _with_file("agent-daemonset.yaml", "agent.yaml"),
        f"{FOLDER}/agent-sidecar.yaml": _with_file("agent-sidecar.yaml", "agent.yaml"),
        f"{FOLDER}/gateway.yaml": _with_file("gateway.yaml", "gateway.yaml"),
        f"{FOLDER}/prometheus-rule.yaml": _filled("prometheus-rule.yaml", "the rules", "groups", rules(), "  "),
        f"{FOLDER}/prometheus.yaml": _filled(
            *("prometheus.yaml", "prometheus/prometheus.yml", "settings", _settings(), "  ")
        ),
    }


def _with_file(frame: str, name: str) -> str:
    """A Collector's file as the value of a ConfigMap's key."""
    return _filled(frame, name, name, (_CONFIG / name).read_text(encoding="utf-8"), "    ")


def _filled(frame: str, origin: str, slot: str, text: str, margin: str) -> str:
    body = template(f"kubernetes/{frame}.txt").replace(f"@@{slot}@@\n", indent(text.rstrip("\n") + "\n", margin))
    return _NOTE.format(origin=origin) + body


def _settings() -> str:
    """What ``prometheus.yml`` sets for OTLP and for late points, as fields of the operator's ``Prometheus``."""
    given = yaml.safe_load((_CONFIG / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    fields = {
        "enableOTLPReceiver": True,
        "enableFeatures": ["exemplar-storage"],
        "evaluationInterval": given["global"]["evaluation_interval"],
        "scrapeInterval": given["global"]["scrape_interval"],
        "otlp": {
            "translationStrategy": given["otlp"]["translation_strategy"],
            "promoteResourceAttributes": given["otlp"]["promote_resource_attributes"],
        },
        "tsdb": {"outOfOrderTimeWindow": given["storage"]["tsdb"]["out_of_order_time_window"]},
        "exemplars": {"maxSize": given["storage"]["exemplars"]["max_exemplars"]},
    }
    return yaml.safe_dump(fields, sort_keys=False)
