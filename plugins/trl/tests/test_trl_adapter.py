"""The adapter where TRL is absent or another: one sentence, and no import of torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

import esper_trl
from esper_core.cli.main import main
from esper_core.errors import EXIT_USAGE, UsageError
from esper_trl.adapter import adapter


def absent(name: str) -> str:
    raise PackageNotFoundError(name)


def test_absent_trl_is_one_sentence_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("esper_core.monitoring.adapter.version", absent)
    with pytest.raises(UsageError, match="trl is not installed") as refused:
        _ = esper_trl.EsperCallback
    assert refused.value.hint == "pip install 'trl>=1.16,<1.17'"
    assert main(["adapters", "check", "trl"]) == EXIT_USAGE
    assert "trl is not installed" in capsys.readouterr().err


def test_another_trl_is_refused_before_anything_private_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("esper_core.monitoring.adapter.version", lambda _: "1.17.0")
    with pytest.raises(UsageError, match=r"trl 1\.17\.0 is outside the tested versions, >=1\.16,<1\.17"):
        _ = esper_trl.EsperCallback
    assert main(["adapters", "check", "trl"]) == EXIT_USAGE
    assert "outside the tested versions" in capsys.readouterr().err
    assert not adapter.fits


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Callback'"):
        _ = esper_trl.Callback  # type: ignore[attr-defined]  # what is refused


def test_the_list_of_adapters_imports_neither_torch_nor_trl() -> None:
    script = "import sys, esper_trl.adapter; sys.exit(sum(name in sys.modules for name in ('torch', 'trl')))"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=250).returncode == 0
