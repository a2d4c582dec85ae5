"""How much memory this process can have at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

__all__ = ["memory_bytes"]

_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of a container: version 2 and version 1 of control groups."""


def memory_bytes() -> int | None:
    """Bytes of the machine, its container or the process's own limit (``ulimit -v``), the least; None when unknown."""
    known = [_physical(), _address_space(), *(_limit(path) for path in _LIMITS)]
    return min((count for count in known if count is not None), default=None)


def _physical() -> int | None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no such name on this system
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _address_space() -> int | None:
    with contextlib.suppress(ImportError, OSError):
        import resource  # noqa: PLC0415  # not on every system

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        return None if soft == resource.RLIM_INFINITY else soft
    return None


def _limit(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        return int(path.read_text(encoding="ascii"))
    return None
