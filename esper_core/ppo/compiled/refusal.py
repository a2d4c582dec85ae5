"""Why an update runs eagerly although ``ppo.compile`` is set."""

from __future__ import annotations

__all__ = ["NotCompiledError", "first_line"]


class NotCompiledError(Exception):
    """This and the later updates run eagerly; the text says why."""


def first_line(error: Exception) -> str:
    """What an error of torch says, without its trace."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
