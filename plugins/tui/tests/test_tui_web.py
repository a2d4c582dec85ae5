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
from typing import TYPE_CHECKING, Any

import pytest
from headless_browser import free_port, opened, picture

from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headless_browser import Browser
    from sanctum_kit import Kit

pytest.importorskip("textual_serve", reason="pip install 'esper-sink-tui[web]'")


TOKEN = "a-token-of-this-test"


@pytest.fixture
def served(kit: Kit, tmp_path: Path) -> Iterator[int]:
    """A viewer over one run, served on a free port."""
    kit.record(kit.run(tmp_path, "run-a", kit.drift(30)), state=RunState.DONE)
    port = free_port()
    with serving(tmp_path, port):
        yield port


@contextlib.contextmanager
def serving(base: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The server, until the end of the with block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "esper_core", "sanctum", "run-a", "--dir", str(base), "--web", f"127.0.0.1:{port}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "ESPER_SANCTUM_TOKEN": TOKEN},
    )
    try:
        deadline = time.monotonic() + 250
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(250)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def asked(port: int, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=250)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": f"127.0.0.1:{port}", **headers})
        answer = connection.getresponse()
        answer.body = answer.read().decode()  # type: ignore[attr-defined]  # kept past the connection
        return answer


def test_only_this_machines_own_pages_with_the_token_may_talk_to_it(served: int) -> None:
    own = f"127.0.0.1:{served}"
    entered = asked(served, f"/?token={TOKEN}&fontsize=14")
    assert (entered.status, entered.headers["Location"]) == (303, "/?fontsize=14")  # out of the address bar
    assert "HttpOnly" in entered.headers["Set-Cookie"]
    cookie = {"Cookie": entered.headers["Set-Cookie"].partition(";")[0]}
    assert asked(served, **cookie).status == 200
    assert asked(served, **cookie, Origin=f"http://{own}").status == 200
    assert asked(served, **cookie, Origin="https://evil.example").status == 403
    assert asked(served, **{**cookie, "Host": f"evil.example:{served}"}).status == 403  # DNS rebinding
    for path in ("/", "/ws", "/static/js/textual.js", "/?token=", "/?token=guess"):
        assert asked(served, path).status == 403
    assert "it holds the token" in asked(served).body  # type: ignore[attr-defined]  # as above
    page = asked(served, **cookie)
    text: str = page.body  # type: ignore[attr-defined]  # as above
    assert "event.wasClean" in text  # what broke comes back
    assert "connect-src 'self'" in (page.headers["Content-Security-Policy"] or "")
    addresses = [item for item in re.findall(r"(?:src|href)=\"(https?://[^\"]+)", text) if "w3.org" not in item]
    assert all(item.startswith(f"http://127.0.0.1:{served}/") for item in addresses)


async def test_several_viewers_draw_at_once_and_one_comes_again(served: int) -> None:
    import aiohttp  # with the extra alone

    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address
    async with aiohttp.ClientSession(f"http://127.0.0.1:{served}", cookie_jar=jar) as session:
        async with session.get("/", params={"token": TOKEN}) as page:
            assert page.status == 200
        first = await session.ws_connect("/ws?width=80&height=24")
        second = await session.ws_connect("/ws?width=120&height=36")
        assert await drew(first)
        assert await drew(second)
        await first.close()
        again = await session.ws_connect("/ws?width=80&height=24")
        assert await drew(again)
        await again.close()
        await second.close()


async def drew(socket: Any) -> bool:
    """Whether the run's banner comes through the socket."""
    drawn = b""
    while b"KL " not in drawn:
        message = await socket.receive(120)
        if not isinstance(message.data, bytes):
            if message.data is None or "error" in str(message.data):
                return False
            continue
        drawn += message.data
    return True


@pytest.mark.browser
def test_the_viewer_draws_in_a_browser_and_answers_keys(served: int, tmp_path: Path) -> None:
    with opened() as browser:
        browser.show(f"http://127.0.0.1:{served}/?token={TOKEN}")
        assert first_byte(browser)
        warning, frozen, background = (bytes.fromhex(text) for text in ("e69f00", "f0e442", "10151b"))
        colours = drawn(browser, tmp_path, warning, 200)
        assert colours[warning] > 200  # the verdict, in the theme's orange
        assert colours.most_common(1)[0][0] == background
        browser.click(300, 30)
        browser.press("f")  # freezing turns the run's state into a yellow block
        least = colours[frozen] + 1000
        assert drawn(browser, tmp_path, frozen, least)[frozen] > least


@pytest.mark.browser
def test_a_page_whose_connection_broke_comes_back(kit: Kit, tmp_path: Path) -> None:
    kit.record(kit.run(tmp_path, "run-a", kit.drift(3)), state=RunState.DONE)
    port = free_port()
    with opened() as browser:
        with serving(tmp_path, port) as process:
            browser.show(f"http://127.0.0.1:{port}/?token={TOKEN}")
            assert first_byte(browser)
            browser.run("window.before = true; return 0")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with serving(tmp_path, port):
            deadline = time.monotonic() + 250
            while browser.run("return window.before === true") and time.monotonic() < deadline:
                time.sleep(0.2)
            assert not browser.run("return window.before === true")
            assert first_byte(browser)


def first_byte(browser: Browser) -> bool:
    """Wait until the viewer has drawn something; False when it does not."""
    deadline = time.monotonic() + 250
    while time.monotonic() < deadline:
        if browser.run("return document.body !== null && document.body.classList.contains('-first-byte')"):
            return True
        time.sleep(0.2)
    return False


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
