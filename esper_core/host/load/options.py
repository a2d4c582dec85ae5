"""Creates a sink from its table ``[sink.NAME]`` and its own ``Config``. Errors name file, table and key."""

from __future__ import annotations

import contextlib
import inspect
import re
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from esper_core import forks
from esper_core.errors import ConfigError, EsperError, SinkError, error_text, nearest
from esper_core.hooks import Secret
from esper_core.host.process.started import owned_by
from esper_core.host.remedies import check_or_leave_out
from esper_core.masking import learn_setting, redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_core.host.load.discovery import LoadedSink

__all__ = ["create_sink", "sink_options"]

_FIRST_USE = Lock()
"""msgspec crashes when two threads use a Struct for the first time at once; see the end of ``config/schema.py``."""
_PATH = re.compile(r"^(?P<message>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)


def create_sink(
    loaded: LoadedSink,
    table: Mapping[str, Any] | None = None,
    *,
    origins: Mapping[str, str] | None = None,
) -> Any:
    """Create one sink from its table.

    Args:
        loaded: the sink's class.
        table: its ``[sink.NAME]``.
        origins: where each key came from, as ``sink.NAME.key``; for error messages.

    Raises:
        ConfigError: the table does not fit the sink's Config.
        SinkError: its constructor raised.
    """
    learn_setting((), dict(table or {}))
    config = sink_options(loaded, table or {}, origins=origins)
    try:
        with forks.Place(f"sink {loaded.name}"), owned_by(loaded.owner):
            if config is None and not _takes_argument(loaded.factory):
                return loaded.factory()
            return loaded.factory(config)
    except EsperError:
        raise  # the sink's own message, already written for the user
    except BaseException as error:  # a constructor may raise anything, SystemExit included
        if isinstance(error, KeyboardInterrupt):
            raise
        exits = "it called exit() and should raise what is wrong; " if isinstance(error, SystemExit) else ""
        raise SinkError(
            f"sink {loaded.origin} cannot be created: {redact(error_text(error))}",
            hint=f"{exits}{check_or_leave_out(loaded.name)}",
        ) from error


def sink_options(loaded: LoadedSink, table: Mapping[str, Any], *, origins: Mapping[str, str] | None = None) -> Any:
    """Validate a sink's table against its Config; return None for a sink without a Config."""
    prefix = f"sink.{loaded.name}"
    if loaded.config_type is None:
        if table:
            raise ConfigError(
                f"{_place(prefix, next(iter(table)), origins)}sink {loaded.origin} takes no options",
                hint=f"remove [{prefix}]",
            )
        return None
    known = [item.encode_name for item in msgspec.structs.fields(loaded.config_type)]
    for key in table:
        if key not in known:
            raise ConfigError(
                f'{_place(prefix, key, origins)}[{prefix}] unknown key "{key}"{nearest(key, known)}',
                hint=f"keys: {', '.join(known) or 'none'}",
            )
    try:
        with _FIRST_USE:
            return msgspec.convert(dict(table), loaded.config_type, dec_hook=_decode)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        match = _PATH.match(str(error))
        message, path = (match["message"], (match["path"] or "").lstrip(".")) if match else (str(error), "")
        key = re.split(r"[.\[]", path)[0] if path else ""
        raise ConfigError(
            f"{_place(prefix, key, origins)}[{prefix}] {path + ': ' if path else ''}{_lower(message)}",
            hint=_choices(loaded.config_type, key),
        ) from None


def _choices(config_type: type, key: str) -> str | None:
    """The values that an option may have, when they are a few words."""
    with contextlib.suppress(NameError, TypeError):  # an annotation that only a type checker can resolve
        hint: Any = get_type_hints(config_type).get(key)
        if get_origin(hint) is Literal:
            return f"choices: {', '.join(map(str, get_args(hint)))}"
    return None


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _place(prefix: str, key: str, origins: Mapping[str, str] | None) -> str:
    place = (origins or {}).get(f"{prefix}.{key}") or (origins or {}).get(prefix)
    return f"{place}: " if place else ""


def _decode(kind: type[Any], value: Any) -> Any:
    """Convert the types that msgspec does not convert itself. A message never holds the value: it may be a secret."""
    if kind is Secret:
        if isinstance(value, Secret):
            return value
        if not isinstance(value, str):
            raise ValueError(f"Expected `str` (a secret), got `{type(value).__name__}`")
        return Secret(value)
    if kind is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    raise NotImplementedError(f"a sink's Config cannot use {kind.__name__}")


def _takes_argument(factory: Any) -> bool:
    try:
        inspect.signature(factory).bind(None)
    except TypeError:
        return False
    return True
