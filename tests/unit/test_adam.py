"""FlatAdam: torch.optim.Adam's numbers and state on one vector, with and without torch's fused step."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_core.ppo.adam import FlatAdam

pytestmark = pytest.mark.numeric


def network(*, mixed: bool = False) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.append(Doubled()) if mixed else module


class Doubled(nn.Module):
    """One weight of another dtype, one that is frozen, and one that takes part in nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return x.double() * self.scale * self.frozen


def backward(module: nn.Module, step: int) -> None:
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(step))
    module(x).square().sum().backward()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=["fused", "absent", "of another signature", "wrong"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch as it is, and as a version may be in which the private call has gone or has changed."""
    if request.param == "absent":
        monkeypatch.delattr(torch, "_fused_adam_")
    elif request.param == "of another signature":
        monkeypatch.setattr(torch, "_fused_adam_", lambda _: None)
    elif request.param == "wrong":
        monkeypatch.setattr(torch, "_fused_adam_", lambda *_, **__: None)
    return request.param


@pytest.mark.parametrize("mixed", [False, True])
def test_steps_are_those_of_torch(fused: str, mixed: bool) -> None:
    ours, theirs = network(mixed=mixed), network(mixed=mixed)
    flat = FlatAdam(list(ours.parameters()), 0.1)
    reference = torch.optim.Adam(theirs.parameters(), lr=0.1, eps=1e-5, foreach=False)
    for step in range(5):
        flat.zero_grad()
        reference.zero_grad()
        for module in (ours, theirs):
            backward(module, step)
        norm = torch.nn.utils.clip_grad_norm_([item for item in theirs.parameters() if item.requires_grad], 2.0)
        assert float(flat.grad_norm()) == pytest.approx(float(norm), rel=1e-5)
        flat.clip(float(flat.grad_norm()), 2.0)
        flat.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        flat.step()
        reference.step()
        assert_same(ours, theirs)


@pytest.mark.parametrize("backwards", [False, True])
def test_state_goes_to_and_fro(fused: str, backwards: bool) -> None:
    """What torch.optim.Adam saved (checkpoints of 0.1) goes on here, and what is saved here goes on there."""
    first, second = network(), network()
    kinds: list[Any] = [lambda items: torch.optim.Adam(items, lr=0.1, eps=1e-5), lambda items: FlatAdam(items, 0.1)]
    if backwards:
        kinds.reverse()
    one = kinds[0](list(first.parameters()))
    for step in range(3):
        one.zero_grad()
        backward(first, step)
        one.step()
    other = kinds[1](list(second.parameters()))
    second.load_state_dict(first.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for optimizer, module in ((one, first), (other, second)):
        optimizer.zero_grad()
        backward(module, 9)
        optimizer.step()
    assert_same(first, second)


def test_state_has_the_form_that_torch_gives_it() -> None:
    module, same = network(), network()
    ours = FlatAdam(list(module.parameters()), 0.1)
    theirs: Any = torch.optim.Adam(same.parameters(), lr=0.1, eps=1e-5, fused=True, foreach=False)
    assert ours.state_dict()["state"] == theirs.state_dict()["state"] == {}
    for optimizer, network_ in ((ours, module), (theirs, same)):
        backward(network_, 0)
        optimizer.step()
    mine, torchs = ours.state_dict(), theirs.state_dict()
    assert {**mine["param_groups"][0], "decoupled_weight_decay": False} == {
        **torchs["param_groups"][0],
        "decoupled_weight_decay": False,  # of newer versions only
    }
    assert mine["state"].keys() == torchs["state"].keys()
    for index, state in torchs["state"].items():
        assert list(mine["state"][index]) == list(state)
        for name, value in state.items():
            torch.testing.assert_close(mine["state"][index][name], value)


@pytest.mark.parametrize("change", ["fewer", "shape", "index"])
def test_state_of_other_parameters_is_refused(change: str) -> None:
    ours = FlatAdam(list(network().parameters()), 0.1)
    ours.step()
    state = copy.deepcopy(ours.state_dict())
    if change == "fewer":
        state["param_groups"][0]["params"] = [0, 1]
    elif change == "shape":
        state["state"][1]["exp_avg"] = torch.zeros(1)
    else:
        state["state"][7] = state["state"].pop(3)
    with pytest.raises(ValueError, match="state"):
        ours.load_state_dict(state)


def test_a_copied_agent_learns_by_itself(bandit: Any) -> None:
    """A deep copy's weights have memory of their own; so have weights that a module was assigned."""
    agent = bandit.agent(minibatch_size=64, target_kl=0)
    agent.update(bandit.rollout(agent, 128))
    twin = copy.deepcopy(agent)
    before = [parameter.detach().clone() for parameter in agent.policy.parameters()]
    rollout = bandit.rollout(agent, 128)
    twin.update(rollout)
    assert all(map(torch.equal, before, agent.policy.parameters()))
    agent.policy.zero_grad(set_to_none=True)
    agent.update(rollout)
    assert not torch.equal(before[0], next(iter(agent.policy.parameters())))
    assert all(map(torch.equal, twin.policy.parameters(), agent.policy.parameters()))


def test_no_compiler_is_imported_to_learn() -> None:
    """torch.optim's constructors import torch's compiler: most of a second before the first update."""
    code = (
        "import sys, torch\n"
        "from esper_core.ppo import PPOAgent, HeadSpec, Batch, Rollout\n"
        "agent = PPOAgent([HeadSpec('a', 2)], (3,))\n"
        "x = torch.randn(8, 3)\n"
        "d = agent.decide(x, None, None, agent.noise(1, 8)[0])\n"
        "on = torch.ones(8, 1, dtype=torch.bool)\n"
        "agent.update(Rollout(Batch(x, d.actions, d.log_prob, None, on, on[:, 0], x[:, 0], x[:, 0], d.values)))\n"
        "assert agent.last.minibatches == 4, agent.last\n"
        "print(sorted(name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_a_fresh_agent_takes_what_a_torch_optimizer_kept(bandit: Any) -> None:
    """Its parameters are in the order in which checkpoints keep them: the trunk's first."""
    agent = bandit.agent()
    theirs = torch.optim.Adam(agent.policy.learned(), lr=1e-2, eps=1e-5)
    for parameter in agent.policy.learned():
        parameter.grad = torch.ones_like(parameter)
    theirs.step()
    agent.optimizer.load_state_dict(theirs.state_dict())
    state = agent.optimizer.state_dict()["state"]
    assert [item["exp_avg"].shape for item in state.values()] == [item.shape for item in agent.policy.learned()]
    assert all(float(item["step"]) == 1 for item in state.values())
