"""The watcher: a small process that tells of a trainer that cannot tell any more. Standard library only.

It is the trainer's child, in a session of its own. Standard input carries one line of JSON that says what to send,
and the line ``end`` when the run is over. It has a secret URL: that stands in no argument and no variable.

A process whose parent has ended gets another one: that, and not a pid that might be used again, is how it notices.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from esper_sink_webhook.post import Target, deliver

__all__ = ["END", "READY", "crash_message", "main"]

END: Final = b"end\n"
READY: Final = b"ready\n"
_LOOK_S: Final = 1.0
"""How long a trainer has been gone at most before it is noticed; its pipe's end is noticed at once."""


def main() -> int:
    """Watch until the run is over, or the trainer is gone: then send, and end too."""
    received = bytearray()
    while b"\n" not in received:
        part = os.read(0, 65536)
        if not part:
            return 0  # the trainer ended, or gave up, before it had said what to watch
        received += part
    line, _, rest = bytes(received).partition(b"\n")
    order = json.loads(line)
    with contextlib.suppress(OSError):  # the trainer is gone already: that is what there is to tell
        os.write(1, READY)
    os.close(1)
    if _run_ended(rest, int(order["parent"])):
        return 0
    target = Target(**order["target"])
    limit_s = float(order["retry_s"])
    # A receiver that answers a byte now and then keeps every timeout; this ends the process all the same.
    signal.setitimer(signal.ITIMER_REAL, limit_s + target.timeout_s)
    until = time.monotonic() + limit_s
    return 0 if deliver(target, crash_message(order["message"], order["run_json"]), lambda: until).ok else 1


def _run_ended(received: bytes, parent: int) -> bool:
    """Wait. True when the run is over, False when the trainer is gone without having said so."""
    open_ = True
    while True:
        gone = os.getppid() != parent  # before the pipe is read: what the trainer said last is in it
        if open_ and select.select([0], [], [], 0.0 if gone else _LOOK_S)[0]:
            part = os.read(0, 65536)
            received += part
            open_ = bool(part)
            if part:
                continue
        if received.endswith(END):
            return True
        if gone:
            return False
        if not open_:
            time.sleep(_LOOK_S / 10)  # the pipe ends a moment before the process does


def crash_message(message: dict[str, Any], run_json: str) -> dict[str, Any]:
    """The message with what ``run.json`` knows, which is a heartbeat old at most: the name and how many updates."""
    try:
        record = json.loads(Path(run_json).read_text(encoding="utf-8")) if run_json else {}
        updates, name = record.get("updates"), record.get("name")
    except (OSError, ValueError, AttributeError):
        updates = name = None
    known = f" Its last record has {updates} updates." if isinstance(updates, int) else ""
    where = f"pid {message['pid']} on {message['host']}"
    text = f"run {message['run_id']}: the trainer ({where}) ended without a word.{known}"
    return {**message, "text": text, "name": name or message["run_id"], "updates": updates, "time": time.time()}


if __name__ == "__main__":
    sys.exit(main())
