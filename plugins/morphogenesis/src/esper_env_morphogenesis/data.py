"""MNIST-1D, generated on this machine and cached for the user.

MNIST-1D (Greydanus and Kobak 2024, arXiv:2011.14439) is 5000 one-dimensional signals of 40 samples in 10 classes: a
task that one core learns in seconds, with an accuracy that depends on the architecture. The package ``mnist1d``
generates it; nothing is downloaded. Generation takes about a second and imports SciPy and matplotlib, so the result is
kept in the user's cache with a checksum. A cache that does not match its checksum is rebuilt and never used.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

__all__ = ["CLASSES", "LENGTH", "Dataset", "cache_file", "generate", "load"]

LENGTH: Final = 40
"""Samples of one signal."""
CLASSES: Final = 10
_MAGIC: Final = b"esper-mnist1d-1 "
_KEYS: Final = ("train_x", "train_y", "validation_x", "validation_y")


@dataclass(frozen=True, eq=False)
class Dataset:
    """The data as arrays.

    Attributes:
        train_x: float32, (4000, 40), mean 0 and standard deviation 1 over the whole set.
        train_y: int64, (4000,), classes 0 to 9.
        validation_x: float32, (1000, 40).
        validation_y: int64, (1000,).
    """

    train_x: npt.NDArray[np.float32]
    train_y: npt.NDArray[np.int64]
    validation_x: npt.NDArray[np.float32]
    validation_y: npt.NDArray[np.int64]


def cache_file() -> Path:
    """Where the data is kept: ``$XDG_CACHE_HOME/esper/mnist1d.bin``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "esper" / "mnist1d.bin"


def load(path: Path | None = None) -> Dataset:
    """Return the data from the cache, or generate and cache it.

    Safe with several processes at once: each writes its own file and renames it to the cache file. When the cache
    cannot be written, the generated data is still returned.

    Args:
        path: the cache file; by default ``cache_file()``.
    """
    path = cache_file() if path is None else path
    cached = _read(path)
    if cached is not None:
        return cached
    data = generate()
    _write(path, data)
    return data


def generate() -> Dataset:
    """Generate the data (about a second). Restores the global generators of ``random`` and NumPy."""
    from mnist1d.data import get_dataset_args, make_dataset  # noqa: PLC0415 - imports SciPy and matplotlib: 1 s

    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - mnist1d seeds the global one
    try:
        raw = make_dataset(get_dataset_args())
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 - as above
    return Dataset(
        train_x=np.ascontiguousarray(raw["x"], dtype=np.float32),
        train_y=np.ascontiguousarray(raw["y"], dtype=np.int64),
        validation_x=np.ascontiguousarray(raw["x_test"], dtype=np.float32),
        validation_y=np.ascontiguousarray(raw["y_test"], dtype=np.int64),
    )


def _read(path: Path) -> Dataset | None:
    """The cached data, or None when there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    header, _, body = content.partition(b"\n")
    if header != _MAGIC + hashlib.sha256(body).hexdigest().encode():
        return None
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            data = Dataset(**{key: arrays[key] for key in _KEYS})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return data if data.train_x.shape[1:] == (LENGTH,) and data.validation_x.shape[1:] == (LENGTH,) else None


def _write(path: Path, data: Dataset) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{key: getattr(data, key) for key in _KEYS})
    body = buffer.getvalue()
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".mnist1d-", delete=False) as file:
            temporary = file.name
            file.write(_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        Path(temporary).replace(path)
    except OSError:  # without a cache the next start takes a second longer; nothing else changes
        if temporary:
            Path(temporary).unlink(missing_ok=True)
