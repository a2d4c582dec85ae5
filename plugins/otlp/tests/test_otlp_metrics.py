"""Gauges carry their event's time, collections are shared and never in the trainer's thread, old points stay out."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider

from esper_core import __version__ as esper_version
from esper_core.semconv.gauges import gauge_points
from esper_core.semconv.identity import SCHEMA_URL
from esper_core.semconv.names import GAUGES
from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.exporter import Exporter
from esper_sink_otlp.metrics import MetricSource, UpdateReader
from esper_sink_otlp.sender import Sender
from esper_sink_otlp.settings import MetricSettings, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RESOURCE = {"service.name": "esper", "esper.run.id": "run-1"}


class Rig:
    """A provider with one instrument of each kind, the sink's reader and its exporter."""

    def __init__(
        self, receiver: Any, *, temporality: Any = "cumulative", interval_s: float = 60.0, **table: Any
    ) -> None:
        settings = MetricSettings(interval_s=interval_s, temporality=temporality, exponential=False)
        self.threads: set[str] = set()
        replay = table.pop("replay", False)
        self.reader = None if replay else UpdateReader(settings)
        self.source = MetricSource(
            settings=settings,
            points=table.pop("points", gauge_points),
            resource=lambda _: RESOURCE,
            reader=self.reader,
            patient=replay,
            **{"update_interval_s": 0.0, **table},
        )
        self.provider = None
        if self.reader is not None:
            self.provider = MeterProvider(metric_readers=[self.reader], shutdown_on_exit=False)
            meter = self.provider.get_meter("esper_core")
            self.counter = meter.create_counter("esper.ppo.updates")
            self.histogram = meter.create_histogram("esper.ppo.kl_divergence")

            def observe(_: CallbackOptions) -> Iterable[Observation]:
                self.threads.add(threading.current_thread().name)
                return [Observation(0.5)]

            meter.create_observable_gauge("esper.ppo.last.kl_divergence", [observe])
            meter.create_observable_gauge("esper.run.heartbeat", [observe])
        where = resolve(OtlpConfig(endpoint=receiver.url, timeout_s=60.0), {}, "metrics")
        self.exporter = Exporter(
            *("metrics", Sender(where, str), self.source),
            timeout_s=60.0,
            batch_bytes=1 << 20,
            on_change=lambda _: None,
        )
        self.exporter.start()

    def close(self) -> None:
        self.exporter.close(250)


@pytest.fixture
def rig(receiver: Any) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(receiver, **options))
        return made[-1]

    yield make
    for item in made:
        item.close()


def test_every_update_is_its_own_point_at_its_own_time(receiver: Any, rig: Any, update: Any) -> None:
    made = rig(update_interval_s=0.2)
    moments = [time.time_ns() - 5_000_000_000 + number * 1_000_000 for number in range(1, 21)]
    for number, moment in enumerate(moments, 1):
        made.source.put(update(number, time_ns=moment))
    made.close()
    points = receiver.points("esper.ppo.last.kl_divergence")
    assert [point.time_unix_nano for point in points] == moments
    assert [point.as_double for point in points] == [pytest.approx(0.01 * number) for number in range(1, 21)]
    heads = {
        item.value.string_value
        for point in receiver.points("esper.ppo.last.head.kl")
        for item in point.attributes
        if item.key == "esper.ppo.head.name"
    }
    assert heads == {"slot", "tempo"}


def test_collections_are_shared_and_counted(receiver: Any, rig: Any, update: Any) -> None:
    made = rig(update_interval_s=60.0)
    for number in range(1, 31):
        made.source.put(update(number))
    made.close()
    assert len(receiver.metrics) <= 3
    assert made.source.coalesced >= 27


def test_the_last_gauges_of_the_sdk_are_left_out_and_the_others_are_not(receiver: Any, rig: Any, update: Any) -> None:
    made = rig()
    made.source.put(update(1, kl_divergence=0.02))
    made.close()
    assert {point.as_double for point in receiver.points("esper.ppo.last.kl_divergence")} == {0.02}
    assert {point.as_double for point in receiver.points("esper.run.heartbeat")} == {0.5}


def test_collecting_happens_in_the_exporters_thread_alone(receiver: Any, rig: Any, update: Any) -> None:
    made = rig(interval_s=0.05)
    made.source.put(update(1))
    time.sleep(0.2)
    made.close()
    assert made.threads == {"esper-otlp-metrics"}


def test_the_interval_collects_without_updates(receiver: Any, rig: Any, eventually: Any) -> None:
    made = rig(interval_s=0.05)
    made.counter.add(3)
    assert eventually(lambda: len(receiver.metrics) >= 2)


def test_while_the_receiver_is_away_gauges_wait_and_nothing_is_lost(
    receiver: Any, rig: Any, update: Any, eventually: Any
) -> None:
    made = rig()
    receiver.answer = 503
    for number in range(1, 11):
        made.source.put(update(number))
        made.counter.add(1)
        time.sleep(0.01)
    assert eventually(lambda: made.exporter.failures)
    receiver.answer = 200
    assert eventually(lambda: len(receiver.points("esper.ppo.last.kl_divergence")) == 10)
    assert made.exporter.account.lost == 0


def test_delta_collections_survive_an_outage(receiver: Any, rig: Any, update: Any, eventually: Any) -> None:
    """A cumulative collection may be thrown away, since the next holds it; a delta may not."""
    made = rig(temporality="delta")
    receiver.answer = 503
    made.counter.add(5)
    made.source.put(update(1))
    assert eventually(lambda: made.exporter.failures)
    made.counter.add(2)
    receiver.answer = 200
    assert eventually(lambda: receiver.points("esper.ppo.last.kl_divergence"))
    made.source.put(update(2))
    made.close()
    sums = [
        point.as_int
        for metric in receiver.all_metrics()
        if metric.name == "esper.ppo.updates"
        for point in metric.sum.data_points
    ]
    assert sum(sums) == 7


def test_points_older_than_the_window_are_kept_out_with_a_count(receiver: Any, rig: Any, update: Any) -> None:
    made = rig(replay=True, window_s=3600.0)
    now = time.time_ns()
    for number in range(1, 6):
        made.source.put(update(number, time_ns=now - 7200 * 10**9 + number))
    for number in range(6, 9):
        made.source.put(update(number, time_ns=now - 60 * 10**9 + number))
    made.close()
    assert len(receiver.points("esper.ppo.last.kl_divergence")) == 3
    assert made.exporter.account.outside == 5
    assert made.source.points_outside == 5 * len(gauge_points(update(1)))


def test_a_replay_sends_many_updates_in_few_requests(receiver: Any, rig: Any, update: Any) -> None:
    made = rig(replay=True, queue_size=50)
    now = time.time_ns()
    for number in range(1, 501):
        made.source.put(update(number, time_ns=now + number * 1_000_000))
    made.close()
    assert len(receiver.points("esper.ppo.last.kl_divergence")) == 500
    assert made.exporter.account.dropped == 0
    resource = receiver.metrics[0].resource_metrics[0].resource
    found = {item.key: item.value.string_value for item in resource.attributes}
    assert found == RESOURCE


def test_a_replayed_point_has_the_live_ones_scope_description_and_unit(receiver: Any, rig: Any, update: Any) -> None:
    """Else a backend that keeps scopes draws a second line beside the live one."""
    made = rig(replay=True)
    made.source.put(update(1))
    made.close()
    (scope,) = receiver.metrics[0].resource_metrics[0].scope_metrics
    assert (scope.scope.name, scope.scope.version, scope.schema_url) == ("esper_core", esper_version, SCHEMA_URL)
    gauges = {gauge.name: (gauge.unit, gauge.brief) for gauge in GAUGES}
    assert {item.name: (item.unit, item.description) for item in scope.metrics}.items() <= gauges.items()


def test_too_large_requests_are_halved_by_updates(receiver: Any, rig: Any, update: Any) -> None:
    receiver.longest = 20_000
    made = rig(replay=True)
    now = time.time_ns()
    for number in range(1, 65):
        made.source.put(update(number, time_ns=now + number * 1_000_000))
    made.close()
    assert len(receiver.points("esper.ppo.last.kl_divergence")) == 64
    assert made.exporter.account.lost == 0


def test_an_update_whose_points_cannot_be_made_costs_itself_alone(receiver: Any, rig: Any, update: Any) -> None:
    def points(event: Any) -> Any:
        if event.payload.update_id == 3:
            raise ArithmeticError("no such number")
        return gauge_points(event)

    made = rig(replay=True, points=points)
    for number in range(1, 9):
        made.source.put(update(number))
    made.close()
    assert len(receiver.points("esper.ppo.last.kl_divergence")) == 7
    assert (made.exporter.account.delivered, made.exporter.account.rejected) == (7, 1)


def test_a_partial_success_counts_each_refused_point_as_an_update(receiver: Any, rig: Any, update: Any) -> None:
    """It says how many points, not which: more may have arrived than the account says, never fewer."""
    receiver.reject = 3
    made = rig(replay=True)
    for number in range(1, 9):
        made.source.put(update(number))
    made.close()
    assert (made.exporter.account.delivered, made.exporter.account.rejected) == (5, 3)
    receiver.reject = 1000
    made = rig(replay=True)
    made.source.put(update(1))
    made.close()
    assert (made.exporter.account.delivered, made.exporter.account.rejected) == (0, 1)


def test_a_marked_update_marks_its_points(receiver: Any, rig: Any, update: Any) -> None:
    from dataclasses import replace

    made = rig(replay=True)
    made.source.put(replace(update(1), marked=True))
    made.close()
    (point,) = receiver.points("esper.ppo.last.kl_divergence")
    assert {item.key for item in point.attributes} == {
        "esper.run.id",
        "esper.run.attempt",
        "esper.rank",
        "esper.marked",
    }
