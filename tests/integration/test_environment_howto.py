"""The plugin of the how-to is found by its entry point, trains with its preset and shows an episode."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "bring-your-own-environment.md"


def test_the_page_s_environment_trains_and_shows(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    metadata = re.search(r"```toml\n(\[build-system\].*?)```", text, re.DOTALL)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert metadata is not None
    assert code is not None
    project = tomllib.loads(metadata[1])["project"]
    site = tmp_path / "site"
    info = site / f"esper_env_frozen-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["esper.environments"]
    (info / "entry_points.txt").write_text(
        "[esper.environments]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
    )
    (site / "esper_env_frozen.py").write_text(code[1], encoding="utf-8")
    commands = re.findall(r"^\$ (esper .*)", text, re.MULTILINE)
    assert commands == ["esper ppo --env frozen", "esper eval latest --show"]
    said = ""
    for command in (f"{commands[0]} --updates 2 --sinks journal", commands[1], "esper config show --set env.id=frozen"):
        done = subprocess.run(
            [sys.executable, "-m", "esper_core", *command.split()[1:]],
            cwd=tmp_path,
            env=dict(os.environ) | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert "2 of 2 updates" in said
    assert re.search(r"^(left|down|right|up) +reward [01]$", said, re.MULTILINE)
    assert re.search(r"ppo.rollout_steps +64 +preset frozen|rollout_steps = 64 .*preset frozen", said)
