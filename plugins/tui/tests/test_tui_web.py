"""``esper sanctum --web``: the viewer in a real headless browser, and strangers turned away."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from headless_browser import free_port, opened, picture

from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headless_browser import Browser

    from conftest import Kit

pytest.importorskip("textual_serve", reason="pip install 'esper-sink-tui[web]'")


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
        deadline = time.monotonic() + 250
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(250)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def status(port: int, host: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=250)
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
    connection = http.client.HTTPConnection("127.0.0.1", served, timeout=250)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        answer = connection.getresponse()
        page = answer.read().decode()
    assert "connect-src 'self'" in (answer.headers["Content-Security-Policy"] or "")
    addresses = [item for item in re.findall(r"(?:src|href)=\"(https?://[^\"]+)", page) if "w3.org" not in item]
    assert all(item.startswith(f"http://127.0.0.1:{served}/") for item in addresses)


@pytest.mark.browser
def test_the_viewer_draws_in_a_browser_and_answers_keys(served: int, tmp_path: Path) -> None:
    with opened() as browser:
        browser.show(f"http://127.0.0.1:{served}/")
        deadline = time.monotonic() + 250
        while not browser.run("return document.body.classList.contains('-first-byte')") and time.monotonic() < deadline:
            time.sleep(0.2)
        warning, frozen, background = (bytes.fromhex(text) for text in ("e69f00", "f0e442", "10151b"))
        colours = drawn(browser, tmp_path, warning, 200)
        assert colours[warning] > 200  # the verdict, in the theme's orange
        assert colours.most_common(1)[0][0] == background
        browser.click(300, 30)
        browser.press("f")  # freezing turns the run's state into a yellow block
        least = colours[frozen] + 1000
        assert drawn(browser, tmp_path, frozen, least)[frozen] > least


def drawn(browser: Browser, folder: Path, wanted: bytes, least: int) -> Counter[bytes]:
    """Take screenshots until there is enough of a colour; the last one's pixels by colour."""
    colours: Counter[bytes] = Counter()
    for _ in range(500):
        time.sleep(0.2)
        png = browser.screenshot()
        (folder / "sanctum.png").write_bytes(png)
        rows = picture(png).rows[::2]
        colours = Counter(row[at : at + 3] for row in rows for at in range(0, len(row), 3))
        if colours[wanted] > least:
            break
    return colours
