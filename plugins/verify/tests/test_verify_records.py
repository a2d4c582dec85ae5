"""``esper verify``: records hold as they are, and each check fails when its own piece of wiring is broken."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from esper_core import health
from esper_core.errors import UsageError
from esper_core.health import TUIThresholds, classify_clip_fraction
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.semconv import codec
from esper_sink_tui import schema
from esper_sink_tui.widgets import HealthStatusPanel
from esper_verify import checks
from esper_verify.checks import CHECKS, Context, run_checks
from esper_verify.command import command
from esper_verify.driven import driven_events, event_of
from esper_verify.record import find_records, read_record_file
from esper_verify.training import Evidence, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_verify.record import Record

ROOT = Path(__file__).resolve().parents[3]
RECORDS = ROOT / "docs" / "telemetry"
NAMES = sorted(path.stem for path in RECORDS.glob("TELE-*.md"))


def record_of(name: str) -> Record:
    return read_record_file(RECORDS / f"{name}.md")


def evidence(record: Record) -> Evidence:
    """What a training would have left, without one."""
    events = driven_events(record, 3)
    return Evidence(
        updates=tuple(event.payload for event in events[1:]),
        lines=b"\n".join(codec.encode(event, {"service.name": "esper"}) for event in events),
    )


@pytest.fixture
def kl() -> Record:
    return record_of("TELE-111")


def outcome(name: str, record: Record, context: Context | None = None) -> checks.Check:
    context = context if context is not None else Context(ROOT, evidence(record))
    kept = {name: CHECKS[name]}
    original = dict(CHECKS)
    CHECKS.clear()
    CHECKS.update(kept)
    try:
        return run_checks(record, context)[0]
    finally:
        CHECKS.clear()
        CHECKS.update(original)


def test_there_are_records_of_four_numbers() -> None:
    assert {"TELE-111", "TELE-130", "TELE-170", "TELE-200"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", [name for name in CHECKS if name not in {"display", "tests"}])
def test_every_record_holds(name: str, check: str) -> None:
    found = outcome(check, record_of(name))
    assert found.passed, found.evidence
    assert found.evidence


@pytest.mark.parametrize("name", NAMES)
def test_the_real_widgets_show_every_records_number(name: str) -> None:
    # The check runs a loop of its own; here pytest's is not running.
    found = outcome("display", record_of(name))
    assert found.passed, found.evidence


def test_the_tests_that_records_name_are_collected() -> None:
    names = tuple(sorted({test for name in NAMES for test in record_of(name).front.tests}))
    base = record_of("TELE-111")
    found = outcome("tests", replace(base, front=type(base.front)(**{**as_dict(base), "tests": names})))
    assert found.passed, found.evidence


def as_dict(record: Record) -> dict[str, Any]:
    return {name: getattr(record.front, name) for name in record.front.__struct_fields__}


def changed(record: Record, part: str, **values: Any) -> Record:
    """The record with other claims."""
    claims = getattr(record.front, part)
    fields = {name: getattr(claims, name) for name in claims.__struct_fields__}
    front = type(record.front)(**{**as_dict(record), part: type(claims)(**{**fields, **values})})
    return replace(record, front=front)


# --- broken wiring ------------------------------------------------------------------------------


def test_emitter_fails_when_the_agent_no_longer_measures_it(kl: Record) -> None:
    silent = tuple(replace(payload, kl_divergence=None) for payload in evidence(kl).updates)
    found = outcome("emitter", kl, Context(ROOT, Evidence(updates=silent, lines=b"")))
    assert not found.passed
    assert found.evidence == "3 updates, none with a finite kl_divergence"
    broken = outcome("emitter", kl, Context(ROOT, Evidence(problem="the training exited with 1: no torch")))
    assert not broken.passed
    assert "no torch" in broken.evidence


def test_emitter_fails_when_the_training_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert "exited with 1" in train(tmp_path).problem


def test_transport_fails_when_the_codec_drops_it(kl: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    encode: Callable[..., bytes] = codec.encode

    def dropping(event: Any, resource: Any) -> bytes:
        return encode(replace(event, payload=replace(event.payload, kl_divergence=None)), resource)

    context = Context(ROOT, evidence(kl))
    monkeypatch.setattr(codec, "encode", dropping)
    found = outcome("transport", kl, context)
    assert not found.passed
    assert found.evidence == "esper.ppo.kl_divergence is not on the encoded span"


def test_transport_fails_when_decoding_changes_it(kl: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    decode: Callable[..., list[Any]] = codec.decode

    def rounding(line: bytes) -> list[Any]:
        return [replace(event, payload=replace(event.payload, kl_divergence=0.02)) for event in decode(line)]

    monkeypatch.setattr(codec, "decode", rounding)
    assert outcome("transport", kl).evidence == "what is decoded is not what was encoded"


def test_transport_fails_when_the_journal_lacks_it_or_the_hook_is_gone(
    kl: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Context(ROOT, replace(evidence(kl), lines=b"{}"))
    assert "not in the training's journal" in outcome("transport", kl, empty).evidence
    monkeypatch.setattr(checks, "HOOK_NAMES", ("esper_run_started",))
    assert outcome("transport", kl).evidence == "no hook esper_ppo_updated"


def test_schema_fails_on_another_field_type_default_or_length(kl: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no field kl_spread" in outcome("schema", changed(kl, "schema", field="kl_spread")).evidence
    assert "not float" in outcome("schema", changed(kl, "schema", type="float")).evidence
    assert "defaults to None" in outcome("schema", changed(kl, "schema", default="0.0")).evidence
    assert "holds 10" in outcome("schema", changed(kl, "schema", maxlen=20)).evidence
    state = schema.TamiyoState

    def longer(**values: Any) -> schema.TamiyoState:
        values.setdefault("kl_divergence_history", deque(maxlen=None))
        return state(**values)

    monkeypatch.setattr("esper_core.reading.aggregator.TamiyoState", longer)
    assert "holds 12 after 12 updates, not 10" in outcome("schema", kl).evidence


def test_consumer_fails_when_the_handler_does_nothing(kl: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SanctumAggregator, "_handle_ppo_update", lambda self, event: None)
    found = outcome("consumer", kl)
    assert not found.passed
    assert found.evidence == "kl_divergence is None after driving 0.01824"


def test_consumer_fails_when_the_history_is_not_fed(kl: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_core.reading.tamiyo.rounded", lambda value: None)
    assert outcome("consumer", kl).evidence == "kl_divergence_history ends with [None]"
    assert not outcome("consumer", changed(kl, "display", consumer="esper_core.reading.aggregator:Nothing.here")).passed


def test_display_fails_when_a_widget_no_longer_shows_it(kl: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HealthStatusPanel, "show", lambda self, model, cell: self.show_lines([(("KL", ""),)]))
    found = outcome("display", kl)
    assert not found.passed
    assert found.evidence == "HealthStatusPanel does not show 0.018 when 0.01824 is driven"
    gone = outcome("display", changed(kl, "display", widgets=("NoSuchPanel",)))
    assert gone.evidence == "no widget NoSuchPanel on the screen"


def test_thresholds_fail_when_a_limit_moves(kl: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TUIThresholds, "KL_WARNING", 0.02)
    assert outcome("thresholds", kl).evidence == "TUIThresholds.KL_WARNING is 0.02, the record says 0.015"


def test_thresholds_fail_when_a_side_is_exchanged(kl: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    classify = health.classify_kl

    def exclusive(value: float | None) -> Any:
        return classify(None if value is None else value - 1e-12)

    monkeypatch.setattr(health, "classify_kl", exclusive)
    assert outcome("thresholds", kl).evidence == "0.015 is healthy, not warning"
    blind = changed(kl, "thresholds", direction="below")
    assert not outcome("thresholds", blind).passed


def test_tests_fail_when_one_is_gone(kl: Record, tmp_path: Path) -> None:
    (tmp_path / "test_small.py").write_text("def test_there() -> None: ...\n", encoding="utf-8")
    context = Context(tmp_path, Evidence())

    def naming(*names: str) -> Record:
        return replace(kl, front=type(kl.front)(**{**as_dict(kl), "tests": names}))

    assert outcome("tests", naming("test_small.py::test_there"), context).passed
    assert "no such file" in outcome("tests", naming("test_gone.py::test_there"), context).evidence
    found = outcome("tests", naming("test_small.py::test_there", "test_small.py::test_gone"), context)
    assert found.evidence == "pytest does not collect test_small.py::test_gone"
    assert outcome("tests", naming(), context).evidence == "the record names no test"


def test_a_check_that_raises_has_failed(kl: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: Any) -> bytes:
        raise OSError("gone")

    context = Context(ROOT, evidence(kl))
    monkeypatch.setattr(codec, "encode", explode)
    found = outcome("transport", kl, context)
    assert (found.passed, found.evidence) == (False, "OSError: gone")


# --- the command and the records' form ----------------------------------------------------------


def called(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(words)))


def test_the_command_prints_a_line_a_check_and_exits_by_them(
    kl: Record, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("esper_verify.training.train", lambda folder: evidence(kl))
    monkeypatch.chdir(ROOT / "docs")
    for name in ("display", "tests"):  # proved above; they cost seconds
        monkeypatch.setitem(CHECKS, name, lambda record, context: "seen")
    assert called("tele-111") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "TELE-111  KL divergence of an update"
    assert out.count("✓") == 7
    monkeypatch.setattr(TUIThresholds, "KL_CRITICAL", 0.04)
    assert called("TELE-111") == 1
    out = capsys.readouterr().out
    assert "✗ thresholds TUIThresholds.KL_CRITICAL is 0.04, the record says 0.03" in out
    assert "6 of 7 checks hold" in out
    assert called("TELE-111", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["failed"], len(found["checks"])) == (False, 1, 7)


def test_help_loads_neither_textual_nor_numpy_nor_torch() -> None:
    script = (
        "import sys; from esper_core.cli.main import main\n"
        "assert main(['verify', '--help']) == 0\n"
        "heavy = {'textual', 'numpy', 'torch', 'opentelemetry.sdk', 'pytest'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--records-dir" in done.stdout


def test_records_are_found_from_below_and_unknown_ones_named(tmp_path: Path) -> None:
    root, records = find_records([], None, ROOT / "plugins" / "tui")
    assert root == ROOT
    assert [record.front.id for record in records] == NAMES
    with pytest.raises(UsageError, match="did you mean"):
        find_records(["TELE-112"], None, ROOT)
    with pytest.raises(UsageError, match="no docs/telemetry"):
        find_records([], None, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# A record\n\nwithout a block\n", "no front matter"),
        ("```toml\nid = \n```\n", "Invalid value"),
        ('```toml\nid = "TELE-1"\n```\n', "missing required field"),
    ],
)
def test_a_broken_record_is_one_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "TELE-1.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_record_file(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_path_that_a_record_names_exists(name: str) -> None:
    text = (RECORDS / f"{name}.md").read_text(encoding="utf-8")
    import re

    paths = re.findall(r"`((?:esper_core|plugins|tests|docs)/[\w./-]+\.\w+)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_both_sides_are_tried_with_neighbouring_floats() -> None:
    assert classify_clip_fraction(math.nextafter(0.25, 0)).value == "healthy"
    assert event_of(driven_events(record_of("TELE-130"), 1)[1].payload, 1).kind == "ppo_updated"
