"""What the configuration of a run says, by dotted key, and where the configurations of several runs differ."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from esper_core.errors import ConfigError, JournalError
from esper_core.reading.stream import shape_updates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from esper_core.reading.run import Run

__all__ = ["run_settings", "setting_text", "settings_apart", "settings_of"]

_OF_A_RUN: Final = ("run.name", "run.seed", "run.dir", "run.close_timeout_s", "run.checkpoint_interval_s")
"""Keys that tell runs of one experiment apart, or say nothing about learning."""
_TABLES: Final = ("preset", "env", "ppo", "health", "run")
"""Tables that say how a run learns and is judged; sinks and delivery do not."""


def settings_apart(runs: Sequence[Run]) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    """Where configurations differ, seeds too.

    Returns:
        dotted key -> value in each run, in their order, None where a run does not have it; and which runs have no
        configuration that can be read, and why.
    """
    found, notes = [], []
    for run in runs:
        settings, fault = run_settings(run)
        if fault:
            notes.append(f"{run.run_id}: {fault}")
        else:
            seed = run.config.get("run")
            settings["run.seed"] = seed.get("seed") if isinstance(seed, dict) else None
        found.append(settings)
    known = [settings for settings in found if settings]
    keys = sorted({key for settings in known for key in settings})
    return {
        key: tuple(settings.get(key) for settings in found)
        for key in keys
        if len({repr(settings.get(key)) for settings in known}) > 1
    }, notes


def run_settings(run: Run) -> tuple[dict[str, Any], str]:
    """What says how the run learns, by dotted key; and why it cannot be read."""
    try:
        whole = run.config
    except ConfigError as error:
        return {}, error.message
    if not whole:
        return {}, "it has no config.toml"
    kept: dict[str, Any] = {name: whole[name] for name in _TABLES if name in whole}
    found = {path: value for path, value in settings_of(kept) if path not in _OF_A_RUN}
    return (found if "ppo.learning_rate" in found else found | _loop(run)), ""


def _loop(run: Run) -> dict[str, Any]:
    """What the updates of a loop that is not ours tell: its ``config.toml`` cannot say how it learns."""
    try:
        first = next(shape_updates(run.directory, frozenset()), None)
    except JournalError:
        return {}
    if first is None:
        return {}
    found = {"loop.heads": [head.name for head in first.heads], "loop.granularity": first.granularity}
    return found | ({"loop.library": first.library} if first.library else {})


def settings_of(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every value of a configuration."""
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from settings_of(value, f"{path}.")
        else:
            yield path, value


def setting_text(value: Any) -> str:
    """A value in one line, as TOML writes numbers, texts, flags and lists of them.

    A number is shown without what binary arithmetic adds to a derived limit: 0.075 for 0.07500000000000001.
    """
    if isinstance(value, float) and math.isfinite(value):
        value = float(f"{value:.12g}")
    return json.dumps(value, ensure_ascii=False, default=str)
