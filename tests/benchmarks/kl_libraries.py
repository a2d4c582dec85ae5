"""The libraries of kl_of_libraries.py: where each computes its KL, by which formula, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from kl_formulas import (
    exact,
    grpo,
    k3,
    last_epoch,
    policy_kl,
    rl_games_continuous,
    rl_games_discrete,
    rloo,
    to_reference,
)
from kl_statements import Library, Own

if TYPE_CHECKING:
    from collections.abc import Callable

    from kl_record import Record
    from torch import Tensor

__all__ = ["LIBRARIES"]


def _two_logs(new: str, old: str, **more: Any) -> Callable[[Record], dict[str, Any]]:
    """Joint log-probabilities of the last minibatch under the names that a loop has for them; a dot makes an object."""

    def given(of: Record) -> dict[str, Any]:
        check = of.last
        actions = of.actions[check.places]
        found: dict[str, Any] = {"torch": torch, "th": torch, **more}
        for name, policy in ((new, check.policy), (old, of.old.at(check.places))):
            owner, _, attribute = name.rpartition(".")
            value = policy.log_probs(actions).sum(-1)
            found[owner or name] = SimpleNamespace(**{attribute: value}) if owner else value
        return found

    return given


def _last(formula: Callable[[Tensor], Tensor]) -> Callable[[Record], float]:
    return lambda of: float(formula(of.joint(of.last)).mean())


def _k1(log_ratio: Tensor) -> Tensor:
    return -log_ratio


def _k2(log_ratio: Tensor) -> Tensor:
    return 0.5 * log_ratio**2


def _last_exact(of: Record) -> float:
    return float(exact(of.old.at(of.last.places), of.last.policy).mean())


def _rl_games_arguments(of: Record) -> dict[str, Any]:
    new, old = of.last.policy, of.old.at(of.last.places)
    return {"p0_mu": new.mean, "p0_sigma": new.std, "p1_mu": old.mean, "p1_sigma": old.std}


def _rsl_rl_arguments(of: Record) -> dict[str, Any]:
    old, new = of.old.at(of.last.places), of.last.policy
    return {"self": None, "old_params": (old.mean, old.std), "new_params": (new.mean, new.std)}


def _rllib_given(of: Record) -> dict[str, Any]:
    previous = SimpleNamespace(kl=lambda _: exact(of.old.at(of.last.places), of.last.policy))
    return {"prev_action_dist": previous, "curr_action_dist": None, "possibly_masked_mean": torch.mean}


def _grpo_given(of: Record) -> dict[str, Any]:
    actions = of.actions[of.last.places]
    return {
        "torch": torch,
        "per_token_logps": of.last.policy.log_probs(actions),
        "inputs": {"ref_per_token_logps": of.reference.at(of.last.places).log_probs(actions)},
    }


def _rloo_given(of: Record) -> dict[str, Any]:
    return {
        "old_per_token_logps": of.old.log_probs(of.actions),
        "ref_per_token_logps": of.reference.log_probs(of.actions),
    }


LIBRARIES = (
    Library(
        "Stable-Baselines3 (and sb3-contrib)",
        "stable-baselines3",
        "2.9.2",
        "stable_baselines3/ppo/ppo.py",
        "train/approx_kl",
        "`mean(exp(r) - 1 - r)`, r joint",
        "before each step; mean over the last epoch begun",
        last_epoch,
        Own(
            "PPO.train",
            ("log_ratio", "approx_kl_div"),
            _two_logs("log_prob", "rollout_data.old_log_prob"),
            _last(k3),
        ),
    ),
    Library(
        "CleanRL",
        "",
        "ppo.py, commit 020cf0e",
        "cleanrl/ppo.py",
        "losses/approx_kl",
        "`mean(exp(r) - 1 - r)`, r joint",
        "before the step of the last minibatch, alone",
        _last(k3),
    ),
    Library(
        "CleanRL, the older one",
        "",
        "ppo.py, commit 020cf0e",
        "cleanrl/ppo.py",
        "losses/old_approx_kl",
        "`mean(-r)`, r joint",
        "before the step of the last minibatch, alone",
        _last(_k1),
    ),
    Library(
        "skrl",
        "skrl",
        "2.1.1",
        "skrl/agents/torch/ppo/ppo.py",
        "",
        "`mean(exp(r) - 1 - r)`, r joint",
        "before each step; mean over an epoch, for `KLAdaptiveLR`",
        last_epoch,
        Own(
            "PPO.update",
            ("ratio", "kl_divergence"),
            _two_logs("next_log_prob", "sampled_log_prob"),
            _last(k3),
        ),
    ),
    Library(
        "torchrl",
        "torchrl",
        "0.14.1",
        "torchrl/objectives/ppo.py",
        "kl_approx",
        "`mean(-r)`, heads summed",
        "before each step; here of the last minibatch",
        _last(_k1),
        Own("PPOLoss._log_weight", ("kl_approx",), _two_logs("log_prob", "prox_log_prob"), _last(_k1)),
    ),
    Library(
        "rsl_rl",
        "rsl-rl-lib",
        "5.5.1",
        "rsl_rl/modules/distribution.py",
        "",
        "mean KL(old ‖ new), exact, dimensions summed",
        'before each step, only with schedule "adaptive"; here of the last minibatch',
        _last_exact,
        Own("GaussianDistribution.kl_divergence", (), _rsl_rl_arguments, _last_exact),
    ),
    Library(
        "RLlib",
        "ray",
        "2.60.0",
        "ray/rllib/algorithms/ppo/torch/ppo_torch_learner.py",
        "mean_kl_loss",
        "mean KL(old ‖ new), exact",
        "before the step of the last minibatch, alone",
        _last_exact,
        Own("PPOTorchLearner.compute_loss_for_module", ("action_kl", "mean_kl_loss"), _rllib_given, _last_exact),
    ),
    Library(
        "rl_games, continuous actions",
        "rl-games",
        "1.6.5",
        "rl_games/algos_torch/torch_ext.py",
        "info/kl",
        "mean KL(new ‖ previous epoch), closed form with 1e-5 in two places",
        "before each step; mean over all; every minibatch replaces old by new",
        rl_games_continuous,
        Own(
            "policy_kl",
            (),
            _rl_games_arguments,
            lambda of: float(policy_kl(of.last.policy, of.old.at(of.last.places)).mean()),
        ),
    ),
    Library(
        "rl_games, discrete actions",
        "rl-games",
        "1.6.5",
        "rl_games/algos_torch/a2c_discrete.py",
        "info/kl",
        "`mean(r² / 2)`, r joint",
        "before each step; mean over all",
        rl_games_discrete,
        Own(
            "DiscreteA2CAgent.calc_gradients",
            ("kl_dist",),
            _two_logs("action_log_probs", "old_action_log_probs_batch"),
            _last(_k2),
        ),
    ),
    Library(
        "TRL, GRPO",
        "trl",
        "1.16.0",
        "trl/trainer/grpo_trainer.py",
        "kl",
        "`mean(exp(q) - 1 - q)`, `q = log reference - log new`, per token",
        "before each step; mean since the last log; **the reference model**, only with beta other than 0",
        grpo,
        Own(
            "GRPOTrainer._compute_loss",
            ("ref_per_token_logps", "per_token_kl"),
            _grpo_given,
            lambda of: float(k3(-to_reference(of, of.last)).mean()),
        ),
    ),
    Library(
        "TRL, RLOO",
        "trl",
        "1.16.0",
        "trl/trainer/rloo_trainer.py",
        "kl",
        "`mean(log old - log reference)`, per token",
        "when the batch is made; **the reference model**, only with beta other than 0",
        rloo,
        Own("RLOOTrainer._generate_and_score_completions", ("per_token_kl",), _rloo_given, rloo),
    ),
    Library(
        "tianshou",
        "tianshou",
        "2.0.1",
        "tianshou/algorithm/modelfree/ppo.py",
        "",
        "none",
        "never",
        None,
    ),
)
