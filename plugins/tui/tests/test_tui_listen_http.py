"""The listener's HTTP/1.1, spoken to through bare sockets: what it takes, what it refuses, whom it cuts off."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import sys
from typing import TYPE_CHECKING, Self

import pytest

pytest.importorskip("aiohttp", reason="pip install 'esper-sink-tui[listen]'")

from esper_sink_tui.intake import MAX_BODY
from esper_sink_tui.listen import Limits, Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

POST = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
EMPTY = POST + b"Content-Length: 2\r\n\r\n{}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(lambda events: True, port=0) as receiver:
        yield receiver


class Client:
    """A bare connection, and the answers that come on it."""

    def __init__(self, receiver: Receiver) -> None:
        self.socket = socket.create_connection(("127.0.0.1", receiver.port), timeout=250)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # refused and closed before all of it was sent: the answer is there
            self.socket.sendall(data)

    def status(self) -> int:
        """Of the next answer, which is read whole; 0 when the connection was closed without one."""
        return self.answer()[0]

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        try:
            first = self.file.readline()
            if not first:
                return 0, {}, b""
            headers = {}
            while (line := self.file.readline().strip()) != b"":
                key, _, value = line.decode().partition(":")
                headers[key.lower()] = value.strip()
            return int(first.split()[1]), headers, self.file.read(int(headers.get("content-length", "0")))
        except ConnectionResetError:
            return 0, {}, b""

    def closed(self) -> bool:
        """Whether the other side closes the connection."""
        with contextlib.suppress(ConnectionResetError):
            return self.file.read(1) == b""
        return True


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + end
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + body


def still_serves(receiver: Receiver) -> bool:
    with Client(receiver) as client:
        client.send(EMPTY)
        return client.status() == 200


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(EMPTY, id="length"),
        pytest.param(chunked(b"{", b"}"), id="chunked"),
        pytest.param(chunked(b"{}", end=b"0\r\nX-Trailer: y\r\n\r\n"), id="chunked with a trailer"),
        pytest.param(EMPTY.replace(b"Host: x", b"host:x"), id="headers in any case"),
        pytest.param(EMPTY.replace(b"application/json", b"Application/JSON; charset=utf-8"), id="type with parameters"),
        pytest.param(EMPTY.replace(b"/v1/traces", b"http://x/v1/traces"), id="absolute form"),
        pytest.param(EMPTY.replace(b"/v1/traces", b"/v1/traces?a=b"), id="query"),
        pytest.param(EMPTY.replace(b"HTTP/1.1\r\nHost: x", b"HTTP/1.0"), id="HTTP/1.0 without a host"),
        pytest.param(b"\r\n" + EMPTY, id="an empty line before"),
    ],
)
def test_a_request_of_any_lawful_form_is_taken(receiver: Receiver, request_: bytes) -> None:
    with Client(receiver) as client:
        client.send(request_)
        assert client.status() == 200
    assert (receiver.accepted, receiver.refused) == (1, 0)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, id="two lengths that differ"),
        pytest.param(POST + b"Content-Length: 2, 3\r\n\r\n{}", 400, id="a list of lengths"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", 400, id="negative length"),
        pytest.param(POST + b"Content-Length: +2\r\n\r\n{}", 400, id="signed length"),
        pytest.param(POST + b"Content-Length: x\r\n\r\n", 400, id="length in letters"),
        pytest.param(POST + "Content-Length: \u00b2\r\n\r\n".encode(), 400, id="length in other digits"),
        pytest.param(POST + b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n", 400, id="length of 5000 digits"),
        pytest.param(POST + b"\r\n", 411, id="no length"),
        pytest.param(POST + f"Content-Length: {MAX_BODY + 1}\r\n\r\n".encode(), 413, id="length above the limit"),
        pytest.param(
            POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            400,
            id="length and chunked",
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400, id="chunk size in letters"
        ),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n", 400, id="negative chunk size"),
        pytest.param(POST + b"Transfer-Encoding: gzip\r\n\r\n{}", 400, id="another transfer encoding"),
        pytest.param(chunked(b"x" * (MAX_BODY + 1)), 413, id="chunks above the limit"),
        pytest.param(POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 400, id="no gzip"),
        pytest.param(EMPTY.replace(b"Host: x\r\n", b""), 400, id="no host"),
        pytest.param(EMPTY.replace(b"Host: x\r\n", b"Host: x\r\nHost: y\r\n"), 400, id="two hosts"),
        pytest.param(POST.replace(b"Host: x", b"Host : x") + b"Content-Length: 2\r\n\r\n{}", 400, id="space in a name"),
        pytest.param(POST + b"X: " + b"a" * 20_000 + b"\r\nContent-Length: 2\r\n\r\n{}", 400, id="huge header"),
        pytest.param(POST + b"X: a\r\n" * 1000 + b"Content-Length: 2\r\n\r\n{}", 400, id="a thousand headers"),
        pytest.param(b"POST /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="huge path"),
        pytest.param(POST + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}", 400, id="NUL in a header"),
        pytest.param(POST + b"X: a\r\n folded\r\nContent-Length: 2\r\n\r\n{}", 400, id="folded header"),
        pytest.param(EMPTY.replace(b"HTTP/1.1", b"HTTP/3.7"), 400, id="another version"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2 preface"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400, id="TLS to a port without"),
        pytest.param(POST + b"Expect: the-best\r\nContent-Length: 2\r\n\r\n{}", 417, id="another expectation"),
        pytest.param(
            EMPTY.replace(b"/v1/traces HTTP", b"/v1/traces\x7f HTTP"), 400, id="a control character in the path"
        ),
    ],
)
def test_a_request_that_is_not_gets_its_status_and_harms_nothing(
    receiver: Receiver, request_: bytes, status: int
) -> None:
    with Client(receiver) as client:
        client.send(request_)
        got, headers, body = client.answer()
        assert got == status
        assert headers["content-type"] == "application/json"
        assert json.loads(body)["message"]
    assert receiver.accepted == 0
    assert receiver.refused >= 1
    assert still_serves(receiver)


def test_a_second_request_hidden_in_a_body_is_not_served(receiver: Receiver) -> None:
    """Two lengths could mean two things to two readers: the connection ends at once."""
    hidden = POST.replace(b"/v1/traces", b"/v1/logs") + b"Content-Length: 2\r\n\r\n{}"
    with Client(receiver) as client:
        client.send(POST + f"Content-Length: 2\r\nContent-Length: {len(hidden) + 2}\r\n\r\n{{}}".encode() + hidden)
        assert client.status() == 400
        assert client.closed()
    assert receiver.ignored == 0


def test_requests_one_behind_the_other_are_answered_in_their_order(receiver: Receiver) -> None:
    with Client(receiver) as client:
        client.send(EMPTY + EMPTY.replace(b"/v1/traces", b"/nowhere") + EMPTY)
        assert [client.status() for _ in range(3)] == [200, 404, 200]


def test_a_refused_request_does_not_cost_the_connection(receiver: Receiver) -> None:
    with Client(receiver) as client:
        for path in (b"/nowhere", b"/v1/traces"):
            client.send(EMPTY.replace(b"/v1/traces", path))
            assert client.status() == (200 if path == b"/v1/traces" else 404)


def test_a_client_that_asks_first_is_told_to_go_on(receiver: Receiver) -> None:
    with Client(receiver) as client:
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.status() == 100
        client.send(b"{}")
        assert client.status() == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (POST.replace(b"/v1/traces", b"/nowhere") + b"Content-Length: 2\r\n", 404),
        (POST.replace(b"application/json", b"text/plain") + b"Content-Length: 2\r\n", 415),
        (POST + f"Content-Length: {MAX_BODY + 1}\r\n".encode(), 413),
    ],
)
def test_a_client_that_asks_first_is_refused_before_it_sends(receiver: Receiver, head: bytes, status: int) -> None:
    with Client(receiver) as client:
        client.send(head + b"Expect: 100-continue\r\n\r\n")
        assert client.status() == status


def test_the_token_is_asked_for_before_the_body() -> None:
    with Receiver(lambda events: True, port=0, token="s3cret") as receiver, Client(receiver) as client:
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.status() == 401


def test_gzip_in_chunks_is_taken(receiver: Receiver) -> None:
    packed = gzip.compress(b'{"resourceSpans": []}')
    request = chunked(packed[:5], packed[5:]).replace(b"Host: x", b"Host: x\r\nContent-Encoding: gzip")
    with Client(receiver) as client:
        client.send(request)
        assert client.status() == 200


# --- slow clients: each is cut off by a limit of its own, and none holds up another ---------------


@pytest.mark.parametrize("begin", [b"", b"POST /v1/tra", POST])
def test_a_client_that_never_ends_its_head_is_cut_off(begin: bytes) -> None:
    with Receiver(lambda events: True, port=0, limits=Limits(head_s=0.3)) as receiver, Client(receiver) as client:
        client.send(begin)
        assert client.closed()


def test_a_head_that_drips_is_cut_off() -> None:
    """Each byte comes in time; the head as a whole does not."""
    with Receiver(lambda events: True, port=0, limits=Limits(head_s=0.5)) as receiver, Client(receiver) as client:
        client.send(POST)
        client.socket.settimeout(0.02)
        with contextlib.suppress(ConnectionError):
            while True:  # ends with the connection, or with the suite's guard against hanging
                client.socket.sendall(b"X")
                with contextlib.suppress(TimeoutError):
                    assert client.socket.recv(1) == b""
                    break


@pytest.mark.parametrize(
    "head", [POST + b"Content-Length: 9\r\n\r\n{", POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"]
)
def test_a_client_that_never_sends_its_body_is_cut_off(head: bytes) -> None:
    with Receiver(lambda events: True, port=0, limits=Limits(body_s=0.3)) as receiver, Client(receiver) as client:
        client.send(head)
        assert client.status() == 408
        assert client.closed()
        assert still_serves(receiver)


def test_a_client_that_goes_away_in_its_body_harms_nothing(receiver: Receiver) -> None:
    for _ in range(20):
        with Client(receiver) as client:
            client.send(POST + b"Content-Length: 900\r\n\r\n{")
    assert still_serves(receiver)
    assert receiver.accepted == 1


def test_slow_clients_hold_up_nobody(receiver: Receiver) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(Client(receiver)).send(POST + b"Content-Length: 9\r\n\r\n{")
        assert still_serves(receiver)


def test_a_connection_too_many_is_turned_away() -> None:
    with Receiver(lambda events: True, port=0, limits=Limits(connections=1)) as receiver:
        with Client(receiver) as first:
            first.send(EMPTY)
            assert first.status() == 200
            with Client(receiver) as second:
                status, headers, _ = second.answer()
                assert (status, headers["retry-after"]) == (503, "1")
        while not still_serves(receiver):  # until the server has seen the first one go
            pass


def test_bodies_under_way_are_bounded_in_sum() -> None:
    with Receiver(lambda events: True, port=0, limits=Limits(bodies=1000)) as receiver:
        with Client(receiver) as first, Client(receiver) as second:
            first.send(POST + b"Content-Length: 900\r\n\r\n" + b" " * 800)
            second.send(POST + b"Content-Length: 900\r\n\r\n" + b" " * 800)
            refused = first if first_readable(first, second) is first else second
            status, headers, _ = refused.answer()
            assert (status, headers["retry-after"]) == (503, "1")
        assert still_serves(receiver)


def first_readable(*clients: Client) -> Client:
    import select

    ready, _, _ = select.select([client.socket for client in clients], [], [], 30)
    return next(client for client in clients if client.socket in ready)


def test_nothing_is_printed_whatever_comes(capfd: pytest.CaptureFixture[str]) -> None:
    """The terminal belongs to the screen."""
    with Receiver(lambda events: bool(1 / 0), port=0) as receiver:
        for data in (b"\xff" * 100, EMPTY, POST + b"Content-Length: 900\r\n\r\n{"):
            with Client(receiver) as client:
                client.send(data)
                client.socket.shutdown(socket.SHUT_WR)
                client.answer()
    assert capfd.readouterr() == ("", "")


def test_many_trainers_at_once_are_all_served(receiver: Receiver) -> None:
    """More kept connections than the 64 places there once were."""
    if sys.platform != "linux":
        pytest.skip("counts on Linux's limits of open files")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(receiver)) for _ in range(400)]
        for _ in range(3):
            for client in clients:
                client.send(EMPTY)
            assert {client.status() for client in clients} == {200}
    assert (receiver.accepted, receiver.refused) == (1200, 0)
