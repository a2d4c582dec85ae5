"""What all ranks of a run must have in common before they train: settings, spaces and weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from esper_core.errors import RanksError
from esper_core.installed import CORE, versions_of
from esper_core.masking import redact
from esper_core.reading.settings import setting_text, settings_of

if TYPE_CHECKING:
    from esper_core.config.schema import EsperConfig
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.distributed import GroupReducer

__all__ = ["agree_on_settings", "agree_on_start"]

_NAMED: Final = 3
_HINT: Final = "start every rank with the same command, file, ESPER_ variables and packages"


def agree_on_settings(group: GroupReducer, config: EsperConfig) -> None:
    """Refuse ranks with other settings, or another version of what they train with, before anything is written.

    Every rank calls.

    Raises:
        RanksError: on every rank; it names the keys and both values.
    """
    told: list[dict[str, str]] = group.gather(_settings(config) | _versions())
    for rank, theirs in enumerate(told):
        apart = sorted(key for key in theirs.keys() | told[0].keys() if theirs.get(key) != told[0].get(key))
        if apart:
            shown = "; ".join(
                f"{key} is {theirs.get(key, 'not set')} and on rank 0 {told[0].get(key, 'not set')}"
                for key in apart[:_NAMED]
            )
            more = f"; and {len(apart) - _NAMED} keys more" if len(apart) > _NAMED else ""
            raise RanksError(
                f"rank {rank} of {group.world_size} has another configuration than rank 0: {redact(shown)}{more}",
                hint=_HINT,
            )


def _settings(config: EsperConfig) -> dict[str, str]:
    """Every value by dotted key. Of a sink's options only which are set: their values may be secrets."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    plain["sink"] = {name: sorted(table) for name, table in plain.get("sink", {}).items()}
    return {key: setting_text(value) for key, value in settings_of(plain)}


def _versions() -> dict[str, str]:
    """Of what computes: other arithmetic is another policy, other exchanges are a rank that waits for ever."""
    pairs = (item.partition("==") for item in versions_of((CORE, "torch", "gymnasium")))
    return {f"the version of {name}": version for name, _, version in pairs}


def agree_on_start(agent: PPOAgent, group: GroupReducer) -> None:
    """Refuse ranks with other spaces, give all rank 0's weights, and compare them.

    Args:
        agent: of this rank.
        group: of all.

    Raises:
        RanksError: they differ.
    """
    from esper_core.ppo.distributed import refuse_different_weights, share_weights  # noqa: PLC0415  # several ranks only

    shapes = [(name, tuple(values.shape)) for name, values in agent.policy.state_dict().items()]
    told = group.gather(repr((agent.layout.heads, agent.obs_shape, shapes)))
    others = [rank for rank, mine in enumerate(told) if mine != told[0]]
    if others:
        raise RanksError(
            f"rank {others[0]} of {group.world_size} has another environment's spaces than rank 0", hint=_HINT
        )
    share_weights(agent, group)
    refuse_different_weights(agent, group)
