"""A handful of whole screens as SVG, with Textual pinned: colours and composition, which text goldens cannot see.

``pytest plugins/tui/tests/test_tui_snapshots.py --snapshot-update`` writes them anew, in the commit that changes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from esper_core.health import RunState
from esper_sink_tui.app import SanctumApp

if TYPE_CHECKING:
    from conftest import Kit


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


def screen(kit: Kit, name: str) -> tuple[StillApp, tuple[int, int]]:
    calm = [kit.event(kit.started(), at=0), *(kit.event(kit.update(n, 0.004), at=n * 3.2) for n in range(1, 31))]
    watch = kit.watch(calm if name in {"calm", "stale"} else kit.drift(30 if name == "warning" else 60), now=99)
    watched = watch.watched()
    assert watched is not None
    if name == "stale":
        watched.life = type(watched.life)(state=RunState.STALE, sign_ns=watched.life.sign_ns)
    theme = "esper-light" if name == "light" else "esper"
    return StillApp(watch, feed=False, theme=theme), (80, 24) if name == "compact" else (120, 36)


@pytest.mark.parametrize("name", ["calm", "warning", "critical", "stale", "compact", "light"])
def test_the_screen_looks_as_it_did(kit: Kit, name: str, snap_compare: Any) -> None:
    app, size = screen(kit, name)
    assert snap_compare(app, terminal_size=size, run_before=drawn)
