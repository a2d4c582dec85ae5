"""What an adapter's entry point names: the library that it stands on, the versions it is tested with, and its check.

An adapter is a distribution in the entry-point group ``esper.adapters`` whose object is an :class:`Adapter`. Its module
imports nothing heavy: ``esper adapters`` reads it to tell whether the installed library fits. Users import what they
need from the adapter's package themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from esper_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Adapter", "AdapterCheck", "Compared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One number that both define, on the same samples at the same moment.

    Attributes:
        what: what it is, and when both mean the same.
        name: what the library calls it.
        theirs: the library's value.
        ours: Esper's.
        tolerance: the absolute difference that rounding explains.
    """

    what: str
    name: str
    theirs: float
    ours: float
    tolerance: float

    @property
    def agree(self) -> bool:
        """Whether the two are equal; NaN never is."""
        return abs(self.theirs - self.ours) <= self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCheck:
    """What a tiny training with the user's own installation showed.

    Attributes:
        updates: that reached Esper.
        expected: that the training made.
        compared: numbers that both define.
        notes: where the two differ by definition, in words.
    """

    updates: int
    expected: int
    compared: tuple[Compared, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every update arrived and every number agrees."""
        return self.updates == self.expected and all(item.agree for item in self.compared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter of a library.

    Attributes:
        library: its distribution, for example ``stable-baselines3``.
        tested: the versions that the adapter's own tests ran with, as ``>=2.4,<3``.
        check: trains a tiny run below the folder it is given, with the library, and compares.
    """

    library: str
    tested: str
    check: Callable[[Path], AdapterCheck]

    @property
    def installed(self) -> str:
        """Version of the library here; empty when it is not installed."""
        try:
            return version(self.library)
        except PackageNotFoundError:
            return ""

    @property
    def fits(self) -> bool:
        """Whether the installed version is one of the tested."""
        from packaging.specifiers import SpecifierSet  # noqa: PLC0415  # only for this question

        return bool(self.installed) and SpecifierSet(self.tested).contains(self.installed, prereleases=True)

    def require(self, *, exactly: bool = False) -> None:
        """Refuse to go on without the library.

        Args:
            exactly: also outside the tested versions: for an adapter that leans on private names.

        Raises:
            UsageError: in one sentence, with what to install.
        """
        if not self.installed:
            raise UsageError(f"{self.library} is not installed", hint=f"pip install '{self.library}{self.tested}'")
        if exactly and not self.fits:
            raise UsageError(
                f"{self.library} {self.installed} is outside the tested versions, {self.tested}",
                hint=f"pip install '{self.library}{self.tested}', or an adapter of a newer version",
            )
