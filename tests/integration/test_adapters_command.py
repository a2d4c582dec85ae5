"""``esper adapters``: what is installed, whether it fits, and a check with the user's own installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.errors import UsageError
from esper_core.monitoring.adapter import Adapter, AdapterCheck, Compared

if TYPE_CHECKING:
    from pathlib import Path


def test_the_list_names_library_versions_and_fit(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("esper_sb3", reason="esper-sb3 is not installed")
    assert main(["adapters"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "DISTRIBUTION", "VERSION", "LIBRARY", "INSTALLED", "TESTED", "FITS"]
    assert [row.split()[1] for row in rows if row.startswith("sb3 ")] == ["esper-sb3"]


def test_a_check_trains_and_compares(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("esper_sb3", reason="esper-sb3 is not installed")
    assert main(["adapters", "check", "sb3"]) == 0
    out = capsys.readouterr().out
    assert "ok      3 of 3 updates arrived, the last one included" in out
    assert out.count("ok      update") == 3


def test_an_unknown_adapter_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapters", "check", "sb4"]) == 64
    assert 'esper: adapters: no adapter "sb4"' in capsys.readouterr().err


def never(_: Path) -> AdapterCheck:
    raise AssertionError("not asked to")


def test_versions_are_compared_as_pip_does() -> None:
    fits = Adapter(library="pytest", tested=">=8", check=never)
    fits.require(exactly=True)
    old = Adapter(library="pytest", tested="<2", check=never)
    old.require()
    with pytest.raises(UsageError, match=r"pytest .* is outside the tested versions, <2"):
        old.require(exactly=True)
    absent = Adapter(library="no-such-library", tested=">=1", check=never)
    assert not absent.fits
    with pytest.raises(UsageError, match="no-such-library is not installed"):
        absent.require()


def test_a_number_that_differs_or_is_nan_fails_the_check() -> None:
    def compared(theirs: float) -> AdapterCheck:
        item = Compared(what="x", name="kl", theirs=theirs, ours=0.01, tolerance=1e-6)
        return AdapterCheck(updates=1, expected=1, compared=(item,))

    assert compared(0.01).holds
    assert not compared(0.02).holds
    assert not compared(float("nan")).holds
    assert not AdapterCheck(updates=1, expected=2).holds
