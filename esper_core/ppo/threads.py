"""How many threads torch computes with: a setting of the whole process, given back at the end."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["torch_threads"]


@contextlib.contextmanager
def torch_threads(count: int = 0) -> Iterator[None]:
    """Restore torch's number of threads at the end, whoever sets it within: it is the whole process's (a notebook's).

    Args:
        count: threads from now on; 0 leaves them.
    """
    before = torch.get_num_threads()
    try:
        if count:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
