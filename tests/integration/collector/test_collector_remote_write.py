"""The remote-write path of the gateway: what its write-ahead log keeps, and what it does not."""

from __future__ import annotations

import json
import ssl
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.collector

TOKEN = "a-token"


def send(gateway: Any, certificates: Any, number: int) -> None:
    """One point of a gauge, whose value is its number."""
    attributes = [
        {"key": key, "value": {"stringValue": text}} for key, text in (("service.name", "esper"), ("esper.run.id", "r"))
    ]
    point = {"asDouble": number, "timeUnixNano": str(time.time_ns())}
    scope = {"metrics": [{"name": "esper.test.number", "gauge": {"dataPoints": [point]}}]}
    body = {"resourceMetrics": [{"resource": {"attributes": attributes}, "scopeMetrics": [scope]}]}
    request = urllib.request.Request(
        f"https://localhost:{gateway.http}/v1/metrics",
        json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"},
    )
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with urllib.request.urlopen(request, timeout=250, context=context) as answer:
        assert answer.status == 200


def numbers(prometheus: Any) -> list[float]:
    found = prometheus.query('esper_test_number{esper_run_id="r"}[1h]')
    return sorted(float(value) for series in found for _, value in series["values"])


def test_a_killed_gateway_loses_at_most_the_points_that_it_took_just_before(
    stage: Any, certificates: Any, helpers: Any, tmp_path: Path
) -> None:
    prometheus = stage.prometheus(flags=("--web.enable-remote-write-receiver",))
    gateway = stage.collector(
        *(helpers.CONFIG / "gateway.yaml", helpers.CONFIG / "remote-write.yaml"),
        name="gateway",
        ESPER_TLS_CERT=str(certificates.cert),
        ESPER_TLS_KEY=str(certificates.key),
        ESPER_GATEWAY_TOKEN=TOKEN,
        ESPER_REMOTE_WRITE=f"{prometheus.url}/api/v1/write",
        ESPER_RETRY_MAX_INTERVAL="1s",
        ESPER_WAL=str(tmp_path / "wal"),
    )
    sent = 0

    def send_some() -> None:
        nonlocal sent
        for _ in range(20):
            send(gateway, certificates, sent)
            sent += 1

    send_some()
    helpers.wait_for(lambda: numbers(prometheus) == list(range(20)), "points while all is well")
    prometheus.stop()
    for _ in range(3):
        send_some()
        gateway.kill()
        gateway.start()
    send_some()
    prometheus.start()
    # It sends in order: behind the last point, none is to come that is not there.
    helpers.wait_for(lambda: sent - 1 in numbers(prometheus), "the last point")
    found = numbers(prometheus)
    assert len(found) == len(set(found))
    assert {*range(20), *range(sent - 20, sent)} <= set(found), "no kill came behind these"
    for begin in range(20, sent - 20, 20):
        kept = [number for number in found if begin <= number < begin + 20]
        # The exporter answers before a point is in its log: the last ones before a kill may be gone, and no other.
        assert kept == list(range(begin, begin + len(kept)))
        assert len(kept) >= 10
    assert gateway.own_metric("otelcol_exporter_send_failed_metric_points") == 0
