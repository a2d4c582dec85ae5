"""``esper sanctum --web``: the viewer in a real headless browser, and strangers turned away."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Kit

pytest.importorskip("textual_serve", reason="pip install 'esper-sink-tui[web]'")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(kit: Kit, tmp_path: Path) -> Iterator[int]:
    """A viewer over one run, served on a free port."""
    kit.record(kit.run(tmp_path, "run-a", kit.drift(30)), state=RunState.DONE)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "esper_core", "sanctum", "run-a", "--dir", str(tmp_path), "--web", f"127.0.0.1:{port}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def status(port: int, host: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Host": host, **headers})
        return connection.getresponse().status


def test_only_this_machines_own_pages_may_talk_to_it(served: int) -> None:
    own = f"127.0.0.1:{served}"
    assert status(served, own) == 200
    assert status(served, own, Origin=f"http://{own}") == 200
    assert status(served, own, Origin="https://evil.example") == 403
    assert status(served, f"evil.example:{served}") == 403  # DNS rebinding


def test_the_page_contacts_nobody_else(served: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        answer = connection.getresponse()
        page = answer.read().decode()
    assert "connect-src 'self'" in (answer.headers["Content-Security-Policy"] or "")
    addresses = [item for item in re.findall(r"(?:src|href)=\"(https?://[^\"]+)", page) if "w3.org" not in item]
    assert all(item.startswith(f"http://127.0.0.1:{served}/") for item in addresses)


def chrome() -> str:
    """The driver of a real browser; CI must have it."""
    found = shutil.which("chromedriver")
    if found is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        if os.environ.get("CI"):
            pytest.fail("CI must have chromium and chromedriver: make system-deps")
        pytest.skip("chromium and chromedriver are not installed: make system-deps")
    return found


@pytest.fixture
def driver() -> Iterator[str]:
    """A WebDriver session; its URL. The protocol is plain HTTP, so no client library is needed."""
    port = free_port()
    process = subprocess.Popen([chrome(), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    session = ""
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                command("GET", f"{base}/status")
                break
            time.sleep(0.1)
        words = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=960,760"]
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": words}}}}
        session = f"{base}/session/{command('POST', f'{base}/session', wanted)['sessionId']}"
        yield session
    finally:
        if session:
            with contextlib.suppress(OSError):
                command("DELETE", session)
        process.terminate()
        process.wait(10)


def command(method: str, url: str, body: Any = None) -> Any:
    """One WebDriver command."""
    request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=250) as answer:
        return json.loads(answer.read())["value"]


@pytest.mark.browser
def test_the_viewer_draws_in_a_browser_and_answers_keys(served: int, driver: str, tmp_path: Path) -> None:
    command("POST", f"{driver}/url", {"url": f"http://127.0.0.1:{served}/"})
    script = {"script": "return document.body.classList.contains('-first-byte')", "args": []}
    deadline = time.monotonic() + 40
    while not command("POST", f"{driver}/execute/sync", script) and time.monotonic() < deadline:
        time.sleep(0.2)
    warning, frozen, background = (bytes.fromhex(text) for text in ("e69f00", "f0e442", "10151b"))
    colours = drawn(driver, tmp_path, warning, 200)
    assert colours[warning] > 200  # the verdict, in the theme's orange
    assert colours.most_common(1)[0][0] == background
    press(driver, "f")  # freezing turns the run's state into a yellow block
    least = colours[frozen] + 1000
    assert drawn(driver, tmp_path, frozen, least)[frozen] > least


def press(driver: str, key: str) -> None:
    """Click into the terminal, then one key."""
    click = [
        {"type": "pointerMove", "x": 300, "y": 30, "duration": 0},
        {"type": "pointerDown", "button": 0},
        {"type": "pointerUp", "button": 0},
    ]
    keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
    mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": click}
    command("POST", f"{driver}/actions", {"actions": [mouse]})
    command("POST", f"{driver}/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})


def drawn(driver: str, folder: Path, wanted: bytes, least: int) -> Counter[bytes]:
    """Take screenshots until there is enough of a colour; the last one's pixels by colour."""
    colours: Counter[bytes] = Counter()
    for _ in range(8):
        time.sleep(1.0)
        picture = base64.b64decode(command("GET", f"{driver}/screenshot"))
        (folder / "sanctum.png").write_bytes(picture)
        colours = pixels(picture)
        if colours[wanted] > least:
            break
    return colours


def pixels(picture: bytes) -> Counter[bytes]:
    """Colours of a PNG (8 bits, RGB or RGBA, not interlaced) by frequency."""
    place, header, packed = 8, b"", b""
    while place < len(picture):
        (size,) = struct.unpack(">I", picture[place : place + 4])
        kind, data = picture[place + 4 : place + 8], picture[place + 8 : place + 8 + size]
        header, packed = (data if kind == b"IHDR" else header), packed + (data if kind == b"IDAT" else b"")
        place += size + 12
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    assert (depth, colour in {2, 6}) == (8, True)
    step = {2: 3, 6: 4}[colour]
    plain, stride = zlib.decompress(packed), width * step
    found: Counter[bytes] = Counter()
    above = bytearray(stride)
    for row in range(height):
        start = row * (stride + 1)
        line = bytearray(plain[start + 1 : start + 1 + stride])
        unfilter(plain[start], line, above, step)
        if row % 2 == 0:
            found.update(bytes(line[at : at + 3]) for at in range(0, stride, step))
        above = line
    return found


def unfilter(kind: int, line: bytearray, above: bytearray, step: int) -> None:
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
