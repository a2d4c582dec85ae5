"""The layer of a configuration file: ``esper.toml``, or ``[tool.esper]`` in ``pyproject.toml``."""

from __future__ import annotations

import os
import stat
import tomllib
from typing import TYPE_CHECKING, Any, Final

from esper_core.config._check import Setting, flatten
from esper_core.config._values import fault_of, shown_value
from esper_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["file_settings", "find_config_file"]

_WITHOUT: Final = "--no-config reads no file"
_LARGEST: Final = 16 * 1024 * 1024
"""Bytes that a configuration file may have; a device such as /dev/zero never ends."""


def find_config_file(start: Path) -> Path | None:
    """The configuration file in force for a directory.

    ``esper.toml``, else a ``pyproject.toml`` with a ``[tool.esper]`` table, in ``start`` or, within a repository,
    in the nearest parent up to the folder that holds ``.git``.
    """
    start = start.resolve()
    folders = [start, *start.parents]
    top = next((index for index, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    for folder in folders[: top + 1]:
        own = folder / "esper.toml"
        if own.is_file():
            return own
        shared = folder / "pyproject.toml"
        if shared.is_file() and "esper" in _tools(_parse(shared)):
            return shared
    return None


def file_settings(file: Path, cwd: Path) -> Iterator[Setting]:
    """What a file sets.

    Args:
        file: as :func:`find_config_file` found it, or as it was given.
        cwd: the folder that paths and names are relative to.

    Raises:
        ConfigError: it cannot be read or is no TOML, or a key or value cannot be used.
    """
    tree = _parse(file)
    prefix = ""
    if file.name == "pyproject.toml":
        tree = _tools(tree).get("esper", {})
        prefix = "tool.esper"
    label = _short(file, cwd)
    if not isinstance(tree, dict):
        raise ConfigError(f"{label}: tool.esper: expected a table (is {shown_value(tree)})", hint="write [tool.esper]")

    def where(table: tuple[str, ...]) -> str:
        name = ".".join(part for part in (prefix, *table) if part)
        return f"{label}: [{name}] " if name else f"{label}: "

    for item in flatten(tree, origin=label, where=where):
        value = _from_file(item, file, cwd)
        if (fault := fault_of(value, item.place)) is not None:
            raise fault  # the file's own folder has a name that no file of a run can hold
        yield Setting(item.path, value, item.origin, item.place)


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_content(file).decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        # The decoder's message ends in "(at line 3, column 9)".
        raise ConfigError(f"{file}: malformed TOML: {error}", hint=_WITHOUT) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8: {error.reason} at byte {error.start}", hint=_WITHOUT) from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", hint=_WITHOUT) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets a thousand deep
        raise ConfigError(f"{file}: cannot be read: {error}", hint=_WITHOUT) from None


def _content(file: Path) -> bytes:
    """The bytes of a configuration file.

    Raises:
        ConfigError: it is a named pipe, whose writer may never come, or it is too large.
        OSError: it cannot be read.
    """
    # The pipe of a shell's <(COMMAND) has a writer and no name of its own: its link leads to no file.
    if stat.S_ISFIFO(file.stat().st_mode) and os.path.lexists(os.path.realpath(file)):
        raise ConfigError(f"{file}: cannot be read: is a FIFO (named pipe), not a file", hint=_WITHOUT)
    with file.open("rb") as opened:
        content = opened.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ConfigError(f"{file}: cannot be read: is larger than {_LARGEST} bytes", hint=_WITHOUT)
    return content


def _tools(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table ``[tool]`` of a ``pyproject.toml``; empty when there is none."""
    tools = tree.get("tool", {})
    return tools if isinstance(tools, dict) else {}


def _from_file(item: Setting, file: Path, cwd: Path) -> Any:
    """Make paths relative to the file that holds them, which may be in a parent folder."""
    folder = file.resolve().parent
    if folder == cwd.resolve():
        return item.value
    if item.path == ("run", "dir"):
        return str(folder / item.value)
    if item.path == ("sinks",):
        return [str(folder / name) if name.startswith(("./", "../")) else name for name in item.value]
    return item.value


def _short(file: Path, cwd: Path) -> str:
    try:
        return str(file.resolve().relative_to(cwd.resolve()))
    except ValueError:
        return str(file)
