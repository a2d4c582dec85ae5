"""Which events a full queue drops, and in what order it returns the rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper_core.host.deliver.buffer import PriorityBuffer, priority_of


def _drain(buffer: PriorityBuffer) -> list[object]:
    out = []
    while (item := buffer.pop()) is not None:
        out.append(item[1])
    return out


def test_events_come_out_in_the_order_they_went_in() -> None:
    buffer = PriorityBuffer(8)
    for number, priority in enumerate((3, 0, 4, 1, 3, 0)):
        assert buffer.put("hook", number, priority, 0.0) == 0
    assert _drain(buffer) == [0, 1, 2, 3, 4, 5]


def test_episodes_go_first_then_sink_status_and_never_an_update_for_them() -> None:
    buffer = PriorityBuffer(3)
    for hook in ("esper_ppo_updated", "esper_sink_status_changed", "esper_episode_finished"):
        buffer.put(hook, hook, priority_of(hook), 0.0)
    assert buffer.put("x", "second update", priority_of("esper_ppo_updated"), 0.0) == 1
    assert buffer.put("x", "third update", priority_of("esper_ppo_updated"), 0.0) == 1
    assert buffer.put("x", "episode", priority_of("esper_episode_finished"), 0.0) == 1
    assert buffer.put("x", "status", priority_of("esper_sink_status_changed"), 0.0) == 1
    assert _drain(buffer) == ["esper_ppo_updated", "second update", "third update"]


def test_a_run_s_end_displaces_the_oldest_update_and_nothing_displaces_it() -> None:
    buffer = PriorityBuffer(2)
    buffer.put("x", "start", priority_of("esper_run_started"), 0.0)
    buffer.put("x", "update 1", priority_of("esper_ppo_updated"), 0.0)
    assert buffer.put("x", "end", priority_of("esper_run_finished"), 0.0) == 1
    assert buffer.put("x", "update 2", priority_of("esper_ppo_updated"), 0.0) == 1
    assert _drain(buffer) == ["start", "end"]


def test_it_knows_when_room_would_cost_something_as_important() -> None:
    buffer = PriorityBuffer(2)
    buffer.put("x", 1, 3, 0.0)
    assert not buffer.must_lose(3)
    buffer.put("x", 2, 0, 0.0)
    assert not buffer.must_lose(3)
    assert buffer.must_lose(0)


@given(st.integers(1, 6), st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=60))
def test_nothing_vanishes_uncounted(size: int, steps: list[int | None]) -> None:
    """Whatever goes in comes out in order, waits, or was counted as lost."""
    buffer = PriorityBuffer(size)
    put = taken = lost = 0
    last = -1
    for priority in steps:
        if priority is None:
            item = buffer.pop()
            if item is not None:
                assert item[1] > last
                last = item[1]
                taken += 1
        else:
            lost += buffer.put("x", put, priority, 0.0)
            put += 1
        assert len(buffer) <= size
        assert put == taken + lost + len(buffer)
