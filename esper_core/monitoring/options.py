"""The options that an adapter hands on to ``monitor``: checked when they are given, not when the run opens."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esper_core.errors import UsageError, nearest
from esper_core.monitoring.arguments import checked
from esper_core.monitoring.misuse import MisuseError
from esper_core.monitoring.opening import monitor

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["monitor_options"]


def monitor_options(where: str, options: object, *, own: Collection[str] = ()) -> dict[str, Any]:
    """Return the options as a dict of keywords of :func:`esper_core.monitor`.

    Args:
        where: that took them, for the message: ``EsperCallback``.
        options: what the user gave.
        own: keywords that the adapter reads from its library.

    Raises:
        UsageError: no mapping, a keyword that ``monitor`` does not have or that is the adapter's own, or a value that
            cannot be used.
    """
    if not isinstance(options, Mapping):
        raise UsageError(f"{where}: expected a dict of options (is {options!r})", hint='{"name": "mine"}')
    known = [name for name in inspect.signature(monitor).parameters if name not in own]
    for name in options:
        if name in own:
            raise UsageError(f"{where}: {name} cannot be set: it is read from the library that trains")
        if name not in known:
            raise UsageError(
                f"{where}: no such option {name!r}{nearest(str(name), known)}", hint=f"known: {', '.join(known)}"
            )
    try:
        checked(options)
    except MisuseError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from None
    return dict(options)
