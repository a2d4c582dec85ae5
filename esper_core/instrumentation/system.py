"""What the trainer takes of the machine, as metrics under OpenTelemetry's names. Uses only the OpenTelemetry API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry.metrics import Observation

from esper_core.semconv.system import CPU_MODE, GPU_ID, GPU_NAME, SYSTEM_METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, Meter

    from esper_core.semconv.attributes import AttributeValue

__all__ = ["SystemUse", "create_system"]


class GPUUse(Protocol):
    """One GPU; see ``esper_core.runs.state.GPURecord``."""

    @property
    def id(self) -> str:
        """Its UUID."""

    @property
    def name(self) -> str:
        """As its driver names it."""

    @property
    def utilization(self) -> float | None:
        """0..1."""

    @property
    def memory(self) -> int | None:
        """Bytes the trainer holds."""

    @property
    def memory_limit(self) -> int | None:
        """Bytes it has."""


class SystemUse(Protocol):
    """What the host measures; see ``esper_core.runs.state.SystemRecord``."""

    @property
    def cpu_cores(self) -> float | None:
        """CPU seconds a second."""

    @property
    def cpu_count(self) -> int:
        """CPUs that may be used."""

    @property
    def cpu_user_s(self) -> float:
        """Seconds so far."""

    @property
    def cpu_system_s(self) -> float:
        """Seconds so far."""

    @property
    def memory(self) -> int:
        """Resident bytes."""

    @property
    def threads(self) -> int:
        """Of the trainer."""

    @property
    def gpus(self) -> Sequence[GPUUse]:
        """On which the trainer computes."""


class SystemRun(Protocol):
    """A run that may have been measured."""

    @property
    def identity(self) -> Mapping[str, AttributeValue]:
        """Attributes of every point."""

    @property
    def system(self) -> SystemUse | None:
        """What was measured last."""


_Value = tuple[float | None, dict[str, str]]


def _gpus(field: str) -> Callable[[SystemUse], list[_Value]]:
    return lambda use: [(getattr(gpu, field), {GPU_ID: gpu.id, GPU_NAME: gpu.name}) for gpu in use.gpus]


_VALUES: Final[Mapping[str, Callable[[SystemUse], list[_Value]]]] = {
    "process.cpu.time": lambda use: [
        (use.cpu_user_s, {CPU_MODE: "user"}),
        (use.cpu_system_s, {CPU_MODE: "system"}),
    ],
    "process.cpu.utilization": lambda use: [
        (None if use.cpu_cores is None else use.cpu_cores / max(use.cpu_count, 1), {})
    ],
    "process.memory.usage": lambda use: [(use.memory, {})],
    "process.thread.count": lambda use: [(use.threads, {})],
    "hw.gpu.utilization": _gpus("utilization"),
    "hw.gpu.memory.usage": _gpus("memory"),
    "hw.gpu.memory.limit": _gpus("memory_limit"),
}


def create_system(meter: Meter, runs: Iterable[SystemRun]) -> None:
    """Create the instruments; they give the points of every run that has been measured when a reader collects."""
    make = {
        "counter": meter.create_observable_counter,
        "updowncounter": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }
    for name, spec in SYSTEM_METRICS.items():
        make[spec.instrument](name, [_points(runs, _VALUES[name])], spec.unit, spec.brief)


def _points(
    runs: Iterable[SystemRun], values: Callable[[SystemUse], list[_Value]]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: [
        Observation(value, {**run.identity, **own})
        for run in runs
        if (use := run.system) is not None
        for value, own in values(use)
        if value is not None
    ]
