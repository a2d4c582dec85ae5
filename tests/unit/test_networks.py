"""Trunks: convolutions where there are pixels, dense layers elsewhere, and a user's own module."""

from __future__ import annotations

import math
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from esper_core.config.schema import PPOConfig
from esper_core.errors import ConfigError, EsperError
from esper_core.ppo import HeadSpec, PPOAgent, load_checkpoint, save_checkpoint
from esper_core.ppo.checkpoint_fit import restore
from esper_core.ppo.convolution import planes_of
from esper_core.ppo.preprocessing import ObservationForm, Part

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.numeric

NUMBERS = Part(kind="numbers", shape=(4,), dtype="float32")


def _image(shape: tuple[int, ...], **options: Any) -> Part:
    return Part(kind="image", shape=shape, dtype="uint8", low=(0.0,), high=(255.0,), **options)


def _agent(*parts: Part, **ppo: Any) -> PPOAgent:
    form = ObservationForm(parts)
    return PPOAgent([HeadSpec("action", 3)], (form.size,), PPOConfig(**ppo), seed=1, form=form)


@pytest.mark.parametrize(
    ("shape", "channels", "sides"),
    [
        ((84, 84), 1, (84, 84)),
        ((84, 60, 3), 3, (84, 60)),
        ((3, 84, 60), 3, (84, 60)),
        ((10, 10, 4), 4, (10, 10)),
        ((4, 84, 84, 3), 12, (84, 84)),
        ((4, 3, 84, 84), 12, (84, 84)),
    ],
)
def test_channels_are_found(shape: tuple[int, ...], channels: int, sides: tuple[int, int]) -> None:
    planes = planes_of(shape)
    assert planes is not None
    assert (planes.channels, planes.height, planes.width) == (channels, *sides)


@pytest.mark.parametrize("shape", [(8,), (4, 84), (3, 4, 4), (2, 2, 2, 2, 2)])
def test_what_is_no_image_has_no_channels(shape: tuple[int, ...]) -> None:
    assert planes_of(shape) is None


def test_auto_takes_convolutions_for_an_image_and_both_channel_orders_read_the_same() -> None:
    last, first = _agent(_image((10, 8, 2))), _agent(_image((2, 10, 8)))
    assert (last.config.policy, _agent(NUMBERS).config.policy) == (
        "cnn",
        "mlp",
    )
    pixels = torch.rand(5, 10, 8, 2)
    turned = pixels.permute(0, 3, 1, 2)
    for one, other in zip(last.policy(pixels.flatten(1)), first.policy(turned.flatten(1)), strict=True):
        torch.testing.assert_close(one, other)
    logits, values = last.policy(pixels.flatten(1))
    assert (logits.shape, values.shape) == ((5, 1, 3), (5,))
    assert last.act(np.zeros((10, 8, 2), np.uint8)).shape == ()


def test_a_nature_trunk_has_the_published_layers() -> None:
    policy = _agent(_image((84, 84, 4))).policy
    shapes = [tuple(weight.shape) for name, weight in policy.trunk.named_parameters() if name.endswith("weight")]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136)]


def test_numbers_beside_an_image_reach_the_dense_layers(bandit: Any) -> None:
    agent = _agent(_image((6, 6, 3), path=("eye",)), Part(kind="numbers", shape=(2,), dtype="float32", path=("arm",)))
    rows = torch.rand(4, 6 * 6 * 3 + 2)
    before = agent.policy(rows)[0]
    rows[:, -1] += 1
    assert not torch.allclose(agent.policy(rows)[0], before)
    assert agent.act({"eye": np.zeros((6, 6, 3), np.uint8), "arm": np.zeros(2)}).shape == ()


def test_cnn_without_an_image_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r'ppo.policy is "cnn".*no image.*numbers \(4,\)'):
        _agent(NUMBERS, policy="cnn")
    assert (
        _agent(Part(kind="numbers", shape=(9, 9, 2), dtype="float32"), policy="cnn").act(np.zeros((9, 9, 2))).shape
        == ()
    )


@pytest.mark.parametrize("options", [{"shared_trunk": True}, {"activation": "relu"}, {"policy": "cnn"}])
def test_networks_learn_and_come_back_from_a_checkpoint(options: dict[str, Any], bandit: Any, tmp_path: Path) -> None:
    part = _image((6, 6, 1)) if "policy" in options else Part(kind="numbers", shape=(36,), dtype="float32")
    form = ObservationForm((part,))
    agent = PPOAgent(bandit.heads, (36,), PPOConfig(minibatch_size=32, hidden=(8,), **options), form=form)
    wide = torch.zeros(64, 36)
    wide[:, :3] = bandit.observations(64)
    observed = type(bandit).observations
    try:
        type(bandit).observations = lambda self, count: wide
        metrics = agent.update(bandit.rollout(agent, 64))
    finally:
        type(bandit).observations = observed
    assert math.isfinite(metrics["approx_kl"])
    assert metrics["approx_kl"] > 0
    save_checkpoint(tmp_path / "c.pt", agent)
    loaded = PPOAgent.load(tmp_path / "c.pt")
    torch.testing.assert_close(loaded.policy(wide)[0], agent.policy(wide)[0])
    other = PPOAgent(bandit.heads, (36,), PPOConfig(hidden=(8,), policy="mlp"), form=form)
    with pytest.raises(ConfigError, match="another ppo"):
        restore(other, load_checkpoint(tmp_path / "c.pt"))


@pytest.mark.parametrize(
    "part", [_image((40, 40)), _image((6, 6, 3)), Part(kind="numbers", shape=(3,), dtype="float32")]
)
def test_making_a_policy_leaves_torchs_own_generator_alone(part: Part) -> None:
    before = torch.get_rng_state()
    _agent(part, shared_trunk=True)
    assert torch.equal(torch.get_rng_state(), before)


# --- a user's own module --------------------------------------------------------------------------------

HEAD = "import torch\nfrom torch import nn\n"
GOOD = """
class Two(nn.Module):
    def __init__(self, given):
        super().__init__()
        self.policy, self.value = nn.Linear(given.inputs, 5), nn.Linear(given.inputs, 7)
    def forward(self, rows):
        return self.policy(rows).tanh(), self.value(rows).tanh()
make = Two
"""

DETACHED = """
class make(nn.Linear):
    def __init__(self, given): super().__init__(4, 2)
    def forward(self, rows): return super().forward(rows).detach()
"""
RUNNING = """
def make(given):
    rows = nn.Unflatten(1, (1, 4)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten()
    return nn.Sequential(*rows, nn.Linear(4, 2))
"""
EMPTY = """
class make(nn.Linear):
    def __init__(self, given): super().__init__(4, 2)
    def forward(self, rows): return super().forward(rows)[:, :0]
"""
FEW = """
class make(nn.Linear):
    def __init__(self, given): super().__init__(4, 2)
    def forward(self, rows):
        assert len(rows) < 9, "too many"
        return super().forward(rows)
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes an agent of the module ``make`` of some code."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def build(code: str, **ppo: Any) -> PPOAgent:
        name = f"network_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(HEAD + code)
        return _agent(NUMBERS, policy=f"{name}:make", **ppo)

    return build


def test_a_network_of_ones_own_is_seeded_by_the_run_learned_and_kept(network: Any, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    agent = network(GOOD)
    assert torch.equal(torch.get_rng_state(), before)
    again = PPOAgent([HeadSpec("action", 3)], (4,), agent.config, seed=1)
    assert agent.policy.trunk.widths == (5, 7)
    rows = torch.rand(6, 4)
    torch.testing.assert_close(again.policy(rows)[0], agent.policy(rows)[0])
    save_checkpoint(tmp_path / "c.pt", agent)
    with torch.no_grad():
        for weight in agent.policy.parameters():
            weight.add_(1)
    save_checkpoint(tmp_path / "d.pt", agent)
    torch.testing.assert_close(PPOAgent.load(tmp_path / "d.pt").policy(rows)[0], agent.policy(rows)[0])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("make = lambda given: 3", "returned int, not a torch.nn.Module"),
        ("def make(given):\n    return given.nothing", r"failed in .*\.py, line 4, make\(\): AttributeError"),
        ("def make(given): return nn.Linear(5, 2)", "forward.* failed"),
        ("def make(given): return nn.Flatten(0)", r"returns shape \(12,\) for rows of shape \(3, 4\)"),
        ("def make(given): return nn.LSTM(4, 8, batch_first=True)", "recurrent policies are not there"),
        ("def make(given): return nn.Sequential(nn.Linear(4, 8), nn.Dropout())", "in a second pass"),
        ("def make(given): return nn.Sequential(nn.Linear(4, 8), nn.Softmax(0))", "when each row comes alone"),
        ("def make(given): return nn.Linear(4, 2, dtype=torch.float64)", "failed"),
        ("def make(given): return nn.Sequential(nn.Linear(4, 2), nn.Threshold(9e9, float('nan')))", "not finite"),
        (DETACHED, "without a gradient"),
        (RUNNING, "changes its buffer 1.running_mean in forward"),
        (EMPTY, "returns no features"),
        ("def make(given): raise SystemExit(3)", r"called exit\(3\) in .*\.py, line 3"),
        ("make = 3", "cannot be called"),
        ("other = 3", "has no make"),
        ("def maker(given): return nn.Linear(4, 2)", 'has no make, did you mean "maker"'),
        ("1 / 0", r"cannot be imported in .*\.py, line 3"),
    ],
)
def test_the_contract_of_a_network_is_checked_at_the_start(network: Any, code: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        network(code)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("policy", "message"),
    [("lstm", "recurrent"), ("resnet", "package.module:factory"), ("no_such_module:make", "no_such")],
)
def test_a_policy_that_is_none_is_refused(policy: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _agent(NUMBERS, policy=policy)


def test_an_error_of_a_network_at_work_names_its_line(network: Any) -> None:
    agent = network(FEW)
    with pytest.raises(EsperError, match=r"line 7, forward\(\): AssertionError: too many"):
        agent.act(np.zeros((10, 4)))
    agent.policy.trunk.module.forward = lambda rows: rows[:, :1]
    with pytest.raises(EsperError, match=r"returns shape \(2, 1\) for rows of shape \(2, 4\)"):
        agent.act(np.zeros((2, 4)))


@pytest.mark.parametrize(
    "ppo",
    [
        {"hidden": (5, 6, 7)},
        {"hidden": (), "activation": "relu"},
        {"hidden": (8,), "activation": "relu", "shared_trunk": True},
        {"hidden": (512, 512)},
        {"hidden": (6,), "activation": "silu"},
    ],
    ids=["packed", "no layers", "shared", "large", "torch's own activation"],
)
def test_acting_computes_the_networks_own_numbers_in_numpy_or_in_torch(ppo: dict[str, Any]) -> None:
    agent = _agent(NUMBERS, **ppo)
    for rows in (1, 6):
        shown = torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))
        outputs, values = agent.policy(shown)
        network = agent.policy.on_host(rows)
        for _ in range(2):  # memory that is used again
            found = network(shown.numpy())
            np.testing.assert_allclose(found[0], outputs.detach().numpy(), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found[1], values.detach().numpy(), rtol=1e-4, atol=1e-5)
