"""What a kept step must agree in with this process to be loaded: its code is that of one plan on one machine."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import torch

from esper_core.code_cache import processor
from esper_core.version import __version__

if TYPE_CHECKING:
    from esper_core.ppo.compiled.plan import Plan

__all__ = ["compiler", "key_of"]

_SOURCES: Final = ("ppo", "kl")
"""Folders of ``esper_core`` whose code is in the step."""


def compiler() -> str | None:
    """The C++ compiler that torch would take: ``$CXX``, or g++ (clang++ on macOS); None where there is none."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def key_of(plan: Plan, compiler: str) -> str:
    """SHA-256, hex, of a plan and of everything else that its code follows from."""
    facts = {
        "plan": plan,
        "esper": (__version__, _source_digest()),
        "torch": (str(torch.__version__), torch.version.git_version),
        "processor": (processor(), torch.backends.cpu.get_cpu_capability()),
        "compiler": _compiler_version(compiler),
        "settings": sorted(item for item in os.environ.items() if item[0].startswith(("TORCHINDUCTOR_", "AOT_"))),
    }
    return hashlib.sha256(msgspec.msgpack.encode(facts, order="deterministic")).hexdigest()


@functools.cache
def _source_digest() -> str:
    """Of the files that the step is traced from: an edit makes another key, whatever the version says."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for folder in _SOURCES:
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _compiler_version(path: str) -> str:
    """Its first line of ``--version``; empty when it does not run."""
    try:
        found = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.decode(errors="replace").partition("\n")[0]
