"""What a trainer takes of the machine, in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.reading.numbers import percent, step_trim

if TYPE_CHECKING:
    from esper_core.runs.state import SystemRecord

__all__ = ["bytes_text", "system_text"]


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
    parts.append(f"mem {bytes_text(system.memory)}")
    for gpu in system.gpus:
        held = f" {bytes_text(gpu.memory)}" if gpu.memory is not None else ""
        parts.append(f"GPU {percent(gpu.utilization, 0)}{held}")
    return "  ".join(parts)
