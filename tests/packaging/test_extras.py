"""Each line that README tells people to install, from wheels: pip resolves it, and what it brings works.

Nothing is downloaded. A fresh environment holds links to those dependencies of this one that the line's own metadata
asks for, and no others; pip then resolves the line against the wheels, and refuses it when a dependency is missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("esper_sink_journal", reason="needs the development environment")

SMOKES = {
    "esper-core": (("--help",), ("runs",), ("sinks",)),
    "esper-core[default]": (("ppo", "--updates", "1"), ("runs",), ("replay", "latest")),
    "esper-core[tui]": (("sanctum", "--help"), ("sinks",)),
    "esper-core[otlp]": (("sinks",), ("sinks", "check", "--help")),
    "esper-core[journal,prometheus,tensorboard,webhook]": (
        ("sinks",),
        ("sinks", "check", "--sinks", "prometheus,tensorboard", "--set", "sink.prometheus.port=0"),
    ),
    "esper-core[all]": (("ppo", "--updates", "1"), ("sinks",), ("sanctum", "latest", "--once"), ("verify", "--help")),
    "esper-sb3": (("adapters",), ("sinks",)),
}
SINKS = {
    "esper-core": set(),
    "esper-core[default]": {"console", "journal"},
    "esper-core[tui]": {"tui"},
    "esper-core[otlp]": {"otlp"},
    "esper-core[journal,prometheus,tensorboard,webhook]": {"journal", "prometheus", "tensorboard", "webhook"},
    "esper-core[all]": {
        *("console", "journal", "mlflow", "otlp", "prometheus", "tensorboard", "tui", "wandb", "webhook")
    },
    "esper-sb3": {"console", "journal"},
}


def _run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    arguments = [str(word) for word in words]
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=250, check=False)


def _wheel_requirements(wheels: Path, name: str) -> list[str] | None:
    """What one of our wheels requires, from its own metadata; None when the name is not one of ours."""
    found = list(wheels.glob(f"{name.replace('-', '_')}-*.whl"))
    if not found:
        return None
    with zipfile.ZipFile(found[0]) as wheel:
        (metadata,) = (entry for entry in wheel.namelist() if entry.endswith(".dist-info/METADATA"))
        return Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist") or []


def _closure(wheels: Path, line: str) -> set[str]:
    """Distributions of others that a line needs, directly or not."""
    needed: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line)]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        ours = _wheel_requirements(wheels, name)
        if ours is None:
            try:
                requires = distribution(name).requires or []
            except PackageNotFoundError:
                continue  # pip says so, when it is needed here
            needed.add(name)
        else:
            requires = ours
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                children = [Requirement(text) for text in requires]
                waiting += [one for one in children if one.marker is None or one.marker.evaluate({"extra": extra})]
    return needed


def _environment(home: Path, wheels: Path, line: str) -> Path:
    done = _run(sys.executable, "-m", "venv", "--without-pip", home, cwd=wheels)
    assert done.returncode == 0, done.stderr
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    for name in _closure(wheels, line):
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files or () if file.parts[0] not in {"..", "__pycache__"}}
        for top in tops:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(installed.locate_file(top))))
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "-q", "--no-color")
    done = _run(*pip, "--no-index", "--find-links", wheels, line, cwd=wheels)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "bin"


@pytest.mark.parametrize("line", SMOKES)
def test_a_line_of_pip_brings_what_it_promises(line: str, wheels: Path, tmp_path: Path) -> None:
    programs = _environment(tmp_path / "environment", wheels, line)
    folder = tmp_path / "work"
    folder.mkdir()
    done = _run(programs / "python", "-c", "import esper_core; print(esper_core.open_run.__name__)", cwd=folder)
    assert done.returncode == 0, done.stderr
    for words in SMOKES[line]:
        done = _run(programs / "esper", *words, cwd=folder)
        assert done.returncode == 0, f"esper {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
        if words == ("sinks",):
            rows = {row.split()[0] for row in done.stdout.splitlines() if " esper-sink-" in row and "pip" not in row}
            assert rows == SINKS[line]
    if line == "esper-core[all]":
        done = _run(programs / "esper", "sinks", "check", "--sinks", "wandb", cwd=folder)
        assert done.returncode == 64
        assert "needs wandb, which is not installed\n  pip install 'esper-core[wandb]'\n" in done.stderr


@pytest.mark.loops
@pytest.mark.parametrize(
    ("extra", "setting", "said"),
    [
        ("wandb", {"WANDB_MODE": "offline"}, "logged the marked update to"),
        (
            "mlflow",
            {"MLFLOW_TRACKING_URI": "store", "MLFLOW_ALLOW_FILE_STORE": "1"},
            "logged the marked update to store",
        ),
    ],
)
def test_a_large_library_comes_with_its_extra(
    extra: str, setting: dict[str, str], said: str, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(extra, reason=f"{extra} is not installed: `make test-loops` installs it")
    programs = _environment(tmp_path / "environment", wheels, f"esper-core[{extra}]")
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    done = _run(programs / "esper", "sinks", "check", "--sinks", extra, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout


def test_the_core_alone_has_no_torch_and_says_which_line_brings_training_and_sinks(
    wheels: Path, tmp_path: Path
) -> None:
    programs = _environment(tmp_path / "environment", wheels, "esper-core")
    assert _run(programs / "python", "-c", "import torch", cwd=tmp_path).returncode == 1
    trained = _run(programs / "esper", "ppo", "--env", "CartPole-v1", cwd=tmp_path)
    assert trained.returncode == 64
    assert "pip install 'esper-core[default]'" in trained.stderr
    called = _run(programs / "python", "-c", "from esper_core import train; train(updates=1)", cwd=tmp_path)
    assert "pip install 'esper-core[default]'" in called.stderr
    watched = _run(programs / "python", "-c", "import esper_core; esper_core.monitor('mine')", cwd=tmp_path)
    assert "esper_core.monitor needs numpy: pip install 'esper-core[default]'" in watched.stderr
    listed = _run(programs / "esper", "sinks", cwd=tmp_path).stdout
    assert "no sink is installed; for a start: pip install esper-sink-console esper-sink-journal" in listed


def test_the_metadata_of_every_wheel_can_be_published(wheels: Path) -> None:
    files = sorted(wheels.glob("*.whl"))
    done = _run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files, cwd=wheels)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("PASSED", done.stdout)) == len(files)
    for file in files:
        with zipfile.ZipFile(file) as wheel:
            (entry,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(wheel.read(entry).decode())
        if "statsd" in file.name:
            continue  # an example, which stays in the repository
        for key in ("Author", "Keywords", "License-Expression", "Summary", "Requires-Python", "Description"):
            assert metadata[key] or (key == "Description" and metadata.get_payload()), f"{file.name}: no {key}"
        assert any(url.startswith("Documentation, https://") for url in metadata.get_all("Project-URL") or ())
        assert "Typing :: Typed" in (metadata.get_all("Classifier") or ())
