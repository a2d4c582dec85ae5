"""The ranks that ``torchrun`` starts: who this process is, its process group, and one run directory for all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import threading
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from esper_core.errors import EXIT_SIGNAL, EsperError, RanksError, UsageError, error_text
from esper_core.host.load.selection import CHILD_VARIABLE, foreground_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch.distributed.distributed_c10d import Store

    from esper_core.config.layers import Resolved
    from esper_core.host.load.selection import Selection
    from esper_core.host.process.signals import StopFlag
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.distributed import GroupReducer
    from esper_core.runs.layout import RunDir

__all__ = [
    "Place",
    "agree_on_start",
    "join",
    "place_of",
    "refuse_for_ranks",
    "share_attempt",
    "share_folder",
    "sinks_of_rank",
]

_RENDEZVOUS: Final = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_MEET_S: Final = 600.0
_LOOK_S: Final = 0.1
_ASKED_S: Final = 20.0
"""Seconds that a rank which was asked to stop waits for the others: torchrun, Kubernetes and SLURM kill after 30."""
_START: Final = "start every rank with torchrun --nproc-per-node N -m esper_core ppo, or unset WORLD_SIZE"


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank this process is, of how many."""

    rank: int = 0
    world: int = 1

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    @property
    def first(self) -> bool:
        """Whether it owns the run's directory, record, checkpoint and console."""
        return self.rank == 0


def place_of(env: Mapping[str, str]) -> Place:
    """Read ``WORLD_SIZE`` and ``RANK``, as torchrun sets them; one rank without ``WORLD_SIZE``.

    Raises:
        UsageError: they cannot be used, or what a process group needs beside them is missing.
    """
    if not env.get("WORLD_SIZE"):
        return Place()
    world = _number(env, "WORLD_SIZE")
    if world == 1:
        return Place()
    missing = [name for name in _RENDEZVOUS if not env.get(name)]
    if missing:
        raise UsageError(f"WORLD_SIZE is {world}, but {' and '.join(missing)} is not set", hint=_START)
    rank = _number(env, "RANK")
    if not 0 <= rank < world:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE is {world}: ranks count from 0", hint=_START)
    return Place(rank, world)


def refuse_for_ranks(resolved: Resolved, selection: Selection, place: Place) -> Resolved:
    """Raise for what several ranks cannot do yet; return the configuration with ``ppo.device`` settled.

    Raises:
        UsageError: the run would own a screen, or train on a GPU.
    """
    if not place.several:
        return resolved
    one = "or train with one rank: without torchrun, or WORLD_SIZE=1"
    ppo = resolved.config.ppo
    if ppo.device not in {"cpu", "auto"}:
        raise UsageError(
            f"{place.world} ranks train on the CPU, not yet on ppo.device {ppo.device}", hint=f"set it to cpu, {one}"
        )
    screen = foreground_sink(selection.sinks)
    if screen is not None or CHILD_VARIABLE in os.environ:
        name = screen.name if screen is not None else "tui"
        raise UsageError(
            f'sink "{name}" owns the terminal, which {place.world} ranks share',
            hint=f"leave it out, and attach to the run from another terminal; {one}",
        )
    config = msgspec.structs.replace(resolved.config, ppo=msgspec.structs.replace(ppo, device="cpu"))
    return replace(resolved, config=config)


def sinks_of_rank(selection: Selection, place: Place) -> Selection:
    """All sinks on rank 0; on the others those that take each rank's own."""
    if place.first:
        return selection
    return replace(selection, sinks=tuple(sink for sink in selection.sinks if sink.every_rank), notices=())


@contextlib.contextmanager
def join(place: Place, timeout_s: float, stop: StopFlag, *, asked_s: float = _ASKED_S) -> Iterator[GroupReducer]:
    """Meet the other ranks (gloo): in the process group that the program has, else in one of our own until the end.

    Args:
        place: of this process.
        timeout_s: seconds within which the others must take part in every call. To meet they have longer, since another
            machine may still be starting: at least ten minutes.
        stop: ends the waiting for them to come, and bounds every later one.
        asked_s: seconds that this rank waits for the others in a call when it was asked to stop.

    Raises:
        RanksError: they did not come, or a signal ended the waiting.
    """
    import torch.distributed as dist  # noqa: PLC0415  # several ranks only

    from esper_core.ppo.distributed import GroupReducer  # noqa: PLC0415  # as above

    if dist.is_initialized():
        if "gloo" not in str(dist.get_backend_config()):
            raise UsageError(
                f"the program's process group is {dist.get_backend()}, and ranks train on the CPU",
                hint='initialise it with "cpu:gloo,cuda:nccl", or leave it to Esper',
            )
        group = GroupReducer(timeout_s, stop, asked_s=asked_s)
        group.introduce()
        yield group
        return
    store = _meet(place, max(timeout_s, _MEET_S), stop)
    try:
        dist.init_process_group(
            "gloo", store=store, rank=place.rank, world_size=place.world, timeout=timedelta(seconds=timeout_s)
        )
    except RuntimeError as error:
        raise _not_met(place, error, timeout_s) from error
    group = GroupReducer(timeout_s, stop, asked_s=asked_s)
    try:
        group.introduce()
        yield group
    finally:
        if group.left:
            # Its destructor, and so the process's end, would wait for the call that was left: it is never to run.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
        else:
            dist.destroy_process_group()


def _meet(place: Place, seconds: float, stop: StopFlag) -> Store:
    """The store at which all ranks have told that they are there. Waiting for them answers to signals."""
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415  # several ranks only

    found: list[Store] = []
    failed: list[Exception] = []

    def wait() -> None:
        try:
            store, _, _ = next(iter(rendezvous("env://", place.rank, place.world, timeout=timedelta(seconds=seconds))))
            store.set(f"esper/{place.rank}", "here")
            store.wait([f"esper/{rank}" for rank in range(place.world)], timedelta(seconds=seconds))
            found.append(store)
        except Exception as error:  # noqa: BLE001  # raised below, in the thread that trains
            failed.append(error)

    # torch waits without looking at signals, and the main thread alone can handle them.
    waiting = threading.Thread(target=wait, name="esper-ranks-meet", daemon=True)
    waiting.start()
    while waiting.is_alive() and not stop():
        waiting.join(_LOOK_S)
    if failed:
        raise _not_met(place, failed[0], seconds) from failed[0]
    if not found:
        stopped = RanksError(
            f"{stop.name or 'asked to stop'}: rank {place.rank} of {place.world} was waiting for the others",
            hint="no run was begun",
        )
        stopped.exit_code = EXIT_SIGNAL + stop.signal if stop.signal is not None else stopped.exit_code
        raise stopped
    return found[0]


def _not_met(place: Place, error: Exception, seconds: float) -> RanksError:
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return RanksError(
        f"rank {place.rank} of {place.world} did not meet the others at {where}: {said}",
        hint=f"start every rank, with the same MASTER_ADDR and MASTER_PORT; they wait {seconds:g} s for each other",
    )


def share_folder(group: GroupReducer, make: Callable[[], Path]) -> Path:
    """Make the run's directory on rank 0, and tell the others where it is.

    Raises:
        EsperError: rank 0 could not make it, or a rank cannot see it.
    """
    made, failure = None, None
    if group.rank == 0:
        try:
            made = make()
        except EsperError as error:
            failure = error
    try:
        return _shared(group, made, failure)
    except BaseException:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)  # of a run that has not begun
        raise


def share_attempt(group: GroupReducer, run: RunDir, attempt: int) -> int:
    """The number of the attempt that resumes a run, as rank 0 has found it.

    Raises:
        RanksError: another rank would resume another run.
    """
    named = group.gather((run.run_id, attempt))
    for rank, (run_id, _) in enumerate(named):
        if run_id != named[0][0]:
            raise RanksError(
                f"rank {rank} of {group.world_size} would resume run {run_id}, and rank 0 run {named[0][0]}",
                hint="name the run by its whole id: --resume ID",
            )
    number: int = named[0][1]
    return number


def _shared(group: GroupReducer, made: Path | None, failure: EsperError | None) -> Path:
    told = group.gather((str(made) if made is not None else "", error_text(failure) if failure is not None else ""))
    if failure is not None:
        raise failure
    path, why = told[0]
    if not path:
        raise RanksError(f"rank 0 could not make the run's directory: {why}", hint="rank 0's output has the rest")
    blind = [found for found in group.gather("" if Path(path).is_dir() else socket.gethostname()) if found]
    if blind:
        raise RanksError(
            f"{', '.join(dict.fromkeys(blind))} cannot see the run's directory {path}, which rank 0 has made",
            hint="all machines need one folder of runs: name a shared one with --dir, by its absolute path",
        )
    return Path(path)


def agree_on_start(agent: PPOAgent, group: GroupReducer, digest: str) -> None:
    """Refuse ranks with other settings or spaces, give all rank 0's weights, and compare them.

    Args:
        agent: of this rank.
        group: of all.
        digest: of the configuration.

    Raises:
        RanksError: they differ.
    """
    from esper_core.ppo.distributed import refuse_different_weights, share_weights  # noqa: PLC0415  # several ranks only

    shapes = [(name, tuple(values.shape)) for name, values in agent.policy.state_dict().items()]
    told = group.gather((digest, repr((agent.layout.heads, agent.obs_shape, shapes))))
    for place, what in enumerate(("configuration", "environment's spaces")):
        others = [rank for rank, mine in enumerate(told) if mine[place] != told[0][place]]
        if others:
            raise RanksError(
                f"rank {others[0]} of {group.world_size} has another {what} than rank 0",
                hint="start every rank with the same command, file and ESPER_ variables",
            )
    share_weights(agent, group)
    refuse_different_weights(agent, group)


def _number(env: Mapping[str, str], name: str) -> int:
    text = env[name]
    if not (text.isascii() and text.isdecimal()) or (name == "WORLD_SIZE" and int(text) < 1):
        raise UsageError(f"{name} is {text!r}, not a number of ranks", hint=_START)
    return int(text)
