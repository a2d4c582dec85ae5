"""The load of many simulated trainers: each posts its updates over a connection of its own."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    from fleet_trainer import Trainer

__all__ = ["TOKEN", "Load", "play"]

TOKEN = "fleet"


@dataclass
class Load:
    """What was sent and how it was answered."""

    requests: int = 0
    spans: int = 0
    updates: int = 0
    bytes: int = 0
    refused: int = 0
    errors: int = 0
    late: int = 0
    latencies: list[float] = field(default_factory=list)


class Connection:
    """HTTP/1.1 kept open, as a trainer keeps it."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self._port = port
        self._context = context
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> int:
        """Status of the answer."""
        if self._streams is None:
            name = "localhost" if self._context else None
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._context, server_hostname=name
            )
        reader, writer = self._streams
        try:
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
                f"Content-Type: application/x-protobuf\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next((line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length")), "0")
            await reader.readexactly(int(length))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            self._streams = None
            raise
        return int(head.split(" ", 2)[1])


async def train(
    trainer: Trainer,
    port: int,
    context: ssl.SSLContext | None,
    *,
    every_s: float,
    begin: float,
    end: float,
    load: Load,
    metrics: bool,
) -> None:
    """One trainer's life: an update every so often, from its own moment on."""
    connection = Connection(port, context)
    due = begin
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        load.late += time.monotonic() - due > every_s
        for path, body in zip(("/v1/traces", "/v1/metrics"), trainer.next(), strict=True):
            if path == "/v1/metrics" and not metrics:
                continue
            began = time.monotonic()
            try:
                status = await connection.post(path, body)
            except (OSError, asyncio.IncompleteReadError):
                load.errors += 1
                continue
            load.latencies.append(time.monotonic() - began)
            load.requests += 1
            load.bytes += len(body)
            load.refused += status != 200
            if status == 200 and path == "/v1/traces":
                load.spans += 3
            elif status == 200:
                load.updates += 1
        due += every_s


async def play(
    trainers: list[Trainer], port: int, context: ssl.SSLContext | None, *, every_s: float, seconds: float, metrics: bool
) -> Load:
    """All trainers, spread evenly over the interval."""
    load = Load()
    start = time.monotonic() + 0.5
    await asyncio.gather(
        *(
            train(
                trainer,
                port,
                context,
                every_s=every_s,
                begin=start + every_s * index / len(trainers),
                end=start + seconds,
                load=load,
                metrics=metrics,
            )
            for index, trainer in enumerate(trainers)
        )
    )
    return load
