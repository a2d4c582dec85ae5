"""What a trainer takes of the machine: read from its metrics, and in words. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from esper_core.reading.numbers import percent, step_trim
from esper_core.runs.state import GPURecord, SystemRecord
from esper_core.semconv.identity import RANK, RUN_ID
from esper_core.semconv.system import GPU_ID, GPU_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper_core.semconv.otlp_metrics import WirePoint

__all__ = ["HEARD", "bytes_text", "heard_systems", "system_joined", "system_text"]

_CPU: Final = "process.cpu.utilization"
_MEMORY: Final = "process.memory.usage"
_GPU: Final = {
    "hw.gpu.utilization": "utilization",
    "hw.gpu.memory.usage": "memory",
    "hw.gpu.memory.limit": "memory_limit",
}
_MOST_GPUS: Final = 64
"""GPUs of a run that are remembered: a client may send any number of invented ones."""
HEARD: Final = frozenset({_CPU, _MEMORY, *_GPU})
"""The metrics that :func:`heard_systems` reads."""


@dataclass(slots=True)
class _Heard:
    """The newest values of one run, each with its time."""

    own: dict[str, tuple[int, float]] = field(default_factory=dict)
    gpus: dict[tuple[str, str], dict[str, tuple[int, float]]] = field(default_factory=dict)

    def add(self, point: WirePoint) -> None:
        values, name = self.own, point.name
        if name in _GPU:
            key = str(point.attributes.get(GPU_ID, "")), str(point.attributes.get(GPU_NAME, ""))
            values, name = self.gpus.setdefault(key, {}), _GPU[name]
        if point.time_ns >= values.get(name, (0, 0.0))[0]:
            values[name] = point.time_ns, point.value

    def record(self) -> SystemRecord:
        """As ``run.json`` has it, but for what no metric tells."""
        gpus = [
            GPURecord(
                id=key,
                name=name,
                utilization=_value(values, "utilization"),
                memory=_whole(values, "memory"),
                memory_limit=_whole(values, "memory_limit"),
            )
            for (key, name), values in sorted(self.gpus.items())[-_MOST_GPUS:]
        ]
        return SystemRecord(
            cpu_count=0, cpu_utilization=_value(self.own, _CPU), memory=_whole(self.own, _MEMORY) or 0, gpus=tuple(gpus)
        )


def heard_systems(points: Iterable[WirePoint]) -> dict[str, SystemRecord]:
    """What the trainer of each run takes of its machine, by run id: rank 0 of several, as in ``run.json``."""
    heard: dict[str, _Heard] = {}
    for point in points:
        run_id = point.attributes.get(RUN_ID)
        if isinstance(run_id, str) and not point.attributes.get(RANK) and math.isfinite(point.value):
            heard.setdefault(run_id, _Heard()).add(point)
    return {run_id: item.record() for run_id, item in heard.items()}


def system_joined(before: SystemRecord | None, now: SystemRecord) -> SystemRecord:
    """What is known after a request that may have held a part only, as a collector divides them."""
    if before is None:
        return now
    gpus = {gpu.id: gpu for gpu in before.gpus}
    for gpu in now.gpus:
        known = gpus.get(gpu.id, gpu)
        gpus[gpu.id] = GPURecord(
            id=gpu.id,
            name=gpu.name or known.name,
            utilization=known.utilization if gpu.utilization is None else gpu.utilization,
            memory=known.memory if gpu.memory is None else gpu.memory,
            memory_limit=known.memory_limit if gpu.memory_limit is None else gpu.memory_limit,
        )
    share = before.cpu_utilization if now.cpu_utilization is None else now.cpu_utilization
    return SystemRecord(
        cpu_count=0, cpu_utilization=share, memory=now.memory or before.memory, gpus=tuple(gpus.values())[-_MOST_GPUS:]
    )


def _value(values: dict[str, tuple[int, float]], name: str) -> float | None:
    return values[name][1] if name in values else None


def _whole(values: dict[str, tuple[int, float]], name: str) -> int | None:
    return round(values[name][1]) if name in values else None


def bytes_text(count: float) -> str:
    """A number of bytes in three figures, 1024 to a unit: 412 MiB, 2.31 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{step_trim(count)} {unit}"
        count /= 1024
    return f"{step_trim(count)} TiB"


def system_text(system: SystemRecord | None) -> str:
    """CPU in cores, memory, and each GPU; empty when nothing is known."""
    if system is None:
        return ""
    parts = []
    if system.cpu_cores is not None:
        parts.append(f"CPU {system.cpu_cores:.1f}/{system.cpu_count}")
    elif system.cpu_utilization is not None:
        parts.append(f"CPU {percent(system.cpu_utilization, 0)}")
    parts.append(f"mem {bytes_text(system.memory)}")
    for gpu in system.gpus:
        held = f" {bytes_text(gpu.memory)}" if gpu.memory is not None else ""
        parts.append(f"GPU {percent(gpu.utilization, 0)}{held}")
    return "  ".join(parts)
