"""What the trainer takes of the machine: measured by the heartbeat's thread, in run.json and under OTel's names."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from esper_core.config.layers import load_config
from esper_core.events import RunStarted
from esper_core.host.process.heartbeat import Heartbeat
from esper_core.host.process.system import SystemProbe
from esper_core.host.session import Session
from esper_core.instrumentation.sink import Instrumentation
from esper_core.reading.system import bytes_text, system_text
from esper_core.runs import RunRecord, create_run, read_record
from esper_core.runs.state import GPURecord, SystemRecord
from esper_core.semconv.system import SYSTEM_METRICS

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

GUARD_S = 250.0
NVIDIA = """
class NVMLError(Exception): ...
class Process:
    def __init__(self, pid, usedGpuMemory): self.pid, self.usedGpuMemory = pid, usedGpuMemory
class Rates: gpu = 83
class Memory: total = 85899345920
def nvmlInit(): ...
def nvmlDeviceGetCount(): return 3
def nvmlDeviceGetHandleByIndex(place): return place
def nvmlDeviceGetName(device): return b"NVIDIA A100"
def nvmlDeviceGetUUID(device): return f"GPU-{device}"
def nvmlDeviceGetMemoryInfo(device): return Memory
def nvmlDeviceGetUtilizationRates(device): return Rates
def nvmlDeviceGetComputeRunningProcesses(device):
    import os
    if device == 1:
        raise NVMLError("lost")
    return [Process(os.getpid() if device == 2 else 1, 1 << 30)]
"""


def test_cpu_and_memory_of_this_process_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    probe = SystemProbe()
    first = probe.read()
    assert first is not None
    assert first.cpu_cores is None
    begun = time.process_time()
    while time.process_time() - begun < 0.1:
        pass
    second = probe.read()
    assert second is not None
    assert second.cpu_cores is not None
    assert second.cpu_cores > 0
    spent = second.cpu_user_s + second.cpu_system_s - first.cpu_user_s - first.cpu_system_s
    assert spent > 0.05  # the system counts in hundredths
    assert second.memory > 2**20
    assert second.threads >= 1
    assert 1 <= second.cpu_count <= (os.cpu_count() or 1)
    assert second.gpus == ()


def test_gpus_are_those_that_the_process_computes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a stand-in of NVIDIA's library with three GPUs: one of another process, one lost, one ours."""
    (tmp_path / "pynvml.py").write_text(NVIDIA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    found = SystemProbe().read()
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert found is not None
    assert found.gpus == (
        GPURecord(id="GPU-2", name="NVIDIA A100", utilization=0.83, memory=2**30, memory_limit=80 * 2**30),
    )
    assert system_text(found).endswith("GPU 83% 1.00 GiB")


def test_the_metrics_have_opentelemetrys_names_units_and_kinds() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    instrumentation = Instrumentation(provider, config=load_config().config.otel, run_id="run-1")
    instrumentation.set_run_status(heartbeat_s=1.0)
    assert not {item.name for item in collected(reader)} & set(SYSTEM_METRICS)
    gpu = GPURecord(id="GPU-2", name="NVIDIA A100", utilization=0.83, memory=2**30, memory_limit=2**36)
    instrumentation.set_run_status(
        system=SystemRecord(
            cpu_cores=1.5, cpu_count=8, cpu_user_s=7.0, cpu_system_s=2.0, memory=2**20, threads=9, gpus=(gpu,)
        )
    )
    found = {item.name: item for item in collected(reader) if item.name in SYSTEM_METRICS}
    assert {name: (item.unit, item.description) for name, item in found.items()} == {
        name: (spec.unit, spec.brief) for name, spec in SYSTEM_METRICS.items()
    }
    values = {
        (name, point.attributes.get("cpu.mode")): (point.value, point.attributes.get("hw.id"))
        for name, item in found.items()
        for point in item.data.data_points
    }
    assert values == {
        ("process.cpu.time", "user"): (7.0, None),
        ("process.cpu.time", "system"): (2.0, None),
        ("process.cpu.utilization", None): (1.5 / 8, None),
        ("process.memory.usage", None): (2**20, None),
        ("process.thread.count", None): (9, None),
        ("hw.gpu.utilization", None): (0.83, "GPU-2"),
        ("hw.gpu.memory.usage", None): (2**30, "GPU-2"),
        ("hw.gpu.memory.limit", None): (2**36, "GPU-2"),
    }
    assert found["process.cpu.time"].data.is_monotonic
    assert not found["process.memory.usage"].data.is_monotonic
    assert all(
        point.attributes["esper.run.id"] == "run-1" for item in found.values() for point in item.data.data_points
    )
    provider.shutdown()


def collected(reader: InMemoryMetricReader) -> list[Any]:
    data = reader.get_metrics_data()
    if data is None:
        return []
    return [item for resource in data.resource_metrics for scope in resource.scope_metrics for item in scope.metrics]


def test_the_heartbeats_thread_measures_and_writes(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    beat = Heartbeat(run, RunRecord(run_id=run.run_id), tuple, system=True, interval_s=0.02)
    beat.start()
    deadline = time.monotonic() + GUARD_S
    while ((record := read_record(run)) is None or record.system is None) and time.monotonic() < deadline:
        time.sleep(0.01)
    beat.finish(record.state if record is not None else beat._record.state, "")
    assert record is not None
    assert record.system is not None
    assert record.system.memory > 2**20


def test_one_key_switches_it_off_and_the_record_says_how_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--api-token", "hunter2-hunter2", "--rate=0.1"])
    monkeypatch.chdir(tmp_path)
    loaded = load_config(keywords={"sinks": [], "run": {"system_metrics": False}})
    run = create_run(tmp_path / "runs")
    with Session(loaded.config, run=run, origins=loaded.origins, install_signal_handlers=False) as session:
        session.emitter.emit_run_started(RunStarted(environment="mine"))
        assert session._heartbeat is not None
        assert session._heartbeat._system is False
    record = read_record(run)
    assert record is not None
    assert record.system is None
    assert record.start is not None
    assert record.start.command == ("train.py", "--api-token", "***", "--rate=0.1")
    assert record.start.directory == str(tmp_path)
    assert record.start.origins["run.system_metrics"] == loaded.origins["run.system_metrics"]
    assert "ppo.gamma" not in record.start.origins


def test_bytes_in_words() -> None:
    assert [bytes_text(count) for count in (0, 999, 1000, 412 * 2**20, 3 * 2**30, 2**42)] == [
        "0 B",
        "999 B",
        "0.98 KiB",
        "412 MiB",
        "3.00 GiB",
        "4.00 TiB",
    ]
    assert system_text(None) == ""
