"""The entry point of ``esper adapters``; imports rsl_rl only to check.

Exactly the tested versions are accepted: until 5.4 the observation normaliser moved with every environment step, and
from 5.5 on it moves at the end of an update. What the KL of an update means hangs on that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.monitoring.adapter import Adapter, AdapterCheck

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["adapter"]


def _check(folder: Path) -> AdapterCheck:
    adapter.require(exactly=True)
    from esper_rsl_rl.check import check  # noqa: PLC0415  # imports rsl_rl

    return check(folder)


adapter = Adapter(library="rsl-rl-lib", tested=">=5.5,<5.6", check=_check)
