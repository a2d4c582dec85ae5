"""Draw docs/images/console.svg: a real console run, photographed in tmux while it trains.

Run from the repository root with tmux installed: ``python docs/images/make_console.py``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS, AFTER_S = 112, 25, 14
COMMAND = "esper ppo --episodes 20 --seed 3 --set ppo.learning_rate=0.004"
OUT = Path(__file__).with_name("console.svg")


def photograph(folder: str) -> str:
    """Return the screen, with colours, some seconds after the start of a run."""
    session = f"esper-picture-{time.time_ns()}"
    inner = f"cd {folder}; PATH={Path(sys.executable).parent}:$PATH {COMMAND}"
    size = ["-x", str(COLUMNS), "-y", str(ROWS)]
    subprocess.run(["tmux", "new-session", "-d", "-s", session, *size, inner], check=True)  # noqa: S607  # tmux by name
    try:
        time.sleep(AFTER_S)
        shown = subprocess.run(
            ["tmux", "capture-pane", "-e", "-p", "-t", session],  # noqa: S607  # as above
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        subprocess.run(["tmux", "kill-session", "-t", session], check=False)  # noqa: S607  # as above
    return shown.stdout


def main() -> None:
    """Take the picture and write it."""
    with tempfile.TemporaryDirectory() as folder:
        screen = photograph(folder)
    console = Console(record=True, width=COLUMNS, file=Path("/dev/null").open("w"), force_terminal=True)  # noqa: SIM115  # lives as long as the process
    console.print(Text.from_ansi(f"$ {COMMAND}\n{screen.rstrip()}"), soft_wrap=True)
    OUT.write_text(console.export_svg(title="esper ppo"))
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()
