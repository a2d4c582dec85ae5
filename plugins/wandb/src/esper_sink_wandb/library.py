"""wandb itself: whether it is there, whether it may be used now, and how little of this process it gets."""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from esper_core.errors import SinkError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["finish_within", "load", "require_login"]

_INSTALL: Final = "pip install 'esper-core[wandb]'"
_OLDEST: Final = (0, 31)


def load() -> ModuleType:
    """Import wandb.

    Raises:
        SinkError: it is absent, broken or too old.
    """
    try:
        wandb = importlib.import_module("wandb")
        found = version("wandb")
    except ImportError as error:
        what = "is not installed" if error.name == "wandb" else f"cannot be imported ({error})"
        raise SinkError(f'sink "wandb" needs wandb, which {what}', hint=_INSTALL) from None
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < _OLDEST:
        raise SinkError(f"wandb {found} is older than what this sink was tested with: {_INSTALL}", hint=_INSTALL)
    return wandb


def require_login(wandb: ModuleType, mode: str) -> str:
    """See to it that wandb neither asks for a key at the terminal nor refuses later.

    Args:
        wandb: the library.
        mode: ``[sink.wandb] mode``.

    Returns:
        The mode in force.

    Raises:
        SinkError: the run would go online and nobody is logged in, or wandb is switched off.
    """
    settings = wandb.setup().settings
    mode = mode or str(settings.mode)
    if mode in {"disabled", "dryrun"}:
        if mode == "dryrun":
            return "offline"
        raise SinkError("wandb is switched off by WANDB_MODE or by its settings; leave the sink out, or switch it on")
    if mode == "offline":
        return mode
    try:
        allowed = wandb.login(prompt=False, verify=False)
    except Exception as error:  # noqa: BLE001  # a key of a wrong form: wandb's kinds of error are many
        raise SinkError(f"wandb refuses the credentials for {settings.base_url}: {error}") from None
    if not allowed:
        raise SinkError(
            f"nobody is logged in to {settings.base_url}: "
            "run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline"
        )
    return mode


def finish_within(wandb: ModuleType, run: Any, exit_code: int, seconds: float) -> bool:
    """Finish the run; wandb waits until everything is sent, which without a network is for ever.

    Args:
        wandb: the library.
        run: the run.
        exit_code: 0 is a run that W&B shows as finished; any other as failed.
        seconds: the longest wait. After it the run goes on being sent in the background while this process lives, and
            the process's end no longer waits for it; what was not sent is in the run's own folder.

    Returns:
        Whether it finished.

    Raises:
        Exception: whatever wandb raised.
    """
    done, failed = threading.Event(), list[BaseException]()

    def finish() -> None:
        try:
            run.finish(exit_code=exit_code)
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits
            failed.append(error)
        done.set()

    threading.Thread(target=finish, name="esper-wandb-finish", daemon=True).start()
    finished = done.wait(seconds)
    if not finished:
        _let_the_process_end(wandb)
    if failed:
        raise failed[0]
    return finished


def _let_the_process_end(wandb: ModuleType) -> None:
    """Unregister wandb's exit handler, unless the program has a W&B run of its own, which has a right to it.

    There is no public way. Where the private names are gone, the process ends as that of any user of wandb does.
    """
    if wandb.run is not None:
        return
    with contextlib.suppress(Exception):
        importlib.import_module("wandb.sdk.wandb_setup").singleton().assert_service()._cleanup()  # noqa: SLF001  # as said
