"""What this process takes of the machine, by psutil, and of its GPUs, by NVIDIA's library where it can be imported.

Called by the heartbeat thread alone, every few seconds. Nothing here raises: what the system does not tell is left out.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from esper_core.host.process.memory import memory_bytes
from esper_core.runs.state import GPURecord, SystemRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SystemProbe"]


class SystemProbe:
    """Looks at this process and its children."""

    def __init__(self) -> None:
        self._limit = memory_bytes()
        self._before: tuple[float, float] | None = None
        self._user_s = self._system_s = 0.0
        self._gpus = _nvidia()

    def read(self) -> SystemRecord | None:
        """What they take now; None when the system tells nothing."""
        try:
            return self._read()
        except Exception:  # noqa: BLE001  # numbers beside the run, of others' drivers, never end its heartbeat
            return None

    def _read(self) -> SystemRecord:
        import psutil  # noqa: PLC0415  # 16 ms, in the heartbeat's thread

        own = psutil.Process()
        times = own.cpu_times()
        user, system = times.children_user, times.children_system  # of children that have ended
        memory, pids = 0, set()
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error), process.oneshot():  # one that has just ended
                times = process.cpu_times()
                memory += process.memory_info().rss
                user, system = user + times.user, system + times.system
                pids.add(process.pid)
        # A counter never falls: what an ended grandchild used is missing from the sums.
        self._user_s, self._system_s = max(user, self._user_s), max(system, self._system_s)
        return SystemRecord(
            cpu_cores=self._cores(),
            cpu_count=_usable_cpus(),
            cpu_user_s=self._user_s,
            cpu_system_s=self._system_s,
            memory=memory,
            memory_limit=self._limit,
            threads=own.num_threads(),
            gpus=tuple(self._gpus(pids)),
        )

    def _cores(self) -> float | None:
        """CPU seconds a second since the last call."""
        now, used = time.monotonic(), self._user_s + self._system_s
        before, self._before = self._before, (now, used)
        return None if before is None or now <= before[0] else (used - before[1]) / (now - before[0])


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _nvidia() -> Callable[[set[int]], Iterator[GPURecord]]:
    """A function that reads the GPUs on which any of these processes computes; of none without NVIDIA's library."""
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415  # nvidia-ml-py, where it is installed

        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # noqa: BLE001  # not installed, no driver, a driver of another version
        return lambda _: iter(())

    def read(pids: set[int]) -> Iterator[GPURecord]:
        for device in devices:
            try:
                found = _gpu(pynvml, device, pids)
            except pynvml.NVMLError:  # lost, or of a kind that does not tell
                continue
            if found is not None:
                yield found

    return read


def _gpu(nvml: Any, device: Any, pids: set[int]) -> GPURecord | None:
    """One GPU; None when none of the processes computes on it."""
    held = [item for item in nvml.nvmlDeviceGetComputeRunningProcesses(device) if item.pid in pids]
    if not held:
        return None
    utilization = None
    with contextlib.suppress(nvml.NVMLError):
        utilization = nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100
    known = [item.usedGpuMemory for item in held if item.usedGpuMemory is not None]
    return GPURecord(
        id=_text(nvml.nvmlDeviceGetUUID(device)),
        name=_text(nvml.nvmlDeviceGetName(device)),
        utilization=utilization,
        memory=sum(known) if known else None,
        memory_limit=int(nvml.nvmlDeviceGetMemoryInfo(device).total),
    )


def _text(value: bytes | str) -> str:
    """Older versions of the library return bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
