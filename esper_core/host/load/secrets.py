"""Finds which keys of the selected sinks hold secrets; the sink's own ``Config`` declares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from esper_core.errors import EsperError
from esper_core.hooks import Secret
from esper_core.host.load.discovery import is_file_spec, load_sink

if TYPE_CHECKING:
    from esper_core.config.schema import EsperConfig

__all__ = ["secret_fields", "secret_keys"]


def secret_fields(config_type: type) -> frozenset[str]:
    """The fields of a sink's ``Config`` whose type holds a ``Secret`` anywhere."""
    return frozenset(name for name, hint in get_type_hints(config_type).items() if _holds_secret(hint))


def _holds_secret(hint: Any) -> bool:
    return hint is Secret or any(_holds_secret(part) for part in get_args(hint))


def secret_keys(config: EsperConfig) -> dict[str, frozenset[str]]:
    """Sink name -> keys to mask, for the selected sinks that have a table and a ``Config`` that loads.

    A sink that cannot be loaded is left out: its table is then masked by the names of its keys.
    """
    found: dict[str, frozenset[str]] = {}
    for spec in config.sinks:
        if spec not in config.sink and not is_file_spec(spec):
            continue
        try:
            loaded = load_sink(spec)
            if loaded.name in config.sink and loaded.config_type is not None:
                found[loaded.name] = secret_fields(loaded.config_type)
        except (EsperError, NameError):  # NameError: an annotation that only a type checker can resolve
            continue
    return found
