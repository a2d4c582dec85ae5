"""The adapter where rsl_rl is absent or another: one sentence, and no import of torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

import esper_rsl_rl
from esper_core.cli.main import main
from esper_core.errors import EXIT_USAGE, UsageError
from esper_rsl_rl.adapter import adapter


def absent(name: str) -> str:
    raise PackageNotFoundError(name)


def test_absent_rsl_rl_is_one_sentence_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("esper_core.monitoring.adapter.version", absent)
    with pytest.raises(UsageError, match="rsl-rl-lib is not installed") as refused:
        _ = esper_rsl_rl.PPO
    assert refused.value.hint == "pip install 'rsl-rl-lib>=5.5,<5.6'"
    assert main(["adapters", "check", "rsl_rl"]) == EXIT_USAGE
    assert "rsl-rl-lib is not installed" in capsys.readouterr().err


def test_another_rsl_rl_is_refused_before_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("esper_core.monitoring.adapter.version", lambda _: "5.4.2")
    with pytest.raises(UsageError, match=r"rsl-rl-lib 5\.4\.2 is outside the tested versions, >=5\.5,<5\.6"):
        _ = esper_rsl_rl.PPO
    assert main(["adapters", "check", "rsl_rl"]) == EXIT_USAGE
    assert "outside the tested versions" in capsys.readouterr().err
    assert not adapter.fits


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Callback'"):
        _ = esper_rsl_rl.Callback  # type: ignore[attr-defined]  # what is refused


def test_the_list_of_adapters_imports_neither_torch_nor_rsl_rl() -> None:
    script = "import sys, esper_rsl_rl.adapter; sys.exit(sum(name in sys.modules for name in ('torch', 'rsl_rl')))"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=250).returncode == 0
