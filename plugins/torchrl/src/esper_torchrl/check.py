"""``esper adapters check torchrl``: a tiny training in which torchrl's numbers and Esper's can be compared.

torchrl's ``kl_approx`` is k1, the mean of log old - log new, before each step; Esper's is k3 after the last one. On the
same samples k3 is k1 plus the mean ratio less 1, and the loss module returns both: it is asked once more, after the
last step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch.distributions import Categorical
from torchrl.modules import ValueOperator
from torchrl.objectives import ClipPPOLoss

from esper_core.monitoring.adapter import AdapterCheck, Compared
from esper_torchrl.hook import report

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check"]

UPDATES = 3
STEPS = 256


def check(folder: Path) -> AdapterCheck:
    """Train and compare."""
    torch.set_num_threads(1)  # of this command's own process: more are slower on a network this small
    torch.manual_seed(0)
    loss = _loss()
    hook = report(loss, "check", sinks=[], settings={"run": {"dir": str(folder)}})
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    compared, arrived = [], 0
    for update in range(UPDATES):
        batch = _batch(loss)
        for _ in range(4):
            found = loss(batch)
            optimizer.zero_grad()
            (found["loss_objective"] + found["loss_critic"]).backward()
            optimizer.step()
        hook(batch)
        with torch.no_grad():
            after = loss(batch)
        if hook.last is None or hook.last.kl_joint is None:
            continue
        arrived += 1
        compared.append(
            Compared(
                what=f"update {update + 1}, the same batch after the last step",
                name="kl_approx + mean_ratio - 1",
                theirs=float(after["kl_approx"].double() + after["mean_ratio"].double() - 1.0),
                ours=hook.last.kl_joint,
                tolerance=2e-6,  # torchrl sums in float32
            )
        )
    hook.close()
    return AdapterCheck(
        updates=arrived,
        expected=UPDATES,
        compared=tuple(compared),
        notes=("kl_approx alone is k1, and of the policy before each step: it may be negative",),
    )


def _loss() -> Any:
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(torch.nn.Linear(4, 3), ["observation"], ["logits"]),
        ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=Categorical, return_log_prob=True),
    )
    return ClipPPOLoss(actor, ValueOperator(torch.nn.Linear(4, 1), in_keys=["observation"]), clip_epsilon=0.2)


def _batch(loss: Any) -> Any:
    batch = TensorDict({"observation": torch.randn(STEPS, 4)}, [STEPS])
    with torch.no_grad(), loss.actor_network_params.to_module(loss.actor_network):
        batch = loss.actor_network(batch)
    batch["advantage"], batch["value_target"] = torch.randn(STEPS, 1), torch.randn(STEPS, 1)
    return batch
