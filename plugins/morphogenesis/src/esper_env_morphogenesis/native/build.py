"""Compiles ``hosts.c`` once for a user and loads it.

The library is kept in the user's cache (:mod:`esper_core.code_cache`) under the checksum of what it was made of:
source, flags, processor. So another version or machine builds its own; a damaged file, or one that another user may
write, is never loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper_core.code_cache import CodeCache, UnusableFolderError, cache_folder, processor

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["library"]

_SOURCES: Final = tuple(Path(__file__).with_name(name) for name in ("hosts.c", "modules.h", "lanes.h"))
"""The first is compiled, the others are included."""
_FLAGS: Final = ("-std=c11", "-O3", "-fno-math-errno", "-fno-strict-aliasing", "-Wno-psabi", "-shared", "-fPIC")
_NATIVE: Final = (("-march=native",), ("-mcpu=native",), ())
"""Flags for this processor's instructions, the first that the compiler takes."""
_PATIENCE_S: Final = 120


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled library; None where there is no C compiler, or it fails, or the cache cannot be used."""
    try:
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        key = _key(repr((compiler, _FLAGS, processor())).encode(), *(path.read_bytes() for path in _SOURCES))
        cache = CodeCache(cache_folder(os.environ, "hosts"), ".so")
        file = cache.find(key) or _built(compiler, cache, key)
        return None if file is None else ctypes.CDLL(str(file))
    except (OSError, ValueError, RuntimeError, UnusableFolderError):  # RuntimeError: there is no home directory
        return None


def _key(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _built(compiler: list[str], cache: CodeCache, key: str) -> Path | None:
    """Compile into the cache; None where the compiler fails."""
    if shutil.which(compiler[0]) is None:
        return None
    with cache.building() as folder:
        made = folder / "hosts.so"
        return cache.keep(key, made) if any(_compiles(command) for command in _commands(compiler, made)) else None


def _commands(compiler: list[str], made: Path) -> Iterable[list[str]]:
    return ([*compiler, *_FLAGS, *native, str(_SOURCES[0]), "-o", str(made), "-lm"] for native in _NATIVE)


def _compiles(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False
