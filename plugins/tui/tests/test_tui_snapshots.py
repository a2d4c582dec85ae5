"""Two whole screens as SVG, with Textual pinned: colours and composition, which text goldens cannot see.

Each panel's text has a golden of its own, and the banner's roles too: see test_tui_panels.py.

``pytest plugins/tui/tests/test_tui_snapshots.py --snapshot-update`` writes them anew, in the commit that changes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from esper_sink_tui.app import SanctumApp

if TYPE_CHECKING:
    from sanctum_kit import Kit


class StillApp(SanctumApp):
    """The app at one moment: nothing is read, and no toast covers it."""

    def notify(self, *_: Any, **__: Any) -> None:
        """Nothing."""


async def drawn(pilot: Any) -> None:
    """The plot is mounted after the first screen."""
    for _ in range(3):
        await pilot.pause()
        pilot.app.draw()
    await pilot.pause()


@pytest.mark.parametrize("name", ["wide", "compact-light"])
def test_the_screen_looks_as_it_did(kit: Kit, name: str, snap_compare: Any) -> None:
    watch = kit.watch(kit.drift(60), now=99)
    theme, size = ("esper", (120, 36)) if name == "wide" else ("esper-light", (80, 24))
    assert snap_compare(StillApp(watch, feed=False, theme=theme), terminal_size=size, run_before=drawn)
