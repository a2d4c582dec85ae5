"""A deadline for somebody else's code: what waits is interrupted, what is in time is left alone."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.deadline import within
from esper_core.host.otel.variables import limit_notices

if TYPE_CHECKING:
    from gymnasium import Env

pytestmark = pytest.mark.timeout(300, method="thread")  # its signal method has the timer that these tests are about


def test_what_waits_too_long_is_interrupted_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match=r"did not end within 0\.05 s"), within(0.05):
        threading.Event().wait(250)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_is_in_time_is_left_alone() -> None:
    with within(250):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_outside_the_main_thread_and_beside_another_timer_there_is_none() -> None:
    ended = []

    def work() -> None:
        with within(0.001):
            time.sleep(0.02)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(250)
    assert ended == [True]
    signal.setitimer(signal.ITIMER_REAL, 250)
    try:
        with within(0.001):
            time.sleep(0.02)
    finally:
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0.0)
    assert left > 1


def test_a_limit_of_the_sdk_below_its_own_is_named() -> None:
    low = {
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2",
        "OTEL_SPAN_EVENT_COUNT_LIMIT": "128",
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "",
    }
    (line,) = limit_notices(low)
    assert line.startswith("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=2 makes the OpenTelemetry SDK drop")


def test_workers_whose_close_never_ends_hold_neither_the_start_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    gym = pytest.importorskip("gymnasium")
    from esper_core.envs import calls, workers  # need Gymnasium

    def make() -> Env[Any, Any]:
        import threading  # in the worker

        env: Env[Any, Any] = gym.make("CartPole-v1").unwrapped
        env.close = threading.Event().wait  # type: ignore[method-assign,assignment]  # for ever
        return env

    monkeypatch.setattr(workers, "_CLOSES_S", 0.05)
    env = workers.in_workers([make], "stuck")
    (worker,) = env.processes
    with pytest.raises(TimeoutError), within(0.05):
        calls.Calls(env, "stuck").close()
    worker.join(250)
    assert not worker.is_alive()
    assert env.closed
