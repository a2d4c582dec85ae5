"""Over HTTP: what is the SDK's own stays its own, and its gaps do not show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from esper_core.errors import SinkError
from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.sender import Sender
from esper_sink_otlp.settings import resolve

if TYPE_CHECKING:
    from pathlib import Path

PROVIDER = """
import requests

class Session(requests.Session):
    token = "old"

    def request(self, method, url, **kwargs):
        for _ in range(2):
            self.headers["authorization"] = self.token
            response = super().request(method, url, **kwargs)
            if response.status_code != 401:
                break
            self.token = "fresh"
        return response
"""
VARIABLE = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"


def sender(url: str, **table: Any) -> Sender:
    return Sender(resolve(OtlpConfig(endpoint=url, timeout_s=60.0, **table), {}, "traces"), str)


def test_a_credential_provider_renews_its_token(receiver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session sees the 401 and asks again, within one export."""
    (tmp_path / "a_provider.py").write_text(PROVIDER)
    info = tmp_path / "a_provider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-provider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[opentelemetry_otlp_credential_provider]\nours = a_provider:Session\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(VARIABLE, "ours")
    receiver.answer = 401
    made = sender(receiver.url)
    assert not made.send([], 60.0).ok
    assert [headers["authorization"] for _, headers in receiver.requests] == ["old", "fresh"]
    receiver.answer = 200
    assert made.send([], 60.0).ok
    made.close()


def test_a_provider_that_is_not_there_is_an_error_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nobody")
    with pytest.raises(SinkError, match="'nobody' is not installed") as caught:
        sender("http://127.0.0.1:9")
    assert VARIABLE in str(caught.value.hint)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408, 301, 307, 400, 401])
def test_one_request_for_each_export_whatever_the_answer(receiver: Any, status: int) -> None:
    """The exporters would try for as long as ``timeout_s`` again, and call a redirect a success."""
    receiver.answer = status
    receiver.headers = {"location": receiver.url, "retry-after": "0.1"}
    made = sender(receiver.url)
    answer = made.send([], 60.0)
    made.close()
    assert not answer.ok
    assert answer.code == f"HTTP {status}"
    assert answer.retry_after_s == 0.1
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(("value", "seconds"), [("3", 3.0), ("-3", 0.0), ("nan", None), ("inf", None), ("soon", None)])
def test_retry_after_is_a_number_or_nothing(receiver: Any, value: str, seconds: float | None) -> None:
    receiver.answer, receiver.headers = 503, {"retry-after": value}
    made = sender(receiver.url)
    assert made.send([], 60.0).retry_after_s == seconds
    made.close()


def test_a_certificate_that_cannot_be_read_is_an_error_before_training(tmp_path: Path) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    for protocol in ("http/protobuf", "grpc"):
        for path in (str(wrong), str(tmp_path / "nothing.pem")):
            table: dict[str, Any] = {"certificate": path, "protocol": protocol}
            with pytest.raises(SinkError, match="cannot use its certificate files"):
                sender("https://127.0.0.1:9", **table)


def test_the_endpoints_path_is_kept_and_the_environment_is_not_read_again(
    receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/elsewhere")
    made = sender(f"{receiver.url}/otlp")
    assert made.send([], 60.0).ok
    made.close()
    assert receiver.requests[0][0] == "/otlp/v1/traces"
