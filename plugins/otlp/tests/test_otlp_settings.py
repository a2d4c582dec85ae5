"""What is unset falls through to OTEL_*; what is wrong is said with its name."""

from __future__ import annotations

import re

import msgspec
import pytest

from esper_core.config.schema import EsperConfig, OtelConfig
from esper_core.errors import ConfigError, SinkError
from esper_core.events import PPOUpdatePayload
from esper_core.hooks import Secret
from esper_core.host.session import Session
from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.settings import metric_settings, queue_settings, resolve


@pytest.mark.parametrize(
    ("config", "env", "traces", "metrics"),
    [
        pytest.param({}, {}, "http://localhost:4318/v1/traces", "http://localhost:4318/v1/metrics", id="defaults"),
        pytest.param(
            {"endpoint": "https://c.example/otlp/"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://other:1"},
            "https://c.example/otlp/v1/traces",
            "https://c.example/otlp/v1/metrics",
            id="the table wins, paths are added to a base",
        ),
        pytest.param(
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://base:1", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:2/x"},
            "http://base:1/v1/traces",
            "http://m:2/x",
            id="a signal's variable is used as it is",
        ),
        pytest.param(
            {"endpoint": "http://a:1", "metrics_endpoint": "http://prom:9090/api/v1/otlp/v1/metrics"},
            {},
            "http://a:1/v1/traces",
            "http://prom:9090/api/v1/otlp/v1/metrics",
            id="metrics may go elsewhere",
        ),
        pytest.param({"protocol": "grpc"}, {}, "localhost:4317", "localhost:4317", id="gRPC has a port and no path"),
        pytest.param(
            {"protocol": "grpc", "endpoint": "https://c.example:443"}, {}, "c.example:443", "c.example:443", id="grpcs"
        ),
    ],
)
def test_endpoints(config: dict[str, str], env: dict[str, str], traces: str, metrics: str) -> None:
    table = msgspec.convert(config, OtlpConfig)
    assert resolve(table, env, "traces").endpoint == traces
    assert resolve(table, env, "metrics").endpoint == metrics


def test_protocol_of_one_signal_from_the_environment() -> None:
    env = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    assert resolve(OtlpConfig(), env, "traces").protocol == "grpc"
    assert resolve(OtlpConfig(), env, "metrics").protocol == "http/protobuf"


@pytest.mark.parametrize(
    ("endpoint", "env", "secure"),
    [
        ("http://h:1", {}, False),
        ("https://h:1", {"OTEL_EXPORTER_OTLP_INSECURE": "true"}, True),
        ("h:1", {}, True),
        ("h:1", {"OTEL_EXPORTER_OTLP_INSECURE": "true"}, False),
    ],
)
def test_grpc_security_by_scheme_then_variable(endpoint: str, env: dict[str, str], secure: bool) -> None:
    assert resolve(OtlpConfig(protocol="grpc", endpoint=endpoint), env, "traces").secure is secure


def test_headers_of_table_and_variable_join_and_never_show() -> None:
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "x-team=kl%20watch,authorization=old"}
    found = resolve(OtlpConfig(headers={"Authorization": Secret("Bearer s3cret")}), env, "traces")
    assert dict(found.headers) == {"x-team": "kl watch", "authorization": "Bearer s3cret"}
    assert "s3cret" not in repr(found)


def test_logs_have_endpoints_headers_and_a_queue_of_their_own() -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://base:1",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "authorization=Bearer%20s3cret",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "3",
        "OTEL_BSP_MAX_QUEUE_SIZE": "9",
        "OTEL_BLRP_MAX_QUEUE_SIZE": "100",
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "7",
        "OTEL_BLRP_SCHEDULE_DELAY": "250",
    }
    found = resolve(OtlpConfig(), env, "logs")
    assert found.endpoint == "http://base:1/v1/logs"
    assert dict(found.headers) == {"authorization": "Bearer s3cret"}
    assert "s3cret" not in repr(found)
    assert found.timeout_s == 3.0
    assert dict(resolve(OtlpConfig(), env, "traces").headers) == {}
    own = {**env, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://loki:3100/otlp/v1/logs"}
    assert resolve(OtlpConfig(), own, "logs").endpoint == "http://loki:3100/otlp/v1/logs"
    assert resolve(OtlpConfig(logs_endpoint="http://l:2/x"), own, "logs").endpoint == "http://l:2/x"
    queue = queue_settings(OtlpConfig(), env, "logs")
    assert (queue.queue_size, queue.batch_size, queue.delay_s) == (100, 7, 0.25)


def test_numbers_fall_through_with_their_units() -> None:
    env = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        "OTEL_METRIC_EXPORT_INTERVAL": "2500",
        "OTEL_BSP_MAX_QUEUE_SIZE": "100",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "400",
        "OTEL_BSP_SCHEDULE_DELAY": "250",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "DELTA",
    }
    assert resolve(OtlpConfig(), env, "traces").timeout_s == 3.0
    spans = queue_settings(OtlpConfig(), env, "traces")
    assert (spans.queue_size, spans.batch_size, spans.delay_s) == (100, 100, 0.25)
    metrics = metric_settings(OtlpConfig(), env)
    assert (metrics.interval_s, metrics.temporality) == (2.5, "delta")
    assert metric_settings(OtlpConfig(temporality="cumulative", interval_s=1.0), env).temporality == "cumulative"


@pytest.mark.parametrize(
    ("config", "env", "words"),
    [
        ({}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "soon"}, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=soon: not a number"),
        ({"endpoint": "localhost:4318"}, {}, "not an http:// or https:// URL"),
        ({"protocol": "grpc", "compression": "deflate"}, {}, "deflate is not known to gRPC"),
        ({"client_key": "k.pem"}, {}, "mTLS needs both"),
        ({}, {"OTEL_EXPORTER_OTLP_HEADERS": "token"}, "OTEL_EXPORTER_OTLP_HEADERS: an entry is not key=value"),
        ({}, {"OTEL_EXPORTER_OTLP_HEADERS": "a=s3cret%0Ax"}, "OTEL_EXPORTER_OTLP_HEADERS: the value of a has"),
        ({}, {"OTEL_EXPORTER_OTLP_HEADERS": "a=s3cret%E2%82%AC"}, "the value of a has characters"),
        ({}, {"OTEL_EXPORTER_OTLP_HEADERS": "a b=s3cret"}, "a header has a name that http/protobuf cannot carry"),
        ({}, {"OTEL_EXPORTER_OTLP_HEADERS": "Bearer s3cret=="}, "OTEL_EXPORTER_OTLP_HEADERS: an entry is not key"),
        ({"protocol": "grpc"}, {"OTEL_EXPORTER_OTLP_HEADERS": "a=s3cret%C3%BC"}, "characters that grpc cannot carry"),
        ({"protocol": "grpc"}, {"OTEL_EXPORTER_OTLP_HEADERS": "grpc-x=s3cret"}, "a name that grpc cannot carry"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://ann:s3cret@h"}, "OTEL_EXPORTER_OTLP_ENDPOINT: 'ftp://***@h'"),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://:4318"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:99999"}, "OTEL_EXPORTER_OTLP_ENDPOINT: 'http://h:99999' is not"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1/a b"}, "OTEL_EXPORTER_OTLP_ENDPOINT: "),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "OTEL_EXPORTER_OTLP_ENDPOINT: "),
        ({"endpoint": "http://h:1?key=s3cret"}, {}, "sink.otlp.endpoint: a base URL has no query"),
        ({"traces_endpoint": "http://h:1/x#s3cret"}, {}, "sink.otlp.traces_endpoint: an endpoint has no fragment"),
        ({"protocol": "grpc", "endpoint": "http://ann:s3cret@h:1"}, {}, "gRPC has no user and password"),
        (
            {"protocol": "grpc", "endpoint": "ftp://h:1"},
            {},
            "sink.otlp.endpoint: 'ftp://h:1' is not host:port or a URL",
        ),
        ({}, {"OTEL_EXPORTER_OTLP_TIMEOUT": "nan"}, "OTEL_EXPORTER_OTLP_TIMEOUT=nan: expected float > 0.0"),
        ({}, {"OTEL_EXPORTER_OTLP_TIMEOUT": "inf"}, "OTEL_EXPORTER_OTLP_TIMEOUT=inf: expected float <= "),
        ({}, {"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}, "OTEL_EXPORTER_OTLP_TIMEOUT=0: expected float > 0.0"),
        ({}, {"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "OTEL_EXPORTER_OTLP_COMPRESSION=zstd"),
    ],
)
def test_errors_name_the_key_or_variable(config: dict[str, str], env: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        resolve(msgspec.convert(config, OtlpConfig), env, "traces")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "expected int >= 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "expected int >= 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1.5", "expected int"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0", "expected int >= 1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", "(delay_s = -0.001): expected float > 0.0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "(interval_s = 0): expected float >= 0.1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1", "(interval_s = 0.001): expected float >= 0.1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-5", "(interval_s = -0.005): expected float >= 0.1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "nan", "expected float >= 0.1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "9" * 400, "OTEL_METRIC_EXPORT_INTERVAL"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "soon", "not a number"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "deltas", 'did you mean "delta"?'),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "buckets", "does not know it"),
    ],
)
def test_variables_are_held_to_the_bounds_of_the_table(name: str, value: str, words: str) -> None:
    """``0`` was a loop of 170 requests a second once, and a queue of 0 lost every span."""
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        (queue_settings(OtlpConfig(), {name: value}, "traces"), metric_settings(OtlpConfig(), {name: value}))
    assert name in str(caught.value)
    assert caught.value.exit_code == 64


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://ann:s3cret@:4318", "'http://***@:4318' is not"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=s3cret%0Ax", "the value of a has"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "nan", "expected float > 0.0"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json", "http/protobuf, grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "zstd", "none, gzip, deflate"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "0", "expected int >= 1"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "-1", "expected int >= 1"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "0", "(delay_s = 0): expected float > 0.0"),
        ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "many", "a whole number, 0 or more"),
    ],
)
def test_variables_of_logs_are_refused_by_a_run_with_log_events_and_no_other(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """They may be meant for another program in the same environment."""
    monkeypatch.setenv(name, value)
    with Session(
        EsperConfig(sinks=("otlp",), sink={"otlp": {"close_timeout_s": 0.01}}), install_signal_handlers=False
    ) as session:
        session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=1, kl_by_epoch=(0.01,)))
    wanting = EsperConfig(sinks=("otlp",), sink={"otlp": {"close_timeout_s": 0.01}}, otel=OtelConfig(events="both"))
    with pytest.raises(ConfigError) as caught, Session(wanting, install_signal_handlers=False):
        pass
    assert caught.value.exit_code == 64
    assert name in str(caught.value)
    assert words in f"{caught.value} {caught.value.hint}"
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


def test_logs_alone_are_refused_where_there_are_no_log_events() -> None:
    config = EsperConfig(sinks=("otlp",), sink={"otlp": {"signals": ["logs"]}})
    with (
        pytest.raises(SinkError, match=r'"logs"\] sends nothing with \[otel\] events = "span": set otel.events'),
        Session(config, origins={"sinks": "--sinks"}, install_signal_handlers=False),
    ):
        pass


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("key", ["timeout_s", "interval_s", "delay_s", "close_timeout_s", "replay_window_s"])
def test_seconds_of_the_table_are_seconds(key: str, value: float) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({key: value}, OtlpConfig)


def test_the_readme_lists_every_option() -> None:
    from pathlib import Path

    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for item in msgspec.structs.fields(OtlpConfig):
        assert f"`{item.name}`" in readme
