"""What a user can do about a sink that does not work, in the words of the command line and of Python alike."""

from __future__ import annotations

__all__ = ["check_or_leave_out", "leave_out"]


def leave_out(name: str) -> str:
    """How a sink is left out of a run."""
    return f"leave it out with `--no-sink {name}` (in Python: without it in `sinks`)"


def check_or_leave_out(name: str) -> str:
    """The remedy for a sink that its options may have broken."""
    return f"check [sink.{name}], or {leave_out(name)}"
