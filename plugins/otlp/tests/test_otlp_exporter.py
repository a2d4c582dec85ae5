"""The exporter keeps batches while the receiver is away, counts every loss, and ends in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.exporter import Exporter, StateChange
from esper_sink_otlp.sender import Sender
from esper_sink_otlp.settings import QueueSettings, resolve
from esper_sink_otlp.spans import span_source

if TYPE_CHECKING:
    from collections.abc import Callable


CLOSE_S = 250.0
"""Time to send what is left where it can be sent: a guard against hanging."""
WHOLE_S = 3600.0
"""A delay after which a batch that is not full would be sent: it goes when it is full, or at the end."""


def span(number: int, size: int = 1) -> ReadableSpan:
    context = SpanContext(number + 1, number + 1, is_remote=False, trace_flags=TraceFlags(1))
    return ReadableSpan(
        name=f"span-{number}" + "x" * size, context=context, resource=Resource({}), start_time=1, end_time=2
    )


class Rig:
    """A source and its exporter, against the scripted receiver."""

    def __init__(
        self,
        receiver: Any,
        *,
        queue: int = 1000,
        batch: int = 10,
        batch_bytes: int = 1 << 20,
        delay_s: float = 0.01,
        **table: Any,
    ) -> None:
        self.changes: list[StateChange] = []
        settings = resolve(OtlpConfig(endpoint=receiver.url, timeout_s=table.pop("timeout_s", CLOSE_S)), {}, "traces")
        self.source = span_source(QueueSettings(queue_size=queue, batch_size=batch, delay_s=delay_s), **table)
        self.exporter = Exporter(
            "traces",
            Sender(settings, str),
            self.source,
            timeout_s=settings.timeout_s,
            batch_bytes=batch_bytes,
            on_change=self.changes.append,
        )
        self.exporter.start()

    def put(self, numbers: range, size: int = 1) -> None:
        for number in numbers:
            self.source.put(span(number, size))


def names(receiver: Any) -> list[int]:
    return [int(item.name.rstrip("x").removeprefix("span-")) for item in receiver.spans()]


def test_spans_arrive_once_and_in_order(receiver: Any) -> None:
    rig = Rig(receiver)
    rig.put(range(95))
    assert rig.exporter.close(CLOSE_S)
    assert names(receiver) == list(range(95))
    assert rig.exporter.account.delivered == 95
    assert rig.exporter.account.lost == 0


def test_an_outage_costs_nothing_and_is_told_once(receiver: Any, eventually: Callable[..., Any]) -> None:
    rig = Rig(receiver)
    receiver.answer = 503
    rig.put(range(30))
    assert eventually(lambda: rig.exporter.failures >= 2)
    rig.put(range(30, 60))
    receiver.answer = 200
    assert eventually(lambda: len(receiver.spans()) == 60)
    assert sorted(names(receiver)) == list(range(60))
    assert [change.state for change in rig.changes] == ["failing", "recovered"]
    assert "503" in rig.changes[0].message
    assert rig.exporter.close(CLOSE_S)
    assert rig.exporter.account.lost == 0


def test_retry_after_is_honoured(receiver: Any, eventually: Callable[..., Any]) -> None:
    rig = Rig(receiver)
    receiver.answer, receiver.headers = 429, {"retry-after": "1.2"}
    rig.put(range(3))
    assert eventually(lambda: rig.exporter.failures)
    receiver.answer = 200
    assert eventually(receiver.spans)
    assert receiver.moments[1] - receiver.moments[0] >= 1.2
    rig.exporter.close(CLOSE_S)


def test_a_full_queue_drops_the_oldest_and_counts(receiver: Any, eventually: Callable[..., Any]) -> None:
    rig = Rig(receiver, queue=20)
    receiver.answer = 503
    rig.put(range(10))
    assert eventually(lambda: rig.exporter.failures >= 1)
    rig.put(range(10, 40))
    assert rig.exporter.account.dropped == 20
    receiver.answer = 200
    assert eventually(lambda: len(receiver.spans()) == 20)
    assert sorted(names(receiver)) == list(range(20, 40))
    rig.exporter.close(CLOSE_S)


def test_what_is_refused_for_good_is_counted_and_not_sent_again(receiver: Any, eventually: Callable[..., Any]) -> None:
    rig = Rig(receiver, delay_s=WHOLE_S)
    receiver.answer = 404
    rig.put(range(10))
    assert eventually(lambda: rig.exporter.account.rejected == 10)
    assert "no OTLP receiver at this path" in rig.changes[0].message
    assert len(receiver.requests) == 1
    rig.exporter.close(CLOSE_S)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_an_outage_until_it_is_replaced(
    receiver: Any, eventually: Callable[..., Any], status: int
) -> None:
    """Tokens are rotated at the receiver, in a proxy, by a provider: nothing is dropped for it."""
    rig = Rig(receiver)
    receiver.answer = status
    rig.put(range(10))
    assert eventually(lambda: rig.exporter.failures)
    assert "token" in rig.changes[0].message
    receiver.answer = 200
    assert eventually(lambda: len(receiver.spans()) == 10)
    assert rig.exporter.close(CLOSE_S)
    assert rig.exporter.account.lost == 0


def test_a_span_that_cannot_be_encoded_costs_itself_alone(receiver: Any) -> None:
    """An encoder's error is permanent: the batch is divided, and the one is counted."""
    rig = Rig(receiver, batch=16, delay_s=WHOLE_S)
    rig.put(range(7))
    context = SpanContext(99, 99, is_remote=False, trace_flags=TraceFlags(1))
    rig.source.put(
        ReadableSpan(name="half a \ud800 pair", context=context, resource=Resource({}), start_time=1, end_time=2)
    )
    rig.put(range(8, 15))
    assert rig.exporter.close(CLOSE_S)
    assert sorted(names(receiver)) == [*range(7), *range(8, 15)]
    assert (rig.exporter.account.delivered, rig.exporter.account.rejected) == (14, 1)
    assert "cannot be encoded" in rig.changes[0].message


def test_too_large_requests_are_halved_until_they_fit(receiver: Any) -> None:
    receiver.longest = 3000
    rig = Rig(receiver, batch=64)
    rig.put(range(64), size=200)
    assert rig.exporter.close(CLOSE_S)
    assert sorted(names(receiver)) == list(range(64))
    assert rig.exporter.account.lost == 0


def test_a_batch_is_halved_before_it_is_sent_when_it_is_known_to_be_too_large(receiver: Any) -> None:
    rig = Rig(receiver, batch=64, batch_bytes=3000)
    rig.put(range(64), size=200)
    assert rig.exporter.close(CLOSE_S)
    assert sorted(names(receiver)) == list(range(64))
    assert rig.exporter.failures == 0


def test_a_span_that_no_receiver_takes_is_counted(receiver: Any) -> None:
    receiver.longest = 100
    rig = Rig(receiver)
    rig.put(range(1), size=500)
    rig.exporter.close(CLOSE_S)
    assert rig.exporter.account.rejected == 1


def test_partial_success_is_a_loss_with_the_receivers_words(receiver: Any) -> None:
    receiver.reject = 3
    receiver.echo = "\x1b[31m\r\n" * 1000
    rig = Rig(receiver, delay_s=WHOLE_S)
    rig.put(range(10))
    assert rig.exporter.close(CLOSE_S)
    assert (rig.exporter.account.delivered, rig.exporter.account.rejected) == (7, 3)
    assert "too many attributes" in rig.changes[0].message
    assert rig.changes[0].message.isprintable()
    assert len(rig.changes[0].message) < 300


def test_a_receiver_that_hangs_costs_the_time_that_was_given(receiver: Any, eventually: Callable[..., Any]) -> None:
    receiver.answer = "hang"
    rig = Rig(receiver, timeout_s=CLOSE_S)
    rig.put(range(100))
    assert eventually(lambda: receiver.hanging)
    rig.exporter.close(0.5)
    assert receiver.hanging == 1, "the end did not wait for it"
    assert rig.exporter.account.unsent == rig.exporter.account.lost == 100


def test_a_receiver_that_was_away_before_the_end_costs_a_few_more_tries(
    receiver: Any, eventually: Callable[..., Any]
) -> None:
    receiver.answer = 503
    rig = Rig(receiver)
    rig.put(range(100))
    assert eventually(lambda: rig.exporter.failing)
    tries = len(receiver.requests)
    assert rig.exporter.close(CLOSE_S), "it ended by itself, and left the time that was given"
    assert len(receiver.requests) <= tries + 4, "those of the end, and one that was on its way"
    assert rig.exporter.account.unsent == rig.exporter.account.lost == 100


def test_a_short_outage_at_the_very_end_is_tried_again(receiver: Any) -> None:
    receiver.script = [503]
    rig = Rig(receiver, batch=100, delay_s=WHOLE_S)
    rig.put(range(5))
    assert rig.exporter.close(CLOSE_S)
    assert len(receiver.requests) == 2
    assert rig.exporter.account.delivered == 5


def test_a_replay_waits_for_room_instead_of_dropping(receiver: Any) -> None:
    rig = Rig(receiver, queue=20, patient=True)
    rig.put(range(500))
    assert rig.exporter.close(CLOSE_S)
    assert rig.exporter.account.dropped == 0
    assert len(receiver.spans()) == 500


def test_closing_twice_waits_for_the_first(receiver: Any) -> None:
    rig = Rig(receiver)
    rig.put(range(5))
    assert rig.exporter.close(CLOSE_S)
    assert rig.exporter.close(CLOSE_S)
    assert len(receiver.spans()) == 5
