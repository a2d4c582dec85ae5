"""What ``esper ppo --episodes 20`` does with nothing else said."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from esper_core.reading import open_run

if TYPE_CHECKING:
    from pathlib import Path


def esper(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "esper_core", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_twenty_episodes_with_no_other_word(tmp_path: Path) -> None:
    esper(tmp_path, "ppo", "--episodes", "20")
    updates = [event.payload for event in open_run("latest", base=tmp_path / "runs").updates()]
    assert len(updates) >= 10
    worked = sum(update.rollout_s + update.update_s for update in updates)
    assert worked > 1.0
    for update in updates:
        heads = {head.name: head for head in update.heads}
        assert list(heads) == ["slot", "blueprint", "tempo", "tempo_offset", "operations"]
        assert heads["operations"].decisions == update.steps
        for name in ("blueprint", "tempo", "tempo_offset"):
            assert heads[name].decisions < update.steps
        assert update.steps_forced > 0
    means = {name: [h.kl for u in updates for h in u.heads if h.name == name and h.kl is not None] for name in heads}
    levels = sorted(sum(values) / len(values) for values in means.values())
    assert levels[-1] > 1.5 * levels[0]
    story = esper(tmp_path, "eval", "latest", "--show", "--plot", "episode.png")
    assert story.startswith("world: signals ")
    assert "wrote episode.png" in story
    assert (tmp_path / "episode.png").stat().st_size > 10_000
    assert "mean length 24.0" in esper(tmp_path, "eval", "latest", "--episodes", "4")
