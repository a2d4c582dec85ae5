"""The sink: what it writes, when it refuses, and that a disk's trouble costs counted events and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest
from present import payloads_of
from small_disk import small_disk_at

from esper_core.config.schema import EsperConfig, OtelConfig
from esper_core.errors import ConfigError, SinkError
from esper_core.events import EpisodeFinished, PPOUpdatePayload, RunStarted, SinkStatusChanged
from esper_core.health import HealthLevel, RunState, classify_kl
from esper_core.hooks import CloseReason, SinkContext
from esper_core.host.session import Session
from esper_core.reading import open_run
from esper_core.runs import JournalReader, RunDir, create_run
from esper_sink_journal import JournalConfig, JournalSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper_core.reading.account import SinkAccount


def session_in(base: Path, **tables: dict[str, object]) -> Session:
    config = EsperConfig(sinks=("journal",), sink=dict(tables))
    return Session(config, run=create_run(base), install_signal_handlers=False, on_notice=lambda _: None)


def emit(session: Session, number: int, kl: float = 0.001) -> None:
    session.emitter.begin_update(number)
    session.emitter.emit_ppo_update(
        PPOUpdatePayload(update_id=number, kl_divergence=kl, health=classify_kl(kl), reason="x" * 200)
    )
    session.progress(updates=number, env_steps=number)


def journal(session: Session) -> SinkAccount:
    return next(item for item in session.statuses() if item.name == "journal")


def kinds(run: RunDir) -> list[str]:
    return [event.kind for event in open_run(run.path).events()]


def updates(run: RunDir) -> list[int]:
    return [event.payload.update_id for event in open_run(run.path).updates()]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    with small_disk_at(tmp_path / "small", 128) as place:
        yield place


def test_the_entry_point_names_the_sink() -> None:
    (point,) = entry_points(group="esper.sinks", name="journal")
    assert point.load() is JournalSink


def test_a_run_leaves_every_event_in_order(tmp_path: Path) -> None:
    with session_in(tmp_path) as session:
        session.emitter.emit_run_started(RunStarted(environment="none"))
        emit(session, 1)
        emit(session, 2, kl=0.05)
        session.emitter.emit_episode_finished(EpisodeFinished(episode=1, episode_return=1.0, length=5))
    assert session.run is not None
    assert kinds(session.run) == [
        "run_started",
        "ppo_updated",
        "ppo_updated",
        "policy_health_changed",
        "run_finished",
    ]
    run = open_run(session.run.path)
    assert run.state is RunState.DONE
    assert [update.payload.health for update in run.updates()] == [HealthLevel.HEALTHY, HealthLevel.CRITICAL]
    assert session.report.lost_total == 0


def test_episodes_are_written_on_request(tmp_path: Path) -> None:
    config = EsperConfig(sinks=("journal",), otel=OtelConfig(episodes=True))
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False) as session:
        session.emitter.emit_episode_finished(EpisodeFinished(episode=1, episode_return=1.0, length=5))
    assert session.run is not None
    assert kinds(session.run) == ["episode_finished"]


def test_the_segment_size_is_an_option(tmp_path: Path) -> None:
    with session_in(tmp_path, journal={"segment_mib": 1}) as session:
        for number in range(1, 4):
            session.emitter.begin_update(number)
            session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=number, reason="x" * 600_000))
    assert session.run is not None
    assert len(list(session.run.telemetry.iterdir())) == 3
    assert updates(session.run) == [1, 2, 3]


@pytest.mark.parametrize(("key", "value"), [("segment_mib", 0), ("segment_mb", 64)])
def test_a_wrong_option_is_one_error_before_the_run(tmp_path: Path, key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=key):
        session_in(tmp_path, journal={key: value})


def test_a_replay_and_a_run_without_a_directory_are_refused(tmp_path: Path) -> None:
    context = SinkContext(run_id="r", run_dir=tmp_path, mode="replay")
    with pytest.raises(SinkError, match="cannot be replayed into"):
        JournalSink().esper_sink_opened(context)
    with pytest.raises(SinkError, match="needs a run directory"):
        JournalSink(JournalConfig()).esper_sink_opened(replace(context, mode="live", run_dir=None))


def test_a_check_without_a_directory_writes_nothing() -> None:
    sink = JournalSink()
    sink.esper_sink_opened(SinkContext(run_id="r", mode="check"))
    sink.esper_sink_closed(CloseReason.DONE)


def test_a_full_disk_costs_counted_events_and_the_run_goes_on(small_disk: Path) -> None:
    with session_in(small_disk) as session:
        assert session.run is not None
        number = 0
        while not journal(session).lost:
            number += 1
            emit(session, number)
        assert journal(session).state == "failing"
        assert "No space left" in journal(session).message
        for _ in range(20):
            number += 1
            emit(session, number)
        subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
        deadline = time.monotonic() + 250
        while journal(session).state != "recovered" and time.monotonic() < deadline:
            time.sleep(0.05)
            number += 1
            emit(session, number)
        assert journal(session).state == "recovered"
        recovered = number + 1
        emit(session, recovered)
    report = next(item for item in session.report.sinks if item.name == "journal")
    kept = updates(session.run)
    assert kept[-1] == recovered
    assert len(kept) < recovered
    assert report.lost >= recovered - len(kept)
    reader = JournalReader(session.run)
    events = list(reader.stream())
    assert report.delivered + report.lost >= len(events)
    assert reader.corrupt <= report.failures
    assert any(event.kind == "sink_status_changed" for event in events)
    record = open_run(session.run.path).record
    assert record is not None
    assert record.state is RunState.DONE
    assert next(item.lost for item in record.sinks if item.name == "journal") == report.lost
    assert [item.keeps_record for item in record.sinks if item.name == "journal"] == [True]


def test_a_directory_that_vanishes_costs_counted_events(tmp_path: Path) -> None:
    with session_in(tmp_path) as session:
        assert session.run is not None
        emit(session, 1)
        (first,) = session.run.telemetry.iterdir()
        session.run.telemetry.rename(tmp_path / "moved")
        session.run.telemetry.write_text("a file in its place")
        emit(session, 2)
        assert journal(session).state == "failing"
        assert journal(session).lost >= 2, "the update that was written, and the one that could not be"
        assert f"{first.name} was moved out of the run with 1 event" in journal(session).message
        session.run.telemetry.unlink()
        deadline = time.monotonic() + 250
        number = 2
        while journal(session).state != "recovered" and time.monotonic() < deadline:
            time.sleep(0.05)
            number += 1
            emit(session, number)
    assert updates(session.run)[-1] == number
    assert session.report.lost_total >= 2


def test_a_deleted_journal_is_said_once_counted_and_followed_by_another(tmp_path: Path) -> None:
    with session_in(tmp_path) as session:
        assert session.run is not None
        for number in (1, 2):
            emit(session, number)
        (first,) = session.run.telemetry.iterdir()
        first.unlink()
        emit(session, 3)
        assert journal(session).lost == 2
        emit(session, 4)
        assert (journal(session).state, journal(session).lost) == ("recovered", 2)
    assert updates(session.run) == [3, 4]
    events = open_run(session.run.path).events()
    said = payloads_of(SinkStatusChanged, (event for event in events if event.kind == "sink_status_changed"))
    assert [(item.state, item.message, item.lost) for item in said] == [
        ("failing", f"{first.name} was deleted with 2 events", 2),
        ("recovered", f"writes to 1-0-0002.otlp.jsonl; {first.name} was deleted with 2 events", 2),
    ]
    assert session.report.lost_total == 2


@pytest.mark.parametrize("which", ["telemetry", "path"])
def test_a_deleted_directory_is_counted_said_once_and_made_again(tmp_path: Path, which: str) -> None:
    said: list[str] = []
    config = EsperConfig(sinks=("journal",))
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False, on_notice=said.append) as session:
        assert session.run is not None
        emit(session, 1)
        shutil.rmtree(getattr(session.run, which))
        emit(session, 2)
        assert journal(session).lost == 1
        emit(session, 3)
        assert (journal(session).state, journal(session).lost) == ("recovered", 1)
    assert updates(session.run) == [2, 3]
    assert session.report.lost_total == 1
    assert said == ([f"{session.run.path} was deleted, and has been made again"] if which == "path" else [])
    record = open_run(session.run.path).record
    assert record is not None
    assert record.state is RunState.DONE
