"""OpenTelemetry's own names for what the trainer's process and its GPUs take: ``process.*`` and ``hw.gpu.*``."""

from __future__ import annotations

from typing import Final

from esper_core.semconv.names import Metric

__all__ = ["CPU_MODE", "GPU_ID", "GPU_NAME", "SYSTEM_METRICS"]

CPU_MODE: Final = "cpu.mode"
GPU_ID: Final = "hw.id"
GPU_NAME: Final = "hw.name"
_GPU: Final = (GPU_ID, GPU_NAME)
_GPUS: Final = "GPUs that the trainer computes on"
_WHOSE: Final = "of the trainer and its child processes"
SYSTEM_METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("process.cpu.time", "counter", "s", f"CPU time {_WHOSE}.", (CPU_MODE,), 2),
        Metric(
            "process.cpu.utilization",
            "gauge",
            "1",
            f"CPU time {_WHOSE} between two heartbeats, over the time that the CPUs they may use had: 0..1.",
        ),
        Metric("process.memory.usage", "updowncounter", "By", f"Physical memory {_WHOSE}."),
        Metric("process.thread.count", "updowncounter", "{thread}", "Threads of the trainer."),
        Metric("hw.gpu.utilization", "gauge", "1", "Share of the time in which the GPU computed: 0..1.", _GPU, _GPUS),
        Metric("hw.gpu.memory.usage", "updowncounter", "By", "GPU memory that the trainer holds.", _GPU, _GPUS),
        Metric("hw.gpu.memory.limit", "updowncounter", "By", "Memory that the GPU has.", _GPU, _GPUS),
    )
}
"""By name; switched off with ``[run] system_metrics``."""
