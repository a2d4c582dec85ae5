"""The checks: each verifies one claim of a record and returns its evidence."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from esper_core.health import HealthLevel, TUIThresholds
from esper_core.hooks import HOOK_NAMES
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.semconv import codec
from esper_verify.driven import driven_events, driven_update, event_of, rendered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esper_verify.record import Record
    from esper_verify.training import Evidence

__all__ = ["CHECKS", "Check", "Context", "run_checks"]


@dataclass(frozen=True, slots=True)
class Check:
    """One claim and its result.

    Attributes:
        record: the record's id.
        name: the claim.
        passed: whether it holds.
        evidence: what was measured, in one line.
    """

    record: str
    name: str
    passed: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class Context:
    """The data that checks share: one training for all records, and the repository."""

    root: Path
    evidence: Evidence


class ClaimFailedError(Exception):
    """Raised when a claim does not hold."""


def _must(holds: object, otherwise: str) -> None:
    if not holds:
        raise ClaimFailedError(otherwise)


def _named(path: str) -> Any:
    """Import the object named ``module:name.name``."""
    module, _, rest = path.partition(":")
    found: Any = import_module(module)
    for part in rest.split("."):
        found = getattr(found, part)
    return found


# --- emitter ------------------------------------------------------------------------------------


def _emitter(record: Record, context: Context) -> str:
    seen = context.evidence
    _must(not seen.problem, seen.problem)
    _must(seen.updates, "the training journaled no update")
    values: list[float | None] = []
    for payload in seen.updates:
        carriers: tuple[Any, ...] = payload.heads if record.of_heads else (payload,)
        values.extend(getattr(carrier, record.payload_field) for carrier in carriers)
    measured = [value for value in values if value is not None and math.isfinite(value)]
    _must(measured, f"{len(seen.updates)} updates, none with a finite {record.front.emitter.field}")
    heads = f" of {len(seen.updates[0].heads)} head(s)" if record.of_heads else ""
    counted = f"{len(measured)} of {len(values)} values measured in {len(seen.updates)} updates{heads}"
    return f"{counted}, last {measured[-1]:.6g}"


# --- transport ----------------------------------------------------------------------------------


def _transport(record: Record, context: Context) -> str:
    claim = record.front.transport
    _must(claim.hook in HOOK_NAMES, f"no hook {claim.hook}")
    _must(
        claim.hook == f"esper_{record.front.emitter.event}", f"{claim.hook} does not carry {record.front.emitter.event}"
    )
    event = event_of(driven_update(record, 1, record.front.display.drive), 1)
    line = codec.encode(event, {"service.name": "esper"})
    key = f'"{claim.attribute}"'.encode()
    _must(key in line, f"{claim.attribute} is not on the encoded span")
    decoded = codec.decode(line)
    _must(decoded == [event], "what is decoded is not what was encoded")
    _must(not context.evidence.problem, context.evidence.problem)
    times = context.evidence.lines.count(key)
    _must(times, f"{claim.attribute} is not in the training's journal")
    return f"{claim.hook}, encode and decode agree, {claim.attribute} occurs {times} times in the training's journal"


# --- schema -------------------------------------------------------------------------------------


def _schema(record: Record, context: Context) -> str:
    del context
    claim = record.front.schema
    owner = _named(claim.owner)
    known = {item.name: item for item in fields(owner)}
    for name in (claim.field, claim.history):
        _must(name in known, f"{owner.__name__} has no field {name}")
    item = known[claim.field]
    _must(item.type == claim.type, f"{claim.field} is {item.type}, not {claim.type}")
    _must(item.default is not MISSING, f"{claim.field} has no default")
    _must(repr(item.default) == claim.default, f"{claim.field} defaults to {item.default!r}, not {claim.default}")
    history = _filled_history(record)
    _must(len(history) == claim.maxlen, f"{claim.history} holds {len(history)} after 12 updates, not {claim.maxlen}")
    declared = getattr(history, "maxlen", claim.maxlen)
    _must(declared == claim.maxlen, f"{claim.history} has maxlen {declared}, not {claim.maxlen}")
    return f"{owner.__name__}.{claim.field}: {item.type} = {item.default!r}; {claim.history} holds {len(history)}"


def _state_of(record: Record) -> Any:
    """The object of the record's owner after twelve updates passed through the aggregator."""
    aggregator = SanctumAggregator("verify")
    aggregator.handle_all(driven_events(record, 12))
    snapshot = aggregator.snapshot()
    if not record.of_heads:
        return snapshot.tamiyo
    _must(snapshot.heads, "the aggregator shows no heads")
    return snapshot.heads[0]


def _filled_history(record: Record) -> Any:
    return getattr(_state_of(record), record.front.schema.history)


# --- consumer and display -----------------------------------------------------------------------


def _consumer(record: Record, context: Context) -> str:
    del context
    claim, schema = record.front.display, record.front.schema
    _must(callable(_named(claim.consumer)), f"{claim.consumer} cannot be called")
    state = _state_of(record)
    value = getattr(state, schema.field)
    _must(value == claim.drive, f"{schema.field} is {value!r} after driving {claim.drive!r}")
    history = list(getattr(state, schema.history))
    _must(
        bool(history) and history[-1] == round(claim.drive, schema.decimals),
        f"{schema.history} ends with {history[-1:]}",
    )
    taken = f"{claim.drive:g} into {schema.field} and {history[-1]} into {schema.history}"
    return f"{claim.consumer.rpartition(':')[2]} puts {taken}"


def _display(record: Record, context: Context) -> str:
    del context
    claim = record.front.display
    shown = rendered(record, claim.widgets)
    for name in claim.widgets:
        _must(shown[name], f"no widget {name} on the screen")
        # As a number of its own: 0.018 must not be found in 0.0182.
        found = re.search(rf"(?<![\d.]){re.escape(claim.shows)}(?!\d)", shown[name])
        _must(found, f"{name} does not show {claim.shows} when {claim.drive!r} is driven")
    return f"{', '.join(claim.widgets)} show {claim.shows!r} for {claim.drive!r}"


# --- thresholds ---------------------------------------------------------------------------------


def _thresholds(record: Record, context: Context) -> str:
    del context
    claim = record.front.thresholds
    for name, limit in zip(claim.constants, (claim.warning, claim.critical), strict=True):
        known = getattr(TUIThresholds, name, None)
        _must(known == limit, f"TUIThresholds.{name} is {known}, the record says {limit}")
    classify: Callable[[float | None], HealthLevel] = _named(claim.classify)
    calm = -math.inf if claim.direction == "above" else math.inf
    expected = (
        (math.nextafter(claim.warning, calm), HealthLevel.HEALTHY),
        (claim.warning, HealthLevel.WARNING),
        (math.nextafter(claim.critical, calm), HealthLevel.WARNING),
        (claim.critical, HealthLevel.CRITICAL),
        (math.nan, HealthLevel.NON_FINITE),
        (None, HealthLevel.UNKNOWN),
    )
    for value, level in expected:
        got = classify(value)
        _must(got is level, f"{value!r} is {got.value}, not {level.value}")
    sign = ">=" if claim.direction == "above" else "<="
    return f"{sign} {claim.warning:g} warning, {sign} {claim.critical:g} critical, both sides of each, NaN and None"


# --- tests --------------------------------------------------------------------------------------


def _tests(record: Record, context: Context) -> str:
    wanted = record.front.tests
    _must(wanted, "the record names no test")
    missing = [name for name in wanted if not (context.root / name.partition("::")[0]).is_file()]
    _must(not missing, f"no such file: {', '.join(missing)}")
    # One call per file: a single missing name would make pytest list none of the others.
    files = sorted({name.partition("::")[0] for name in wanted})
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    try:
        done = subprocess.run(words, capture_output=True, text=True, cwd=context.root, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise ClaimFailedError("pytest took more than 120 s to collect") from None
    listed = {line.partition("[")[0] for line in done.stdout.splitlines()}
    absent = [name for name in wanted if name not in listed]
    _must(not absent, f"pytest does not collect {', '.join(absent)}")
    return f"pytest collects {', '.join(name.rpartition('::')[2] for name in wanted)}"


CHECKS: Final[dict[str, Callable[[Record, Context], str]]] = {
    "emitter": _emitter,
    "transport": _transport,
    "schema": _schema,
    "consumer": _consumer,
    "display": _display,
    "thresholds": _thresholds,
    "tests": _tests,
}


def run_checks(record: Record, context: Context) -> list[Check]:
    """Run every check of a record; a check that raises has failed, and its evidence is the exception."""
    results = []
    for name, check in CHECKS.items():
        try:
            results.append(Check(record.front.id, name, True, check(record, context)))
        except ClaimFailedError as error:
            results.append(Check(record.front.id, name, False, str(error)))
        except Exception as error:  # noqa: BLE001  # broken code under test may raise anything
            results.append(Check(record.front.id, name, False, f"{type(error).__name__}: {error}"))
    return results
