"""Esper sink ``statsd``: every PPO update as a few StatsD lines in one UDP datagram."""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING

import msgspec

from esper_core.hooks import CloseReason, SinkContext, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper_core.events import PPOUpdatePayload, TelemetryEvent

__all__ = ["StatsdConfig", "StatsdSink", "lines_of"]

_LIMIT = 1400
"""Largest size of a datagram in bytes: it fits into one Ethernet frame."""


class StatsdConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[sink.statsd]``."""

    host: str = "127.0.0.1"
    port: int = 8125
    prefix: str = "esper"
    tags: bool = True


class StatsdSink:
    """Sends the KL, returns and speed of each update.

    All hooks run in this sink's own thread, in order. The host catches and counts what they raise; after an ``OSError``
    it tries again later.
    """

    Config = StatsdConfig
    delivery = "all"

    def __init__(self, config: StatsdConfig) -> None:
        self._config = config
        self._socket: socket.socket | None = None
        self._run_id = ""
        self._sent = 0

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Resolve the host once. Raising here ends the start with one clear error."""
        family, kind, _, _, address = socket.getaddrinfo(self._config.host, self._config.port, type=socket.SOCK_DGRAM)[
            0
        ]
        self._socket = socket.socket(family, kind)
        self._socket.connect(address)
        self._run_id = context.run_id

    @hookimpl
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Send the update, in as few datagrams as hold it."""
        if self._socket is None:
            return
        for datagram in _packed(lines_of(event.payload, self._config, run_id=self._run_id)):
            self._sent += self._socket.send(datagram)

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:  # noqa: ARG002  # the hook's signature
        """Close the socket; no datagram is buffered."""
        if self._socket is not None:
            self._socket.close()

    def check_report(self) -> str:
        """The line that ``esper sinks check`` prints."""
        return f"sent {self._sent} bytes to {self._config.host}:{self._config.port} by UDP, which gives no answer"


def lines_of(update: PPOUpdatePayload, config: StatsdConfig, *, run_id: str) -> Iterator[str]:
    """One StatsD line for each value that was measured.

    Args:
        update: the update.
        config: prefix and tags.
        run_id: the tag ``run``.
    """
    prefix = f"{config.prefix}.ppo"
    gauges: list[tuple[str, str, float | None]] = [
        ("kl_divergence", "", update.kl_divergence),
        ("kl_joint", "", update.kl_joint),
        ("return_mean", "", update.return_mean),
        ("steps_per_s", "", update.steps_per_s),
        *(("head.kl_divergence", head.name, head.kl) for head in update.heads),
    ]
    non_finite = update.non_finite
    for name, head, value in gauges:
        if value is None:
            continue  # not measured: no point, never 0
        if not math.isfinite(value):
            non_finite += 1
            continue
        if config.tags:
            yield f"{prefix}.{name}:{value:.9g}|g|#run:{run_id}{f',head:{head}' if head else ''}"
        else:
            yield f"{prefix}.{name}{f'.{head}' if head else ''}:{value:.9g}|g"
    tail = f"|#run:{run_id}" if config.tags else ""
    yield f"{prefix}.updates:1|c{tail}"
    if update.early_stop is not None:
        yield f"{prefix}.early_stops:1|c{tail}"
    if non_finite:
        yield f"{prefix}.non_finite:{non_finite}|c{tail}"


def _packed(lines: Iterator[str]) -> Iterator[bytes]:
    datagram = b""
    for line in lines:
        encoded = line.encode()
        if datagram and len(datagram) + 1 + len(encoded) > _LIMIT:
            yield datagram
            datagram = b""
        datagram = datagram + b"\n" + encoded if datagram else encoded
    if datagram:
        yield datagram
