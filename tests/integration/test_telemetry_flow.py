"""The way of one number: from PPOAgent.update() in a training of its own to the banner of the viewer."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("esper_sink_tui", reason="the viewer is a plugin")
pytest.importorskip("esper_sink_journal", reason="the viewer reads the journal")

from esper_core.health import HealthLevel, RunState, VerdictKind, format_kl
from esper_core.reading import open_run
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.document import document
from esper_core.reading.rows import kl_range
from esper_core.runs import find_run, read_events, read_record
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.spark import glyph
from esper_sink_tui.watch import Watch
from esper_sink_tui.widgets import EventsPanel, HealthStatusPanel, StatusBanner

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ("--set", "ppo.rollout_steps=32", "--set", "ppo.minibatch_size=64", "--set", "env.n_envs=4")


def train(folder: Path, *words: str, updates: int = 6) -> subprocess.Popen[str]:
    """A real training in a process of its own."""
    command = [sys.executable, "-m", "esper_core", "ppo", "--env", "CartPole-v1", "--sinks", "journal"]
    return subprocess.Popen(
        [*command, "--updates", str(updates), "--dir", str(folder), *SMALL, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run of six updates, for the tests that only look at it."""
    folder = tmp_path_factory.mktemp("runs")
    trainer = train(folder)
    said, _ = trainer.communicate()
    assert trainer.returncode == 0, said
    return folder


async def shown(watch: Watch, size: tuple[int, int] = (120, 36)) -> tuple[SanctumApp, dict[str, str]]:
    """What the real viewer shows of what has been read so far."""
    app = SanctumApp(watch, feed=False)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        app.draw()
        texts = {kind.__name__: app.query_one(kind).text() for kind in (StatusBanner, HealthStatusPanel, EventsPanel)}
    return app, texts


def read_all(watch: Watch) -> Watch:
    while watch.tick():
        pass
    return watch


async def test_kl_divergence_reaches_tui(trained: Path) -> None:
    run = open_run("latest", trained)
    updates = [event.payload for event in run.updates()]
    last = updates[-1].kl_divergence
    assert last is not None
    watch = Watch(trained)
    watch.add_run(find_run("latest", trained), select=True)
    app, texts = await shown(read_all(watch))
    assert f"KL {format_kl(last, digits=3)} " in texts["StatusBanner"].splitlines()[0]
    history = app.model.snapshot.tamiyo.kl_divergence_history
    history_limits = app.model.snapshot.tamiyo.limits
    assert list(history) == [round(payload.kl_divergence or 0.0, 4) for payload in updates]
    row = next(line for line in texts["HealthStatusPanel"].splitlines() if "KL nats" in line)
    spark = row.split(format_kl(last, digits=3), 1)[1].lstrip(" ")
    assert spark[len(updates) - 1] == glyph(round(last, 4), *kl_range(history_limits))
    assert app.model.life.state is RunState.DONE
    assert app.model.verdict.kind is run.verdict().kind


async def test_an_early_stop_at_a_healthy_level_is_seen(tmp_path: Path) -> None:
    trainer = train(tmp_path, "--set", "ppo.target_kl=0.001", "--set", "ppo.minibatch_size=16", updates=8)
    said, _ = await asyncio.to_thread(trainer.communicate)
    assert trainer.returncode == 0, said
    updates = [event.payload for event in open_run("latest", tmp_path).updates()]
    stopped = [payload for payload in updates if payload.early_stop is not None]
    assert stopped
    stop = stopped[-1]
    assert stop.early_stop is not None
    assert stop.health is HealthLevel.HEALTHY
    watch = Watch(tmp_path)
    read_all(watch)
    watch.freeze()
    watch.step(stop.update_id - updates[-1].update_id)
    app, texts = await shown(watch)
    line = texts["StatusBanner"].splitlines()[3]
    assert f"update {stop.update_id} epoch {stop.early_stop.epoch} minibatch {stop.early_stop.minibatch}" in line
    assert f"pooled KL {format_kl(stop.early_stop.value)} > 0.0015" in line
    assert f"KL after it {format_kl(stop.kl_divergence)}" in line
    count = sum(payload.early_stop is not None for payload in updates[: stop.update_id])
    assert f"stopped {count} of last {stop.update_id}" in line
    assert "▴" in texts["HealthStatusPanel"].splitlines()[3]
    assert "▴ stop" in texts["EventsPanel"]
    assert app.model.verdict.kind in {VerdictKind.HEALTHY, VerdictKind.WARM_UP}


def test_live_through_the_hub_and_from_the_journal_the_same(tmp_path: Path) -> None:
    """A sink in the trainer feeds one aggregator; the journal feeds another; both come to the same."""
    sink = tmp_path / "mirror.py"
    sink.write_text(
        "import json\n"
        "from esper_core.hooks import hookimpl\n"
        "from esper_core.reading.aggregator import SanctumAggregator\n"
        "from esper_core.reading.document import document\n"
        "from esper_core.reading.life import Life\n"
        "from esper_core.reading.model import build\n"
        "class Mirror:\n"
        "    def __init__(self, config=None):\n"
        "        self.aggregator = SanctumAggregator()\n"
        "    @hookimpl\n"
        "    def esper_sink_opened(self, context): self.path = context.run_dir / 'mirror.json'\n"
        "    @hookimpl\n"
        "    def esper_run_started(self, event): self.aggregator.handle(event)\n"
        "    @hookimpl\n"
        "    def esper_ppo_updated(self, event): self.aggregator.handle(event)\n"
        "    @hookimpl\n"
        "    def esper_policy_health_changed(self, event): self.aggregator.handle(event)\n"
        "    @hookimpl\n"
        "    def esper_run_finished(self, event): self.aggregator.handle(event)\n"
        "    @hookimpl\n"
        "    def esper_sink_closed(self, reason):\n"
        "        model = build(self.aggregator.snapshot(), Life(), now_ns=0)\n"
        "        self.path.write_text(json.dumps(document(model)))\n",
        encoding="utf-8",
    )
    trainer = train(tmp_path / "runs", "--sink", f"{sink}:Mirror")
    said, _ = trainer.communicate()
    assert trainer.returncode == 0, said
    run = find_run("latest", tmp_path / "runs")
    import json

    from esper_core.reading.life import Life
    from esper_core.reading.model import build

    live = json.loads((run.path / "mirror.json").read_text(encoding="utf-8"))
    aggregator = SanctumAggregator()
    aggregator.handle_all(read_events(run))
    stored = json.loads(json.dumps(document(build(aggregator.snapshot(), Life(), now_ns=0))))
    statuses = [item for item in stored["events"] if item["source"].startswith("sink.")]
    assert [item for item in stored["events"] if item not in statuses] == live["events"]
    for key in live:
        if key not in {"events", "sinks"}:
            assert stored[key] == live[key], key


class Terminal:
    """A pseudo-terminal with a viewer in it."""

    def __init__(self, words: list[str], *, size: tuple[int, int] = (120, 36), **environment: str) -> None:
        self.master, worker = pty.openpty()
        fcntl.ioctl(worker, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "esper_core", *words],
            stdin=worker,
            stdout=worker,
            stderr=worker,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8", **environment},
            start_new_session=True,
        )
        os.close(worker)

    def wait_for(self, text: str, timeout_s: float = 250.0) -> bytes:
        """Read until a text was drawn."""
        deadline = time.monotonic() + timeout_s
        while text.encode() not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen[-3000:]!r}"
            self.read(0.2)
        return self.seen

    def read(self, timeout_s: float) -> None:
        if select.select([self.master], [], [], timeout_s)[0]:
            with contextlib.suppress(OSError):
                self.seen += os.read(self.master, 65536)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def close(self) -> int:
        deadline = time.monotonic() + 250
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read(0.1)
        if self.process.poll() is None:
            self.process.kill()
        for _ in range(20):
            self.read(0.02)
        os.close(self.master)
        return self.process.wait()


def stop_trainer(base: Path) -> int:
    """End a training that a test left running; its pid."""
    record = read_record(find_run("latest", base))
    assert record is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGTERM)
    for _ in range(5000):
        now = read_record(find_run("latest", base))
        if now is not None and now.state.ended:
            break
        time.sleep(0.05)
    return record.pid


LATE = """
import time
from pathlib import Path
from esper_core.hooks import hookimpl
from esper_sink_tui.config import TuiConfig
from esper_sink_tui.foreground import show_child

class Child:
    def __init__(self, child): self._child = child
    def __getattr__(self, name): return getattr(self._child, name)
    @property
    def run_dir(self):
        while not (Path(__file__).parent / "go").exists():
            time.sleep(0.05)
        return self._child.run_dir

class Late:
    @hookimpl
    def esper_foreground(self, child): return show_child(Child(child), TuiConfig())
"""


def test_esper_ppo_with_the_viewer_in_front_detaches_and_training_goes_on(tmp_path: Path) -> None:
    """The panels stand before the run does, however long that takes."""
    late = tmp_path / "late" / "late.py"
    late.parent.mkdir()
    late.write_text(LATE)
    words = ["ppo", "--env", "CartPole-v1", "--updates", "100000", "--sink", f"{late}:Late", "--dir", str(tmp_path)]
    terminal = Terminal([*words, *SMALL])
    try:
        terminal.wait_for("POLICY HEALTH")
        terminal.wait_for("the training starts")
        assert b"LIVE" not in terminal.seen
        (late.parent / "go").touch()
        terminal.wait_for("LIVE")
        terminal.press("q")
        assert terminal.close() == 0
        assert b"training goes on" in terminal.seen
        before = open_run("latest", tmp_path).last_updates(1)[0].payload.update_id
        for _ in range(2500):
            if open_run("latest", tmp_path).last_updates(1)[0].payload.update_id > before:
                break
            time.sleep(0.1)
        assert open_run("latest", tmp_path).state is RunState.LIVE
        assert (find_run("latest", tmp_path).log_path).stat().st_size > 0  # the console's lines
    finally:
        stop_trainer(tmp_path)
    assert open_run("latest", tmp_path).state is RunState.STOPPED


def test_a_closed_terminal_ends_the_viewer_and_not_the_training(tmp_path: Path) -> None:
    words = ["ppo", "--env", "CartPole-v1", "--updates", "100000", "--sink", "tui", "--dir", str(tmp_path), *SMALL]
    terminal = Terminal(words)
    try:
        terminal.wait_for("LIVE")
        os.close(terminal.master)  # the SSH session is gone
        os.killpg(terminal.process.pid, signal.SIGHUP)
        terminal.process.wait(250)
        assert open_run("latest", tmp_path).state is RunState.LIVE
        other = Terminal(["sanctum", "--dir", str(tmp_path)])
        other.wait_for("LIVE")
        other.press("q")
        assert other.close() == 0
        assert b"come back with: esper sanctum" in other.seen
    finally:
        stop_trainer(tmp_path)


def test_an_error_of_the_start_closes_the_screen_and_is_said_behind_it(tmp_path: Path) -> None:
    words = ["ppo", "--env", "NoSuchEnv-v0", "--updates", "1", "--sink", "tui", "--dir", str(tmp_path)]
    terminal = Terminal(words)
    assert terminal.close() == 64
    assert b"NoSuchEnv" in terminal.seen.rpartition(b"\x1b[?1049l")[2]
    assert b"Traceback" not in terminal.seen


def test_no_colour_and_ascii_on_a_real_terminal(trained: Path) -> None:
    terminal = Terminal(["sanctum", "--dir", str(trained), "--ascii"], size=(80, 24), NO_COLOR="1")
    terminal.wait_for("POLICY HEALTH")
    for _ in range(5):
        terminal.read(0.2)
    terminal.press("q")
    assert terminal.close() == 0
    styles = set(re.findall(rb"\x1b\[([0-9;]*)m", terminal.seen))
    colours = {code for style in styles for code in style.split(b";")} - {b"", b"0", b"1", b"2", b"3", b"4", b"7"}
    assert colours <= {b"39", b"49"}, styles
    drawn = re.sub(rb"\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[\[(][0-9;?<>=]*[ -/]*[@-~]", b"", terminal.seen)
    assert not re.findall(rb".{20}[\x80-\xff]+", drawn)


def test_without_a_terminal_plain_lines_come(trained: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "esper_core", "sanctum", "--dir", str(trained)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == open_run("latest", trained).verdict().exit_code
    assert "upd 6/6 100%" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_training_that_exports_otlp_reaches_the_listener(tmp_path: Path) -> None:
    """The real OTLP sink sends to the viewer's own receiver; journal and network give the same run."""
    pytest.importorskip("esper_sink_otlp", reason="sends by OTLP")
    from esper_sink_tui.listen import Receiver

    heard = Watch()
    with Receiver(lambda events: heard.receive(events, where="OTLP"), port=0, token="s3cret") as receiver:
        trainer = train(
            tmp_path,
            "--sink",
            "otlp",
            "--set",
            f"sink.otlp.endpoint={receiver.url}",
            "--set",
            "sink.otlp.headers.Authorization=Bearer s3cret",
        )
        said, _ = trainer.communicate()
        assert trainer.returncode == 0, said
        read_all(heard)
    watched = heard.watched()
    assert watched is not None, said
    aggregator = SanctumAggregator()
    aggregator.handle_all(read_events(find_run("latest", tmp_path)))
    stored = aggregator.snapshot()
    assert watched.snapshot.tamiyo == stored.tamiyo
    assert watched.snapshot.heads == stored.heads
    assert watched.snapshot.plan == stored.plan
    assert heard.model().life.state is RunState.DONE
