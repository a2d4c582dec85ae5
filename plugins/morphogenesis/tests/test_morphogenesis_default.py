"""What ``esper ppo --episodes 20`` does with nothing else said."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from present import present

from esper_core.reading import open_run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.numeric


def esper(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "esper_core", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_twenty_episodes_with_no_other_word(tmp_path: Path) -> None:
    esper(tmp_path, "ppo", "--episodes", "20")
    updates = [event.payload for event in open_run("latest", base=tmp_path / "runs").updates()]
    assert len(updates) >= 10
    for update in updates:
        assert present(update.rollout_s) > 0
        assert present(update.update_s) > 0
        heads = {head.name: head for head in update.heads}
        assert list(heads) == ["slot", "blueprint", "tempo", "tempo_offset", "operations"]
        assert heads["operations"].decisions == update.steps
        for name in ("blueprint", "tempo", "tempo_offset"):
            assert heads[name].decisions < update.steps
        assert update.steps_forced > 0
        # Each head has a KL of its own, and the shares say what each contributes.
        measured = [head.kl for head in heads.values() if head.kl is not None]
        assert len(set(measured)) == len(measured) >= 2
        assert sum(present(head.share) for head in heads.values()) == pytest.approx(1.0)
    story = esper(tmp_path, "eval", "latest", "--show", "--plot", "episode.png")
    assert story.startswith("world: signals ")
    assert "wrote episode.png" in story
    assert (tmp_path / "episode.png").stat().st_size > 10_000
    assert "mean length 24.0" in esper(tmp_path, "eval", "latest", "--episodes", "4")
