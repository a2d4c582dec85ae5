"""Says whose doing it is when torch's default device, which is the whole process's, has changed under the training."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from esper_core.errors import EnvironmentContractError, EsperError, error_text

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["told_default_device"]


@contextlib.contextmanager
def told_default_device(environment: str) -> Iterator[None]:
    """Tell an error of the block as what it is when the block has changed torch's default device.

    Nothing is put back: an environment may rely on its own. Most run with any device; ``meta`` computes nothing.

    Args:
        environment: its id, for the message.

    Raises:
        EnvironmentContractError: in place of an error that is not Esper's.
    """
    before = _default_device()
    try:
        yield
    except EsperError:
        raise
    except Exception as error:
        now = _default_device()
        if now == before:
            raise
        raise EnvironmentContractError(
            f"{environment}: torch's default device is {now}, and was {before}: {error_text(error)}",
            hint="torch.set_default_device() is for the whole process; an environment, a network and a sink keep "
            "theirs in `with torch.device(...)`",
        ) from error


def _default_device() -> str:
    """As torch names it; the CPU before torch is imported."""
    torch = sys.modules.get("torch")
    return "cpu" if torch is None else str(torch.get_default_device())
