"""Esper sink ``console``: progress, one line per PPO update, and what to do about the KL."""

from __future__ import annotations

from esper_sink_console._sink import ConsoleConfig, ConsoleSink

__all__ = ["ConsoleConfig", "ConsoleSink"]
