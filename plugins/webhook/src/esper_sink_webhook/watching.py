"""The trainer's side of the watcher: starts it, and tells it that the run is over."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from esper_sink_webhook.watcher import END, READY

if TYPE_CHECKING:
    from pathlib import Path

    from esper_sink_webhook.post import Target
    from esper_sink_webhook.shapes import Message

__all__ = ["Watch"]

_END_S: Final = 0.3
"""Seconds for it to end by itself; it may be starting still."""


class Watch:
    """A running watcher.

    Args:
        target: where it sends.
        message: what, without text and time.
        run_json: the run's record, None when nothing is written to disk.
        retry_s: how long it tries.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, target: Target, message: Message, run_json: Path | None, retry_s: float) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "esper_sink_webhook.watcher"],
            stdin=subprocess.PIPE,  # -P: no file of the working directory stands in for a module
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C on the terminal is the trainer's
        )
        order = {
            "parent": self._owner,
            "target": asdict(target),
            "message": message,
            "run_json": str(run_json.absolute()) if run_json is not None else "",
            "retry_s": retry_s,
        }
        self._tell(json.dumps(order).encode() + b"\n")

    @property
    def pid(self) -> int:
        """Of the watcher."""
        return self._process.pid

    def ready(self, timeout_s: float) -> bool:
        """Wait until it watches; False when it ended instead, or not within the time."""
        out = self._process.stdout
        if out is None or out.closed:
            return self._process.poll() is None
        with out:
            return bool(select.select([out], [], [], timeout_s)[0]) and os.read(out.fileno(), 64) == READY

    def run_over(self) -> None:
        """Tell it that the run is over: from now on the trainer's end means nothing. Does not wait."""
        if os.getpid() == self._owner:  # a forked child speaks for nobody
            self._tell(END)

    def close(self) -> None:
        """See to it that it has ended."""
        if os.getpid() != self._owner:
            return
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, line: bytes) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended: ready() says so
                self._process.stdin.write(line)
                self._process.stdin.flush()
