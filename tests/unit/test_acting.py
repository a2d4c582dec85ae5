"""What a policy chooses: within masks, as its distribution has it, in the shapes that were asked for."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from esper_core.errors import UsageError
from esper_core.ppo import HeadSpec, PPOAgent

pytestmark = pytest.mark.numeric


def test_masks_are_never_violated_and_shape_the_entropy(bandit: Any) -> None:
    agent = bandit.agent(spread=2.0)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2000, 16, generator=generator) < 0.4
    padded = agent.layout.pad(mask)
    for head, size in enumerate(agent.layout.sizes):
        padded[:, head, 0] |= ~padded[:, head, :size].any(-1)
    mask = agent.layout.flat(padded)
    actions = torch.from_numpy(agent.act(bandit.observations(2000).numpy(), mask.numpy()))
    assert padded.gather(-1, actions.unsqueeze(-1)).all()
    greedy = torch.from_numpy(agent.act(bandit.observations(2000).numpy(), mask.numpy(), deterministic=True))
    assert padded.gather(-1, greedy.unsqueeze(-1)).all()


def test_samples_follow_the_policy(bandit: Any) -> None:
    agent = bandit.agent(spread=1.0)
    probabilities = bandit.log_probs(agent)[0].exp()
    actions = torch.from_numpy(agent.act(np.tile(np.eye(3, dtype=np.float32)[0], (40_000, 1))))
    for head, size in enumerate(agent.layout.sizes):
        seen = torch.bincount(actions[:, head], minlength=size) / 40_000
        torch.testing.assert_close(seen.double(), probabilities[head, :size], atol=0.012, rtol=0)


def test_conditional_mask_is_the_chosen_operations_row() -> None:
    heads = [HeadSpec("slot", 3), HeadSpec("operation", 2)]
    agent = PPOAgent(heads, (1,), conditioning_head="operation", seed=1)
    # Operation 0 allows slot 0 only, operation 1 slots 1 and 2; both operations are legal.
    rows = np.array([[1, 0, 0, 1, 1], [0, 1, 1, 1, 1]], dtype=bool)
    conditional = torch.from_numpy(np.tile(rows, (500, 1, 1)))
    decision = agent.decide(torch.ones(500, 1), None, conditional, agent.noise(1, 500)[0])
    slot, operation = decision.actions.unbind(1)
    assert set(zip(operation.tolist(), slot.tolist(), strict=True)) == {(0, 0), (1, 1), (1, 2)}
    assert decision.legal is not None
    # Its log-probability is over the choices it had: 0 for the only one, about log(1/2) for two.
    assert decision.log_prob[operation == 0, 0].abs().max() < 1e-6
    torch.testing.assert_close(decision.log_prob[operation == 1, 0].exp().mean(), torch.tensor(0.5), atol=0.02, rtol=0)
    assert decision.legal[:, 1, :2].all()


def test_illegal_conditioning_choice_is_never_taken() -> None:
    agent = PPOAgent([HeadSpec("slot", 3), HeadSpec("operation", 2)], (1,), conditioning_head="operation", seed=1)
    rows = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 0, 0]], dtype=bool)  # row 1 does not allow operation 1 itself
    actions = agent.act(np.ones((200, 1)), conditional_mask=np.tile(rows, (200, 1, 1)))
    assert (actions == [0, 0]).all()


def test_shapes_of_act() -> None:
    one = PPOAgent([HeadSpec("action", 3)], (2, 2))
    assert one.act(np.zeros((2, 2))).shape == ()
    assert one.act(np.zeros((5, 2, 2))).shape == (5,)
    many = PPOAgent([HeadSpec("a", 3), HeadSpec("b", 2)], (4,))
    assert many.act(np.zeros(4)).shape == (2,)
    assert many.act(np.zeros((5, 4))).shape == (5, 2)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones(4, bool), "mask has shape (4,), expected (5,)"),
        (np.ones((2, 5), bool), "mask has shape (2, 5), expected (5,)"),
        (np.ones(5), "mask has dtype float64, not bool"),
        ([1, 0, 2, 1, 1], "mask has dtype int64 and values from 0 to 2, not bool"),
        ("all", "mask has dtype <U3, not bool"),
        ([[1], [1, 0]], "mask is no array"),
        ([1, 1, 1, 0, 0], "mask leaves head b no legal choice"),
    ],
)
def test_act_refuses_masks_that_training_would(mask: Any, said: str) -> None:
    agent = PPOAgent([HeadSpec("a", 3), HeadSpec("b", 2)], (4,))
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        agent.act(np.zeros(4), mask)
    assert caught.value.hint
    assert agent.act(np.zeros(4), [0, 0, 1, 1, 0]).tolist() == [2, 0]
    assert agent.act(np.zeros((2, 4)), np.tile([0, 1, 0, 0, 1], (2, 1))).tolist() == [[1, 1], [1, 1]]


def test_act_refuses_a_conditional_mask_that_no_head_selects_a_row_of_and_one_of_another_shape() -> None:
    heads = [HeadSpec("slot", 3), HeadSpec("operation", 2)]
    with pytest.raises(UsageError, match="no head of this policy conditions the others"):
        PPOAgent(heads, (1,)).act(np.ones(1), conditional_mask=np.ones((2, 5), bool))
    agent = PPOAgent(heads, (1,), conditioning_head="operation")
    with pytest.raises(UsageError, match=re.escape("conditional_mask has shape (5,), expected (2, 5)")):
        agent.act(np.ones(1), conditional_mask=np.ones(5, bool))


def test_act_refuses_no_observation_at_all_and_what_is_no_number() -> None:
    agent = PPOAgent([HeadSpec("a", 3)], (4,))
    for value, said in ((np.nan, "nan"), (np.inf, "inf"), (-1e300, "-inf")):
        with pytest.raises(UsageError, match=re.escape(f"the observation holds {said}")):
            agent.act(np.array([0.0, value, 0.0, 0.0]))
    with pytest.raises(UsageError, match=re.escape("has shape (0, 4): there is none to act on")):
        agent.act(np.zeros((0, 4)))


@pytest.mark.parametrize("hidden", [(), (8,), (8, 16, 4)])
def test_trunks_of_any_depth(hidden: tuple[int, ...], bandit: Any) -> None:
    agent = bandit.agent(hidden=hidden, minibatch_size=64)
    metrics = agent.update(bandit.rollout(agent, 128))
    assert math.isfinite(metrics["approx_kl"])


def test_two_packed_trunks_equal_two_separate_ones() -> None:
    agent = PPOAgent([HeadSpec("action", 3)], (4,), seed=2)
    x = torch.randn(7, 4)
    parameters = dict(agent.policy.named_parameters())
    logits, values = agent.policy(x)
    for side, expected in ((0, logits[:, 0]), (1, values.unsqueeze(1))):
        first = torch.tanh(x @ parameters["trunk.weight_0"][:, 64 * side : 64 * (side + 1)])
        second = torch.tanh(first @ parameters["trunk.weight_1"][side])
        out = second @ parameters["logit_weight" if side == 0 else "value_weight"]
        torch.testing.assert_close(out, expected)
