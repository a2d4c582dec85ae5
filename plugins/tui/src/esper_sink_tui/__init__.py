"""Sanctum: a viewer for PPO runs that runs outside the training process.

``esper ppo --sink tui`` trains in a child process and shows it; ``esper sanctum`` attaches to runs or replays them.
``esper_core.reading`` computes all that it shows. Neither the panels nor this module import Textual: it is imported
when a screen opens.
"""

from __future__ import annotations

from esper_sink_tui.config import TuiConfig
from esper_sink_tui.sink import TuiSink

__all__ = ["TuiConfig", "TuiSink"]
