"""Esper sink ``console``: prints progress, one line per PPO update, and a suggestion when the KL is high."""

from __future__ import annotations

from esper_sink_console._sink import ConsoleConfig, ConsoleSink

__all__ = ["ConsoleConfig", "ConsoleSink"]
