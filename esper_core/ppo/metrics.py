"""An update's payload as a flat dict of numbers, which ``PPOAgent.update`` returns."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload

__all__ = ["metrics_of"]


def metrics_of(payload: PPOUpdatePayload) -> dict[str, float]:
    """The payload's numbers as a flat dict: ``approx_kl`` first, then every numeric field that was measured.

    ``approx_kl`` is ``kl_divergence`` under its usual name; head numbers are ``<name>/kl`` and so on. A number that
    was not measured is absent, so a skipped update has no ``approx_kl``.
    """
    metrics: dict[str, float] = {}
    if payload.kl_divergence is not None:
        metrics["approx_kl"] = payload.kl_divergence
    for item in fields(payload):
        value = getattr(payload, item.name)
        if isinstance(value, int | float):
            metrics[item.name] = float(value)
    for head in payload.heads:
        for item in fields(head):
            value = getattr(head, item.name)
            if isinstance(value, int | float):
                metrics[f"{head.name}/{item.name}"] = float(value)
    return metrics
