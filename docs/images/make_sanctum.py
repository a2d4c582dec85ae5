"""Draw docs/images/sanctum-*.svg: the app itself shows a recorded run and exports its own screen.

Run from the repository root: ``python docs/images/make_sanctum.py``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from esper_core.runs import find_run
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.watch import Watch

OUT = Path(__file__).parent
RUN = "docs/examples/runs/drift"
WIDE, COMPACT = (120, 36), (80, 24)
# Name, size, keys pressed before the picture is taken.
PICTURES = (
    ("warning", WIDE, ("left",) * 9),
    ("stopped", WIDE, ("left",)),
    ("heads", WIDE, ("left", "d")),
    ("compact", COMPACT, ("left",)),
    ("history", WIDE, ("h",)),
    ("map", WIDE, ("h", "k", "left")),
)


class StillApp(SanctumApp):
    """Without toasts, so that nothing covers the screen."""

    def notify(self, *_: Any, **__: Any) -> None:
        """Nothing."""


async def picture(name: str, size: tuple[int, int], keys: tuple[str, ...]) -> None:
    """Open the run, press the keys, export the screen."""
    watch = Watch()
    watch.add_run(find_run(RUN, Path("runs")))
    while watch.tick() or watch.extend_index():
        pass
    app = StillApp(watch, feed=False)
    async with app.run_test(size=size) as pilot:
        for _ in range(3):
            await pilot.pause()
            app.draw()
        for key in keys:
            await pilot.press(key)
            await app.workers.wait_for_complete()
            await pilot.pause()
        for _ in range(3):
            await pilot.pause()
            app.draw()
        (OUT / f"sanctum-{name}.svg").write_text(app.export_screenshot(title="esper sanctum"), encoding="utf-8")


def main() -> None:
    """Draw every picture."""
    for name, size, keys in PICTURES:
        asyncio.run(picture(name, size, keys))
        print(f"docs/images/sanctum-{name}.svg")


if __name__ == "__main__":
    main()
