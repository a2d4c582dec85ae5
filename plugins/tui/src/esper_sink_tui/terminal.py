"""Detects the terminal: whether there is one, and which signs it can show."""

from __future__ import annotations

import os
import sys

__all__ = ["has_terminal", "wants_ascii"]


def has_terminal() -> bool:
    """Whether a full screen can be drawn; Textual itself does not check and draws into files and dumb terminals.

    Under textual-serve the screen is in a browser and the streams are pipes.
    """
    if os.environ.get("TEXTUAL_DRIVER"):
        return True
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    try:
        attached = all(stream is not None and stream.isatty() for stream in streams)
    except ValueError:  # closed
        return False
    return attached and os.environ.get("TERM", "") not in {"", "dumb"}


def wants_ascii() -> bool:
    """Whether the terminal's encoding cannot show Unicode signs."""
    encoding = (getattr(sys.__stdout__, "encoding", "") or "ascii").lower().replace("-", "").replace("_", "")
    return not encoding.startswith(("utf", "ucs"))
