"""report: real torchrl policies, losses and one whole Trainer; the number, named heads, the end, what is refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from present import present
from torch.distributions import Categorical

pytest.importorskip("tensordict", reason="torchrl is not installed: make venv")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torchrl's own modules warn of each other when they are imported
    from tensordict import TensorDict
    from tensordict.nn import (
        CompositeDistribution,
        ProbabilisticTensorDictModule,
        ProbabilisticTensorDictSequential,
        TensorDictModule,
        set_composite_lp_aggregate,
    )
    from torchrl.modules import NormalParamExtractor, TanhNormal, ValueOperator
    from torchrl.objectives import ClipPPOLoss, SACLoss

    from esper_torchrl import report

from esper_core import open_run
from esper_core.errors import UsageError
from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

torch.set_num_threads(1)  # two are many times slower on these small networks when the other core is busy

ROWS = 128
LEARNED = ("loss_objective", "loss_critic")


@pytest.fixture(autouse=True)
def log_probs_of_each_head() -> Iterator[None]:
    torch.manual_seed(0)
    with set_composite_lp_aggregate(False):
        yield


def options(folder: Path) -> dict[str, Any]:
    return {"sinks": ["journal"], "settings": {"run": {"dir": str(folder)}}}


def two_heads() -> Any:
    net = torch.nn.Linear(6, 7)

    class Split(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, seen: Any) -> Any:
            found = self.net(seen)
            return found[..., :4], found[..., 4:]

    heads = ("move", "aim")
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(Split(), ["observation"], [("params", head, "logits") for head in heads]),
        ProbabilisticTensorDictModule(
            ["params"],
            [("action", head) for head in heads],
            distribution_class=CompositeDistribution,
            distribution_kwargs={
                "distribution_map": dict.fromkeys(heads, Categorical),
                "name_map": {head: ("action", head) for head in heads},
            },
            return_log_prob=True,
        ),
    )
    loss = ClipPPOLoss(actor, ValueOperator(torch.nn.Linear(6, 1), in_keys=["observation"]), clip_epsilon=0.2)
    loss.set_keys(
        action=[("action", head) for head in heads], sample_log_prob=[("action", f"{head}_log_prob") for head in heads]
    )
    return loss


def one_actor(observations: int = 4, choices: int = 2) -> Any:
    return ProbabilisticTensorDictSequential(
        TensorDictModule(torch.nn.Linear(observations, choices), ["observation"], ["logits"]),
        ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=Categorical, return_log_prob=True),
    )


def one_head(actor: Any = None) -> Any:
    critic = ValueOperator(torch.nn.Linear(4, 1), in_keys=["observation"])
    return ClipPPOLoss(one_actor() if actor is None else actor, critic, clip_epsilon=0.2)


def collected(loss: Any, size: Any = (ROWS,), observations: int = 6) -> Any:
    batch = TensorDict({"observation": torch.randn(*size, observations)}, size)
    with torch.no_grad(), loss.actor_network_params.to_module(loss.actor_network):
        batch = loss.actor_network(batch)
    batch["advantage"], batch["value_target"] = torch.randn(*size, 1), torch.randn(*size, 1)
    return batch


def learned(loss: Any, batch: Any, *, steps: int = 4) -> list[Any]:
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    found = []
    for _ in range(steps):
        out = loss(batch)
        optimizer.zero_grad()
        sum(out[name] for name in LEARNED).backward()
        optimizer.step()
        found.append(out.detach())
    return found


def test_named_heads_have_the_kl_of_the_policy_after_the_last_step(tmp_path: Path) -> None:
    loss = two_heads()
    hook = report(loss, "two", **options(tmp_path))
    for update in (1, 2):
        batch = collected(loss, (16, 8))  # as a collector gives it: environments and steps
        before = {head: batch["action", f"{head}_log_prob"].double().flatten() for head in ("move", "aim")}
        theirs = learned(loss, batch)
        hook(batch)
        with torch.no_grad(), loss.actor_network_params.to_module(loss.actor_network):
            logits = loss.actor_network[0](batch.flatten().select("observation"))["params"]
        assert hook.last is not None
        assert [head.name for head in hook.last.heads] == ["move", "aim"]
        total = 0.0
        for head in hook.last.heads:
            now = Categorical(logits=logits[head.name, "logits"].double())
            r = now.log_prob(batch["action", head.name].flatten()) - before[head.name]  # type: ignore[no-untyped-call]  # torch ships it without annotations
            expected = float((torch.expm1(r) - r).mean())
            assert head.kl == pytest.approx(expected, rel=1e-3, abs=1e-7)
            total += expected
        assert hook.last.kl_joint == pytest.approx(total, rel=1e-3)
        assert hook.last.kl_measured == "after_last_step"
        assert (hook.last.library, hook.last.library_kl_name) == ("torchrl", "kl_approx")
        assert hook.last.library_kl == pytest.approx(
            sum(float(out["kl_approx"]) for out in theirs) / len(theirs), abs=1e-7
        )
        assert hook.last.minibatches == 4
        assert hook.last.env_steps == ROWS * update
    hook.close()


def test_a_whole_trainer_reports_every_update_and_ends_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script of the how-to page."""
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "torchrl.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "torchrl.md", "exec"), {})
    (folder,) = (tmp_path / "runs").glob("*-cart-*")
    run = open_run(folder)
    updates = [event.payload for event in run.updates()]
    assert [update.env_steps for update in updates] == [128, 256, 384], "the last one included"
    assert all(0 < present(update.kl_joint) < 0.1 and update.minibatches == 4 for update in updates)
    assert all(update.library_kl is not None for update in updates)
    assert all(update.advantage_std is not None and update.entropy is not None for update in updates)
    assert all(update.return_mean is not None for update in updates)
    assert run.record is not None
    assert run.record.state is RunState.DONE


def test_a_trainer_without_batches_is_told_once_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hook = report(one_head(), "none", **options(tmp_path))
    hook(None)
    hook(None)
    hook.close()
    assert hook.last is None
    assert "the trainer hands over no batch (asynchronous collection)" in capsys.readouterr().err


def test_a_batch_without_log_probabilities_is_told_and_harms_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = one_head()
    batch = collected(loss, observations=4)
    learned(loss, batch)
    hook = report(loss, "none", **options(tmp_path))
    hook(batch.exclude("action_log_prob"))
    hook.close()
    assert "the batch has no log-probabilities 'action_log_prob'" in capsys.readouterr().err


def test_a_head_is_of_the_kind_that_its_policy_draws_from(tmp_path: Path) -> None:
    continuous = ProbabilisticTensorDictSequential(
        TensorDictModule(
            torch.nn.Sequential(torch.nn.Linear(4, 4), NormalParamExtractor()), ["observation"], ["loc", "scale"]
        ),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], ["action"], distribution_class=TanhNormal, return_log_prob=True
        ),
    )
    kinds = []
    for loss, observations in ((one_head(continuous), 4), (one_head(), 4), (two_heads(), 6)):
        hook = report(loss, "kinds", **options(tmp_path))
        batch = collected(loss, observations=observations)
        learned(loss, batch)
        hook(batch)
        hook.close()
        assert hook.last is not None
        assert hook.last.kl_joint is not None
        assert hook.last.kl_joint > 0
        kinds.append([head.kind for head in hook.last.heads])
    assert kinds == [["gaussian"], ["categorical"], ["categorical", "categorical"]]


def test_padding_does_not_count(tmp_path: Path) -> None:
    loss = one_head()
    batch = collected(loss, (8, 4), observations=4)
    batch["collector", "mask"] = torch.arange(32).reshape(8, 4) % 2 == 0
    hook = report(loss, "padded", **options(tmp_path))
    learned(loss, batch)
    hook(batch)
    hook.close()
    assert hook.last is not None
    assert (hook.last.steps, hook.last.env_steps) == (16, 16)


def test_the_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    def weights(watched: bool) -> list[Any]:
        torch.manual_seed(0)
        loss = two_heads()
        hook = report(loss, "same", **options(tmp_path)) if watched else None
        for _ in range(2):
            batch = collected(loss)
            learned(loss, batch)
            if hook is not None:
                hook(batch)
        if hook is not None:
            hook.close()
        return [parameter.detach().clone() for parameter in loss.parameters()]

    for one, other in zip(weights(True), weights(False), strict=True):
        assert torch.equal(one, other)


def test_what_it_cannot_watch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Linear is not a PPO loss"):
        report(torch.nn.Linear(1, 1))
    assert not issubclass(SACLoss, ClipPPOLoss)
    recurrent = one_head()
    recurrent.actor_network[0].in_keys = ["observation", "is_init"]
    recurrent.actor_network.in_keys = ["observation", "is_init"]
    with pytest.raises(UsageError, match="a recurrent policy is not supported"):
        report(recurrent)
    with pytest.raises(UsageError, match="heads: 3 names for 1 log-probabilities"):
        report(one_head(), "x", heads=("a", "b", "c"), **options(tmp_path))(None)
    assert not list(tmp_path.iterdir())


def test_the_check_holds(tmp_path: Path) -> None:
    from esper_torchrl.check import check

    found = check(tmp_path)
    assert found.holds
    assert len(found.compared) == 3
