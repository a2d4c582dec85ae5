"""Example events for tests: ordinary ones, one of each kind, and valid ones that break naive code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from esper_core import ids
from esper_core.events import (
    PAYLOADS,
    EarlyStop,
    EpisodeFinished,
    HeadStats,
    Payload,
    PolicyHealthChanged,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SinkLoss,
    SinkStatusChanged,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import HealthLevel, RunState, classify_kl
from esper_core.semconv.attributes import (
    ITERATION_SPAN,
    ROLLOUT_SPAN,
    attribute_specs,
    payload_from_attributes,
    span_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.events import EventKind

__all__ = ["HEADS", "awkward_updates", "make_event", "make_heads", "make_update", "one_of_each"]

HEADS: Final = ("slot", "blueprint", "tempo", "tempo_offset", "operations")
_START_NS: Final = 1_795_000_000_000_000_000
_UPDATE_NS: Final = 1_000_000_000
_NAN: Final = float("nan")


def make_heads(kl: float | None = 0.01, names: Sequence[str] = HEADS, *, steps: int = 1024) -> tuple[HeadStats, ...]:
    """Make heads of which the first has half of the KL.

    Args:
        kl: mean KL per head-decision over all heads, nats.
        names: the heads.
        steps: active decisions of each head.
    """
    shares = [0.5, *[0.5 / max(1, len(names) - 1)] * (len(names) - 1)] if len(names) > 1 else [1.0] * len(names)
    return tuple(
        HeadStats(
            name=name,
            kl=None if kl is None else kl * share * len(names),
            decisions=steps,
            weight=1.0,
            share=None if kl is None else share,
            entropy=1.1,
            entropy_normalised=0.8,
            clip_fraction=0.05,
        )
        for name, share in zip(names, shares, strict=True)
    )


def make_update(update_id: int = 1, kl: float | None = 0.01, **fields: Any) -> PPOUpdatePayload:
    """Make an ordinary PPO update.

    Args:
        update_id: counts from 1.
        kl: its ``kl_divergence``, nats; the level is derived from it.
        fields: any other field of ``PPOUpdatePayload``.
    """
    base: dict[str, Any] = {
        "env_steps": 1024 * (update_id - 1),
        "kl_divergence": kl,
        "kl_joint": None if kl is None else kl * len(HEADS),
        "kl_first_minibatch": 0.0,
        "kl_mean": kl,
        "kl_max": kl,
        "kl_last": kl,
        "kl_by_epoch": () if kl is None else (kl / 4, kl / 2, kl),
        "target_kl": 0.02,
        "stop_threshold": 0.03,
        "stop_window": 4,
        "ratio_max": 1.4,
        "health": classify_kl(kl),
        "heads": make_heads(kl),
        "epochs": 3,
        "epochs_planned": 3,
        "minibatches": 12,
        "minibatches_planned": 12,
        "steps": 1024,
        "policy_loss": -0.012,
        "value_loss": 0.31,
        "entropy": 5.5,
        "entropy_normalised": 0.8,
        "clip_fraction": 0.07,
        "explained_variance": 0.6,
        "grad_norm": 0.4,
        "grad_norm_max": 0.9,
        "advantage_mean": 0.01,
        "advantage_std": 1.2,
        "learning_rate": 3e-4,
        "clip_range": 0.2,
        "entropy_coef": 0.01,
        "episodes": 7,
        "return_mean": 20.0 + update_id,
        "return_min": 9.0,
        "return_max": 41.0 + update_id,
        "episode_length_mean": 21.0,
        "return_mean_100": 19.0 + update_id,
        "rollout_s": 0.4,
        "update_s": 0.5,
        "steps_per_s": 1137.8,
    }
    return PPOUpdatePayload(update_id=update_id, **(base | fields))


def make_event(
    payload: Payload,
    *,
    run_id: str = "test-run",
    attempt: int = 1,
    rank: int = 0,
    marked: bool = False,
    time_ns: int | None = None,
) -> TelemetryEvent[Any]:
    """Wrap a payload in an event, as the emitter does: an update has the spans of iteration, rollout and update.

    Args:
        payload: what happened.
        run_id: the run.
        attempt: counts from 1.
        rank: the rank of the process.
        marked: whether it is a test event, as ``esper sinks check`` sends.
        time_ns: unix nanoseconds; by default one second per update, from a fixed time.
    """
    update_id = payload.update_id if isinstance(payload, PPOUpdatePayload) else 0
    end = _START_NS + update_id * _UPDATE_NS if time_ns is None else time_ns
    spans: list[SpanRef] = []
    if isinstance(payload, PPOUpdatePayload):
        begun, turned = end - 900_000_000, end - 500_000_000
        spans.append(SpanRef(name=ITERATION_SPAN, span_id=_span_id(), start_ns=begun, end_ns=end))
        root = spans[0].span_id
        spans.append(SpanRef(name=ROLLOUT_SPAN, span_id=_span_id(), parent_span_id=root, start_ns=begun, end_ns=turned))
        spans.append(
            SpanRef(name=span_name(payload), span_id=_span_id(), parent_span_id=root, start_ns=turned, end_ns=end)
        )
    else:
        spans.append(SpanRef(name=span_name(payload), span_id=_span_id(), start_ns=end, end_ns=end))
    return TelemetryEvent(
        time_ns=end,
        run_id=run_id,
        attempt=attempt,
        rank=rank,
        marked=marked,
        trace=TraceRef(trace_id=f"{ids.new_trace_id():032x}", spans=tuple(spans)),
        payload=payload,
    )


def _span_id() -> str:
    return f"{ids.new_span_id():016x}"


def one_of_each(*, marked: bool = False) -> tuple[TelemetryEvent[Any], ...]:
    """One event of every kind, in the order of a run."""
    made = {payload.kind: payload for payload in _ordinary()}
    return tuple(make_event(made.get(kind) or _example(kind), marked=marked) for kind in PAYLOADS)


def _example(kind: EventKind) -> Payload:
    """Make a payload from the examples in its fields' metadata."""
    return payload_from_attributes(kind, {spec.key: spec.examples[0] for spec in attribute_specs(kind)})


def _ordinary() -> tuple[Payload, ...]:
    """The payloads of one consistent run."""
    return (
        RunStarted(environment="CartPole-v1", heads=HEADS, updates_planned=1, target_kl=0.02, stop_threshold=0.03),
        EpisodeFinished(episode=1, episode_return=21.0, length=21, env_steps=21),
        make_update(1, 0.02),
        PolicyHealthChanged(
            previous=HealthLevel.UNKNOWN,
            current=HealthLevel.WARNING,
            update_id=1,
            kl_divergence=0.02,
            head="slot",
        ),
        SinkStatusChanged(sink="other", state="failing", delivered=1, lost=1, failures=1, message="it said no"),
        RunFinished(
            state=RunState.DONE, reason="1 update", updates=1, env_steps=1024, lost=(SinkLoss(sink="other", lost=1),)
        ),
    )


def awkward_updates() -> tuple[PPOUpdatePayload, ...]:
    """Valid updates that break naive code: nothing measured, NaN, Inf, no heads, many heads, early stop."""
    stop = EarlyStop(epoch=2, minibatch=3, value=0.041, threshold=0.03, head="slot")
    return (
        PPOUpdatePayload(update_id=1, outcome="skipped", reason="every step was forced"),
        make_update(2, _NAN, non_finite=3, health=HealthLevel.NON_FINITE, policy_loss=_NAN),
        make_update(3, float("inf"), grad_norm=float("inf"), kl_joint=float("-inf")),
        make_update(4, 0.0, heads=()),
        make_update(5, 0.01, heads=make_heads(0.01, tuple(f"head_{index}" for index in range(64)))),
        make_update(6, 0.041, outcome="early_stopped", reason="KL", early_stop=stop, kl_by_epoch=(0.02, 0.041)),
        make_update(
            7,
            1e-300,
            return_mean=-1e300,
            reason='a "quoted" reason\nin two lines, mit Umlauten: ä',
            env_steps=2**53 + 1,
        ),
        make_update(8, None, heads=(HeadStats(name="idle"),), kl_by_epoch=tuple([0.001] * 300)),
    )
