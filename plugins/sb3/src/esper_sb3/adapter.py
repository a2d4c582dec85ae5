"""The entry point of ``esper adapters``; imports Stable-Baselines3 only to check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.monitoring.adapter import Adapter, AdapterCheck

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["adapter"]


def _check(folder: Path) -> AdapterCheck:
    from esper_sb3.check import check  # noqa: PLC0415  # imports Stable-Baselines3

    return check(folder)


adapter = Adapter(library="stable-baselines3", tested=">=2.4,<3", check=_check)
