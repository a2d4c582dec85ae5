"""Every alert of the rules has its section in the runbook and its row in the table, and leads to the section."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from rules import ALERTS, RUNBOOK, Times, rules

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "alerts.md"


def test_each_alert_has_a_section_and_a_row() -> None:
    assert tuple(re.findall(r"^## (Esper\w+)$", PAGE.read_text(), re.MULTILINE)) == ALERTS
    rows = re.findall(r"^\| `(Esper\w+)`", (ROOT / "collector-config" / "README.md").read_text(), re.MULTILINE)
    assert tuple(rows) == ALERTS


def test_each_rule_leads_to_its_section() -> None:
    found: dict[str, str] = {}
    for group in yaml.safe_load(rules())["groups"]:
        found |= {rule["alert"]: rule["annotations"]["runbook_url"] for rule in group["rules"] if "alert" in rule}
    assert found == {alert: f"{RUNBOOK}#{alert.lower()}" for alert in ALERTS}
    assert RUNBOOK.endswith(PAGE.relative_to(ROOT).as_posix())


def test_the_way_is_suspected_before_a_run_and_after_a_slow_export() -> None:
    times = Times()
    assert 60 + times.every_s <= times.pipeline_s
    assert times.pipeline_s + times.pipeline_held_s < times.vanished_s + times.returned_s
