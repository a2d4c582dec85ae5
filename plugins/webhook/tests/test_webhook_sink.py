"""What is told, in which shape, what a receiver's trouble costs, and that no word holds a secret."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pytest

from esper_core.errors import ConfigError, SinkError
from esper_core.events import PolicyHealthChanged, RunFinished, RunStarted
from esper_core.health import HealthLevel, RunState
from esper_core.hooks import Secret, SinkContext
from esper_core.testing import SinkContract, SinkHarness, make_event, make_update
from esper_sink_webhook import post
from esper_sink_webhook.config import WebhookConfig
from esper_sink_webhook.levels import LevelNews
from esper_sink_webhook.post import Target, url_fault
from esper_sink_webhook.shapes import rendered
from esper_sink_webhook.sink import WebhookSink
from esper_sink_webhook.watcher import crash_message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NO_WATCH: Final = ("started", "worsened", "recovered", "finished")


class TestContract(SinkContract):
    sink = WebhookSink
    bad_configs: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"url": 7},
        {"shape": "xml"},
        {"on": ["ended"]},
        {"least": "healthy"},
        {"retry_s": 0},
    )
    receiver: ClassVar[Any] = None

    @pytest.fixture(autouse=True)
    def _receiving(self, receiver: Any) -> None:
        type(self).receiver = receiver

    def table(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": self.receiver.url, "on": list(NO_WATCH)}


def harness(receiver: Any, **table: Any) -> SinkHarness:
    return SinkHarness(WebhookSink, {"url": receiver.url, "on": list(NO_WATCH), **table}, name="webhook")


def level(previous: HealthLevel, current: HealthLevel, update: int = 5) -> PolicyHealthChanged:
    return PolicyHealthChanged(
        previous=previous, current=current, update_id=update, kl_divergence=0.0412, kl_joint=0.09, head="slot"
    )


HEALTHY, WARNING, CRITICAL = HealthLevel.HEALTHY, HealthLevel.WARNING, HealthLevel.CRITICAL
FINISHED = RunFinished(state=RunState.DONE, reason="9 of 9 updates", updates=9, env_steps=900)


def test_a_run_is_told_from_its_start_to_its_end(receiver: Any) -> None:
    with harness(receiver, pause_s=0, token="T0KEN") as running:
        running.send(RunStarted(environment="toy", heads=("slot",), run_name="mine"), make_update(1))
        running.send(level(HEALTHY, CRITICAL), level(CRITICAL, HEALTHY, 9), FINISHED)
    told = [json.loads(item.body) for item in receiver.got]
    assert [item["event"] for item in told] == ["started", "worsened", "recovered", "finished"]
    assert running.report.lost == 0
    assert told[0]["text"] == "run test-run: started on toy, seed 0, heads slot"
    worsened = told[1]
    assert worsened["text"] == (
        "run test-run: policy level rose from healthy to critical at KL 0.0412, head slot (update 5)"
    )
    assert (worsened["level"], worsened["previous"], worsened["update_id"]) == ("critical", "healthy", 5)
    assert (worsened["kl_divergence"], worsened["head"], worsened["name"]) == (0.0412, "slot", "mine")
    assert told[3]["text"].startswith("run test-run: done: 9 of 9 updates, 900 steps")
    assert (told[3]["state"], told[3]["updates"]) == ("done", 9)
    times = [item["time"] for item in told]
    assert times == sorted(times)
    assert 1_795_000_000.0 <= times[0] <= times[-1] < 1_795_000_100.0, "unix seconds, of the harness's own clock"
    assert {item.headers["Authorization"] for item in receiver.got} == {"Bearer T0KEN"}
    assert {item.path for item in receiver.got} == {"/services/T0SECRET/B0SECRET?key=K0SECRET"}


def test_only_what_was_asked_for_is_told(receiver: Any) -> None:
    with harness(receiver, on=["finished"], least="critical") as running:
        running.send(RunStarted(environment="toy"), level(HEALTHY, CRITICAL), FINISHED)
    assert [json.loads(item.body)["event"] for item in receiver.got] == ["finished"]


def test_a_kl_that_is_no_number_is_null_in_json(receiver: Any) -> None:
    change = PolicyHealthChanged(previous=HEALTHY, current=HealthLevel.NON_FINITE, update_id=2, kl_divergence=math.nan)
    with harness(receiver) as running:
        running.send(change)
    (item,) = receiver.got
    assert json.loads(item.body)["kl_divergence"] is None
    assert "non-finite" in json.loads(item.body)["text"]


def test_slack_and_ntfy_have_their_own_shapes() -> None:
    message: dict[str, Any] = {"event": "worsened", "text": "run <a&b>: höher"}
    headers, body = rendered(message, "slack")
    assert json.loads(body) == {"text": "Esper worsened: run &lt;a&amp;b&gt;: höher"}
    assert headers["Content-Type"] == "application/json"
    headers, body = rendered(message, "ntfy")
    assert body.decode() == "run <a&b>: höher"
    assert (headers["Title"], headers["Priority"], headers["Tags"]) == ("Esper: worsened", "high", "warning")
    assert rendered({"event": "finished", "state": "failed", "text": ""}, "ntfy")[0]["Priority"] == "high"
    assert all(value.isascii() for value in headers.values())


# --- levels -------------------------------------------------------------------------------------


def test_a_level_that_wavers_is_told_once_and_its_calm_when_the_pause_is_over() -> None:
    now = [0.0]
    news = LevelNews(WARNING, 60.0, lambda: now[0])
    told: list[tuple[str, str]] = []

    def step(*change: HealthLevel) -> None:
        if change:
            previous, current = change
            news.changed(make_event(level(previous, current)))
        due = news.due()
        if due is not None:
            told.append((due.payload.previous.value, due.payload.current.value))

    step(HealthLevel.UNKNOWN, HEALTHY)
    step(HEALTHY, WARNING)
    for _ in range(5):
        step(WARNING, HEALTHY)
        step(HEALTHY, WARNING)
    assert told == [("healthy", "warning")]
    step(WARNING, CRITICAL)
    assert told[1:] == [("warning", "critical")], "a worse level does not wait"
    step(CRITICAL, HEALTHY)
    assert len(told) == 2
    now[0] = 61.0
    step()
    assert told[2:] == [("critical", "healthy")]


def test_levels_below_the_least_are_healthy() -> None:
    news = LevelNews(CRITICAL, 0.0)
    news.changed(make_event(level(HEALTHY, WARNING)))
    assert news.due() is None
    news.changed(make_event(level(WARNING, CRITICAL)))
    assert news.due() is not None
    news.changed(make_event(level(CRITICAL, WARNING)))
    due = news.due()
    assert due is not None
    assert due.payload.previous is CRITICAL


# --- trouble ------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "_FIRST_WAIT_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_receiver_that_is_busy_is_tried_again(receiver: Any) -> None:
    receiver.answers += [503, 429, 500]
    receiver.retry_after = "0"
    with harness(receiver) as running:
        running.send(FINISHED)
        receiver.wait(4)
    assert len(receiver.got) == 4
    assert running.report.lost == 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_for_good_is_a_counted_loss_that_names_no_secret(receiver: Any, status: int) -> None:
    receiver.answers += [status]
    with harness(receiver) as running:
        running.send(FINISHED)
        receiver.wait(1)
        assert running.sink._outbox.settled(250)
        (change,) = [item for item in running.statuses() if item.state == "failing"]
    assert running.report.lost == 1
    assert change.message == f"a message was lost: http://127.0.0.1:{receiver.port} answered {status}"
    assert len(receiver.got) == 1, "a redirect is not followed"


@pytest.mark.usefixtures("quick")
def test_nobody_there_is_tried_until_the_limit_and_the_return_is_told(receiver: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = WebhookConfig(url=Secret(f"http://127.0.0.1:{port}/S0SECRET"), retry_s=0.05, on=NO_WATCH)
    with SinkHarness(WebhookSink(config), name="webhook") as running:
        running.send(FINISHED)
        running.drain()
        assert running.sink._outbox.settled(250)
        lost = [item.message for item in running.statuses()]
        running.sink._outbox._target = Target(url=receiver.url, token="", shape="json", timeout_s=250)
        running.send(FINISHED)
        receiver.wait(1)
        running.drain()
        assert running.sink._outbox.settled(250)
        back = [item.message for item in running.statuses()]
    assert lost == [f"a message was lost: http://127.0.0.1:{port}: Connection refused"]
    assert back == ["messages arrive again: HTTP 200"]


def test_a_receiver_that_hangs_at_the_end_holds_nothing_and_is_counted(receiver: Any) -> None:
    receiver.hold.clear()
    with harness(receiver, close_timeout_s=0.2) as running:
        running.send(RunStarted(environment="toy"), FINISHED)
    assert not running.report.cut_off
    assert running.report.lost == 2


def test_messages_that_wait_when_the_host_cuts_the_sink_off_are_counted(receiver: Any) -> None:
    receiver.hold.clear()
    running = SinkHarness(
        WebhookSink(WebhookConfig(url=Secret(receiver.url), on=NO_WATCH, close_timeout_s=250)),
        name="webhook",
        deadline_s=0.1,
    )
    with running:
        running.send(RunStarted(environment="toy"), FINISHED)
        running.drain()
    receiver.hold.set()
    assert running.report.cut_off
    assert running.report.lost == 2


def test_a_full_outbox_drops_the_oldest_and_counts_it(receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_sink_webhook.outbox.MOST", 2)
    receiver.hold.clear()
    with harness(receiver, pause_s=0) as running:
        running.send(FINISHED)
        running.drain()
        while not running.sink._outbox._busy:
            time.sleep(0.01)
        running.send(*(RunFinished(state=RunState.DONE, updates=n) for n in (1, 2, 3)))
        running.drain()
        receiver.hold.set()
        receiver.wait(3)
    assert [json.loads(item.body)["updates"] for item in receiver.got] == [9, 2, 3]
    assert running.report.lost == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is not set"),
        ("hooks.slack.com/x", "https"),
        ("ftp://host/x", "https"),
        ("https://u:pw@host/x", "token"),
        ("https://host/se cret", "characters"),
        ("https://host:port/x", "is no URL"),
        ("https://host:0/x", "port 0"),
        ("https://[::1/x", "is no URL"),
        ("https://host/x\nHost: y", "characters"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_repeated(url: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        WebhookSink(WebhookConfig(url=Secret(url)))
    assert words in str(caught.value)
    assert not url or url not in str(caught.value)
    assert url_fault("https://hooks.slack.com/services/T/B/X") == ""


def test_a_token_that_is_no_header_is_refused() -> None:
    with pytest.raises(ConfigError, match="token holds characters"):
        WebhookSink(WebhookConfig(url=Secret("https://host/x"), token=Secret("a\r\nb")))


def test_no_repr_shows_a_secret(receiver: Any) -> None:
    sink = WebhookSink(WebhookConfig(url=Secret(receiver.url), token=Secret("T0KEN")))
    shown = repr(sink._target) + repr(vars(sink)) + repr(sink._config)
    assert "SECRET" not in shown
    assert "T0KEN" not in shown


def test_a_replay_is_refused_and_other_ranks_are_silent(receiver: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(SinkError, match="what is past"),
        SinkHarness(WebhookSink, {"url": receiver.url}, mode="replay", run_dir=tmp_path),
    ):
        pass
    sink = WebhookSink(WebhookConfig(url=Secret(receiver.url)))
    sink.esper_sink_opened(SinkContext(run_id="x", rank=1))
    sink.esper_run_finished(make_event(FINISHED))
    sink.esper_sink_closed()
    assert sink.watcher_pid is None
    assert receiver.got == []


def test_the_check_sends_one_message_and_tells_the_answer(receiver: Any) -> None:
    receiver.answers += [200, 404, 503]
    for words in ("took the message: HTTP 200", "answered 404", "answered 503"):
        with SinkHarness(WebhookSink, {"url": receiver.url}, mode="check") as running:
            running.send(make_event(make_update(1), marked=True))
            running.drain()
            try:
                answer = running.sink.check_report()
            except SinkError as error:
                answer = str(error)
            assert words in answer
            assert "SECRET" not in answer
            assert running.sink.watcher_pid is None
        assert running.report.lost == 0, "the report says it, once"
    assert json.loads(receiver.got[0].body)["event"] == "check"
    assert len(receiver.got) == 3, "a check tries once"


# --- the watcher --------------------------------------------------------------------------------

_TRAINER = """
import os, sys, time
from pathlib import Path
from esper_core.events import RunFinished, RunStarted
from esper_core.health import RunState
from esper_core.testing import SinkHarness
from esper_sink_webhook.sink import WebhookSink
from esper_sink_webhook.watcher import crash_message

url, run_dir, how = sys.argv[1:]
table = {"url": url, "on": ["finished", "crashed"]}
running = SinkHarness(WebhookSink, table, run_dir=Path(run_dir), deadline_s=250)
with running:
    if how == "early":  # before its watcher's interpreter has started
        print(running.sink.watcher_pid, flush=True)
        os._exit(3)
    running.send(RunStarted(environment="toy"))
    running.drain(250)
    if how == "forked" and os.fork() == 0:
        time.sleep(600)  # holds the pipe's end open, as an environment's worker does
        os._exit(0)
    print(running.sink.watcher_pid, flush=True)
    if how == "finishes":
        running.send(RunFinished(state=RunState.DONE, updates=3))
        running.drain(250)
    elif how == "exits":
        os._exit(3)
    else:
        sys.stdin.read()
"""


def train(receiver: Any, run_dir: Path, how: str) -> int:
    """Run a trainer to its end; returns the watcher's pid."""
    (run_dir / "run.json").write_text('{"run_id": "test-run", "updates": 41, "name": "mine"}')
    command = [sys.executable, "-W", "ignore", "-c", _TRAINER, receiver.url, str(run_dir), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as trainer:
        assert trainer.stdout is not None
        watcher = int(trainer.stdout.readline())
        if how in {"killed", "forked"}:
            order = Path(f"/proc/{watcher}/cmdline").read_bytes() + Path(f"/proc/{watcher}/environ").read_bytes()
            assert b"SECRET" not in order
            os.kill(trainer.pid, signal.SIGKILL)
        else:
            assert trainer.wait(250) == (0 if how == "finishes" else 3)
        receiver.wait(1)
        if how == "forked":
            os.killpg(trainer.pid, signal.SIGKILL)
    return watcher


def gone(pid: int) -> bool:
    """Wait until a process has ended: it is nobody's child here."""
    until = time.monotonic() + 250
    while time.monotonic() < until:
        try:
            if b") Z" in Path(f"/proc/{pid}/stat").read_bytes():
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize("how", ["killed", "forked", "exits", "early"])
def test_a_trainer_that_cannot_tell_is_told_of(receiver: Any, tmp_path: Path, how: str) -> None:
    receiver.answers += [503] if how == "killed" else []
    watcher = train(receiver, tmp_path, how)
    assert gone(watcher), "it ends when it has told"
    item = receiver.got[-1]
    message = json.loads(item.body)
    assert message["event"] == "crashed"
    assert message["run_id"] == "test-run"
    assert (message["updates"], message["name"]) == (41, "mine")
    assert message["text"].endswith("ended without a word. Its last record has 41 updates.")
    assert len(receiver.got) == (2 if how == "killed" else 1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_a_run_that_ends_takes_its_watcher_along_and_nothing_is_told_of_a_crash(receiver: Any, tmp_path: Path) -> None:
    watcher = train(receiver, tmp_path, "finishes")
    assert gone(watcher)
    assert [json.loads(item.body)["event"] for item in receiver.got] == ["finished"]


def test_a_crash_message_needs_no_record(tmp_path: Path) -> None:
    message: dict[str, Any] = {"run_id": "r", "pid": 7, "host": "h"}
    (tmp_path / "run.json").write_text("[torn")
    for record in ("", str(tmp_path / "absent.json"), str(tmp_path / "run.json")):
        found = crash_message(message, record)
        assert found["text"] == "run r: the trainer (pid 7 on h) ended without a word."
        assert (found["updates"], found["name"]) == (None, "r")


def test_a_watcher_that_does_not_start_is_told_and_harms_nothing(
    receiver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with SinkHarness(WebhookSink, {"url": receiver.url}, run_dir=tmp_path, name="webhook") as running:
        running.send(RunStarted(environment="toy"))
        running.drain(250)
        told = [item.message for item in running.statuses()]
    assert told == ["the watcher did not start: a crash will not be told"]
    assert running.report.lost == 0
