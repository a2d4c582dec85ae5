"""What each library calls KL, on one recorded update: the table of docs/explanation/what-others-call-kl.md.

One PPO update of a Gaussian policy with three action dimensions is recorded in float64: 512 steps, 8 epochs of 4
minibatches, the distribution before every optimizer step, and the policy after the last one. Every formula is then
applied to that record, as restated here from the file and version named beside it. Where the library is installed, the
statements of its own source that compute the number are run on the record too, without importing the library, and must
give the same value; so none of them needs what it depends on::

    pip install --no-deps --target LIBS rl-games==1.6.5 skrl==2.1.1 rsl-rl-lib==5.5.1 trl==1.16.0 ray==2.60.0
    PYTHONPATH=LIBS python tests/benchmarks/kl_of_libraries.py
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch.distributions import Normal, kl_divergence

from esper_core.kl.torch import k3_sums

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["LIBRARIES", "Check", "Library", "Policy", "Record", "formulas", "measured", "own_value", "record", "table"]

STEPS, DIMENSIONS, FEATURES = 512, 3, 4
EPOCHS, MINIBATCHES = 8, 4


# --- the record -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """Gaussians of some steps: mean and standard deviation, float64 (steps, dimensions)."""

    mean: Tensor
    std: Tensor

    def log_probs(self, actions: Tensor) -> Tensor:
        """(steps, dimensions), nats."""
        found: Tensor = Normal(self.mean, self.std).log_prob(actions)  # type: ignore[no-untyped-call]  # torch's
        return found

    def at(self, places: Tensor) -> Policy:
        """Of some of the steps."""
        return Policy(self.mean[places], self.std[places])


@dataclass(frozen=True)
class Check:
    """What a loop has in hand before one optimizer step: the places of the minibatch and the policy there."""

    epoch: int
    places: Tensor
    policy: Policy


@dataclass(frozen=True)
class Record:
    """One update: ``old`` drew ``actions``, ``new`` is the policy after the last step, ``reference`` an earlier one."""

    actions: Tensor
    old: Policy
    new: Policy
    reference: Policy
    checks: tuple[Check, ...]

    def log_ratio(self, check: Check) -> Tensor:
        """Log new - log old of a minibatch, (steps, dimensions)."""
        actions = self.actions[check.places]
        return check.policy.log_probs(actions) - self.old.at(check.places).log_probs(actions)

    def joint(self, check: Check) -> Tensor:
        """The same of whole actions, (steps): what libraries without named heads have."""
        return self.log_ratio(check).sum(-1)

    def of_epoch(self, epoch: int) -> list[Check]:
        """Its minibatches."""
        return [check for check in self.checks if check.epoch == epoch]

    @property
    def last(self) -> Check:
        """The last minibatch before its step."""
        return self.checks[-1]


@functools.cache
def record(seed: int = 0) -> Record:
    """Train three updates and record the third; the reference is the policy before the first."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight = (0.3 * draw(FEATURES, DIMENSIONS)).requires_grad_()
    log_std = torch.full((DIMENSIONS,), -0.5, dtype=torch.float64).requires_grad_()
    wanted = draw(FEATURES, DIMENSIONS)
    optimizer = torch.optim.Adam([weight, log_std], lr=3e-3)

    def policy(observations: Tensor) -> Policy:
        mean = observations @ weight
        return Policy(mean, log_std.exp().expand_as(mean))

    def fixed(observations: Tensor) -> Policy:
        with torch.no_grad():
            found = policy(observations)
            return Policy(found.mean.clone(), found.std.clone())

    start = weight.detach().clone(), log_std.detach().clone()
    for _ in range(3):
        observations = draw(STEPS, FEATURES)
        old = fixed(observations)
        actions = old.mean + old.std * draw(STEPS, DIMENSIONS)
        reward = -((actions - observations @ wanted) ** 2).sum(-1)
        advantage = (reward - reward.mean()) / reward.std()
        checks = []
        for epoch in range(EPOCHS):
            for places in torch.randperm(STEPS, generator=generator).chunk(MINIBATCHES):
                checks.append(Check(epoch, places, fixed(observations[places])))
                log_new = policy(observations[places]).log_probs(actions[places]).sum(-1)
                ratio = (log_new - old.at(places).log_probs(actions[places]).sum(-1)).exp()
                gain = torch.minimum(ratio * advantage[places], ratio.clamp(0.8, 1.2) * advantage[places])
                optimizer.zero_grad()
                (-gain.mean()).backward()  # type: ignore[no-untyped-call]  # torch's
                optimizer.step()
        mean = observations @ start[0]
        reference = Policy(mean, start[1].exp().expand_as(mean))
        found = Record(actions, old, fixed(observations), reference, tuple(checks))
    return found


# --- the formulas ---------------------------------------------------------------------------------


def exact(old: Policy, new: Policy) -> Tensor:
    """KL(old || new) of each step, nats: the closed form, summed over dimensions."""
    return kl_divergence(Normal(old.mean, old.std), Normal(new.mean, new.std)).sum(-1)


def k3(log_ratio: Tensor) -> Tensor:
    """Schulman's third estimator, as most loops write it."""
    return log_ratio.exp() - 1 - log_ratio


def truth(of: Record) -> float:
    """How far the policy that acts next is from the one that sampled, nats per step."""
    return float(exact(of.old, of.new).mean())


def esper_sums(of: Record) -> Tensor:
    """Numerators of the heads, one a dimension, after the last step."""
    log_ratio = of.new.log_probs(of.actions) - of.old.log_probs(of.actions)
    return k3_sums(log_ratio, torch.ones_like(log_ratio, dtype=torch.bool))


def last_epoch(of: Record) -> float:
    """Mean over the minibatches of the last epoch begun."""
    return float(torch.stack([k3(of.joint(check)).mean() for check in of.of_epoch(EPOCHS - 1)]).mean())


def policy_kl(p0: Policy, p1: Policy) -> Tensor:
    """rl_games' closed form, with its two guards against 0, per step."""
    log_scale = torch.log(p1.std / p0.std + 1e-5)
    return (log_scale + (p0.std**2 + (p1.mean - p0.mean) ** 2) / (2.0 * (p1.std**2 + 1e-5)) - 0.5).sum(-1)


def rl_games_continuous(of: Record) -> float:
    """Each minibatch replaces "old" by the policy it has just been compared with."""
    mean, std = of.old.mean.clone(), of.old.std.clone()
    kls = []
    for check in of.checks:
        kls.append(policy_kl(check.policy, Policy(mean, std).at(check.places)).mean())
        mean[check.places], std[check.places] = check.policy.mean, check.policy.std
    return float(torch.stack(kls).mean())


def rl_games_discrete(of: Record) -> float:
    """k2, half the squared log-ratio, over all minibatches."""
    return float(torch.stack([0.5 * (of.joint(check) ** 2).mean() for check in of.checks]).mean())


def grpo(of: Record) -> float:
    """k3 of reference against policy per token (here: per dimension), over all minibatches."""
    return float(torch.stack([k3(-_to_reference(of, check)).mean() for check in of.checks]).mean())


def rloo(of: Record) -> float:
    """k1 of the sampling policy against the reference per token, before any step."""
    return float((of.old.log_probs(of.actions) - of.reference.log_probs(of.actions)).mean())


def _to_reference(of: Record, check: Check) -> Tensor:
    actions = of.actions[check.places]
    return check.policy.log_probs(actions) - of.reference.at(check.places).log_probs(actions)


# --- the libraries' own statements ----------------------------------------------------------------


@dataclass(frozen=True)
class Own:
    """Statements of a library's source that compute its KL of one minibatch.

    Attributes:
        function: that holds them, ``Class.method``.
        names: whose first assignments are run, in order; empty for the whole function, which is then called.
        given: the record -> what the statements find under their names; of a whole function, its arguments.
        ours: the same number by the formula here.
    """

    function: str
    names: tuple[str, ...]
    given: Callable[[Record], dict[str, Any]]
    ours: Callable[[Record], float]


@dataclass(frozen=True)
class Library:
    """One library's KL.

    Attributes:
        name: of the library and, where it has several, of the number.
        distribution: on PyPI; empty for a file that people copy.
        version: the formula was read in.
        file: inside the distribution.
        logged: what its log calls the number; empty when it logs none.
        formula: for people; r = log new - log old of the action taken.
        when: it is taken, and over what.
        value: on the record; None when there is no such number.
        own: how to run the library's own statements.
    """

    name: str
    distribution: str
    version: str
    file: str
    logged: str
    formula: str
    when: str
    value: Callable[[Record], float] | None
    own: Own | None = None


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
            lambda of: float(k3(-_to_reference(of, of.last)).mean()),
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


def own_value(library: Library, of: Record) -> float | None:
    """The number by the library's own statements, on the record's last minibatch; None when it is not installed.

    Raises:
        LookupError: the function or a statement is not in the installed version.
    """
    own = library.own
    if own is None:
        return None
    try:
        path = Path(str(importlib.metadata.distribution(library.distribution).locate_file(library.file)))
    except importlib.metadata.PackageNotFoundError:
        return None
    function = _function(ast.parse(path.read_text(encoding="utf-8")), own.function)
    scope: dict[str, Any] = {"torch": torch, "Normal": Normal}
    if own.names:
        scope |= own.given(of)
        run = ast.Module([_assignment(function, name, path) for name in own.names], [])
        exec(compile(run, str(path), "exec"), scope)  # the library's own code, as its training would run it
        found = scope[own.names[-1]]
    else:
        # Annotations name types of modules that are not imported here.
        function.returns = None
        for argument in function.args.args:
            argument.annotation = None
        exec(compile(ast.Module([function], []), str(path), "exec"), scope)  # likewise
        found = scope[function.name](**own.given(of))
    return float(torch.as_tensor(found).mean())


def _function(tree: ast.AST, name: str) -> ast.FunctionDef:
    for part in name.split("."):
        found = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        ]
        if not found:
            raise LookupError(f"no {name}")
        tree = found[0]
    if isinstance(tree, ast.FunctionDef):
        return tree
    raise LookupError(f"{name} is no function")


def _assignment(function: ast.FunctionDef, name: str, path: Path) -> ast.Assign:
    assigned = (node for node in ast.walk(function) if isinstance(node, ast.Assign))
    found = sorted(
        (node for node in assigned if any(isinstance(item, ast.Name) and item.id == name for item in node.targets)),
        key=lambda node: node.lineno,
    )
    if not found:
        raise LookupError(f"{path}: nothing is assigned to {name} in {function.name}")
    return found[0]


# --- the table ------------------------------------------------------------------------------------


def measured(of: Record) -> dict[str, float]:
    """Name -> number, ours first."""
    numerators = esper_sums(of)
    found = {
        "exact KL(old ‖ new) after the last step": truth(of),
        "Esper, `kl_joint`": float(numerators.sum() / STEPS),
        "Esper, `kl_divergence`": float(numerators.sum() / (STEPS * DIMENSIONS)),
    }
    return found | {item.name: item.value(of) for item in LIBRARIES if item.value is not None}


def formulas() -> str:
    """The page's table of formulas."""
    rows = [
        f"| {item.name} | {item.version}, `{item.file}` | {f'`{item.logged}`' if item.logged else 'nothing'} "
        f"| {item.formula} | {item.when} |"
        for item in LIBRARIES
    ]
    head = "| library | read in | logged as | formula | taken |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def table(of: Record) -> str:
    """The page's table of numbers."""
    numbers = measured(of)
    rows = [f"| {name} | {value:.5f} | {value / truth(of):.2f} |" for name, value in numbers.items()]
    return "\n".join(["| number | nats | times the truth |", "| --- | ---: | ---: |", *rows])


def main() -> None:
    """Print the table, and what became of each library's own statements."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    of = record()
    print(f"{formulas()}\n\n{table(of)}\n")
    for library in LIBRARIES:
        if library.own is None:
            continue
        try:
            theirs = own_value(library, of)
        except LookupError as error:
            print(f"{library.name}: {error}")
            continue
        if theirs is None:
            print(f"{library.name}: not installed; restated from {library.version}")
            continue
        version = importlib.metadata.version(library.distribution)
        same = abs(theirs - library.own.ours(of)) <= 1e-12
        print(f"{library.name}: {'same' if same else 'DIFFERENT'} by the own code of {version}")


if __name__ == "__main__":
    main()
