"""The journal holds every update whatever the OpenTelemetry SDK is told, by variables or by an application."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from esper_core.health import RunState
from esper_core.reading import open_run

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("esper_sink_journal", reason="the journal is a plugin")

UPDATES = 40
SINK = """
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from esper_core.hooks import hookimpl

EXPORTED = InMemorySpanExporter()

class Exporting:
    @hookimpl
    def esper_span_processors(self, context):
        return [SimpleSpanProcessor(EXPORTED)]
"""
TRAIN = f"""
import sys
from pathlib import Path
from opentelemetry import trace
from esper_core.config.schema import EsperConfig
from esper_core.host.session import Session
from esper_core.reading import open_run
from esper_core.runs import create_run
from esper_core.testing import make_update

run = create_run(Path("runs"), name="set")
given = []
with Session(EsperConfig(sinks=("journal", "./exporting.py:Exporting")), run=run) as session:
    for number in range(1, {UPDATES} + 1):
        session.emitter.begin_rollout(number)
        given.append(session.emitter.emit_ppo_update(make_update(number, kl=0.001 * number)))
assert session.report.lost_total == 0
journaled = list(open_run(run.path).updates())
assert journaled == given, (len(journaled), len(given))
exporting = next(sink.instance for sink in session.active if sink.loaded.name == "Exporting")
exported = sys.modules[type(exporting).__module__].EXPORTED.get_finished_spans()
updates = [span for span in exported if span.name == "esper.ppo.update"]
print(len(updates), max((len(span.attributes) for span in updates), default=0),
      max((len(value) for span in updates for value in span.attributes.values() if isinstance(value, str)), default=0))
"""


def _trained(process: subprocess.Popen[str]) -> list[int]:
    """Spans of updates that the SDK exported, the most attributes on one, and the longest text in one."""
    out, error = process.communicate(timeout=250)
    assert process.returncode == 0, error
    return [int(word) for word in out.split()[-3:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "exporting.py").write_text(SINK)
    return tmp_path


def test_with_nothing_set_the_sdk_exports_what_the_journal_holds(
    folder: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    spans, attributes, text = _trained(start_python(TRAIN, cwd=folder))
    assert spans == UPDATES
    assert attributes > 50
    assert text > 12


@pytest.mark.parametrize(
    ("variables", "spans", "attributes", "text"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_off"}, (0, 0), 0, 0),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, (0, UPDATES // 2), 128, 1000),
        ({"OTEL_SDK_DISABLED": "true"}, (0, 0), 0, 0),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "8"}, (UPDATES, UPDATES), 8, 1000),
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "8"}, (UPDATES, UPDATES), 8, 1000),
        ({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "12"}, (UPDATES, UPDATES), 128, 12),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "12"}, (UPDATES, UPDATES), 128, 12),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_samplers_limits_and_switches_cost_the_journal_nothing(
    folder: Path,
    start_python: Callable[..., subprocess.Popen[str]],
    variables: dict[str, str],
    spans: tuple[int, int],
    attributes: int,
    text: int,
) -> None:
    """The child compares its journal with what it emitted; here it is shown that the variable did take effect."""
    exported, most, longest = _trained(start_python(TRAIN, cwd=folder, env=variables))
    assert spans[0] <= exported <= spans[1]
    assert most <= attributes
    assert longest <= text


OWN_PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

provider = TracerProvider(sampler={sampler}, span_limits=SpanLimits(max_attributes=8), shutdown_on_exit=False)
trace.set_tracer_provider(provider)
"""


@pytest.mark.parametrize("sampler", ["ALWAYS_ON", "ALWAYS_OFF"])
def test_an_applications_own_provider_costs_the_journal_nothing(
    folder: Path, start_python: Callable[..., subprocess.Popen[str]], sampler: str
) -> None:
    again = "\nassert trace.get_tracer_provider() is provider\n"
    assert _trained(start_python(OWN_PROVIDER.format(sampler=sampler) + TRAIN + again, cwd=folder))[0] == 0


def test_a_real_training_under_opentelemetry_instrument_is_journaled_whole(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    launcher = Path(sys.executable).with_name("opentelemetry-instrument")
    assert launcher.is_file(), "opentelemetry-distro is among the dev requirements"
    words = [str(launcher), "--traces_exporter", "console", "--metrics_exporter", "none", "--logs_exporter", "none"]
    words += [str(launcher.with_name("esper")), "ppo", "--env", "CartPole-v1", "--updates", "5", "--sinks", "journal"]
    words += ["--set", "ppo.rollout_steps=16", "--set", "ppo.minibatch_size=16", "--run-name", "instrumented"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"name": "esper.ppo.update"') == 5, "the launcher's own provider exports them too"
    run = open_run("instrumented", tmp_path / "runs")
    assert run.state is RunState.DONE
    journaled = list(run.updates())
    assert [event.payload.update_id for event in journaled] == [1, 2, 3, 4, 5]
    for event in journaled:
        assert event.payload.kl_divergence is not None
        assert f'"span_id": "0x{event.trace.own.span_id}"' in done.stdout
