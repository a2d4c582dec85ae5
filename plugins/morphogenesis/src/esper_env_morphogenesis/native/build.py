"""Compiles ``hosts.c`` once for a user and loads it.

The library is kept in the user's cache under the checksums of what it was made of (source, flags, processor) and of
itself, so that another version or machine builds its own and a damaged file is never loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Final

from esper_env_morphogenesis.data import cache_file

__all__ = ["library"]

_SOURCES: Final = tuple(Path(__file__).with_name(name) for name in ("hosts.c", "modules.h", "lanes.h"))
"""The first is compiled, the others are included."""
_FLAGS: Final = ("-std=c11", "-O3", "-fno-math-errno", "-fno-strict-aliasing", "-Wno-psabi", "-shared", "-fPIC")
_NATIVE: Final = (("-march=native",), ("-mcpu=native",), ())
"""Flags for this processor's instructions, the first that the compiler takes."""
_PATIENCE_S: Final = 120


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled library; None where there is no C compiler, or it fails, or the cache cannot be written."""
    try:
        source = b"".join(path.read_bytes() for path in _SOURCES)
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        made_of = repr((compiler, _FLAGS, platform.machine(), _processor())).encode() + source
        key = hashlib.sha256(made_of).hexdigest()[:16]
        folder = cache_file().parent
        for path in folder.glob(f"hosts-{key}-*.so"):
            if path.name == _name(key, path.read_bytes()):
                return ctypes.CDLL(str(path))
        return _build(compiler, folder, key)
    except (OSError, ValueError):
        return None


def _build(compiler: list[str], folder: Path, key: str) -> ctypes.CDLL | None:
    """Compile into the cache. Safe with several processes at once: each renames a file of its own."""
    if shutil.which(compiler[0]) is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".hosts-") as work:
        made = Path(work) / "hosts.so"
        for native in _NATIVE:
            command = [*compiler, *_FLAGS, *native, str(_SOURCES[0]), "-o", str(made), "-lm"]
            try:
                done = subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                return None
            if done.returncode == 0:
                kept = folder / _name(key, made.read_bytes())
                made.replace(kept)
                return ctypes.CDLL(str(kept))
    return None


def _name(key: str, content: bytes) -> str:
    return f"hosts-{key}-{hashlib.sha256(content).hexdigest()[:16]}.so"


def _processor() -> str:
    """What says which instructions the processor has: on Linux its model and flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    told = (line for line in lines if line.partition(":")[0].strip() in {"model name", "flags", "Features", "CPU part"})
    return "\n".join(sorted(set(told)))
