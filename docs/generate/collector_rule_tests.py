"""What ``promtool test rules`` proves of the alerts on a Collector's own troubles."""

from __future__ import annotations

from typing import Any, Final

from rule_test_parts import CRITICAL, WARNING, Series, alive, rule_test, series

_GATEWAY: Final = {"job": "esper-gateway", "instance": "gateway:8888"}
_AGENT: Final = {"job": "esper-agent", "instance": "trainer-1:8888", "host_name": "trainer-1"}
_QUEUE: Final = {"exporter": "otlp_http", "data_type": "metrics"}
_RECEIVER: Final = {"receiver": "otlp", "transport": "http"}
_REFUSED: Final = "otelcol_receiver_refused_metric_points_total"
_UNQUEUED: Final = "otelcol_exporter_enqueue_failed_metric_points"
_DROPPED: Final = "otelcol_exporter_send_failed_spans_total"
_TAKEN_OUT: Final = "otelcol_processor_filter_datapoints_filtered_total"


def collector_tests() -> list[dict[str, Any]]:
    """No room, a full disk, data given up, points from the future."""
    return [
        rule_test(
            "a Collector without room: it refuses, or its queue is nearly full",
            [
                *alive(40),
                series(_REFUSED, "0x20 0+9x20", _AGENT, **_RECEIVER),
                *_queue("0x20 90x20"),
            ],
            ("4m", {}),
            ("9m", {"EsperCollectorFull": [{**_AGENT, **WARNING}, {**_GATEWAY, **WARNING}]}),
        ),
        rule_test(
            "a full disk: the queue has room and takes nothing, and what is refused is refused for that",
            [
                *alive(80),
                series("up", "1x80", _AGENT),
                series(_REFUSED, "0x20 0+9x20 171x40", _AGENT, **_RECEIVER),
                series(_UNQUEUED, "_x20 0+9x20 171x40", _AGENT, **_QUEUE),
                *_queue("5x80", _AGENT),
            ],
            ("4m", {}),
            ("6m", {"EsperCollectorDiskFull": [{**_AGENT, **CRITICAL}]}),
            ("9m", {"EsperCollectorDiskFull": [{**_AGENT, **CRITICAL}]}),
            ("17m", {}),
        ),
        rule_test(
            "a full queue takes nothing either, and that is no full disk",
            [
                *alive(40),
                series("up", "1x40", _AGENT),
                series(_REFUSED, "0x20 0+9x20", _AGENT, **_RECEIVER),
                series(_UNQUEUED, "_x20 0+9x20", _AGENT, **_QUEUE),
                *_queue("5x20 99x20", _AGENT),
            ],
            ("9m", {"EsperCollectorFull": [{**_AGENT, **WARNING}]}),
        ),
        rule_test(
            "one batch that was given up, by a counter that appears with it",
            [
                *alive(80),
                series("up", "1x80", _AGENT),
                series(_DROPPED, "_x30 512x50", _AGENT, exporter="otlp_http"),
            ],
            ("7m", {}),
            ("8m", {"EsperCollectorDrops": [{**_AGENT, **WARNING}]}),
            ("11m", {"EsperCollectorDrops": [{**_AGENT, **WARNING}]}),
            ("14m", {}),
        ),
        rule_test(
            "what a Collector gave up before Prometheus knew it is not of now",
            [*alive(80), series("up", "_x20 1x60", _AGENT), series(_DROPPED, "_x20 512x60", _AGENT)],
            *((when, {}) for when in ("5m15s", "8m", "10m", "11m", "15m")),
        ),
        rule_test(
            "a trainer's clock is ahead: its points are taken out; old ones are a replay's",
            [
                *alive(80),
                series("up", "1x80", _GATEWAY),
                series(_TAKEN_OUT, "0x20 0+40x20 760x40", _GATEWAY, filter="filter/too_new"),
                series(_TAKEN_OUT, "0+40x80", _GATEWAY, filter="filter/too_old"),
            ],
            ("4m", {}),
            ("7m", {"EsperClockAhead": [{**_GATEWAY, **WARNING}]}),
            ("17m", {}),
        ),
    ]


def _queue(sizes: str, collector: dict[str, str] = _GATEWAY) -> list[Series]:
    """Size and capacity of an exporter's queue, the capacity 100."""
    return [
        series("otelcol_exporter_queue_size", sizes, collector, **_QUEUE),
        series("otelcol_exporter_queue_capacity", "100x80", collector, **_QUEUE),
    ]
