"""Fixtures of Sanctum's tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from sanctum_kit import Kit

from esper_sink_tui.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from esper_sink_tui.listen import Receiver


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clock times in goldens are those of UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture
def read_through() -> Callable[[Watch], Watch]:
    """Tick a watch until nothing more is there."""

    def read(watch: Watch) -> Watch:
        while watch.tick():
            pass
        return watch

    return read


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def receiver(watch: Watch) -> Iterator[Receiver]:
    """A listener on a free port whose events go to the watch; only tests that have aiohttp ask for it."""
    from esper_sink_tui.listen import Receiver

    with Receiver(lambda events: watch.receive(events, where="OTLP"), reject=watch.reject, port=0) as receiver:
        yield receiver
