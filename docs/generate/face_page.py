"""The page ``docs/reference/python.md``: every name of ``import esper_core``, from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any, Final

import esper_core
from esper_core.config import keywords
from esper_core.monitoring import Monitor
from tables import markdown, template

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTION: Final = re.compile(r"^(Args|Attributes|Raises|Returns|Example):\n((?:[ ]{4}.*\n?|\n)+)", re.MULTILINE)
_ITEM: Final = re.compile(r"^(\S+?): ", re.MULTILINE)


def face_page() -> str:
    """Each public name of the package, classes with their members."""
    parts = [template("python.md.txt")]
    for name in sorted(esper_core.__all__, key=str.lower):
        found = getattr(esper_core, name)
        if isinstance(found, type):
            parts += [f"\n## {name}\n", _call(name, found), _text(found), *_members(found)]
        elif callable(found):
            parts += [f"\n## {name}\n", _call(name, found), _text(found)]
            if name == "train":
                parts.append(_keywords())
            if name == "monitor":
                parts += ["\n### What `monitor` returns: Monitor\n", _text(Monitor), *_members(Monitor)]
        else:
            parts.append(f'\n## {name}\n\nThe version of the distribution `esper-core`, for example `"{found}"`.\n')
    return "\n".join(parts)


def _call(name: str, found: Any) -> str:
    given = inspect.signature(found)
    items, star = [], False
    for item in given.parameters.values():
        if item.kind is item.KEYWORD_ONLY and not star:
            items.append("*")
            star = True
        stars = "**" if item.kind is item.VAR_KEYWORD else ""
        default = "" if item.default is item.empty else f" = {item.default!r}"
        items.append(f"{stars}{item.name}: {item.annotation}{default}")
    empty = isinstance(found, type) or given.return_annotation is given.empty
    line = f"{name}({', '.join(items)}){'' if empty else f' -> {given.return_annotation}'}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {item},\n" for item in items) + line[line.rindex(")") :]
    return f"```python\n{line}\n```\n"


def _text(found: object) -> str:
    """A docstring as Markdown: lists for what it takes and raises, fences for code."""
    text = (inspect.getdoc(found) or "") + "\n"
    return re.sub(r"\n{3,}", "\n\n", markdown(_SECTION.sub(_section, text))).strip() + "\n"


def _section(match: re.Match[str]) -> str:
    name, body = match[1], textwrap.dedent(match[2]).strip("\n")
    if name == "Example":
        code = re.sub(r"^(>>> |[.]{3} )", "", body, flags=re.MULTILINE).replace("  # doctest: +SKIP", "")
        code = re.sub(r"^((?:import|from) .*\n)(?!import|from|\n)", r"\1\n", code, flags=re.MULTILINE)  # as ruff does
        return f"```python\n{code}\n```\n\n"
    body = re.sub(r"\n +", " ", body)
    if name == "Returns":
        return f"Returns: {body}\n\n"
    return f"{name}:\n\n{_ITEM.sub(lambda item: f'- ``{item[1]}``: ', body)}\n\n"


def _members(cls: type) -> Iterator[str]:
    ours = [base for base in reversed(cls.__mro__) if base.__module__.startswith("esper_core")]
    for name, member in {name: member for base in ours for name, member in vars(base).items()}.items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"### {cls.__name__}.{name}\n\n{_text(member)}"
        elif isinstance(member, classmethod):
            yield f"### {cls.__name__}.{name}\n\n{_call(f'{cls.__name__}.{name}', getattr(cls, name))}\n{_text(member)}"
        elif inspect.isfunction(member):
            bound = member.__get__(object.__new__(cls))
            yield f"### {cls.__name__}.{name}\n\n{_call(name, bound)}\n{_text(member)}"


def _keywords() -> str:
    lines = ["Settings, each of which may be left out:\n", "| keyword | type | sets |", "| --- | --- | --- |"]
    for name, hint in keywords.Settings.__annotations__.items():
        shown = (hint.__forward_arg__ if hasattr(hint, "__forward_arg__") else str(hint)).replace("|", "\\|")
        lines.append(f"| `{name}` | `{shown}` | {_SETS.get(name, f'`run.{name}`')} |")
    tables = (
        keywords.PPOTable,
        keywords.HealthTable,
        keywords.EnvTable,
        keywords.RunTable,
        keywords.OtelTable,
        keywords.DeliveryTable,
    )
    for table in tables:
        keys = ", ".join(f"`{key}`" for key in table.__annotations__)
        lines.append(f"\nKeys of `{table.__name__}`: {keys}.")
    lines.append("\nTypes, defaults and meanings of all of them: [configuration](config.md).\n")
    return "\n".join(lines)


_SETS: Final = {
    "env": "`env.id`, or the table `[env]`",
    "sinks": "`sinks`",
    "preset": "`preset`",
    "ppo": "the table `[ppo]`",
    "health": "the table `[health]`",
    "run": "the table `[run]`",
    "otel": "the table `[otel]`",
    "delivery": "the tables `[delivery.NAME]`",
    "sink": "the tables `[sink.NAME]`",
}
