"""Modules of sinks that are files (``./my_sink.py:MySink``), under names that other processes can import.

The name holds the file's path, and this module stands as their package: a process that multiprocessing spawns finds a
function of the file by name alone, whatever it has imported before.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType

__all__ = ["module_name", "module_spec", "shown_module"]

__path__: list[str] = []
"""Makes a package of this module; what is in it is found by :class:`_Finder`."""
_NAME: Final = re.compile(re.escape(__name__) + r"\.(\w+)_x([0-9a-f]+)")


def module_name(path: Path) -> str:
    """The name of a file's module.

    Args:
        path: resolved.
    """
    stem = re.sub(r"\W", "_", path.stem)
    return f"{__name__}.{stem}_x{os.fsencode(path).hex()}"


def module_spec(name: str) -> ModuleSpec | None:
    """How to import a module of such a name; None when it is no such name, or the file is no Python file."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return importlib.util.spec_from_file_location(name, os.fsdecode(bytes.fromhex(found[2])))


def shown_module(name: str) -> str:
    """A module's name for people: of a file's, the file's own."""
    found = _NAME.fullmatch(name)
    return found[1] if found is not None else name


class _Finder:
    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target  # the name says all
        return module_spec(fullname)


sys.meta_path.append(_Finder)
