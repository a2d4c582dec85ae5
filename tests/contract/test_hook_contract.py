"""What plugin authors build on stays: hooks, events, enumerations and names, line by line in hook_contract.txt."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from esper_core import events, hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = Path(__file__).with_name("hook_contract.txt")
PUBLIC = (
    "hooks",
    "events",
    "health",
    "kl",
    "semconv.attributes",
    "semconv.codec",
    "runs",
    "reading",
    "testing",
    "errors",
)


def _fields(cls: type) -> Iterator[str]:
    for field in dataclasses.fields(cls):
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        yield f"{cls.__name__}.{field.name}: {field.type}{' (optional)' if optional else ''}"


def _enums(module: Any) -> Iterator[str]:
    for name, value in sorted(vars(module).items()):
        if isinstance(value, type) and issubclass(value, enum.StrEnum) and value is not enum.StrEnum:
            yield from (f"{name}.{member.name} = {member.value}" for member in value)


def contract() -> list[str]:
    """The contract as lines; each stands for one promise."""
    lines = [f"HOOK_API = {hooks.HOOK_API}"]
    for name in hooks.HOOK_NAMES:
        method = getattr(hooks.SinkHooks, name)
        given = ", ".join(f"{item.name}: {item.annotation}" for item in list(_parameters(method))[1:])
        first = " first result" if method.esper_spec["firstresult"] else ""
        lines.append(f"{name}({given}) -> {inspect.signature(method).return_annotation}{first}")
    for cls in (events.TelemetryEvent, events.TraceRef, events.SpanRef, *events.PAYLOADS.values()):
        lines += _fields(cls)
    for cls in (
        events.HeadStats,
        events.EarlyStop,
        events.Divergence,
        events.SinkLoss,
        hooks.SinkContext,
        hooks.EnvironmentPlugin,
    ):
        lines += _fields(cls)
    lines += [f"kind {kind} = {cls.__name__}" for kind, cls in events.PAYLOADS.items()]
    for part in ("events", "health", "hooks"):
        lines += _enums(importlib.import_module(f"esper_core.{part}"))
    lines += [f"ChildRun.{name}" for name in vars(hooks.ChildRun) if not name.startswith("_")]
    for part in PUBLIC:
        lines += [f"from esper_core.{part} import {name}" for name in sorted(_public(part))]
    return list(dict.fromkeys(lines))


def _parameters(method: Any) -> Iterator[inspect.Parameter]:
    yield from inspect.signature(method).parameters.values()


def _public(part: str) -> list[str]:
    return list(importlib.import_module(f"esper_core.{part}").__all__)


def test_nothing_that_plugins_use_was_removed_or_retyped() -> None:
    gone = [line for line in RECORD.read_text().splitlines() if line not in contract()]
    assert not gone, "sinks in the field use this; keep it, or raise HOOK_API and say so in CHANGELOG.md"


def test_what_is_new_is_promised_on_purpose() -> None:
    promised = RECORD.read_text().splitlines()
    new = [line for line in contract() if line not in promised]
    assert not new, f"add these lines to {RECORD.name}; an event's new field needs a default"


@pytest.mark.parametrize(
    ("old", "new"), [("kl_joint: float | None", "kl_joint: float"), ("esper_ppo_updated(event", "esper_ppo_done(event")]
)
def test_a_changed_line_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str) -> None:
    record = tmp_path / "hook_contract.txt"
    text = RECORD.read_text()
    assert old in text
    record.write_text(text.replace(old, new))
    monkeypatch.setitem(globals(), "RECORD", record)
    with pytest.raises(AssertionError, match="raise HOOK_API"):
        test_nothing_that_plugins_use_was_removed_or_retyped()


def test_the_changelog_names_the_version_of_the_contract() -> None:
    changelog = (Path(__file__).resolve().parents[2] / "CHANGELOG.md").read_text()
    assert f"`HOOK_API = {hooks.HOOK_API}`" in changelog
