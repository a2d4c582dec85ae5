"""Who may send to the OTLP/HTTP listener and where it listens: tokens, TLS, addresses."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
from otlp_requests import JSON, post, request_of

pytest.importorskip("aiohttp", reason="pip install 'esper-sink-tui[listen]'")

from esper_core.errors import UsageError
from esper_sink_tui.addresses import is_loopback, parse_address
from esper_sink_tui.listen import Receiver

if TYPE_CHECKING:
    from pathlib import Path

    from sanctum_kit import Kit

    from esper_sink_tui.watch import Watch


def test_a_token_is_asked_for(kit: Kit, watch: Watch) -> None:
    body = request_of(kit.drift(1))
    with Receiver(lambda events: watch.receive(events, where="OTLP"), port=0, token="s3cret") as receiver:
        for given_header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            status, answer, headers = post(receiver, body, {**JSON, **given_header})
            assert status == 401
            assert headers["WWW-Authenticate"] == "Bearer"
            assert b"s3cret" not in answer
        for scheme in ("Bearer", "bearer"):
            assert post(receiver, body, {**JSON, "Authorization": f"{scheme} s3cret"})[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_beyond_loopback_it_needs_a_token_or_tls(host: str) -> None:
    with pytest.raises(UsageError, match="refusing to listen"):
        Receiver(lambda events: True, host=host, port=0)


def test_beyond_loopback_with_a_token_it_listens(kit: Kit) -> None:
    with Receiver(lambda events: True, host="0.0.0.0", port=0, token="t") as receiver:
        assert post(receiver, request_of(kit.drift(1)), {**JSON, "Authorization": "Bearer t"})[0] == 200


def test_tls(kit: Kit, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
    words += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    with Receiver(lambda events: True, port=0, tls=(cert, key)) as receiver:
        assert receiver.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("127.0.0.1", receiver.port, context=context, timeout=250)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/traces", body=request_of(kit.drift(1)), headers=JSON)
            assert connection.getresponse().status == 200
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=250) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")  # no TLS: cut off, and the next one is served
            with contextlib.suppress(ConnectionResetError):
                client.recv(10)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/traces", body=request_of(kit.drift(1)), headers=JSON)
            assert connection.getresponse().status == 200


def test_a_broken_certificate_is_one_error(tmp_path: Path) -> None:
    broken = tmp_path / "cert.pem"
    broken.write_text("no certificate")
    with pytest.raises(UsageError, match="cannot use"):
        Receiver(lambda events: True, port=0, tls=(broken, broken))


def test_a_taken_port_is_one_error(receiver: Receiver) -> None:
    with pytest.raises(UsageError, match="cannot listen on"):
        Receiver(lambda events: True, port=receiver.port)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4318", ("127.0.0.1", 4318)),
        ("127.0.0.1", ("127.0.0.1", 4318)),
        (":9000", ("127.0.0.1", 9000)),
        ("localhost:", ("localhost", 4318)),
        ("[::1]:9000", ("::1", 9000)),
        ("[::1]", ("::1", 4318)),
        ("::1", ("::1", 4318)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert is_loopback(address[0])


@pytest.mark.parametrize("text", ["127.0.0.1:port", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        parse_address(text)
