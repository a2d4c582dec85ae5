"""A real headless Chromium for tests, driven over WebDriver, and what is on its screen.

The protocol is plain HTTP, so no client library is needed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Browser", "Picture", "free_port", "opened", "picture"]


def free_port() -> int:
    """A port for a program that must be told one: none that the system gives out by itself to somebody else."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _chrome() -> str:
    """The driver of a real browser; CI must have it."""
    found = shutil.which("chromedriver")
    if found is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        if os.environ.get("CI"):
            pytest.fail("CI must have chromium and chromedriver: make system-deps")
        pytest.skip("chromium and chromedriver are not installed: make system-deps")
    return found


@contextlib.contextmanager
def opened(width: int = 960, height: int = 760) -> Iterator[Browser]:
    """A window of this size in pixels; the test is skipped where there is no browser."""
    port = free_port()
    process = subprocess.Popen([_chrome(), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base, browser = f"http://127.0.0.1:{port}", None
    words = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"]
    words += [f"--window-size={width},{height}", "--force-device-scale-factor=1"]
    wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": words}}}}
    try:
        deadline = time.monotonic() + 250
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                _command("GET", f"{base}/status")
                break
            time.sleep(0.1)
        browser = Browser(f"{base}/session/{_command('POST', f'{base}/session', wanted)['sessionId']}")
        yield browser
    finally:
        if browser is not None:
            with contextlib.suppress(OSError):
                browser.command("DELETE", "")
        process.terminate()
        process.wait(250)


def _command(method: str, url: str, body: Any = None) -> Any:
    request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=250) as answer:
        return json.loads(answer.read())["value"]


@dataclass(frozen=True)
class Browser:
    """One WebDriver session, by its URL."""

    session: str

    def command(self, method: str, path: str, body: Any = None) -> Any:
        """One WebDriver command."""
        return _command(method, f"{self.session}{path}", body)

    def show(self, url: str) -> None:
        """Load a page and wait for it."""
        self.command("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """The result of a script of the page, whatever the page's own policy."""
        return self.command("POST", "/execute/sync", {"script": script, "args": []})

    def press(self, *keys: str) -> None:
        """Keys, one after another, to what has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def click(self, x: int, y: int) -> None:
        """Click into the window."""
        actions: list[dict[str, Any]] = [
            {"type": "pointerMove", "x": x, "y": y, "duration": 0},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self.command("POST", "/actions", {"actions": [mouse]})

    def media(self, kind: str = "", *, scheme: str = "light") -> None:
        """What the page is for: ``screen`` or ``print``, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        asked = {"cmd": "Emulation.setEmulatedMedia", "params": {"media": kind, "features": features}}
        self.command("POST", "/goog/cdp/execute", asked)

    def screenshot(self, selector: str = "") -> bytes:
        """The window, or the first element that a CSS selector finds, as a PNG."""
        if not selector:
            return base64.b64decode(self.command("GET", "/screenshot"))
        found = self.command("POST", "/element", {"using": "css selector", "value": selector})
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        return base64.b64decode(self.command("GET", f"/element/{next(iter(found.values()))}/screenshot"))


@dataclass(frozen=True)
class Picture:
    """A picture: three bytes a pixel, row after row."""

    width: int
    height: int
    rows: tuple[bytes, ...]


def picture(png: bytes) -> Picture:
    """Decode a PNG (8 bits, RGB or RGBA, not interlaced)."""
    place, header, packed = 8, b"", b""
    while place < len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        header, packed = (data if kind == b"IHDR" else header), packed + (data if kind == b"IDAT" else b"")
        place += size + 12
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    assert (depth, colour in {2, 6}) == (8, True)
    step = {2: 3, 6: 4}[colour]
    plain, stride = zlib.decompress(packed), width * step
    rows: list[bytes] = []
    above = bytearray(stride)
    for row in range(height):
        start = row * (stride + 1)
        line = bytearray(plain[start + 1 : start + 1 + stride])
        _unfilter(plain[start], line, above, step)
        rows.append(bytes(line) if step == 3 else b"".join(bytes(line[at : at + 3]) for at in range(0, stride, 4)))
        above = line
    return Picture(width, height, tuple(rows))


def _unfilter(kind: int, line: bytearray, above: bytearray, step: int) -> None:
    """Undo a PNG row's filter in place."""
    for at in range(len(line)) if kind else ():
        left = line[at - step] if at >= step else 0
        corner = above[at - step] if at >= step else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = above[at]
        elif kind == 3:
            guess = (left + above[at]) // 2
        else:
            near = left + above[at] - corner
            options = (left, above[at], corner)
            guess = min(options, key=lambda value: (abs(near - value), options.index(value)))
        line[at] = (line[at] + guess) & 255
