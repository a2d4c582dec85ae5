"""One sink's wall: what is contained, when it is disabled, and what is said about it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faulty_sinks import Clock

from esper_core.host.deliver.guard import Guard

if TYPE_CHECKING:
    from esper_core.events import SinkStatusChanged


def _guard(clock: Clock | None = None, **options: Any) -> tuple[Guard, list[SinkStatusChanged]]:
    changes: list[SinkStatusChanged] = []
    guard = Guard(
        "loud",
        distribution="esper-sink-loud",
        version="1.2",
        on_change=changes.append,
        clock=clock or Clock(),
        **options,
    )
    return guard, changes


def _raise(error: BaseException) -> None:
    raise error


def _fine() -> None:
    """Work."""


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_sink_raises_stays_in_and_is_named(error: BaseException) -> None:
    guard, changes = _guard()
    assert guard.call(_raise, error) == "failed"
    assert [(c.sink, c.distribution, c.version, c.state, c.lost, c.failures) for c in changes] == [
        ("loud", "esper-sink-loud", "1.2", "failing", 1, 1)
    ]
    assert type(error).__name__ in changes[0].message


def test_five_failures_in_a_row_disable_it() -> None:
    guard, changes = _guard()
    for _ in range(5):
        guard.call(_raise, ValueError("no"))
    assert guard.is_disabled()
    assert [change.state for change in changes] == ["failing", "disabled"]
    assert "5 failures in a row" in changes[-1].message


def test_a_success_between_failures_starts_the_count_anew_and_says_recovered_once() -> None:
    guard, changes = _guard()
    for _ in range(4):
        guard.call(_raise, ValueError("no"))
    guard.call(_fine)
    guard.call(_fine)
    for _ in range(4):
        guard.call(_raise, ValueError("no"))
    assert not guard.is_disabled()
    assert [change.state for change in changes] == ["failing", "recovered", "failing"]


def test_io_errors_never_disable_it_and_back_off_longer_each_time() -> None:
    clock = Clock()
    guard, changes = _guard(clock)
    delays = []
    for _ in range(8):
        assert guard.call(_raise, OSError(28, "No space left on device")) == "retry"
        delays.append(guard.retry_delay_s)
        clock.now += guard.retry_delay_s
    assert delays == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert [change.state for change in changes] == ["failing"]
    assert "No space left" in changes[0].message
    guard.call(_fine)
    assert guard.retry_delay_s == 0
    assert changes[-1].state == "recovered"


def test_a_streak_of_losses_is_told_once_and_is_over_when_drained() -> None:
    guard, changes = _guard()
    guard.lose(1, "its queue is full")
    guard.lose(2, "its queue is full")
    guard.call(_fine)
    assert [change.state for change in changes] == ["failing"]
    guard.drained()
    guard.drained()
    assert [change.state for change in changes] == ["failing", "recovered"]
    assert guard.snapshot(delivery="all").lost == 3


def test_a_sink_s_own_word_counts_and_is_told_once() -> None:
    guard, changes = _guard()
    guard.report("failing", "collector refused", 512)
    guard.report("failing", "collector refused", 100)
    guard.call(_fine)  # the hook works: what failed lies behind it
    guard.drained()
    assert [change.state for change in changes] == ["failing"]
    guard.report("recovered", "collector answers")
    assert guard.snapshot(delivery="all").lost == 612
    assert [change.state for change in changes] == ["failing", "recovered"]


@pytest.mark.parametrize(
    ("state", "message", "lost", "words"),
    [
        ("failing", "x", -5, "lost=-5 is no count of events"),
        ("failing", "x", "many", "lost='many'"),
        ("failing", "x", True, "lost=True"),
        ("failing", "x", math.nan, "lost=nan"),
        ("failing", "x", 2.0, "lost=2.0"),
        ("failing", "x", 2**64, "lost=a value of type int"),
        ("failing", "x", None, "lost=a value of type NoneType"),
        ("bogus", "x", 1, "state 'bogus' is not known; report one of failing, recovered"),
        ("disabled", "x", 1, "state 'disabled' is not known"),
        (["failing"], "x", 1, "state a value of type list is not known"),
        ("failing", None, 1, "message is NoneType, not text"),
    ],
)
def test_a_report_that_is_none_is_the_sinks_failure_and_no_number(
    state: Any, message: Any, lost: Any, words: str
) -> None:
    guard, changes = _guard()
    guard.report(state, message, lost)
    guard.report(state, message, lost)
    found = guard.snapshot(delivery="all")
    assert (found.lost, found.failures, found.state) == (0, 2, "failing")
    assert len(changes) == 1
    assert words in changes[0].message
    guard.call(_fine)
    assert guard.snapshot(delivery="all").state == "failing", "its reports cannot be trusted: a hook proves nothing"
    guard.report("recovered", "counts again", 3)
    assert guard.snapshot(delivery="all").lost == 3
    assert changes[-1].state == "recovered"


def test_a_report_may_count_in_numpys_integers() -> None:
    guard, _ = _guard()
    guard.report("failing", "x", np.int64(4))  # type: ignore[arg-type]  # what a sink may give
    lost = guard.snapshot(delivery="all").lost
    assert (lost, type(lost)) == (4, int)


def test_a_short_line_that_fits_on_a_full_disk_is_no_recovery() -> None:
    clock = Clock()
    guard, changes = _guard(clock)
    full = OSError(28, "No space left on device")
    assert guard.call(_raise, full, hook="esper_ppo_updated") == "retry"
    clock.now += guard.retry_delay_s
    assert guard.call(_fine, hook="esper_sink_status_changed") == "ok"
    assert guard.call(_raise, full, hook="esper_ppo_updated") == "retry"
    assert guard.retry_delay_s == 0.5
    assert [change.state for change in changes] == ["failing"]
    guard.call(_fine, hook="esper_ppo_updated")
    assert [change.state for change in changes] == ["failing", "recovered"]
    guard.call(_raise, full, hook="esper_sink_status_changed")
    guard.call(_fine, hook="esper_ppo_updated")  # a longer line: the short one would fit too
    assert [change.state for change in changes][2:] == ["failing", "recovered"]


def test_a_thread_that_comes_back_late_changes_nothing_any_more() -> None:
    guard, changes = _guard()
    guard.close("cut_off", lost=3, message="cut off")
    guard.call(_fine)
    guard.lose(5)
    guard.report("failing", "late", 7)
    report = guard.snapshot(delivery="all")
    assert (report.state, report.lost, report.delivered, report.cut_off) == ("cut_off", 3, 0, True)
    assert not changes


def test_why_a_sink_was_disabled_outlives_the_end_of_the_run() -> None:
    guard, _ = _guard()
    guard.disable("did not open within 10 s")
    guard.close("cut_off", message="cut off at the deadline")
    report = guard.snapshot(delivery="all")
    assert (report.state, report.message) == ("cut_off", "did not open within 10 s")


def test_the_slowest_call_is_known() -> None:
    clock = Clock()
    guard, _ = _guard(clock)

    def slow() -> None:
        clock.now += 0.7

    guard.call(slow)
    guard.call(_fine)
    assert guard.snapshot(delivery="inline").slowest_s == pytest.approx(0.7)


def test_a_contained_keyboard_interrupt_is_passed_on_as_a_wish() -> None:
    wishes: list[int] = []
    guard, _ = _guard(on_interrupt=lambda: wishes.append(1))
    guard.call(_raise, KeyboardInterrupt())
    assert wishes == [1]
