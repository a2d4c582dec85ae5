"""PPOAgent.update: what it reports is true."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from heard_updates import Recorder, listen, weights
from torch.distributions import Categorical, kl_divergence

from esper_core.config.schema import PPOConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.health import HealthLevel
from esper_core.ppo import HeadSpec, PPOAgent
from esper_core.ppo.measure import prepare, see_minibatch
from esper_core.ppo.reducer import Identity
from esper_core.ppo.rollout import Batch, Rollout, active_decisions

pytestmark = pytest.mark.numeric


# --- the number ---------------------------------------------------------------------------------------


def test_approx_kl_computed(bandit: Any) -> None:
    """The reported KL is the true one: against the closed form and against torch's own distributions."""
    agent = bandit.agent(seed=3, spread=0.5, epochs=4, minibatch_size=5000, learning_rate=2e-2, target_kl=0)
    old = bandit.log_probs(agent)
    rollout = bandit.rollout(agent, 60_000)
    metrics = agent.update(rollout)
    new = bandit.log_probs(agent)
    truth = bandit.true_kl(old, new)

    assert 0.01 < truth.weighted < 0.3, "the update moved the policy, so there is something to measure"
    assert metrics["approx_kl"] == pytest.approx(truth.weighted, rel=0.03)
    assert metrics["kl_joint"] == pytest.approx(truth.joint, rel=0.03)
    for head, expected in zip(bandit.heads, truth.by_head, strict=True):
        assert metrics[f"{head.name}/kl"] == pytest.approx(expected, rel=0.06, abs=1e-4)

    # The same against torch.distributions, over the very samples: only the actions' sampling noise is left.
    contexts = torch.arange(len(rollout.batch)) % bandit.contexts
    active = rollout.batch.active
    numerators, decisions = 0.0, 0
    for index, head in enumerate(bandit.heads):
        p, q = (Categorical(logits=policy[contexts, index, : head.size]) for policy in (old, new))
        numerators += float(kl_divergence(p, q)[active[:, index]].sum())
        decisions += int(active[:, index].sum())
    assert metrics["approx_kl"] == pytest.approx(numerators / decisions, rel=0.03)


def test_exact_estimator_has_no_sampling_noise(bandit: Any) -> None:
    agent = bandit.agent(seed=3, spread=0.5, minibatch_size=300, target_kl=0, kl_estimator="exact")
    old = bandit.log_probs(agent)
    rollout = bandit.rollout(agent, 600)
    agent.update(rollout)
    new = bandit.log_probs(agent)
    per_head = (old.exp() * (old - new)).sum(-1)[torch.arange(600) % bandit.contexts]
    active = rollout.batch.active
    assert agent.last is not None
    assert agent.last.kl_estimator == "exact"
    assert agent.last.kl_divergence == pytest.approx(float(per_head[active].sum() / active.sum()), rel=1e-4)


def test_weighted_and_joint_differ_by_the_mean_number_of_active_heads(bandit: Any) -> None:
    agent = bandit.agent(minibatch_size=512)
    rollout = bandit.rollout(agent, 2048)
    agent.update(rollout)
    payload = agent.last
    assert payload is not None
    active_heads = sum(head.decisions for head in payload.heads) / payload.steps
    assert 1 < active_heads < 5
    assert payload.kl_joint == pytest.approx(payload.kl_divergence * active_heads)
    assert sum(head.share or 0 for head in payload.heads) == pytest.approx(1.0)
    for head in payload.heads[1:4]:
        assert 0 < head.decisions < payload.steps
        assert head.weight == pytest.approx(head.decisions / payload.steps)
    assert payload.heads[4].weight == 1.0


def test_first_minibatch_kl_is_about_zero_and_the_last_step_is_measured(bandit: Any) -> None:
    agent = bandit.agent(epochs=1, minibatch_size=1024)
    agent.update(bandit.rollout(agent, 1024))
    payload = agent.last
    assert payload is not None
    assert payload.kl_first_minibatch == pytest.approx(0, abs=1e-9)
    assert payload.kl_last == payload.kl_first_minibatch, "one epoch of one minibatch: in the loop nothing shows"
    assert payload.kl_divergence is not None
    assert payload.kl_divergence > 1e-6, "what that one step did shows only after it"


def test_old_log_probabilities_that_do_not_match_fail_the_self_test(bandit: Any) -> None:
    agent = bandit.agent(minibatch_size=1024, target_kl=0)
    rollout = bandit.rollout(agent, 1024)
    agent.update(replace(rollout, batch=replace(rollout.batch, log_prob=rollout.batch.log_prob - 0.5)))
    assert agent.last is not None
    assert agent.last.kl_first_minibatch == pytest.approx(math.expm1(0.5) - 0.5, rel=1e-3)


def test_head_with_zero_valid_steps_is_idle(bandit: Any) -> None:
    agent = bandit.agent(minibatch_size=256)
    rollout = bandit.rollout(agent, 512)
    active = rollout.batch.active.clone()
    active[:, 1] = False
    metrics = agent.update(replace(rollout, batch=replace(rollout.batch, active=active)))
    assert agent.last is not None
    idle = agent.last.heads[1]
    assert (idle.kl, idle.decisions, idle.weight, idle.share) == (None, 0, 0.0, 0.0)
    assert (idle.entropy, idle.entropy_normalised, idle.clip_fraction) == (None, None, None)
    assert "blueprint/kl" not in metrics
    assert math.isfinite(metrics["approx_kl"])


def test_only_forced_steps_teach_the_value_function_and_report_no_kl(bandit: Any) -> None:
    agent = bandit.agent(minibatch_size=64)
    rollout = bandit.rollout(agent, 128)
    nothing = torch.zeros_like(rollout.batch.active)
    before = agent.policy.logit_weight.detach().clone()
    metrics = agent.update(
        replace(rollout, batch=replace(rollout.batch, active=nothing, unforced=torch.zeros(128, dtype=torch.bool)))
    )
    assert agent.last is not None
    assert "approx_kl" not in metrics
    assert (agent.last.kl_divergence, agent.last.kl_joint, agent.last.entropy) == (None, None, None)
    assert (agent.last.steps, agent.last.steps_forced) == (0, 128)
    assert agent.last.outcome == "completed"
    assert torch.equal(agent.policy.logit_weight, before)
    assert agent.last.value_loss is not None


def test_entropy_is_summed_over_active_heads_and_normalised_per_decision() -> None:
    agent = PPOAgent([HeadSpec("a", 4), HeadSpec("b", 2)], (1,), seed=0)
    with torch.no_grad():
        agent.policy.logit_weight.zero_()
        for group in agent.optimizer.param_groups:
            group["lr"] = 0.0
    rollout = uniform_rollout(agent, 64)
    agent.update(rollout)
    payload = agent.last
    assert payload is not None
    assert payload.entropy == pytest.approx(math.log(4) + math.log(2), rel=1e-5)
    assert payload.entropy_normalised == pytest.approx(1.0, rel=1e-5)
    assert [head.entropy for head in payload.heads] == pytest.approx([math.log(4), math.log(2)], rel=1e-5)


def uniform_rollout(agent: PPOAgent, count: int) -> Rollout:
    observations = torch.ones(count, 1)
    decision = agent.decide(observations, None, None, agent.noise(1, count)[0])
    ones = torch.ones(count, agent.layout.count, dtype=torch.bool)
    rewards = decision.actions.sum(-1).float()
    batch = Batch(
        observations, decision.actions, decision.log_prob, None, ones, ones[:, 0], rewards, rewards, decision.values
    )
    return Rollout(batch)


# --- the update ---------------------------------------------------------------------------------------


def test_update_learns_the_bandit(bandit: Any) -> None:
    agent = bandit.agent(minibatch_size=256, epochs=4, learning_rate=3e-2)
    before = float(bandit.rollout(agent, 999).batch.returns.mean())
    for _ in range(15):
        agent.update(bandit.rollout(agent, 999))
    assert float(bandit.rollout(agent, 999).batch.returns.mean()) > before + 0.5


@pytest.mark.parametrize("minibatch_size", [1, 3, 1000])
def test_any_minibatch_size_stays_finite(bandit: Any, minibatch_size: int) -> None:
    agent = bandit.agent(minibatch_size=minibatch_size, epochs=1)
    metrics = agent.update(bandit.rollout(agent, 10))
    assert agent.last is not None
    assert agent.last.minibatches_planned == math.ceil(10 / minibatch_size)
    assert all(math.isfinite(value) for value in metrics.values())
    assert torch.isfinite(weights(agent)).all()


def test_rollout_of_one_step_stays_finite(bandit: Any) -> None:
    agent = bandit.agent()
    agent.update(bandit.rollout(agent, 1))
    assert torch.isfinite(weights(agent)).all()
    assert agent.last is not None
    assert agent.last.advantage_std == 0.0
    assert agent.last.explained_variance is None


def test_a_lone_decision_keeps_its_advantage_and_teaches(bandit: Any) -> None:
    """Less its own mean it would be exactly 0, and a task with one decision a rollout would never be learned."""
    agent = bandit.agent(epochs=1, minibatch_size=100, entropy_coef=0.0)
    rollout = bandit.rollout(agent, 100)
    active = torch.zeros_like(rollout.batch.active)
    active[17] = rollout.batch.active[17]
    alone = replace(rollout.batch, active=active, unforced=active.any(-1))
    prepared, shown = prepare(alone, normalise=True, reducer=Identity())
    assert (shown["steps"], shown["advantage_std"]) == (1, 0.0)
    assert prepared.advantages[17] == alone.advantages[17]
    assert prepared.advantages.count_nonzero() == 1
    before = agent.policy.logit_weight.detach().clone()
    agent.update(replace(rollout, batch=alone))
    assert not torch.equal(agent.policy.logit_weight, before)


def test_heads_with_one_choice_change_nothing_that_is_reported_or_learned() -> None:
    """The same move of [4] and of [4, 1, 1, 1, 1]: the same KL per decision and per step, and the same weights."""
    found = []
    for sizes in ((4,), (4, 1, 1, 1, 1)):
        agent = PPOAgent([HeadSpec(f"h{i}", size) for i, size in enumerate(sizes)], (1,), PPOConfig(target_kl=0))
        with torch.no_grad():
            agent.policy.logit_weight.zero_()
            agent.policy.logit_weight[:, :4] = 0.3 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
            agent.policy.value_weight.zero_()
        observations, actions = torch.ones(64, 1), torch.zeros(64, len(sizes), dtype=torch.int64)
        actions[:, 0] = torch.arange(64) % 4
        with torch.no_grad():
            log_prob = agent.policy.evaluate(observations, actions, None).log_prob
        active, unforced = active_decisions(agent.layout, torch.ones(64, len(sizes), dtype=torch.bool), None)
        rewards = actions[:, 0].float()
        agent.update(
            Rollout(Batch(observations, actions, log_prob, None, active, unforced, rewards, rewards, torch.zeros(64)))
        )
        payload = agent.last
        assert payload is not None
        assert payload.kl_divergence is not None
        assert payload.kl_divergence > 1e-4
        assert [head.decisions for head in payload.heads] == [64, *[0] * (len(sizes) - 1)]
        found.append((payload, agent.policy.logit_weight.detach()[:, :4]))
    (one, weights_of_one), (five, weights_of_five) = found
    for name in ("kl_divergence", "kl_joint", "kl_mean", "entropy", "entropy_normalised", "clip_fraction", "grad_norm"):
        assert getattr(five, name) == pytest.approx(getattr(one, name), rel=1e-4, abs=1e-7), name
    assert (five.health, five.heads[0].share) == (one.health, one.heads[0].share)
    torch.testing.assert_close(weights_of_five, weights_of_one)


def test_clip_fractions_pool_every_minibatch_seen_the_one_that_crossed_among_them(
    bandit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stable-Baselines3's number, of sums: of the joint ratio per step, and of each head's own per decision."""
    minibatches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(loss: Any, minibatch: Any, grad_norm: torch.Tensor, **given: Any) -> Any:
        minibatches.append((loss.log_ratio.detach(), minibatch.active))
        return see_minibatch(loss, minibatch, grad_norm, **given)

    monkeypatch.setattr("esper_core.ppo.learning.see_minibatch", watch)
    agent = bandit.agent(spread=0.5, epochs=10, minibatch_size=64, learning_rate=5e-2, clip_range=0.1)
    agent.update(bandit.rollout(agent, 256))
    payload = agent.last
    assert payload is not None
    assert payload.early_stop is not None
    assert len(minibatches) == payload.minibatches + 1, "the last one was seen, and its step was not taken"
    joint = [((torch.where(active, r, 0.0).sum(-1).exp() - 1).abs() > 0.1).float().mean() for r, active in minibatches]
    assert payload.clip_fraction == pytest.approx(float(torch.stack(joint).mean()), rel=1e-5)
    assert joint[-1] > 0
    outside = torch.stack([(((r.exp() - 1).abs() > 0.1) & active).sum(0) for r, active in minibatches]).sum(0)
    decisions = torch.stack([active.sum(0) for _, active in minibatches]).sum(0)
    assert [head.clip_fraction for head in payload.heads] == pytest.approx((outside / decisions).tolist(), rel=1e-5)


def test_gradient_norm_is_before_clipping(bandit: Any) -> None:
    norms = []
    for limit in (1e-3, 1e3):
        agent = bandit.agent(epochs=1, minibatch_size=512, max_grad_norm=limit)
        agent.update(bandit.rollout(agent, 512))
        assert agent.last is not None
        norms.append(agent.last.grad_norm)
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] > 1e-3


def test_value_coef_weighs_the_value_loss_and_leaves_the_policy_alone(bandit: Any) -> None:
    """The trunks are separate and Adam takes each parameter by itself: 0 keeps the value head, the rest is the same."""
    agents = [bandit.agent(minibatch_size=64, max_grad_norm=1e6, target_kl=0, value_coef=coef) for coef in (0.0, 0.5)]
    before = agents[0].policy.value_weight.detach().clone()
    for agent in agents:
        agent.update(bandit.rollout(agent, 256))
    without, weighted = (agent.policy for agent in agents)
    assert torch.equal(without.value_weight, before)
    assert not torch.equal(weighted.value_weight, before)
    assert torch.equal(without.logit_weight, weighted.logit_weight)


def test_payload_describes_the_plan_and_the_rollout(bandit: Any) -> None:
    agent = bandit.agent(epochs=3, minibatch_size=100, target_kl=0)
    recorder = listen(agent)
    rollout = bandit.rollout(agent, 250)
    metrics = agent.update(rollout)
    (event,) = recorder.updates
    payload = event.payload
    assert payload == agent.last
    assert (payload.update_id, payload.env_steps, payload.outcome, payload.reason) == (1, 250, "completed", "")
    assert (payload.epochs, payload.epochs_planned) == (3, 3)
    assert (payload.minibatches, payload.minibatches_planned) == (9, 9)
    assert (payload.steps, payload.steps_forced) == (250, 0)
    assert len(payload.kl_by_epoch) == 3
    assert payload.target_kl is None
    assert payload.stop_threshold is None
    assert payload.advantage_mean == pytest.approx(float(rollout.batch.advantages.mean()), rel=1e-5)
    assert payload.advantage_std == pytest.approx(float(rollout.batch.advantages.std(correction=0)), rel=1e-5)
    residual = rollout.batch.returns - rollout.batch.values
    explained = 1 - residual.var(correction=0) / rollout.batch.returns.var(correction=0)
    assert payload.explained_variance == pytest.approx(float(explained), abs=1e-5)
    assert payload.kl_max == pytest.approx(max(payload.kl_max, payload.kl_last))
    assert metrics["approx_kl"] == payload.kl_divergence
    assert payload.health is not HealthLevel.UNKNOWN


# --- randomness ---------------------------------------------------------------------------------------


def test_same_seed_same_weights(bandit: Any) -> None:
    def train() -> torch.Tensor:
        agent = bandit.agent(seed=5, minibatch_size=64)
        for _ in range(3):
            agent.update(bandit.rollout(agent, 256))
        return weights(agent)

    assert torch.equal(train(), train())


def test_telemetry_on_or_off_is_bit_identical(bandit: Any) -> None:
    """Weights, and every generator of the process, are the same with a real SDK tracer and with none."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    from esper_core import ids

    class OwnIds(IdGenerator):
        def generate_span_id(self) -> int:
            return ids.new_span_id()

        def generate_trace_id(self) -> int:
            return ids.new_trace_id()

    def train(emitter: TelemetryEmitter | None) -> tuple[Any, ...]:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002  # the global generator is what is watched
        torch.manual_seed(1)
        agent = bandit.agent(seed=5, minibatch_size=64)
        if emitter is not None:
            agent.emitter = emitter
        for _ in range(3):
            agent.emitter.begin_rollout(agent.updates + 1)
            agent.update(bandit.rollout(agent, 256))
        legacy: Any = np.random.get_state()  # noqa: NPY002  # as above
        return (
            weights(agent).numpy().tobytes(),
            random.getstate(),
            legacy[1].tobytes(),
            torch.get_rng_state().numpy().tobytes(),
            agent.sampling_generator.get_state().numpy().tobytes(),
            agent.order_generator.get_state().numpy().tobytes(),
        )

    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=OwnIds())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    recorder = Recorder()
    on = train(TelemetryEmitter(recorder, tracer=provider.get_tracer("test")))
    provider.shutdown()
    assert len(recorder.updates) == 3
    assert len(exporter.get_finished_spans()) >= 9
    assert on == train(None)
