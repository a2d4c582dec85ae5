"""Which settings this version of Esper takes: a row of one that it lacks is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from esper_core.config.schema import EnvConfig, PPOConfig

__all__ = ["takes"]


def takes(table: type[PPOConfig | EnvConfig], **settings: object) -> bool:
    """Whether the table has these keys, with these values."""
    try:
        msgspec.convert(settings, table)
    except msgspec.ValidationError:
        return False
    return True
