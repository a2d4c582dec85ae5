"""A secret in an endpoint, a query, a header or a proxy stands in nothing that the sink or the host writes."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.hooks import Secret, redact
from esper_core.masking import learn_setting
from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.sender import Sender
from esper_sink_otlp.settings import resolve

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-7c3e/+x"
QUOTED = "canary-7c3e%2F%2Bx"
BASIC = base64.b64encode(f"ann:{CANARY}".encode()).decode()
FORMS = (CANARY, QUOTED, BASIC, "canary-7c3e")


def leaks(text: str) -> list[str]:
    return [form for form in FORMS if form in text]


def esper(*words: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, "-m", "esper_core", *words],
        capture_output=True,
        text=True,
        env={**clean, "NO_COLOR": "1", "ESPER_RUN__DIR": str(cwd / "runs"), **env},
        cwd=cwd,
        timeout=250,
        check=False,
    )


def places(url: str) -> dict[str, dict[str, str]]:
    """Every door by which a secret comes in, as environment variables."""
    host = url.removeprefix("http://")
    return {
        "password": {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://ann:{QUOTED}@{host}"},
        "password in the table": {"ESPER_SINK__OTLP__ENDPOINT": f"http://ann:{QUOTED}@{host}"},
        "query": {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{url}/v1/traces?key={QUOTED}",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{url}/v1/metrics?key={QUOTED}",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{url}/v1/logs?key={QUOTED}",
        },
        "query in the table": {
            "ESPER_SINK__OTLP__TRACES_ENDPOINT": f"{url}/v1/traces?key={QUOTED}",
            "ESPER_SINK__OTLP__METRICS_ENDPOINT": f"{url}/v1/metrics?key={QUOTED}",
            "ESPER_SINK__OTLP__LOGS_ENDPOINT": f"{url}/v1/logs?key={QUOTED}",
        },
        "header": {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{QUOTED}",
        },
        "header of logs": {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS": f"authorization=Bearer%20{QUOTED}",
        },
        "proxy": {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.invalid:4318",
            "http_proxy": f"http://ann:{QUOTED}@{host}",
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize("place", places(""))
def test_no_command_and_no_file_holds_it(receiver: Any, tmp_path: Path, place: str) -> None:
    """A receiver that quotes the secret back is the worst case: errors quote the receiver."""
    sent = BASIC if place in {"proxy", "password", "password in the table"} else f"?key={QUOTED} Bearer {CANARY}"
    receiver.answer, receiver.echo = 404, f"no such path, with {sent}"
    env = places(receiver.url)[place] | {"ESPER_OTEL__EVENTS": "both"}
    where = ("--no-config", "--env", "CartPole-v1", "--updates", "2", "--sinks", "console,journal,otlp")
    done = [
        esper("ppo", *where, env=env, cwd=tmp_path),
        esper("sinks", "check", "--sinks", "otlp", env=env, cwd=tmp_path),
        esper("config", "show", env=env, cwd=tmp_path),
    ]
    assert [item.returncode for item in done[:2]] == [0, 1], done[0].stderr
    assert "404" in done[1].stdout
    for item in done:
        assert not leaks(item.stdout + item.stderr), item.args
    assert {path.partition("?")[0].rpartition("/")[2] for path, _ in receiver.requests} == {"traces", "metrics", "logs"}
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"trainer.log", "run.json", "summary.json", "config.toml"} <= {path.name for path in files}
    for path in files:
        assert not leaks(path.read_bytes().decode(errors="replace")), path.name


FAULTS = ("refused", "hang", 400, 401, 403, 404, 407, 413, 429, 500, 503, 302, "partial")


@pytest.mark.parametrize("fault", FAULTS)
def test_no_error_of_any_fault_holds_it(receiver: Any, fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="opentelemetry")
    host = "127.0.0.1:9" if fault == "refused" else receiver.url.removeprefix("http://")
    receiver.echo = f"{BASIC} {CANARY} ?key={QUOTED}"
    receiver.headers = {"location": f"http://ann:{QUOTED}@{host}/?key={QUOTED}"}
    receiver.answer = fault if isinstance(fault, int) or fault == "hang" else 200
    receiver.reject = fault == "partial"
    config = OtlpConfig(
        traces_endpoint=f"http://ann:{QUOTED}@{host}/v1/traces?key={QUOTED}",
        headers={"x-token": Secret(CANARY)},
        timeout_s=0.3,
    )
    settings = resolve(config, {}, "traces")
    learn_setting(("endpoint",), settings.endpoint)
    sender = Sender(settings, redact)
    answer = sender.send([], 0.3)
    sender.close()
    assert not leaks(repr(answer))
    assert not leaks(repr(settings))
    assert not leaks(caplog.text)
    assert fault == "partial" or not answer.ok


def test_user_and_password_of_the_endpoint_are_sent(receiver: Any) -> None:
    host = receiver.url.removeprefix("http://")
    sender = Sender(resolve(OtlpConfig(endpoint=f"http://ann:{QUOTED}@{host}"), {}, "traces"), str)
    assert sender.send([], 60.0).ok
    sender.close()
    assert receiver.requests[0][1]["authorization"] == f"Basic {BASIC}"


def test_a_proxy_of_the_environment_is_used_with_its_password(receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host = receiver.url.removeprefix("http://")
    monkeypatch.setenv("http_proxy", f"http://ann:{QUOTED}@{host}")
    sender = Sender(resolve(OtlpConfig(endpoint="http://collector.invalid:4318"), {}, "traces"), str)
    assert sender.send([], 60.0).ok
    sender.close()
    path, headers = receiver.requests[0]
    assert path == "http://collector.invalid:4318/v1/traces"
    assert headers["proxy-authorization"] == f"Basic {BASIC}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://ann:pw@h:1/p", "at http://***@h:1/p"),
        ("at http://token@h", "at http://***@h"),
        ("http://h/p?key=v&x=y)", "http://h/p?***"),
        ("'https://h/p?key=v' failed", "'https://h/p?***' failed"),
        ("mail a@b.example, why? because", "mail a@b.example, why? because"),
    ],
)
def test_urls_are_shown_without_what_may_be_secret(text: str, shown: str) -> None:
    assert redact(text) == shown
