"""Fixtures of the tests with the real otelcol, prometheus and jaeger: see ``tests/shared/collector_stage.py``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from certificate_files import Certificates, new_authority
from collector_stage import CONFIG, Stage
from exported_files import events_in, records_in, spans_in
from loaded_file import load_file
from played_runs import esper, play
from real_programs import Program, free_ports, get_json, require, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Starts real programs; ends them with the test."""
    found = Stage(tmp_path / "stage")
    yield found
    found.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once, with the openssl command."""
    return new_authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def module_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """As ``stage``, for a story that several tests look at."""
    found = Stage(tmp_path_factory.mktemp("stage"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def helpers() -> Any:
    """What tests of the Collector call, by name: see the files of ``tests/shared``."""
    return SimpleNamespace(
        CONFIG=CONFIG,
        Program=Program,
        esper=esper,
        events_in=events_in,
        free_ports=free_ports,
        get_json=get_json,
        new_authority=new_authority,
        play=play,
        records_in=records_in,
        require=require,
        spans_in=spans_in,
        wait_for=wait_for,
    )


@pytest.fixture(scope="session")
def alerting() -> Any:
    """Prometheus and Alertmanager together, and a webhook: see ``_alerting.py`` beside this file."""
    return load_file(Path(__file__).with_name("_alerting.py"), "esper_collector_alerting")


@pytest.fixture
def webhook(alerting: Any) -> Iterator[Any]:
    """Somebody who is told of alerts."""
    found = alerting.Webhook()
    yield found
    found.close()
