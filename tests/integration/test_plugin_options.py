"""Options of plugins that their own tests leave out, through the command line where it is a command's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.errors import EXIT_USAGE

if TYPE_CHECKING:
    from pathlib import Path


def test_a_key_without_its_certificate_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("esper_sink_tui")
    assert main(["sanctum", "--listen", "127.0.0.1:0", "--tls-key", str(tmp_path / "key.pem")]) == EXIT_USAGE
    assert "--tls-cert and --tls-key go together" in capsys.readouterr().err


def test_records_are_read_from_the_folder_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("esper_sink_tui")
    (tmp_path / "elsewhere").mkdir()
    assert main(["verify", "TELE-111", "--records-dir", str(tmp_path / "elsewhere")]) == EXIT_USAGE
    assert str(tmp_path / "elsewhere") in capsys.readouterr().err


def test_spans_may_go_elsewhere_and_grpc_may_be_plain() -> None:
    pytest.importorskip("esper_sink_otlp")
    from esper_sink_otlp.config import OtlpConfig
    from esper_sink_otlp.settings import resolve

    table = OtlpConfig(endpoint="http://a:1", traces_endpoint="http://tempo:4318/v1/traces")
    assert resolve(table, {}, "traces").endpoint == "http://tempo:4318/v1/traces"
    assert resolve(table, {}, "metrics").endpoint == "http://a:1/v1/metrics"
    for insecure in (True, False):
        plain = OtlpConfig(protocol="grpc", endpoint="h:1", insecure=insecure)
        assert resolve(plain, {"OTEL_EXPORTER_OTLP_INSECURE": "true"}, "traces").secure is not insecure
