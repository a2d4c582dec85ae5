"""The telemetry tests hold with the lowest OpenTelemetry that pyproject.toml allows too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = (
    "test_codec.py",
    "test_codec_damage.py",
    "test_emitter.py",
    "test_instrumentation.py",
    "test_instrumentation_rl.py",
    "test_instrumentation_runs.py",
    "test_instrumentation_spans.py",
    "test_log_events.py",
)
TESTS = (*(f"unit/{name}" for name in UNITS), "integration/test_log_events.py")


def lowest() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (found,) = {
        match[1]
        for requirement in (*project["dependencies"], *project["optional-dependencies"]["otel"])
        if (match := re.match(r"opentelemetry-(?:api|sdk)>=([\d.]+)", requirement))
    }
    return f"{found}.0"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_codec_emitter_and_instrumentation_hold_with_the_lowest_sdk(tmp_path: Path) -> None:
    version = lowest()
    minor = int(version.split(".")[1])
    old = tmp_path / "old"
    packages = [f"opentelemetry-{name}=={version}" for name in ("api", "sdk", "proto", "exporter-otlp-proto-common")]
    packages.append(f"opentelemetry-semantic-conventions==0.{minor + 21}b0")
    install = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(old), *packages],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    if install.returncode and not os.environ.get("CI"):
        pytest.skip(f"the package index does not answer: {install.stderr.strip().splitlines()[-1]}")
    assert install.returncode == 0, install.stderr
    env = dict(os.environ) | {"PYTHONPATH": str(old)}
    seen = subprocess.run(
        [sys.executable, "-c", "import opentelemetry.sdk.version as v; print(v.__version__)"],
        capture_output=True,
        text=True,
        env=env,
        timeout=250,
        check=True,
    )
    assert seen.stdout.strip() == version
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *(str(ROOT / "tests" / name) for name in TESTS),
        ],
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT,
        timeout=250,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
