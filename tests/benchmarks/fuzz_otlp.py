"""Mutated OTLP bodies against the decoder and the listener: crashes, and memory, counted.

    python tests/benchmarks/fuzz_otlp.py --seed 1 --minutes 5          # as many as fit
    python tests/benchmarks/fuzz_otlp.py --seed 1 --count 1000000      # the whole of it

Bodies of real updates, in JSON and protobuf, plain and gzip, one to three spans, are damaged: bytes changed, cut,
repeated, spliced with another body, lengths raised, JSON values replaced. The decoder gets each body in this process;
one in ``--every`` goes to a listener in its own process over a kept connection. A crash is any other exception than
RequestRefusedError, an answer other than 200, 400 and 413, or a listener that has ended. A body depends on the seed and
its number alone.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from esper_core.host.otel.played import ended_spans
from esper_core.semconv.codec import encode
from esper_sink_tui.intake import JSON, PROTOBUF, RequestRefusedError, inflate, read_batch

sys.path.insert(0, str(Path(__file__).parent))
from fleet_trainer import update_event

if TYPE_CHECKING:
    from esper_core.host.otel.resource import ResourceValue

LISTENER = """
import sys, time
from esper_sink_tui.listen import Receiver
from esper_sink_tui.watch import Watch
watch = Watch()
with Receiver(lambda events: watch.receive(events, where="OTLP"), reject=watch.reject, port=0) as receiver:
    print(receiver.port, flush=True)
    while True:
        while watch.tick():
            pass
        watch.model()
        time.sleep(0.25)
"""
VALUES = (b"null", b"true", b"-1", b"1e999", b"[]", b"{}", b'""', b'"NaN"', b"1" * 400, b'"\\ud800"', b"[" * 300)


def seeds() -> list[tuple[str, bytes]]:
    """Sound bodies and their types."""
    found = []
    for number in range(4):
        event = update_event(f"fuzz-{number}", number + 1, 0.004 * (number + 1))
        described: dict[str, ResourceValue] = {
            "service.name": "esper",
            "esper.run.id": event.run_id,
            "esper.run.attempt": 1,
        }
        found.append((PROTOBUF, encode_spans(ended_spans(event, described)).SerializeToString()))
        found.append((JSON, encode(event, described)))
    lines = [json.loads(body) for kind, body in found if kind == JSON]
    whole = {"resourceSpans": [group for line in lines for group in line["resourceSpans"]]}
    return [*found, (JSON, json.dumps(whole).encode())]


def damaged(rng: random.Random, body: bytes, other: bytes) -> bytes:
    """A body with one to six errors."""
    data = bytearray(body)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if data:
            damage(rng, data, other)
    return bytes(data)


def damage(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Add one error."""
    start = rng.randrange(len(data))
    size = min(rng.choice((1, 2, 8, 64, 512)), len(data) - start)
    match rng.randrange(8):
        case 0:
            data[start] = rng.randrange(256)
        case 1:
            data[start] ^= 1 << rng.randrange(8)
        case 2:
            del data[start : start + size]
        case 3:
            data[start:start] = data[start : start + size] * rng.choice((1, 2, 50))
        case 4:
            data[start : start + size] = other[start : start + size]
        case 5:
            data[start : start + size] = rng.randbytes(size)
        case 6:
            data[start : start + 1] = b"\xff\xff\xff\xff\x0f"
        case _:
            replace_value(rng, data, start)


def replace_value(rng: random.Random, data: bytearray, start: int) -> None:
    """Replace the JSON value behind the next colon."""
    colon = data.find(b":", start)
    if colon >= 0:
        end = next((at for at in range(colon, min(colon + 200, len(data))) if data[at] in b",}]"), colon)
        data[colon + 1 : end] = rng.choice(VALUES)


def made(seed: int, number: int, sound: list[tuple[str, bytes]]) -> tuple[str, bytes, bool]:
    """A body by its number: type, bytes, and whether it is declared to be gzip."""
    rng = random.Random(f"{seed}:{number}")
    kind, body = rng.choice(sound)
    packed = rng.random() < 0.2
    body = damaged(rng, body, rng.choice(sound)[1])
    if packed:
        body = gzip.compress(body, 1, mtime=0)
        body = damaged(rng, body, body) if rng.random() < 0.5 else body
    return kind, body, packed


def rss_mib(pid: int | str) -> float:
    """Resident memory of a process now."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


class Listener:
    """A listener in a process of its own, and a kept connection to it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def post(self, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer; 0 for none."""
        for _ in range(2):  # once more where a kept connection was closed meanwhile
            try:
                self.connection.request("POST", "/v1/traces", body=body, headers=headers)
                answer = self.connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                self.connection.close()
            else:
                return answer.status
        return 0

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self.process.terminate()
        self.process.wait(30)


@dataclass
class Account:
    """What was sent and what came of it."""

    decoded: int = 0
    taken: int = 0
    rejected: int = 0
    posted: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def decode(self, number: int, kind: str, body: bytes, *, packed: bool) -> None:
        """Decode a body in this process."""
        self.decoded += 1
        try:
            batch = read_batch(inflate(body) if packed else body, kind)
        except RequestRefusedError:
            return
        except BaseException as error:  # noqa: BLE001  # the crashes that this script counts
            self.crashes.append(f"body {number}: decoder: {type(error).__name__}: {error}"[:300])
            return
        self.taken += len(batch.events)
        self.rejected += sum(batch.rejected.values())

    def post(self, number: int, kind: str, body: bytes, *, packed: bool, listener: Listener) -> None:
        """Send a body to the listener."""
        self.posted += 1
        headers = {"Content-Type": kind} | ({"Content-Encoding": "gzip"} if packed else {})
        status = listener.post(body, headers)
        self.answers[status] += 1
        if status not in {200, 400, 413}:
            self.crashes.append(f"body {number}: listener: status {status}")

    def print(self, elapsed: float) -> None:
        """Print the figures."""
        print(f"decoder:  {self.decoded} bodies ({self.decoded / elapsed:.0f}/s), {self.taken} events, ", end="")
        print(f"{self.rejected} spans rejected")
        print(f"listener: {self.posted} requests, answers {dict(sorted(self.answers.items()))}")
        for name, place in (("decoder", 0), ("listener", 1)):
            seen = [item[place] for item in self.memory]
            print(f"memory of the {name}: {seen[0]:.0f} MiB at first, {max(seen):.0f} at most, {seen[-1]:.0f} at last")
        print(f"crashes: {len(self.crashes)}")
        for crash in self.crashes[:20]:
            print(" ", crash)


def main() -> int:
    """Fuzz and print the figures. Exit code 1 after a crash."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first body (0)")
    parser.add_argument("--count", type=int, default=10**9, metavar="N", help="bodies at most")
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="minutes at most (5)")
    parser.add_argument("--every", type=int, default=20, metavar="N", help="one in N goes to the listener too (20)")
    options = parser.parse_args()
    sound, listener, account = seeds(), Listener(), Account()
    begin = time.monotonic()
    number = options.first
    try:
        while number < options.first + options.count and time.monotonic() - begin < options.minutes * 60:
            kind, body, packed = made(options.seed, number, sound)
            account.decode(number, kind, body, packed=packed)
            if number % options.every == 0:
                account.post(number, kind, body, packed=packed, listener=listener)
            if number % 2000 == 0:
                if listener.process.poll() is not None:
                    account.crashes.append(f"the listener has ended with {listener.process.returncode}")
                    break
                account.memory.append((rss_mib("self"), rss_mib(listener.process.pid)))
            number += 1
    finally:
        listener.close()
    elapsed = time.monotonic() - begin
    used = sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"seed {options.seed}, bodies {options.first} to {number - 1}: {elapsed / 60:.1f} min, {used:.0f} s of CPU")
    account.print(elapsed)
    return 1 if account.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
