"""Addresses to listen on, as they are given on the command line."""

from __future__ import annotations

import ipaddress
from typing import Final

from esper_core.errors import UsageError

__all__ = ["DEFAULT_PORT", "is_loopback", "parse_address"]

DEFAULT_PORT: Final = 4318


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``HOST``, ``:PORT`` or ``[IPv6]:PORT``; the port defaults to 4318.

    Raises:
        UsageError: not an address.
    """
    host, port = text, str(DEFAULT_PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or str(DEFAULT_PORT)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(
            f'cannot listen on "{text}": port "{port}" is not 0 to 65535', hint="for example 127.0.0.1:4318"
        )
    return host or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
