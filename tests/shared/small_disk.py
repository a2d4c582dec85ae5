"""A file system so small that it fills."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["small_disk_at"]


@contextmanager
def small_disk_at(place: Path, kib: int, *, lazily: bool = False) -> Iterator[Path]:
    """Mount a tmpfs of so many KiB at a folder that is not there yet; skips the test where nobody may mount.

    Unmounting fails while a file is open there, unless ``lazily``.
    """
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield place
    finally:
        subprocess.run(["umount", *(["-l"] if lazily else []), str(place)], check=True)
