"""Sanctum: a viewer for PPO runs, in a process of its own.

``esper ppo --sink tui`` trains in a child process and shows it; ``esper sanctum`` attaches to runs or replays them.
What it shows comes from ``esper_core.reading``. The panels are free of Textual, and so is this module: Textual loads
when a screen opens.
"""

from __future__ import annotations

from esper_sink_tui.config import TuiConfig
from esper_sink_tui.sink import TuiSink

__all__ = ["TuiConfig", "TuiSink"]
