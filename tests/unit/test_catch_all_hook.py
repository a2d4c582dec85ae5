"""``esper_event``: one hook for every kind that a sink declares."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from esper_core import hooks
from esper_core.config.schema import DeliveryConfig, EsperConfig, OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.errors import SinkError
from esper_core.events import EVENTS, EpisodeFinished, RunStarted
from esper_core.hooks import SinkContext, hookimpl
from esper_core.host.deliver.hub import ActiveSink, Hub
from esper_core.host.load.discovery import LoadedSink
from esper_core.host.load.inspection import inspect_sink
from esper_core.host.session import Session
from esper_core.testing import RecordingSink, SinkHarness, make_event, make_update, one_of_each

if TYPE_CHECKING:
    from pathlib import Path

EPISODE = EpisodeFinished(episode=1, episode_return=1.0, length=1)


class Everything(RecordingSink):
    pass


class Recorded(RecordingSink):
    event_kinds = "recorded"


class Ends(RecordingSink):
    event_kinds = frozenset({"run_started", "run_finished"})


class Mixed(RecordingSink):
    """Most kinds alike, one by its own hook."""

    event_kinds = frozenset(EVENTS) - {"ppo_updated"}

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[int] = []

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.updates.append(event.payload.update_id)


def hub_of(*sinks: Any, episodes: bool = False, **delivery: DeliveryConfig) -> Hub:
    active = [
        ActiveSink(
            loaded=LoadedSink(
                name=type(sink).__name__,
                spec="x",
                factory=type(sink),
                hooks=inspect_sink(type(sink), "sink").hooks,
                delivery="inline",
            ),
            instance=sink,
        )
        for sink in sinks
    ]
    hub = Hub(active, SinkContext(run_id="r", episodes=episodes), delivery)
    hub.open()
    return hub


def play(hub: Hub) -> None:
    for event in one_of_each():
        getattr(hub.hooks, EVENTS[event.kind].hook)(event=event)


def test_a_sink_receives_the_kinds_that_it_declares_and_no_others() -> None:
    every, ends, mixed = Everything(), Ends(), Mixed()
    play(hub_of(every, ends, mixed))
    assert every.kinds == list(EVENTS)
    assert ends.kinds == ["run_started", "run_finished"]
    assert mixed.kinds == [kind for kind in EVENTS if kind != "ppo_updated"]
    assert mixed.updates == [1]


@pytest.mark.parametrize("episodes", [False, True])
def test_recorded_leaves_out_what_the_run_does_not_ask_for(*, episodes: bool) -> None:
    sink = Recorded()
    hub = hub_of(sink, episodes=episodes)
    play(hub)
    assert ("episode_finished" in sink.kinds) is episodes
    assert hub.heard == set(sink.kinds)


def test_an_event_that_no_sink_receives_is_not_built() -> None:
    hub = hub_of(Ends())
    emitter = TelemetryEmitter(hub.hooks, heard=hub.heard)
    assert emitter.emit_episode_finished(EPISODE) is None
    assert emitter.emit_run_started(RunStarted(environment="x")) is not None
    assert TelemetryEmitter(hub.hooks).emit_episode_finished(EPISODE) is not None


@pytest.mark.parametrize("episodes", [False, True])
def test_a_session_with_the_journal_builds_episodes_on_request_alone(tmp_path: Path, *, episodes: bool) -> None:
    pytest.importorskip("esper_sink_journal")
    from esper_core.runs import create_run

    config = EsperConfig(sinks=("journal",), otel=OtelConfig(episodes=episodes))
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False) as session:
        assert (session.emitter.emit_episode_finished(EPISODE) is not None) is episodes
        assert session.emitter.emit_run_started(RunStarted(environment="x")) is not None


def test_a_full_queue_gives_up_lesser_kinds_first() -> None:
    with SinkHarness(Held, queue_size=3) as harness:
        harness.sink.hold(harness)
        harness.send(RunStarted(environment="x"), EPISODE, EPISODE, make_update(2), make_update(3))
        harness.sink.go.set()
        assert harness.drain()
    assert harness.sink.kinds == ["ppo_updated", "run_started", "ppo_updated", "ppo_updated"]
    assert harness.report.lost == 2


def test_latest_keeps_the_newest_of_each_kind() -> None:
    with SinkHarness(Held, delivery="latest") as harness:
        harness.sink.hold(harness)
        harness.send(RunStarted(environment="x"), make_update(2), EPISODE, make_update(3))
        harness.sink.go.set()
        assert harness.drain()
    assert sorted(harness.sink.kinds[1:]) == ["episode_finished", "ppo_updated", "run_started"]
    assert [event.payload.update_id for event in harness.sink.events if event.kind == "ppo_updated"] == [1, 3]


class Held(RecordingSink):
    """A sink that blocks in its first event until the test releases it."""

    def __init__(self, config: object = None) -> None:
        import threading

        super().__init__(config)
        self.busy, self.go = threading.Event(), threading.Event()

    def hold(self, harness: SinkHarness) -> None:
        harness.send(make_event(make_update(1)))
        assert self.busy.wait(250)

    @hookimpl
    def esper_event(self, event: Any) -> None:
        self.events.append(event)
        self.busy.set()
        assert self.go.wait(250)


# --- at load ------------------------------------------------------------------------------------

ALIKE = "    @hookimpl\n    def esper_event(self, event): pass\n"
UPDATES = "    @hookimpl\n    def esper_ppo_updated(self, event): pass\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (ALIKE, "esper_event needs event_kinds"),
        (f"    event_kinds = 'all'\n{ALIKE}{UPDATES}", "receives ppo_updated twice"),
        (f"    event_kinds = {{'ppo_updated'}}\n{ALIKE}{UPDATES}", "through esper_event and through esper_ppo_updated"),
        (f"    event_kinds = 'al'\n{ALIKE}", 'did you mean "all"?'),
        (f"    event_kinds = {{'ppo_update'}}\n{ALIKE}", 'did you mean "ppo_updated"?'),
        (f"    event_kinds = ()\n{ALIKE}", "is no collection of kinds"),
        (f"    event_kinds = 7\n{ALIKE}", "is no collection of kinds"),
        (f"    event_kinds = 'all'\n{UPDATES}", "declares event_kinds but implements no esper_event"),
        ("    event_kinds = 'all'\n    def esper_event(self, event): pass\n", "method esper_event lacks @hookimpl"),
    ],
)
def test_what_would_be_heard_twice_or_never_is_refused_with_words(body: str, words: str) -> None:
    scope: dict[str, Any] = {"hookimpl": hookimpl}
    exec(f"class Sink:\n{body}", scope)  # the class as an author writes it
    with pytest.raises(SinkError) as caught:
        inspect_sink(scope["Sink"], 'sink "x"')
    assert words in caught.value.message
    assert caught.value.hint


def test_the_whole_sink_in_the_docstring_of_hooks_works(tmp_path: Path) -> None:
    text = inspect.cleandoc(hooks.__doc__ or "")
    _, _, rest = text.partition("::\n\n")
    code = textwrap.dedent(rest.partition("\nIt may declare")[0])
    file = tmp_path / "lines.py"
    file.write_text(f"from esper_core.hooks import hookimpl\n\n\n{code}")
    with SinkHarness(f"{file}:LinesSink", run_dir=tmp_path) as harness:
        harness.send(*one_of_each())
        assert harness.drain()
    lines = (tmp_path / "events.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines] == [kind for kind in EVENTS if kind != "episode_finished"]
    assert harness.report.lost == harness.report.failures == 0
