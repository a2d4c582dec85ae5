"""Tables and text that several pages share."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from esper_core.config._check import strip_annotation
from esper_core.config.show import toml_value
from esper_core.events import about_field
from esper_core.hooks import Secret
from esper_core.semconv.names import ATTRIBUTE_GROUPS

_DOUBLE: Final = re.compile(r"(?<!`)``(?!`)")
_ROLE: Final = re.compile(r":(class|func|meth|mod):(?=`)")
_TEMPLATES: Final = Path(__file__).parent / "templates"


def template(name: str) -> str:
    """The text of one file of ``templates/``: the part of a page that is written by hand."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


# --- a config's keys ----------------------------------------------------------------------------


def key_table(struct: type[msgspec.Struct], table: str, *, skip_tables: bool = False) -> str:
    """One line a key: type, default, meaning and variable; of a sink's ``Config`` too."""
    hints = get_type_hints(struct, include_extras=True)
    lines = ["| key | type | default | meaning | variable |", "|---|---|---|---|---|"]
    for item in msgspec.structs.fields(struct):
        hint = hints[item.name]
        inner = strip_annotation(hint)
        is_table = get_origin(inner) is dict or (isinstance(inner, type) and issubclass(inner, msgspec.Struct))
        if skip_tables and is_table:
            continue
        default = item.default if item.default is not msgspec.NODEFAULT else {}
        shown = f"`{_toml(default)}`" if default is not None else "unset"
        path = ".".join(part for part in (table, item.name) if part)
        variable = f"`ESPER_{path.replace('.', '__').upper()}`"
        meaning = _meta(hint, "description").replace("|", "\\|")
        lines.append(f"| `{item.name}` | {_type_text(hint)} | {shown} | {meaning} | {variable} |")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return "{}" if value == {} else toml_value(value)


def _meta(hint: Any, name: str) -> str:
    for item in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        value = getattr(item, name, None)
        if value is not None:
            return str(value)
    return ""


def _type_text(hint: Any) -> str:
    bounds = [
        f"{sign} {_meta(hint, name)}"
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if _meta(hint, name)
    ]
    return f"{_plain_type(strip_annotation(hint))}{' ' if bounds else ''}{', '.join(bounds)}"


def _plain_type(inner: Any) -> str:
    origin, args = get_origin(inner), get_args(inner)
    if origin is Literal:
        return " or ".join(f'`"{item}"`' for item in args)
    if origin is tuple:
        return f"list of {_plain_type(args[0])}"
    if origin is dict:
        return "table"
    if origin in {Union, types.UnionType}:
        return " or ".join(_type_text(item) for item in args if item is not types.NoneType)
    return {bool: "true or false", int: "int", float: "float", str: "string", Secret: "secret string"}.get(
        inner, str(inner)
    )


# --- a command's arguments ----------------------------------------------------------------------


def parser_lines(parser: argparse.ArgumentParser, level: int) -> list[str]:
    """The arguments of a command and of its parts, as tables; ``level`` is that of their headings."""
    lines: list[str] = []
    # argparse has no public access to its arguments; the private lists have been the same since Python 2.7.
    for group in parser._action_groups:  # noqa: SLF001  # see above
        rows = [_action_row(item) for item in group._group_actions if _shown(item)]  # noqa: SLF001  # see above
        if not rows:
            continue
        title = (group.title or "options").capitalize()
        lines.append(f"**{title}**{'. ' + group.description if group.description else ''}\n")
        lines += ["| argument | meaning |", "|---|---|", *rows, ""]
    for action in parser._actions:  # noqa: SLF001  # see above
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # see above
            helps = {item.dest: item.help for item in action._choices_actions}  # noqa: SLF001  # see above
            for name, child in action.choices.items():
                lines += [f"{'#' * level} `{parser.prog} {name}`\n", f"{sentence(helps.get(name) or '')}\n"]
                lines += parser_lines(child, level + 1)
    return lines


def _shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))  # noqa: SLF001  # see above
    return not hidden and action.help is not argparse.SUPPRESS


def _action_row(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if metavar is None and action.choices is not None:
        metavar = "|".join(str(item) for item in action.choices)
    if not action.option_strings:
        name = f"`{metavar or action.dest.upper()}`"
        if action.nargs in {"?", "*"}:
            name += " (optional)"
        elif action.nargs == "+":
            name += " (one or more)"
    else:
        value = "" if action.nargs == 0 else f" {metavar or action.dest.upper()}"
        name = ", ".join(f"`{flag}{value}`" for flag in action.option_strings)
    meaning = (action.help or "") % {"default": action.default, "prog": ""}
    return f"| {name} | {meaning} |".replace("|", "\\|").replace("\\| ", "| ", 1).replace(" \\|", " |")


def sentence(text: str) -> str:
    """A help text as a sentence: a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


# --- a class's fields and docstrings ---------------------------------------------------------------


def summary(text: str | None) -> str:
    """A docstring as Markdown paragraphs, without its Attributes section."""
    return markdown(inspect.cleandoc(text or "").split("\n\nAttributes:")[0])


def markdown(text: str) -> str:
    """ReStructuredText's double backquotes, roles, code blocks and ``versionadded`` as Markdown."""
    text = re.sub(r"^\.\. versionadded:: (\S+)$", r"*Since \1.*", text, flags=re.MULTILINE)
    text = _ROLE.sub("", _DOUBLE.sub("`", text))
    return re.sub(r"::\n\n((?:    .*\n|\n)+)", _code_block, text)


def _code_block(found: re.Match[str]) -> str:
    return f":\n\n```python\n{textwrap.dedent(found[1]).strip()}\n```\n\n"


def _attribute_texts(cls: type) -> dict[str, str]:
    """The Attributes section of a google-style docstring, one line a field."""
    texts: dict[str, str] = {}
    parts = inspect.cleandoc(cls.__doc__ or "").split("\n\nAttributes:\n")
    current = ""
    for line in parts[1].splitlines() if len(parts) > 1 else []:
        if line.startswith("    ") and not line.startswith("     ") and ": " in line:
            current, _, text = line.strip().partition(": ")
            texts[current] = text
        elif line.strip() and current:
            texts[current] += f" {line.strip()}"
    return {name: markdown(text) for name, text in texts.items()}


def _unit(field: dataclasses.Field[Any]) -> str:
    """The unit of an event's field; of one that another event describes, that one's."""
    about = about_field(field)
    unit = about.unit or _UNITS.get(about.key, "")
    return f"`{unit}`" if unit else ""


_UNITS: Final = {
    spec.key: spec.about.unit for group in ATTRIBUTE_GROUPS for spec in group.attributes if spec.about.unit
}


def _type_name(hint: object) -> str:
    return str(hint).replace("|", "\\|")  # annotations are strings: every module postpones them


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
        if callable(value):
            return "does nothing"  # a function as default factory; its repr holds an address
        return f"`{value.value!r}`" if hasattr(value, "value") else f"`{value!r}`"
    return "required" if field.default_factory is dataclasses.MISSING else "empty"


def class_table(cls: type) -> str:
    """One line a field of a dataclass: type, default and meaning from the docstring's Attributes."""
    texts = _attribute_texts(cls)
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(cls):
        if field.name not in texts:
            message = f"{cls.__name__}.{field.name} has no line in its docstring's Attributes"
            raise SystemExit(message)
        lines.append(f"| {_declared(field)} | {_cell(texts[field.name])} |")
    return "\n".join(lines)


def event_table(cls: type) -> str:
    """As :func:`class_table`, for a record of ``esper_core.events``: the meaning is in each field's metadata."""
    lines = ["| field | type | default | unit | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {_declared(field)} | {_unit(field)} | {_cell(about_field(field).brief)} |"
        for field in dataclasses.fields(cls)
    ]
    return "\n".join(lines)


def _declared(field: dataclasses.Field[Any]) -> str:
    """Name, type and default."""
    return f"`{field.name}` | `{_type_name(field.type)}` | {_default(field)}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
