"""Tokens and certificates change without a restart and without a loss; what a refused token costs is counted."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.collector

KEPT = """
exporters:
  file: {path: "%s", flush_interval: 100ms, append: true}
  nop:
service:
  pipelines:
    traces: {exporters: [file]}
    metrics: {exporters: [nop]}
"""
CLIENTS = """
receivers:
  otlp:
    protocols:
      http: {tls: {client_ca_file: "%s"}}
      grpc: {tls: {client_ca_file: "%s"}}
"""


def replace(path: Path, *lines: str) -> None:
    """As a person's editor or a deployment does: a new file takes the old one's place."""
    new = path.with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in lines))
    new.rename(path)


class Mounted:
    """A secret as Kubernetes mounts it: a link to a file behind a link to a folder, which is exchanged as a whole."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._count = 0
        home.mkdir()
        self.path = home / "token"
        self.path.symlink_to("..data/token")

    def write(self, path: Path, *lines: str) -> None:
        """Exchange the folder, then remove the old one."""
        assert path == self.path
        data = self._home / "..data"
        old = data.resolve() if data.exists() else None
        self._count += 1
        folder = self._home / f"..{self._count}"
        folder.mkdir()
        (folder / "token").write_text("".join(f"{line}\n" for line in lines))
        (self._home / "..new").symlink_to(folder.name)
        (self._home / "..new").rename(data)
        if old is not None:
            (old / "token").unlink()
            old.rmdir()


@pytest.fixture(params=["replaced", "mounted"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[..., None]]:
    """The gateway's token file, and how it is changed."""
    if request.param == "replaced":
        return tmp_path / "tokens", replace
    mounted = Mounted(tmp_path / "secret")
    return mounted.path, mounted.write


def start_gateway(stage: Any, certificates: Any, helpers: Any, out: Path, *more: str, **env: str) -> Any:
    return stage.collector(
        *(helpers.CONFIG / "gateway.yaml", KEPT % out, *more),
        name="gateway",
        **{
            "ESPER_TLS_CERT": str(certificates.cert),
            "ESPER_TLS_KEY": str(certificates.key),
            "ESPER_TLS_RELOAD": "1s",
            "ESPER_BATCH_TIMEOUT": "100ms",
            "ESPER_SAMPLING_PERCENTAGE": "100",
            "ESPER_DECISION_WAIT_AFTER_ROOT": "200ms",
            **env,
        },
    )


def answer_to(gateway: Any, certificates: Any, token: str) -> int:
    """The status that a request with a token gets."""
    request = urllib.request.Request(
        f"https://localhost:{gateway.http}/v1/traces",
        b"{}",
        {"content-type": "application/json", "authorization": f"Bearer {token}"},
    )
    context = ssl.create_default_context(cafile=str(certificates.ca))
    try:
        with urllib.request.urlopen(request, timeout=250, context=context) as answer:
            status: int = answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return status


def ids(events: list[Any]) -> set[str]:
    return {span.span_id for event in events for span in event.trace.spans}


def ids_in(helpers: Any, path: Path) -> set[str]:
    return {span["spanId"] for span in helpers.spans_in(path)}


def test_a_token_changes_without_a_restart_and_without_a_loss(
    stage: Any, certificates: Any, helpers: Any, tmp_path: Path, write: tuple[Path, Callable[..., None]]
) -> None:
    """The way that docs/how-to/tls-and-tokens.md describes, while a run goes on."""
    (tokens, change), out = write, tmp_path / "out.jsonl"
    token = tmp_path / "token"
    change(tokens, "old")
    replace(token, "old")
    gateway = start_gateway(stage, certificates, helpers, out, ESPER_GATEWAY_TOKEN_FILE=str(tokens))
    agent = stage.agent(gateway, certificates, ESPER_TLS_RELOAD="1s", ESPER_GATEWAY_TOKEN_FILE=str(token))

    def says(token: str, status: int) -> None:
        helpers.wait_for(lambda: answer_to(gateway, certificates, token) == status, f"{status} for {token}")

    def trouble(number: int) -> None:
        if number == 10:
            says("new", 401)
            change(tokens, "old", "new")
            says("new", 200)
            replace(token, "new", "a second line, which an agent does not send")
        if number == 20:
            # Once the agent sends the new one: what it sent before the change may still travel.
            helpers.wait_for(lambda: agent.own_metric("otelcol_exporter_queue_size") == 0, "an empty queue")
            change(tokens, "new")
            says("old", 401)

    played = helpers.play(tmp_path / "runs", {"endpoint": agent.url}, 30, pause_s=0.02, between=trouble)
    helpers.wait_for(lambda: ids_in(helpers, out) >= ids(played.events()), "every span")
    assert agent.own_metric("otelcol_exporter_send_failed_spans") == 0


def test_what_a_refused_token_costs_behind_an_agent_is_counted_and_it_ends_with_the_right_one(
    stage: Any, certificates: Any, helpers: Any, tmp_path: Path
) -> None:
    """The trap: a Collector calls 401 permanent, and no setting of its exporter retries."""
    token, out = tmp_path / "token", tmp_path / "out.jsonl"
    replace(token, "wrong")
    gateway = start_gateway(stage, certificates, helpers, out, ESPER_GATEWAY_TOKEN="right")
    agent = stage.agent(gateway, certificates, ESPER_TLS_RELOAD="1s", ESPER_GATEWAY_TOKEN_FILE=str(token))
    lost = helpers.play(tmp_path / "runs", {"endpoint": agent.url}, 5)
    failed = "otelcol_exporter_send_failed_spans"
    helpers.wait_for(lambda: agent.own_metric(failed) == len(ids(lost.events())), "the count of what was dropped")
    replace(token, "right")

    probes: set[str] = set()

    def arrives() -> bool:
        probes.update(ids(helpers.play(tmp_path / "runs", {"endpoint": agent.url}, 1).events()))
        return bool(probes & ids_in(helpers, out))

    helpers.wait_for(arrives, "spans with the right token", every_s=0.5)
    assert not ids(lost.events()) & ids_in(helpers, out)
    helpers.esper(*("replay", str(lost.path), "--to", "otlp", "--set", f"sink.otlp.endpoint={agent.url}"), cwd=tmp_path)
    helpers.wait_for(lambda: ids_in(helpers, out) >= ids(lost.events()), "the lost run, from its journal")


def test_a_sink_keeps_what_a_refused_token_holds_up(
    stage: Any, certificates: Any, helpers: Any, tmp_path: Path
) -> None:
    tokens, out = tmp_path / "tokens", tmp_path / "out.jsonl"
    replace(tokens, "other")
    gateway = start_gateway(stage, certificates, helpers, out, ESPER_GATEWAY_TOKEN_FILE=str(tokens))

    def trouble(number: int) -> None:
        if number == 15:
            assert ids_in(helpers, out) == set()
            replace(tokens, "other", "mine")
            helpers.wait_for(lambda: ids_in(helpers, out), "spans of before")

    table = {
        "endpoint": f"https://localhost:{gateway.http}",
        "certificate": str(certificates.ca),
        "headers": {"authorization": "Bearer mine"},
    }
    played = helpers.play(tmp_path / "runs", table, 20, between=trouble)
    helpers.wait_for(lambda: ids_in(helpers, out) >= ids(played.events()), "every span")
    assert next(item for item in played.report.sinks if item.name == "otlp").lost == 0


def test_a_gateways_certificate_is_renewed_without_a_restart(
    stage: Any, certificates: Any, helpers: Any, tmp_path: Path
) -> None:
    mine = certificates.another(tmp_path / "server")
    renewed = certificates.another(tmp_path / "renewed")
    gateway = start_gateway(stage, mine, helpers, tmp_path / "out.jsonl", ESPER_GATEWAY_TOKEN="t")

    def shown(port: int) -> bytes:
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("localhost", port), timeout=250))

    first, second = (ssl.PEM_cert_to_DER_cert(item.cert.read_text()) for item in (mine, renewed))
    assert shown(gateway.http) == shown(gateway.grpc) == first
    renewed.key.replace(mine.key)
    renewed.cert.replace(mine.cert)
    helpers.wait_for(lambda: shown(gateway.http) == shown(gateway.grpc) == second, "the renewed certificate")


def test_a_refused_client_certificate_drops_nothing_and_a_renewed_one_counts_without_a_restart(
    stage: Any, certificates: Any, helpers: Any, tmp_path: Path
) -> None:
    """mTLS beside a token: a refusal ends the connection, which a Collector retries, other than a 401."""
    out = tmp_path / "out.jsonl"
    foreign, right = helpers.new_authority(tmp_path / "foreign"), certificates.another(tmp_path / "right")
    gateway = start_gateway(
        *(stage, certificates, helpers, out, CLIENTS % (certificates.ca, certificates.ca)), ESPER_GATEWAY_TOKEN="t"
    )
    agent = stage.agent(
        gateway,
        certificates,
        ESPER_TLS_RELOAD="1s",
        ESPER_GATEWAY_TOKEN="t",
        ESPER_AGENT_CERT=str(foreign.cert),
        ESPER_AGENT_KEY=str(foreign.key),
    )
    played = helpers.play(tmp_path / "runs", {"endpoint": agent.url}, 5)
    helpers.wait_for(lambda: agent.own_metric("otelcol_exporter_queue_size") > 0, "a queue that waits")
    assert next(item for item in played.report.sinks if item.name == "otlp").lost == 0
    assert ids_in(helpers, out) == set()
    right.key.replace(foreign.key)
    right.cert.replace(foreign.cert)
    helpers.wait_for(lambda: ids_in(helpers, out) >= ids(played.events()), "every span, with the renewed certificate")
    assert agent.own_metric("otelcol_exporter_send_failed_spans") == 0
