"""One number that tells two configurations apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from esper_core.config.schema import EsperConfig

__all__ = ["config_digest"]


def config_digest(config: EsperConfig) -> str:
    """SHA-256 of the resolved configuration, hex. Sinks' own values stay out: they may hold secrets."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    plain["sink"] = {name: sorted(table) for name, table in plain.get("sink", {}).items()}
    return hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).hexdigest()
