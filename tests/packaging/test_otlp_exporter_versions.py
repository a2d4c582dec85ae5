"""The otlp sink's account and answers hold with the lowest exporters that its pyproject.toml allows too.

Between 1.43 and 1.45 the SDK's HTTP exporters were rewritten. The sink stands on what both have: ``session=``, the stub
of ``OTLPExporterMixin``, one request for each export.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "otlp"
TESTS = ("test_otlp_exporter.py", "test_otlp_metrics.py", "test_otlp_grpc.py", "test_otlp_http.py")


def lowest() -> str:
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (found,) = {
        match[1]
        for requirement in project["dependencies"]
        if (match := re.match(r"opentelemetry-exporter-otlp>=([\d.]+)", requirement))
    }
    return f"{found}.0"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_sink_holds_with_the_lowest_exporters(tmp_path: Path) -> None:
    version = lowest()
    old = tmp_path / "old"
    exporters = ("exporter-otlp", "exporter-otlp-proto-http", "exporter-otlp-proto-grpc", "exporter-otlp-proto-common")
    packages = [f"opentelemetry-{name}=={version}" for name in ("api", "sdk", "proto", *exporters)]
    packages.append(f"opentelemetry-semantic-conventions==0.{int(version.split('.')[1]) + 21}b0")
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
        [sys.executable, "-c", "import opentelemetry.exporter.otlp.proto.http.version as v; print(v.__version__)"],
        capture_output=True,
        text=True,
        env=env,
        timeout=250,
        check=True,
    )
    assert seen.stdout.strip() == version
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "4"),  # they mostly wait
            *("-k", "not test_no_command_and_no_file"),
            *(str(PLUGIN / "tests" / name) for name in (*TESTS, "test_otlp_account.py", "test_otlp_secrets.py")),
        ],
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT,
        timeout=380,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
