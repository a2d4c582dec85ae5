"""What training takes at least, against what it really allocates, and what the machine has."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
import torch

from esper_core.config.schema import PPOConfig
from esper_core.errors import ConfigError
from esper_core.host.process.memory import memory_bytes
from esper_core.ppo.agent import PPOAgent
from esper_core.ppo.devices import resolve_device
from esper_core.ppo.heads import HeadSpec
from esper_core.ppo.memory import MemoryNeed, memory_need, refuse_beyond


@pytest.mark.parametrize(
    ("hidden", "inputs", "sizes"), [((64, 64), 4, (2,)), ((), 9, (3, 5)), ((7,), 1, (2, 2, 2)), ((32, 16, 8), 20, (6,))]
)
def test_the_network_is_counted_to_the_byte(hidden: tuple[int, ...], inputs: int, sizes: tuple[int, ...]) -> None:
    config = PPOConfig(hidden=hidden)
    agent = PPOAgent([HeadSpec(f"h{index}", size) for index, size in enumerate(sizes)], (inputs,), config)
    weights = sum(item.numel() for item in agent.policy.parameters())
    need = memory_need(config, n_envs=1, obs_shape=(inputs,), heads=sizes)
    assert need.network == weights * 4 * 4  # float32: weight, gradient, Adam's two moments


def test_the_rollout_is_at_most_what_the_collector_takes() -> None:
    config = PPOConfig(rollout_steps=100)
    need = memory_need(config, n_envs=10, obs_shape=(8,), heads=(3, 2))
    # Collector: observations, actions, log-probabilities, causal bytes, values, rewards (float64), two flags.
    one = 4 * 8 + 2 * 8 + 2 * 4 + 2 + 4 + 8 + 2
    assert 0 < need.rollout <= 2 * 1000 * one


@pytest.mark.parametrize(
    ("change", "n_envs", "key"),
    [
        ({"hidden": (10**7, 10**7)}, 8, "ppo.hidden"),
        ({"rollout_steps": 10**12}, 8, "ppo.rollout_steps or env.n_envs"),
        ({"rollout_steps": 1}, 10**12, "env.n_envs"),
        ({"rollout_steps": 10**6, "minibatch_size": 10**6, "hidden": (4096,) * 20}, 8, "ppo.minibatch_size"),
    ],
)
def test_the_largest_part_names_the_key_to_lower(change: dict[str, object], n_envs: int, key: str) -> None:
    need = memory_need(msgspec.structs.replace(PPOConfig(), **change), n_envs=n_envs)
    with pytest.raises(ConfigError, match="training would take at least") as caught:
        refuse_beyond(need, 1 << 30)
    assert caught.value.hint == f"lower {key}"


def test_what_fits_or_cannot_be_judged_is_not_refused() -> None:
    need = MemoryNeed(environments=1, rollout=2, network=3, minibatch=4)
    refuse_beyond(need, 10)
    refuse_beyond(need, None)
    with pytest.raises(ConfigError):
        refuse_beyond(need, 9)


def test_the_memory_of_the_machine_is_known_and_a_lower_limit_of_the_process_counts() -> None:
    here = memory_bytes()
    assert here is not None
    assert here > 1 << 28
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({here - 4096}, resource.RLIM_INFINITY))
from esper_core.host.process.memory import memory_bytes
print(memory_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=250)
    assert int(done.stdout) == here - 4096


@pytest.mark.parametrize("name", ["meta", "gpu", "cuda:99", "cpu:x", "", "cpu\x1b"])
def test_a_device_that_cannot_compute_is_refused_with_those_that_can(name: str) -> None:
    with pytest.raises(ConfigError, match=r"ppo\.device") as caught:
        resolve_device(name)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("here: auto, cpu")


def test_a_device_that_computes_is_taken() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda"}
