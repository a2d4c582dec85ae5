"""Generates trace and span ids without drawing from the training's random generators.

OpenTelemetry's default generator draws from Python's global ``random``: tracing would change a seeded run, and two
runs with one seed would get the same ids. This module has its own generator, seeded from the operating system and
seeded again in a forked child.
"""

from __future__ import annotations

import os
import random

from esper_core import forks

__all__ = ["new_run_id", "new_span_id", "new_trace_id"]

_generator = random.Random()  # ids, not secrets; seeded by os.urandom
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"


def _reseed() -> None:
    _generator.seed(int.from_bytes(os.urandom(16)))


_reseed()
forks.in_child(_reseed)


def new_trace_id() -> int:
    """A random non-zero 128-bit trace id (W3C trace context)."""
    return _generator.getrandbits(128) or 1


def new_span_id() -> int:
    """A random non-zero 64-bit span id."""
    return _generator.getrandbits(64) or 1


def new_run_id() -> str:
    """Six random base-32 characters, which distinguish runs that begin in the same second."""
    return "".join(_generator.choice(_BASE32) for _ in range(6))
