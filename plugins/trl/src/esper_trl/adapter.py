"""The entry point of ``esper adapters``; imports TRL only to check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.monitoring.adapter import Adapter, AdapterCheck

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["adapter"]


def _check(folder: Path) -> AdapterCheck:
    adapter.require(exactly=True)
    from esper_trl.check import check  # noqa: PLC0415  # imports TRL

    return check(folder)


adapter = Adapter(library="trl", tested=">=1.16,<1.17", check=_check)
