"""A variable of OpenTelemetry that cannot work ends the command before training, with its name."""

from __future__ import annotations

import contextlib
import os
import re

import msgspec
import pytest

from esper_core.config.schema import EsperConfig
from esper_core.errors import ConfigError
from esper_core.host.otel.variables import TABLE as SDK_TABLE
from esper_core.host.otel.variables import check_variables
from esper_core.host.session import Session
from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.settings import resolve
from esper_sink_otlp.variables import TABLE, check_proxies


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-4", "a whole number, 0 or more"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "x", "a whole number, 0 or more"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "bogus", "trace_based"),
        ("OTEL_TRACES_SAMPLER", "nonsense", "parentbased_always_on"),
        ("OTEL_TRACES_SAMPLER", "always_of", 'did you mean "always_off"?'),
        ("OTEL_RESOURCE_ATTRIBUTES", "nonsense", "key=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,=c", "key=value"),
        ("OTEL_SDK_DISABLED", "1", "true or false"),
        ("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "yes", "true or false"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "nonsense", "opentelemetry_tracer_provider"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "otel,nonsense", "installed detectors"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "maybe", "true or false"),
        ("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "1", "true or false"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "abc", "milliseconds, more than 0"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "nan", "milliseconds, more than 0"),
        ("OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES", "UNAVAILABLE,BUSY", "gRPC's status codes"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "x", "opentelemetry_otlp_credential_provider"),
        ("http_proxy", "nonsense://x", "http://HOST:PORT"),
        ("HTTP_PROXY", "http://ann:s3cret@x:99999", "http://HOST:PORT"),
        ("ALL_PROXY", "http://", "http://HOST:PORT"),
    ],
)
def test_a_variable_that_cannot_work_is_an_error_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    for proxy in [item for item in os.environ if item.lower().endswith("_proxy")]:
        monkeypatch.delenv(proxy)
    monkeypatch.setenv(name, value)
    config = EsperConfig(sinks=("otlp",), sink={"otlp": {"close_timeout_s": 0.01}})
    with (
        pytest.raises(ConfigError, match=re.escape(words)) as caught,
        Session(config, install_signal_handlers=False),
    ):
        pass
    assert caught.value.exit_code == 64
    assert str(caught.value).startswith(f"{name}=")
    assert "unset it" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "usable"),
    [
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"}, False),
        ({"OTEL_TRACES_SAMPLER": "ParentBased_TraceIdRatio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, False),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"}, False),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, True),
        ({"OTEL_TRACES_SAMPLER": "", "OTEL_TRACES_SAMPLER_ARG": "7"}, True),
        ({"OTEL_TRACES_SAMPLER": "always_on", "OTEL_TRACES_SAMPLER_ARG": "endpoint=http://jaeger"}, True),
    ],
)
def test_a_samplers_argument_is_read_by_the_samplers_of_a_ratio_alone(env: dict[str, str], usable: bool) -> None:
    with contextlib.nullcontext() if usable else pytest.raises(ConfigError, match=r"^OTEL_TRACES_SAMPLER_ARG="):
        check_variables(env, "traces")


@pytest.mark.parametrize(
    ("env", "config", "usable"),
    [
        ({"https_proxy": "nonsense://x"}, {}, True),
        ({"https_proxy": "nonsense://x"}, {"endpoint": "https://collector:4318"}, False),
        ({"HTTP_PROXY": "proxy:3128"}, {}, True),
        ({"HTTP_PROXY": "nonsense://x", "NO_PROXY": "localhost"}, {}, True),
        ({"HTTP_PROXY": "nonsense://x"}, {"protocol": "grpc"}, True),
        ({"http_proxy": "https://proxy:3128"}, {"protocol": "grpc"}, False),
        ({"http_proxy": "http://proxy:3128"}, {"protocol": "grpc"}, True),
    ],
)
def test_only_the_proxy_that_an_endpoint_has_is_held_to_what_can_be_one(
    env: dict[str, str], config: dict[str, str], usable: bool
) -> None:
    """gRPC reads the variables in small letters alone, and knows no proxy over TLS."""
    settings = resolve(msgspec.convert(config, OtlpConfig), {}, "traces")
    with (
        contextlib.nullcontext() if usable else pytest.raises(ConfigError, match="no proxy that the otlp sink can use")
    ):
        check_proxies(env, settings)


READ_BY_THE_SETTINGS = re.compile(
    r"OTEL_EXPORTER_OTLP_((TRACES|METRICS|LOGS)_)?(ENDPOINT|PROTOCOL|HEADERS|COMPRESSION|TIMEOUT|CERTIFICATE|CLIENT_KEY"
    r"|CLIENT_CERTIFICATE)|OTEL_(BSP|BLRP)_(SCHEDULE_DELAY|MAX_QUEUE_SIZE|MAX_EXPORT_BATCH_SIZE)"
    r"|OTEL_METRIC_EXPORT_INTERVAL|OTEL_EXPORTER_OTLP_METRICS_(TEMPORALITY_PREFERENCE|DEFAULT_HISTOGRAM_AGGREGATION)"
)
READ_ELSEWHERE = re.compile(
    r"OTEL_SERVICE_NAME|OTEL_EXPORTER_(PROMETHEUS|ZIPKIN)_.*"  # any text; the prometheus sink's own
    # What `opentelemetry-instrument` reads when it sets the SDK up, which Esper does itself:
    r"|OTEL_LOG_LEVEL|OTEL_CONFIG_FILE|OTEL_PYTHON_LOGGING_.*|OTEL_PYTHON_(TRACER|METER|LOGGER)_CONFIGURATOR"
    r"|OTEL_PYTHON_EXPORTER_OTLP_.*_CREDENTIAL_PROVIDER"
)


def test_every_variable_that_the_sdk_declares_is_held_to_bounds() -> None:
    from opentelemetry.sdk import environment_variables as declared

    names = {value for value in vars(declared).values() if isinstance(value, str) and value.startswith("OTEL_")}
    held = {*SDK_TABLE, *TABLE} | {name for name in names if READ_BY_THE_SETTINGS.fullmatch(name)}
    assert {name for name in names - held if not READ_ELSEWHERE.fullmatch(name)} == set()
