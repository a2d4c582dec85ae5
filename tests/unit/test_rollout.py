"""Collecting rollouts, and what counts as a decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from esper_core.config.schema import PPOConfig
from esper_core.health import update_level
from esper_core.kl import KLStats, StopMonitor
from esper_core.kl.torch import k3_sums
from esper_core.ppo import HeadSpec, PPOAgent
from esper_core.ppo.collector import Collector
from esper_core.ppo.heads import HeadLayout
from esper_core.ppo.rollout import active_decisions

pytestmark = pytest.mark.numeric


def collect(task: Any, steps: int, **ppo: Any) -> tuple[PPOAgent, Any, list[Any]]:
    agent = PPOAgent(
        task.heads,
        task.obs_shape,
        PPOConfig(rollout_steps=steps, hidden=(8,), **ppo),
        conditioning_head=task.conditioning_head,
    )
    seen: list[Any] = []
    return agent, Collector(agent, task).collect(seen.append, lambda: False), seen


def value_of(agent: PPOAgent, *observation: float) -> float:
    return float(agent.values_of(torch.tensor([observation], dtype=torch.float32))[0])


def test_rows_are_what_was_seen_and_done(toys: Any) -> None:
    agent, collected, results = collect(toys.task(toys.Counter(3), toys.Counter(5)), 4)
    batch = collected.batch
    assert collected.steps == len(batch) == 8
    assert len(results) == 4
    assert batch.observations.view(4, 2, 2)[:, 0].tolist() == [[0, 1], [1, 1], [2, 1], [0, 2]]
    assert batch.observations.view(4, 2, 2)[:, 1].tolist() == [[0, 1], [1, 1], [2, 1], [3, 1]]
    again = agent.policy.evaluate(batch.observations, batch.actions, batch.legal)
    torch.testing.assert_close(again.log_prob, batch.log_prob, atol=1e-6, rtol=0)
    torch.testing.assert_close(again.values, batch.values, atol=1e-6, rtol=0)
    assert batch.active.all()


def test_terminated_episode_is_not_bootstrapped(toys: Any) -> None:
    agent, collected, _ = collect(toys.task(toys.Counter(1)), 1, gamma=0.9)
    assert collected.batch.returns.tolist() == [1.0]
    assert float(collected.batch.advantages) == pytest.approx(1 - value_of(agent, 0, 1), abs=1e-6)


def test_truncated_episode_is_bootstrapped_from_its_final_observation(toys: Any) -> None:
    """Not from the observation after the reset, which is what the step returned."""
    agent, collected, _ = collect(toys.task(toys.Counter(1, truncates=True)), 2, gamma=0.9)
    # Step 0 shows [0, 1]; its last observation is [1, 1]; the reset shows [0, 2].
    expected = [1 + 0.9 * value_of(agent, 1, 1), 1 + 0.9 * value_of(agent, 1, 2)]
    assert collected.batch.returns.tolist() == pytest.approx(expected, abs=1e-6)


def test_unfinished_episode_is_bootstrapped_from_the_next_observation(toys: Any) -> None:
    agent, collected, _ = collect(toys.task(toys.Counter(10)), 2, gamma=0.9, gae_lambda=0.0)
    expected = [1 + 0.9 * value_of(agent, 1, 1), 1 + 0.9 * value_of(agent, 2, 1)]
    assert collected.batch.returns.tolist() == pytest.approx(expected, abs=1e-6)


def test_next_rollout_goes_on_where_the_last_one_ended(toys: Any) -> None:
    task = toys.task(toys.Counter(10))
    agent = PPOAgent(task.heads, task.obs_shape, PPOConfig(rollout_steps=2))
    collector = Collector(agent, task)
    firsts = []
    for _ in range(3):
        batch = collector.collect(lambda _: None, lambda: False).batch
        assert batch is not None
        firsts.append(float(batch.observations[0, 0]))
    assert firsts == [0, 2, 4]


def test_stop_request_ends_at_the_next_step(toys: Any) -> None:
    task = toys.task(toys.Counter(10))
    agent = PPOAgent(task.heads, task.obs_shape, PPOConfig(rollout_steps=100))
    calls = iter([False] * 3 + [True])
    collected = Collector(agent, task).collect(lambda _: None, lambda: next(calls))
    assert (collected.interrupted, collected.batch, collected.steps) == (True, None, 3)


# --- what counts --------------------------------------------------------------------------------------


def test_forced_steps_leave_every_denominator(toys: Any) -> None:
    """On even steps WAIT alone is legal and slot has no effect: nothing was decided."""
    _, collected, _ = collect(toys.task(toys.Grafting(), toys.Grafting()), 8)
    batch = collected.batch
    odd = torch.arange(8).repeat_interleave(2) % 2 == 1
    assert torch.equal(batch.unforced, odd)
    grafted = batch.actions[:, 1] == 1
    assert torch.equal(batch.active[:, 1], odd)
    assert torch.equal(batch.active[:, 0], grafted)
    assert grafted.any()
    assert not grafted[odd].all()


def test_causal_mask_of_info_equals_the_table(toys: Any) -> None:
    table = collect(toys.task(toys.Grafting()), 12)[1].batch
    told = collect(toys.task(toys.Grafting(tell=True)), 12)[1].batch
    assert torch.equal(table.active, told.active)
    assert torch.equal(table.actions, told.actions)


def test_log_probability_of_a_head_is_over_the_choices_it_had(toys: Any) -> None:
    _, collected, _ = collect(toys.task(*[toys.Grafting() for _ in range(20)]), 4)
    batch = collected.batch
    slot = batch.log_prob[batch.active[:, 0], 0].exp()
    assert ((slot > 0.4) & (slot < 0.6)).all(), "two slots were legal, and the fresh policy is near uniform"


def test_a_decision_needs_an_effect_and_a_choice_and_a_step_without_one_is_forced() -> None:
    layout = HeadLayout([HeadSpec("a", 2), HeadSpec("b", 3)])
    legal = layout.pad(
        torch.tensor([[1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    )
    causal = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0]], dtype=torch.bool)
    active, unforced = active_decisions(layout, causal, legal)
    assert unforced.tolist() == [False, True, False, False]
    assert active.tolist() == [[False, False], [False, True], [False, False], [False, False]]


@st.composite
def moves(draw: st.DrawFn) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Sizes of heads, causal mask, legal choices (flat), log-ratios, and where heads with one choice are put."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    rows = draw(st.integers(1, 6))
    causal = draw(arrays.arrays(np.bool_, (rows, len(sizes))))
    legal = draw(arrays.arrays(np.bool_, (rows, sum(sizes))))
    ratios = draw(arrays.arrays(np.float32, causal.shape, elements=st.floats(-0.5, 0.5, width=32)))
    places = draw(st.lists(st.integers(0, len(sizes)), min_size=1, max_size=4))
    return sizes, causal, legal, ratios, places


def judged(sizes: list[int], causal: np.ndarray, legal: np.ndarray, ratios: np.ndarray) -> tuple[KLStats, list[object]]:
    """The KL of these decisions, and what every rule says to it."""
    layout = HeadLayout([HeadSpec(f"h{index}", size) for index, size in enumerate(sizes)])
    active, unforced = active_decisions(layout, torch.from_numpy(causal), layout.pad(torch.from_numpy(legal)))
    numerators = k3_sums(torch.from_numpy(ratios), active).tolist()
    stats = KLStats(tuple(numerators), tuple(active.sum(0).double().tolist()), float(unforced.sum()))
    said: list[object] = []
    for on in ("weighted", "joint"):
        monitor = StopMonitor(target_kl=0.02, on=on, rule="minibatch", planned=1)
        monitor.add(stats)
        said += [monitor.before_step(), monitor.joint_would_stop]
    return stats, said


@given(moves(), st.data())
@settings(max_examples=100, deadline=None)
def test_heads_with_one_choice_change_no_kl_no_share_no_level_and_no_stop(given_: Any, data: st.DataObject) -> None:
    """Wherever they stand, whatever their causal mask says: what has no choice does not count."""
    sizes, causal, legal, ratios, places = given_
    plain, said = judged(sizes, causal, legal, ratios)
    starts = np.cumsum([0, *sizes])
    rows = len(causal)
    for place in sorted(places, reverse=True):
        told = data.draw(arrays.arrays(np.bool_, (rows,)))
        causal = np.insert(causal, place, told, axis=1)
        ratios = np.insert(ratios, place, 0.0, axis=1)
        legal = np.insert(legal, starts[place], True, axis=1)
    more = [*sizes]
    for place in sorted(places, reverse=True):
        more.insert(place, 1)
    padded, said_too = judged(more, causal, legal, ratios)
    kept = [index for index, size in enumerate(more) if size > 1]
    others = [index for index, size in enumerate(sizes) if size > 1]
    for one, other in ((plain.weighted, padded.weighted), (plain.joint, padded.joint)):
        assert one == (None if other is None else pytest.approx(other, rel=1e-12))
    assert said_too == [value if not isinstance(value, float) else pytest.approx(value) for value in said]
    assert update_level(padded.weighted, kl_joint=padded.joint, non_finite=0) is update_level(
        plain.weighted, kl_joint=plain.joint, non_finite=0
    )
    assert (plain.steps, sum(plain.decisions)) == (padded.steps, sum(padded.decisions))
    for before, after in zip(others, kept, strict=True):
        assert plain.by_head[before] == padded.by_head[after]
        assert plain.shares[before] == pytest.approx(padded.shares[after])


def test_head_with_one_choice_alone_never_decides() -> None:
    layout = HeadLayout([HeadSpec("only", 1)])
    active, unforced = active_decisions(layout, torch.ones(3, 1, dtype=torch.bool), None)
    assert not active.any()
    assert not unforced.any()


# --- NaN from outside ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "value"), [("reward", np.nan), ("reward", np.inf), ("observation", np.nan)])
def test_non_finite_value_ends_the_rollout_and_is_named(toys: Any, what: str, value: float) -> None:
    task = toys.task(toys.Counter(9), toys.Counter(9, poison=what, value=value))
    collected = collect(task, 5)[1]
    assert collected.batch is None
    assert collected.fault.reason == f"{what} of environment 1 is {value}"
    assert collected.fault.count == 1
    assert collected.steps == 4


def test_keep_going_finishes_the_rollout_and_counts(toys: Any) -> None:
    task = toys.task(toys.Counter(3, poison="observation"))
    agent = PPOAgent(task.heads, task.obs_shape, PPOConfig(rollout_steps=6))
    collected = Collector(agent, task, keep_going=True).collect(lambda _: None, lambda: False)
    assert (collected.batch, collected.steps) == (None, 6)
    assert collected.fault is not None
    assert collected.fault.count == 2


# --- heads --------------------------------------------------------------------------------------------


def test_padding_and_back() -> None:
    layout = HeadLayout([HeadSpec("a", 2), HeadSpec("b", 3), HeadSpec("c", 1)])
    flat = torch.arange(6).float().repeat(4, 1)
    padded = layout.pad(flat, fill=-1)
    assert padded[0].tolist() == [[0, 1, -1], [2, 3, 4], [5, -1, -1]]
    assert torch.equal(layout.flat(padded), flat)


def test_heads_must_be_distinct_and_not_empty() -> None:
    with pytest.raises(Exception, match="head names repeat"):
        HeadLayout([HeadSpec("a", 2), HeadSpec("a", 3)])
    with pytest.raises(Exception, match="at least one head"):
        HeadLayout([])
    with pytest.raises(Exception, match=r"head a \(categorical\) has 0 choices"):
        HeadSpec("a", 0)


def test_minibatches_are_of_nearly_equal_size(bandit: Any) -> None:
    agent = bandit.agent()
    batch = bandit.rollout(agent, 103).batch
    parts = list(batch.shuffled(agent.order_generator).split(10))
    assert sorted({len(part) for part in parts}) == [10, 11]
    everything = torch.cat([part.log_prob for part in parts])
    assert torch.equal(everything.sum(1).sort().values, batch.log_prob.sum(1).sort().values)
