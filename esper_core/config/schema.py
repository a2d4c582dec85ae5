"""Every configuration key of the core, with its type, default, unit and meaning. Imports no torch.

Each Struct is one table of ``esper.toml`` (``[tool.esper]`` in ``pyproject.toml``). The text under a field is what
``docs/reference/config.md`` and ``--help`` show. Unknown keys are errors. A plugin's table ``[sink.NAME]`` is validated
by the plugin's own ``Config``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from esper_core.health import DEFAULT_KL_LIMITS, KLLimits
from esper_core.hooks import EventForm  # noqa: TC001  # msgspec resolves the annotation at run time

__all__ = [
    "DeliveryConfig",
    "EnvConfig",
    "EsperConfig",
    "HealthConfig",
    "OtelConfig",
    "PPOConfig",
    "RunConfig",
]

MOST: Final = 1e6
"""The largest value of a rate, a coefficient or a KL: far above any that trains, far below where float32 overflows."""


def _doc(text: str, *, most: float | None = None, **bounds: Any) -> Meta:
    """What a key means and the values that make sense; ``most`` is the largest one that can work, far above those."""
    return Meta(description=text, extra=None if most is None else {"most": most}, **bounds)


class PPOConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[ppo]``: the agent and its update (Schulman et al. 2017, arXiv:1707.06347)."""

    rollout_steps: Annotated[int, _doc("environment steps per environment and update", ge=1)] = 128
    epochs: Annotated[int, _doc("passes over the rollout per update", ge=1, most=10_000)] = 4
    minibatch_size: Annotated[int, _doc("environment steps per optimizer step", ge=1)] = 256
    learning_rate: Annotated[float, _doc("Adam's learning rate", gt=0, most=MOST)] = 3e-4
    learning_rate_schedule: Annotated[
        Literal["constant", "linear", "cosine", "kl_adaptive"],
        _doc(
            "linear or cosine to 0 over the planned run (its nearest limit; a preset's stays constant without one);"
            " kl_adaptive: after each update divided by 1.5 above twice desired_kl and multiplied by it below half,"
            " within 1e-5 and 1e-2"
        ),
    ] = "constant"
    desired_kl: Annotated[
        float,
        _doc("nats; what kl_adaptive steers the KL of stop_on to; 0 takes target_kl", ge=0, most=MOST),
    ] = 0.0
    gamma: Annotated[float, _doc("discount factor", ge=0, le=1)] = 0.99
    gae_lambda: Annotated[float, _doc("GAE's lambda", ge=0, le=1)] = 0.95
    clip_range: Annotated[float, _doc("clip range of the joint probability ratio", gt=0, most=MOST)] = 0.2
    clip_range_schedule: Annotated[
        Literal["constant", "linear", "cosine"], _doc("linear or cosine to 0 over the planned run (its nearest limit)")
    ] = "constant"
    value_clip_range: Annotated[
        float,
        _doc(
            "how far a value estimate counts as moved from the old one, in units of the return; 0 clips nothing",
            ge=0,
            most=MOST,
        ),
    ] = 0.0
    value_clip_rule: Annotated[
        Literal["larger", "clipped"],
        _doc("larger: of the error and the clipped one (PPO2, CleanRL, rsl_rl); clipped: that one alone (SB3)"),
    ] = "larger"
    value_coef: Annotated[
        float, _doc("weight of the value loss, 0.5 * squared error per step: 1.0 is SB3's vf_coef 0.5", ge=0, most=MOST)
    ] = 0.5
    entropy_coef: Annotated[
        float, _doc("weight of the entropy bonus: nats per unforced step, summed over active heads", ge=0, most=MOST)
    ] = 0.01
    entropy_coef_schedule: Annotated[
        Literal["constant", "linear", "cosine"], _doc("linear or cosine to 0 over the planned run (its nearest limit)")
    ] = "constant"
    max_grad_norm: Annotated[
        float, _doc("global gradient norm above which gradients are scaled down", gt=0, most=1e30)
    ] = 0.5
    normalise_advantage: Annotated[bool, _doc("scale advantages of the rollout's unforced steps to mean 0, std 1")] = (
        True
    )
    normalise_observations: Annotated[
        bool,
        _doc(
            "subtract the running mean of observations and divide by their running deviation, clipped to 10; pixels and"
            " one-hot choices stay as they are"
        ),
    ] = False
    normalise_rewards: Annotated[
        bool,
        _doc(
            "learn from rewards divided by the running deviation of the discounted return, clipped to 10; returns are"
            " reported as the environment gives them"
        ),
    ] = False
    policy: Annotated[
        str,
        _doc(
            "network: mlp, cnn (convolutions for images), auto (cnn where the observation has an image), or your own:"
            " package.module:factory",
            min_length=1,
        ),
    ] = "auto"
    activation: Annotated[
        Literal["tanh", "relu", "elu", "gelu", "silu"], _doc("function after each of the hidden layers")
    ] = "tanh"
    shared_trunk: Annotated[bool, _doc("policy and value share the hidden layers; convolutions are always shared")] = (
        False
    )
    hidden: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...],
        _doc(
            "widths of the hidden layers of policy and value trunk, each at least 1; at most 100 of them; not used "
            "where the observation is one image",
            max_length=100,
        ),
    ] = (
        64,
        64,
    )
    log_std_init: Annotated[
        float,
        _doc(
            "logarithm of the standard deviation that continuous (Gaussian) heads start with; learned, and the same for"
            " every observation",
            ge=-20,
            le=20,
        ),
    ] = 0.0
    squash: Annotated[
        bool,
        _doc(
            "continuous heads reach their bounds through tanh, instead of being clipped to them; every bound must be"
            " finite"
        ),
    ] = False
    target_kl: Annotated[
        float, _doc("KL target in nats; the stop is at 1.5 times it; 0 switches it off", ge=0, most=MOST)
    ] = 0.02
    stop_on: Annotated[
        Literal["weighted", "joint"], _doc("the KL the stop is on: per head-decision, or joint per step")
    ] = "weighted"
    stop_rule: Annotated[
        Literal["pooled", "minibatch", "epoch"],
        _doc("pooled: last window of minibatches; minibatch: each one (SB3); epoch: last one of an epoch (CleanRL)"),
    ] = "pooled"
    kl_estimator: Annotated[
        Literal["k3", "exact"], _doc("k3 from samples, or exact from both distributions, for the reported KL")
    ] = "k3"
    device: Annotated[str, _doc("torch device: cpu, cuda, cuda:0, or auto")] = "cpu"
    threads: Annotated[
        int, _doc("torch threads; 1 is fastest for small networks; 0 leaves torch's default", ge=0, most=1024)
    ] = 1
    compile: Annotated[
        bool,
        _doc(
            "compile the update's step for this network and machine, once, with the C++ compiler that is there, or on a"
            " GPU capture it in a CUDA graph; where that is not possible, a notice says why and the update runs as"
            " without it"
        ),
    ] = False


class HealthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[health]``: what the run's KL is judged by, everywhere; the early stop is ``[ppo]``'s."""

    kl_on: Annotated[
        Literal["weighted", "joint"], _doc("the KL that is judged: per head-decision, or joint per step")
    ] = "weighted"
    kl_warning: Annotated[float, _doc("nats; a KL from here on is a warning", gt=0, most=MOST)] = (
        DEFAULT_KL_LIMITS.warning
    )
    kl_critical: Annotated[float, _doc("nats; a KL from here on is critical; above kl_warning", gt=0, most=MOST)] = (
        DEFAULT_KL_LIMITS.critical
    )

    @property
    def limits(self) -> KLLimits:
        """The limits as everything that judges takes them."""
        return KLLimits(on=self.kl_on, warning=self.kl_warning, critical=self.kl_critical)


class EnvConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[env]``: what is trained on."""

    id: Annotated[
        str, _doc("an environment plugin, a registered Gymnasium id, or package.module:EnvId", min_length=1)
    ] = "morphogenesis"
    n_envs: Annotated[int, _doc("environments stepped side by side", ge=1)] = 8
    causal_mask: Annotated[
        str, _doc("module:function that maps actions (n, heads) to a bool mask (n, heads); empty for none")
    ] = ""
    kwargs: Annotated[dict[str, Any], _doc("keyword arguments for the environment")] = field(default_factory=dict)
    wrappers: Annotated[
        tuple[str, ...],
        _doc("around each environment, the innermost first: package.module:Wrapper?key=value, or one of Gymnasium's"),
    ] = ()
    vector: Annotated[
        Literal["sync", "async", "native"],
        _doc(
            "sync: one environment after another in this process; async: a worker process for each; native: all as one,"
            " where the environment is registered with a vector entry point"
        ),
    ] = "sync"
    masks: Annotated[
        Literal["auto", "info", "method", "off"],
        _doc("legal choices from info, from action_masks(), from either (auto), or none: off reads no mask at all"),
    ] = "auto"
    seed_episodes: Annotated[
        bool, _doc("seed every episode by its number: a resumed run goes on exactly where it was")
    ] = False


class RunConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[run]``: limits, place and behaviour of a run. The first limit reached ends it; 0 means no limit."""

    dir: Annotated[str, _doc("folder that holds the runs", min_length=1)] = "runs"
    name: Annotated[str, _doc("a name for people; the run id holds it")] = ""
    seed: Annotated[int, _doc("seed of environment, policy and minibatch order", ge=0, most=2**64 - 1)] = 0
    updates: Annotated[int, _doc("PPO updates to train for", ge=0)] = 0
    steps: Annotated[int, _doc("environment steps to train for", ge=0)] = 0
    episodes: Annotated[int, _doc("finished episodes to train for, over all environments", ge=0)] = 0
    eval_every: Annotated[
        int, _doc("evaluate the policy after every nth update, in environments of its own; 0 never", ge=0)
    ] = 0
    eval_episodes: Annotated[int, _doc("episodes of one evaluation, the same ones each time", ge=1)] = 10
    eval_deterministic: Annotated[bool, _doc("evaluate the greedy policy; false samples, as in training")] = True
    video_every: Annotated[
        int, _doc("record one episode after every nth update, as mp4 in the run's folder; 0 never", ge=0)
    ] = 0
    keep_going: Annotated[bool, _doc("go on after NaN or Inf instead of stopping")] = False
    checkpoint_interval_s: Annotated[float, _doc("least seconds between two checkpoints", ge=0)] = 10.0
    close_timeout_s: Annotated[float, _doc("seconds all sinks together have to close", gt=0, most=86_400)] = 3.0
    strict_telemetry: Annotated[bool, _doc("exit with 5 when telemetry was lost")] = False
    system_metrics: Annotated[
        bool, _doc("look at the trainer's CPU, memory and GPU with every heartbeat, for run.json and process.* metrics")
    ] = True
    rank_timeout_s: Annotated[
        float,
        _doc("seconds that a rank waits for the others, rollouts included, before the run fails", ge=1, most=86_400),
    ] = 600.0
    rank_check_updates: Annotated[
        int, _doc("updates between two comparisons of all ranks' weights; 0 compares them at the start alone", ge=0)
    ] = 10


class OtelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[otel]``: how Esper uses OpenTelemetry. ``OTEL_*`` variables are honoured by the SDK itself."""

    sdk: Annotated[
        Literal["auto", "always", "never"],
        _doc("set the SDK up: auto, when a sink contributes a processor or reader; always; never"),
    ] = "auto"
    events: Annotated[
        EventForm,
        _doc("form of an update's events (KL by epoch, early stop, exceptions): span events, log events, or both"),
    ] = "span"
    semconv: Annotated[
        tuple[Literal["esper", "rl"], ...],
        _doc('name sets: "esper", and opt-in "rl" (semantic-conventions-genai#88)'),
    ] = ("esper",)
    episodes: Annotated[bool, _doc("give every finished episode to the journal and to OTLP as a span")] = False


class DeliveryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[delivery.NAME]``: how one sink gets its events; overrides what the sink declares."""

    mode: Annotated[Literal["default", "inline", "all", "latest"], _doc("default: what the sink declares")] = "default"
    queue_size: Annotated[int, _doc("events a channel holds", ge=1)] = 1024
    max_failures: Annotated[int, _doc("failures in a row after which the sink is disabled", ge=1)] = 5


class EsperConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    sinks: Annotated[tuple[str, ...], _doc("sinks to load: names, or ./file.py:Class")] = (
        "console",
        "journal",
    )
    preset: Annotated[str, _doc("a named set of [ppo] and [env] values beneath the file; empty: by environment")] = ""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    run: RunConfig = field(default_factory=RunConfig)
    otel: OtelConfig = field(default_factory=OtelConfig)
    delivery: dict[str, DeliveryConfig] = field(default_factory=dict)
    sink: Annotated[dict[str, dict[str, Any]], _doc("one table a sink; validated by the sink's own Config")] = field(
        default_factory=dict
    )


def to_builtins(config: EsperConfig) -> dict[str, Any]:
    """The configuration as plain dicts, ready for TOML or JSON. Secrets must be masked by the caller."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return plain


# msgspec builds what it knows of a Struct at its first use, and two threads at once crash the process there (seen with
# msgspec 0.22.0, `esper_core.train` in two threads). A module is imported by one thread alone.
msgspec.json.Decoder(EsperConfig)
