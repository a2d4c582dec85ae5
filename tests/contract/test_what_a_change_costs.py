"""What a change costs by hand: a metric two places, a kind of event three. Counted on a copy that then has to work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Hunk:
    """Lines that a person writes, after a line that is there."""

    file: str
    after: str
    lines: str


class Copy:
    """A copy of the core and of the tool that writes its pages, to be changed and run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "esper_core", folder / "esper_core", ignore=skip)
        shutil.copytree(ROOT / "docs" / "generate", folder / "docs" / "generate", ignore=skip)
        shutil.copytree(ROOT / "collector-config", folder / "collector-config")
        shutil.copytree(ROOT / "tests" / "benchmarks", folder / "tests" / "benchmarks", ignore=skip)  # their results

    def change(self, *hunks: Hunk) -> None:
        for hunk in hunks:
            path = self.folder / hunk.file
            before, found, rest = path.read_text().partition(hunk.after)
            assert found, f"{hunk.file} has no {hunk.after!r}"
            path.write_text(f"{before}{found}{hunk.lines}{rest}")

    def run(self, *words: str) -> str:
        env = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=env, capture_output=True, text=True, timeout=250, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def written(self) -> dict[str, str]:
        """What ``make docs`` writes anew, by path."""
        for path in (self.folder / "esper_core" / "semconv" / "registry").glob("*.yaml"):
            path.unlink()
        self.run("docs/generate", "--root", ".")
        pages = [
            *(self.folder / "esper_core" / "semconv" / "registry").glob("*.yaml"),
            *(self.folder / "docs" / "reference").glob("*.md"),
        ]
        return {str(path.relative_to(self.folder)): path.read_text() for path in pages}


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


# --- a metric -----------------------------------------------------------------------------------

UPDATE = """
import math
import sys
from pathlib import Path
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
import esper_core
from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.hooks import SinkContext
from esper_core.host.deliver.hub import Hub
from esper_core.instrumentation.sink import Instrumentation
from esper_core.semconv.codec import decode, encode
from esper_core.semconv.gauges import gauge_points
from esper_core.semconv.names import ATTRIBUTES, GAUGES
from esper_core.testing import RecordingSink
import torch
from _bandit import Bandit

assert Path(esper_core.__file__).parents[1] == Path.cwd()
reader = InMemoryMetricReader()
hub = Hub([], SinkContext(run_id="r"))
hub.add_first("instrumentation", Instrumentation(MeterProvider([reader]), config=OtelConfig()))
bandit = Bandit()
agent = bandit.agent(seed=3, spread=0.5, epochs=1, minibatch_size=64, target_kl=0)
rollout = bandit.rollout(agent, 256)
seen = RecordingSink()
hub.add_first("seen", seen)
agent.emitter = TelemetryEmitter(hub.hooks, run_id="r")
agent.update(rollout)
event = seen.events[0]  # a change of the level may follow
"""
CHECK_METRIC = """
batch = rollout.batch
with torch.no_grad():
    now = agent.policy.evaluate(batch.observations, batch.actions, batch.legal).log_prob.double()
ratios = ((now - batch.log_prob.double()) * batch.active).sum(-1).exp()
value = event.payload.ratio_mean
assert math.isclose(value, float(ratios.mean()), rel_tol=1e-5)
assert value != 1.0, "the update moved the policy, so there is something to measure"
assert decode(encode(event, {})) == [event]
assert ATTRIBUTES["esper.ppo.ratio_mean"] == "double"
(gauge,) = [item for item in GAUGES if item.field == "ratio_mean"]
assert (gauge.name, gauge.unit) == ("esper.ppo.last.ratio_mean", "{ratio}")
assert [item.value for item in gauge_points(event) if item.name == gauge.name] == [value]
(scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
(metric,) = [item for item in scope.metrics if item.name == gauge.name]
assert metric.data.data_points[0].value == value
"""
METRIC = (
    Hunk(
        "esper_core/events/update.py",
        'measured("One entry a head, in the policy\'s order.", default=(), name="head")\n',
        '    ratio_mean: float | None = measured("Mean joint probability ratio.", unit="{ratio}", gauge=True)\n',
    ),
    Hunk(
        "esper_core/ppo/measure.py",
        "    by_step: dict[str, Tensor] = {}\n",
        '    by_step["ratio_mean"] = joint_ratio\n',
    ),
)


def test_a_metric_is_one_field_and_one_line_where_it_is_measured(copy: Copy) -> None:
    pytest.importorskip("torch")
    shutil.copy(ROOT / "tests" / "unit" / "_bandit.py", copy.folder)
    (copy.folder / "check.py").write_text(UPDATE + CHECK_METRIC)
    copy.change(*METRIC)
    assert len(METRIC) == len({hunk.file for hunk in METRIC}) == 2
    copy.run("-W", "error", "check.py")
    written = copy.written()
    named = {path for path, text in written.items() if "ratio_mean" in text}
    assert named == {
        "esper_core/semconv/registry/attributes.yaml",
        "esper_core/semconv/registry/gauges.yaml",
        "docs/reference/events.md",
        "docs/reference/telemetry.md",
    }
    assert "| `{ratio}` | Mean joint probability ratio. |" in written["docs/reference/events.md"]


# --- a kind of event ----------------------------------------------------------------------------

KIND = (
    Hunk(
        "esper_core/events/run.py",
        '__all__ = [\n    "EpisodeFinished",\n',
        '    "CheckpointSaved",\n',
    ),
    Hunk(
        "esper_core/events/run.py",
        'SinkState: TypeAlias = Literal["ok", "failing", "disabled", "recovered", "closed", "cut_off"]\n',
        '''

@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CheckpointSaved(Payload):
    """The run's weights were written."""

    kind: ClassVar[EventKind] = "checkpoint_saved"

    update_id: int = field(metadata=about("The update whose weights were saved.", key="esper.ppo.update_id"))
    path: str = field(metadata=about("Where they are."))
    size: int = measured("Size of the file.", default=0, unit="By")
    seconds: float | None = measured("How long it took.", unit="s", name="duration")
''',
    ),
    Hunk(
        "esper_core/events/kinds.py",
        "_ROWS: Final = (\n",
        '    EventSpec(payload=run.CheckpointSaved, span="esper.checkpoint", namespace="esper.checkpoint", '
        "priority=Priority.STATUS),\n",
    ),
    Hunk(
        "esper_core/hooks/_specs.py",
        "    from esper_core.events import (\n",
        "        CheckpointSaved,\n",
    ),
    Hunk(
        "esper_core/hooks/_specs.py",
        '        """The run ended: done, stopped or failed, but not killed. The last event of an attempt."""\n',
        """
    @hookspec
    def esper_checkpoint_saved(self, event: TelemetryEvent[CheckpointSaved]) -> None:
        '''The run's weights were written.'''
""",
    ),
)
CHECK_KIND = """
from pathlib import Path
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import esper_core
from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import CheckpointSaved
from esper_core.hooks import HOOK_NAMES, SinkContext, hookimpl
from esper_core.host.deliver.buffer import priority_of
from esper_core.host.deliver.hub import EVENT_HOOKS, Hub
from esper_core.instrumentation.sink import Instrumentation
from esper_core.runs import create_run
from esper_core.runs.segments import read_segment
from esper_core.semconv.codec import decode, encode
from esper_core.testing import RecordingSink, SinkHarness, one_of_each
from esper_sink_journal import JournalSink

assert Path(esper_core.__file__).parents[1] == Path.cwd()
saved = CheckpointSaved(update_id=3, path="checkpoint.pt", size=2**63, seconds=0.5)

class Own:
    heard = ()
    @hookimpl
    def esper_checkpoint_saved(self, event):
        self.heard += (event.payload,)

# on the wire, and in every observer that passes events on
spans = InMemorySpanExporter()
tracers = TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(spans))
hub = Hub([], SinkContext(run_id="r"))
own, seen = Own(), RecordingSink()
hub.add_first("own", own)
hub.add_first("seen", seen)
instrumentation = Instrumentation(MeterProvider(), config=OtelConfig())
hub.add_first("instrumentation", instrumentation)
emitter = TelemetryEmitter(
    hub.hooks, run_id="r", tracer=tracers.get_tracer("t"), heard=hub.heard, complete=instrumentation.complete
)
event = emitter.emit(saved)
assert own.heard == (saved,) and seen.events == [event]
assert decode(encode(event, {})) == [event]
(span,) = spans.get_finished_spans()
assert span.name == "esper.checkpoint"
assert span.attributes["esper.checkpoint.size"] == str(2**63)
assert span.attributes["esper.checkpoint.duration"] == 0.5
assert span.attributes["esper.ppo.update_id"] == 3

# hooks, queues, test material, the journal
assert "esper_checkpoint_saved" in HOOK_NAMES and "esper_checkpoint_saved" in EVENT_HOOKS
assert priority_of("esper_checkpoint_saved") == 1
assert any(isinstance(item.payload, CheckpointSaved) for item in one_of_each())
run = create_run(Path("runs"))
with SinkHarness(JournalSink, run_dir=run.path) as harness:
    harness.send(event)
(line,) = [line for path in run.telemetry.iterdir() for line in read_segment(path).splitlines()]
assert decode(line) == [event]
"""


def test_a_kind_of_event_is_its_class_one_row_and_its_hook(copy: Copy) -> None:
    pytest.importorskip("esper_sink_journal")
    (copy.folder / "check.py").write_text(CHECK_KIND)
    copy.change(*KIND)
    # The class and its export, the row, the hook and the import of its type.
    assert len(KIND) == 5
    assert {hunk.file for hunk in KIND} == {
        "esper_core/events/run.py",
        "esper_core/events/kinds.py",
        "esper_core/hooks/_specs.py",
    }
    copy.run("-W", "error", "check.py")
    written = copy.written()
    named = {path for path, text in written.items() if "checkpoint_saved" in text or "esper.checkpoint" in text}
    assert named == {
        "esper_core/semconv/registry/attributes.yaml",
        "esper_core/semconv/registry/spans.yaml",
        "docs/reference/events.md",
        "docs/reference/hooks.md",
        "docs/reference/telemetry.md",
    }
