"""A clock that differs from the receiver's is told once, with the seconds and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from esper_core.cli.main import main
from esper_core.config.schema import EsperConfig
from esper_core.events import PPOUpdatePayload
from esper_core.host.session import Session
from esper_core.runs.creation import create_run
from esper_sink_otlp.clock import ahead_s, clock_words

if TYPE_CHECKING:
    from pathlib import Path

NOON = "Wed, 25 Nov 2026 12:00:00 GMT"
NOON_S = 1795608000.0


@pytest.mark.parametrize(
    ("began_s", "ended_s", "expected"),
    [
        pytest.param(0.0, 0.2, 0.0, id="equal"),
        pytest.param(0.9, 1.0, 0.0, id="within the second that a Date has"),
        pytest.param(1200.5, 1200.7, 1199.5, id="ahead"),
        pytest.param(-300.0, -299.5, -299.5, id="behind"),
        # The date may have been written at any moment of a slow exchange, a suspended machine's too.
        pytest.param(-30.0, 600.0, 0.0, id="slow"),
        pytest.param(100.0, 700.0, 99.0, id="slow and ahead"),
    ],
)
def test_the_least_difference_that_the_answer_leaves_possible(began_s: float, ended_s: float, expected: float) -> None:
    assert ahead_s(NOON, NOON_S + began_s, NOON_S + ended_s) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Wed, 99 Nov 2026 12:00:00 GMT", "0"])
def test_a_date_that_is_none_says_nothing(date: str | None) -> None:
    assert ahead_s(date, NOON_S, NOON_S) is None


def test_a_date_without_a_zone_is_utc() -> None:
    assert ahead_s(NOON.replace("GMT", "-0000"), NOON_S, NOON_S) == 0.0


def test_small_differences_are_no_trouble_and_large_ones_have_seconds_and_advice() -> None:
    assert [clock_words(ahead) for ahead in (None, 0.0, 59.0, -59.0)] == [""] * 4
    assert "100 s behind the receiver's" in clock_words(-100.0)
    assert "from 540 s ahead on its metrics are refused" in clock_words(100.0)
    assert "1200 s ahead of the receiver's: its metrics are refused. Set the clock" in clock_words(1200.0)


def run(base: Path, url: str) -> list[str]:
    """A run of some updates, each in a request of its own; the lines of its log."""
    table = {"otlp": {"endpoint": url, "delay_s": 0.01, "update_interval_s": 0.01, "batch_size": 1}}
    made = create_run(base)
    with Session(EsperConfig(sinks=("otlp",), sink=table), run=made, install_signal_handlers=False) as session:
        for number in range(1, 6):
            session.emitter.begin_rollout(number)
            session.emitter.begin_update(number)
            session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=number, kl_divergence=0.01, kl_joint=0.01))
    return (made.path / "trainer.log").read_text().splitlines()


@pytest.mark.parametrize("answer", [200, 503])
def test_the_sink_warns_once_a_run_whatever_the_answer(receiver: Any, tmp_path: Path, answer: int) -> None:
    receiver.clock_behind_s, receiver.answer = 1200.0, answer
    (line,) = [line for line in run(tmp_path, receiver.url) if "clock" in line]
    assert len(receiver.requests) > 1
    assert "WARNING" in line
    assert " s ahead of the receiver's" in line


def test_a_right_clock_is_not_spoken_of(receiver: Any, tmp_path: Path) -> None:
    assert not [line for line in run(tmp_path, receiver.url) if "clock" in line]
    assert receiver.requests


def test_the_check_tells_it_once_though_both_signals_arrived(
    receiver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    receiver.clock_behind_s = -600.0
    assert main(["sinks", "check", "--sinks", "otlp", "--set", f"sink.otlp.endpoint={receiver.url}"]) == 0
    assert capsys.readouterr().out.count(" s behind the receiver's") == 1
