"""A trainer whose clock is wrong costs the others nothing, and its points are counted by themselves."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.collector

TOKEN = "a-token"
MINUTE_S = 60.0


def trainer(name: str, *ages_s: float, now_s: float) -> dict[str, Any]:
    """What one trainer sends: a point of one gauge for each age; a negative age is in the future."""
    attributes = {"service.name": "esper", "service.instance.id": name, "esper.run.id": name}
    points = [
        {"asDouble": age_s, "timeUnixNano": str(round((now_s - age_s) * 1e3) * 1_000_000)} for age_s in sorted(ages_s)
    ]
    return {
        "resource": {"attributes": [{"key": key, "value": {"stringValue": text}} for key, text in attributes.items()]},
        "scopeMetrics": [{"metrics": [{"name": "esper.test.age", "gauge": {"dataPoints": points[::-1]}}]}],
    }


def post(url: str, *resources: dict[str, Any], ca: Path | None = None) -> int:
    """Send them in one request; the status."""
    request = urllib.request.Request(
        url,
        json.dumps({"resourceMetrics": resources}).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"},
    )
    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    try:
        with urllib.request.urlopen(request, timeout=250, context=context) as answer:
            status: int = answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return status


def ages(prometheus: Any, name: str) -> list[float]:
    """Ages of the points that Prometheus has of a trainer, the youngest first."""
    found = prometheus.query(f'esper_test_age{{esper_run_id="{name}"}}[2d]', at=time.time() + 15 * MINUTE_S)
    return sorted(float(value) for series in found for _, value in series["values"])


@pytest.fixture
def prometheus(stage: Any) -> Any:
    return stage.prometheus()


@pytest.fixture
def gateway(stage: Any, certificates: Any, prometheus: Any, helpers: Any) -> Any:
    """The repository's, which joins what comes within two seconds into one request to Prometheus."""
    return stage.collector(
        helpers.CONFIG / "gateway.yaml",
        name="gateway",
        ESPER_TLS_CERT=str(certificates.cert),
        ESPER_TLS_KEY=str(certificates.key),
        ESPER_GATEWAY_TOKEN=TOKEN,
        ESPER_PROMETHEUS=prometheus.otlp,
        ESPER_BATCH_TIMEOUT="2s",
    )


def filtered(gateway: Any, kind: str) -> float:
    found: float = gateway.own_metric("otelcol_processor_filter_datapoints_filtered", filter=f"filter/{kind}")
    return found


def test_a_trainer_whose_clock_is_ahead_costs_the_others_nothing(
    prometheus: Any, gateway: Any, certificates: Any, helpers: Any
) -> None:
    """The trap first: straight to Prometheus, a point from the future takes its whole request with it."""
    now_s = time.time()
    healthy = trainer("trapped", 0, 1, 2, now_s=now_s)
    assert post(prometheus.otlp, healthy, trainer("skewed", -20 * MINUTE_S, now_s=now_s)) == 400
    assert len(ages(prometheus, "trapped")) < 3

    url = f"https://localhost:{gateway.http}/v1/metrics"
    for number in range(10):
        now_s = time.time()
        sent = trainer("healthy", float(number), now_s=now_s)
        skewed = trainer("skewed", -20 * MINUTE_S, -10 * MINUTE_S, now_s=now_s)
        assert post(url, sent, ca=certificates.ca) == post(url, skewed, ca=certificates.ca) == 200
    helpers.wait_for(lambda: ages(prometheus, "healthy") == list(range(10)), "every point of the healthy trainer")
    assert ages(prometheus, "skewed") == []
    assert filtered(gateway, "too_new") == 20
    assert filtered(gateway, "too_old") == 0
    assert gateway.own_metric("otelcol_exporter_send_failed_metric_points") == 0


def test_the_limits_on_both_sides_are_those_that_prometheus_takes_in_one_request(
    prometheus: Any, gateway: Any, certificates: Any, helpers: Any
) -> None:
    """Prometheus counts its window for late points from the newest point of all, which may be minutes ahead."""
    now_s = time.time()
    taken = [-8.5 * MINUTE_S, 0.0, 23 * 60 * MINUTE_S, (23 * 60 + 49) * MINUTE_S]
    url = f"https://localhost:{gateway.http}/v1/metrics"
    assert post(url, trainer("ahead", taken[0], now_s=now_s), ca=certificates.ca) == 200
    helpers.wait_for(lambda: ages(prometheus, "ahead"), "the point that is ahead")
    both = trainer("both", *taken, -9.5 * MINUTE_S, (23 * 60 + 51) * MINUTE_S, now_s=now_s)
    assert post(url, both, ca=certificates.ca) == 200
    helpers.wait_for(lambda: ages(prometheus, "both") == taken, "all but the two")
    assert (filtered(gateway, "too_new"), filtered(gateway, "too_old")) == (1, 1)
