"""The entry point of ``esper adapters``; imports torchrl only to check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.monitoring.adapter import Adapter, AdapterCheck

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["adapter"]


def _check(folder: Path) -> AdapterCheck:
    from esper_torchrl.check import check  # noqa: PLC0415  # imports torchrl

    return check(folder)


adapter = Adapter(library="torchrl", tested=">=0.14,<0.15", check=_check)
