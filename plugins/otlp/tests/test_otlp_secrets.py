"""A secret in an endpoint, a query, a header or a proxy stands in nothing that the sink or the host writes."""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING, Any

import pytest

from esper_core import masking
from esper_core.cli.main import main
from esper_core.errors import EXIT_FAILED, EXIT_OK
from esper_core.hooks import Secret, redact
from esper_core.masking import learn_setting
from esper_core.runs.segments import read_segment
from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.sender import Sender
from esper_sink_otlp.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CANARY = "canary-7c3e/+x"
QUOTED = "canary-7c3e%2F%2Bx"
BASIC = base64.b64encode(f"ann:{CANARY}".encode()).decode()
FORMS = (CANARY, QUOTED, BASIC, "canary-7c3e")

TINY = ("--no-config", "--env", "CartPole-v1", "--set", "ppo.rollout_steps=16", "--set", "env.n_envs=2")


def leaks(text: str) -> list[str]:
    return [form for form in FORMS if form in text]


@pytest.fixture
def esper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run a command as a process does, which knows no secret at its start: its exit code, and all that it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(masking, "_known", frozenset())
        monkeypatch.setattr(masking, "_pattern", None)
        code = main(list(words))
        return code, "".join(capfd.readouterr())

    return run


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


@pytest.mark.parametrize("place", places(""))
def test_no_command_and_no_file_holds_it(
    receiver: Any,
    tmp_path: Path,
    esper: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """A receiver that quotes the secret back is the worst case: errors quote the receiver."""
    sent = BASIC if place in {"proxy", "password", "password in the table"} else f"?key={QUOTED} Bearer {CANARY}"
    receiver.answer, receiver.echo = 404, f"no such path, with {sent}"
    for name, value in {**places(receiver.url)[place], "ESPER_OTEL__EVENTS": "both"}.items():
        monkeypatch.setenv(name, value)
    trained, said = esper("ppo", *TINY, "--updates", "2", "--sinks", "console,journal,otlp")
    assert trained == EXIT_OK, said
    assert not leaks(said)
    checked, said = esper("sinks", "check", "--sinks", "otlp")
    assert checked == EXIT_FAILED
    assert "404" in said
    assert not leaks(said)
    assert not leaks(esper("config", "show")[1])
    assert {path.partition("?")[0].rpartition("/")[2] for path, _ in receiver.requests} == {"traces", "metrics", "logs"}
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"trainer.log", "run.json", "summary.json", "config.toml"} <= {path.name for path in files}
    for path in files:
        assert not leaks(read_segment(path).decode(errors="replace")), path.name


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
