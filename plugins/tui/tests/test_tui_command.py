"""``esper sanctum`` as a command: once, JSON, lines, exit codes, and what it refuses."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.errors import RunNotFoundError, UsageError
from esper_core.health import RunState
from esper_core.hooks import HOOK_NAMES
from esper_core.reading.life import Life
from esper_core.runs import RunDir
from esper_sink_tui import TuiConfig, TuiSink, foreground
from esper_sink_tui.commands.sanctum import command, parting
from esper_sink_tui.foreground import show_child, stop_run
from esper_sink_tui.plain import follow_lines, print_once
from esper_sink_tui.terminal import has_terminal, wants_ascii
from esper_sink_tui.watch import Watch

if TYPE_CHECKING:
    from pathlib import Path

    from sanctum_kit import Kit


def called(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(words)))


def stored(kit: Kit, base: Path, name: str, kls: list[float], **record: Any) -> RunDir:
    run = kit.run(base, name, [kit.event(kit.update(n, kl), at=n) for n, kl in enumerate(kls, start=1)])
    kit.record(run, updates=len(kls), **record)
    return run


@pytest.mark.parametrize(
    ("kls", "record", "code"),
    [
        ([0.004] * 5, {}, 0),
        ([0.004] * 2, {}, 0),
        ([0.004] * 4 + [0.015], {}, 1),
        ([0.004] * 4 + [0.014996], {}, 0),
        ([0.004] * 4 + [0.03], {}, 2),
        ([0.004] * 4 + [math.nan], {}, 2),
        ([0.004] * 5, {"state": RunState.FAILED}, 2),
        ([0.004] * 5, {"heartbeat_ns": 1, "boot_id": "another", "host": "elsewhere"}, 3),
        ([0.004] * 5, {"heartbeat_ns": 1, "pid": 2**22 + 1, "process_start": 1}, 2),
        ([], {}, 3),
        ([0.004] * 5, {"state": RunState.DONE}, 0),
    ],
)
def test_once_exits_by_the_verdict(
    kit: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str], kls: list[float], record: dict[str, Any], code: int
) -> None:
    stored(kit, tmp_path, "run-a", kls, **record)
    assert called("run-a", "--dir", str(tmp_path), "--once") == code
    assert "POLICY HEALTH" in capsys.readouterr().out


def test_json_is_one_document_with_unrounded_numbers(
    kit: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(kit, tmp_path, "run-a", [0.004, 0.0123456789, math.nan])
    assert called("run-a", "--dir", str(tmp_path), "--once", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert found["verdict"]["kind"] == "non-finite"
    assert found["verdict"]["exit_code"] == 2
    assert found["kl"]["value"] == "NaN"
    assert found["kl"]["history"] == [0.004, 0.0123, "NaN"]
    assert found["health"]["clip_fraction"]["limits"] == {"warning": "25%", "critical": "30%"}
    assert [head["name"] for head in found["heads"]][:2] == ["slot", "blueprint"]


def test_without_a_name_the_newest_live_run_is_shown_and_named(
    kit: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(kit, tmp_path, "20260101T000000Z-old-aaaaaa", [0.004] * 5)
    stored(kit, tmp_path, "20260102T000000Z-new-bbbbbb", [0.04] * 5, state=RunState.DONE)
    assert called("--dir", str(tmp_path), "--once") == 0
    assert "showing 20260101T000000Z-old-aaaaaa, the newest live run" in capsys.readouterr().err
    kit.record(RunDir(tmp_path / "20260101T000000Z-old-aaaaaa"), state=RunState.DONE)
    assert called("--dir", str(tmp_path), "--once") == 2
    assert "new-bbbbbb, the newest run; none is live" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--json"],
        ["a", "b", "--once"],
        ["--listen", "127.0.0.1:0", "--once"],
        ["--listen", "127.0.0.1:0", "run-a"],
        ["--web", "--once"],
        ["--token", "x"],
        ["--listen", "127.0.0.1:0", "--tls-cert", "x"],
        ["--listen", "0.0.0.0:0"],
        ["--listen", "127.0.0.1:0", "--token", ""],
        ["--listen", "127.0.0.1:0", "--token", "@/nowhere/token"],
        ["--interval", "0"],
        ["--web", "0.0.0.0:8000"],
        ["--web", "--token", ""],
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        called(*words)


def test_an_unknown_run_names_the_nearest(kit: Kit, tmp_path: Path) -> None:
    stored(kit, tmp_path, "calm-run", [0.004])
    with pytest.raises(RunNotFoundError, match="did you mean"):
        called("calm-rum", "--dir", str(tmp_path), "--once")


def said(out: io.StringIO, text: str) -> None:
    """Wait until a text was printed."""
    deadline = time.monotonic() + 250
    while text not in out.getvalue():
        assert time.monotonic() < deadline, out.getvalue()
        time.sleep(0.02)


def test_lines_until_the_run_ends(kit: Kit, tmp_path: Path) -> None:
    run = stored(kit, tmp_path, "run-a", [0.004] * 4)
    watch = Watch()
    watch.add_run(run)
    out = io.StringIO()
    codes: list[int] = []
    follower = threading.Thread(
        target=lambda: codes.append(follow_lines(watch, interval_s=0.3, ascii_only=False, out=out)), daemon=True
    )
    follower.start()
    said(out, "HEALTHY")
    kit.journal(run, [kit.event(kit.update(5, 0.04), at=9)]).close()
    said(out, "✖ crit")
    kit.record(run, state=RunState.DONE)
    follower.join(250)
    assert codes == [2]
    lines = out.getvalue().splitlines()
    assert "● HEALTHY  KL 0.0040" in lines[0]
    assert any("✖ crit" in item and "KL 0.0400" in item for item in lines)
    assert "✔ DONE" in lines[-1]
    assert "\x1b" not in out.getvalue()


def test_once_is_plain_text_in_ascii_when_asked(kit: Kit, tmp_path: Path) -> None:
    run = stored(kit, tmp_path, "run-a", [0.02] * 5)
    watch = Watch()
    watch.add_run(run)
    out = io.StringIO()
    assert print_once(watch, as_json=False, width=80, height=23, ascii_only=True, out=out) == 1
    assert out.getvalue().isascii()
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_no_terminal_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTUAL_DRIVER", raising=False)
    assert not has_terminal()  # pytest's streams
    monkeypatch.setenv("TEXTUAL_DRIVER", "textual.drivers.web_driver:WebDriver")
    assert has_terminal()


def test_ascii_is_chosen_by_the_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, ascii_only in (("utf-8", False), ("UTF8", False), ("ANSI_X3.4-1968", True), ("latin-1", True)):
        monkeypatch.setattr(sys, "__stdout__", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        assert wants_ascii() is ascii_only


def test_help_loads_neither_textual_nor_numpy_nor_torch() -> None:
    script = (
        "import sys; from esper_core.cli.main import main\n"
        "assert main(['sanctum', '--help']) == 0\n"
        "heavy = {'textual', 'numpy', 'torch', 'opentelemetry.sdk', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--listen" in done.stdout
    assert command.name == "sanctum"


def test_the_aggregator_and_the_sink_are_free_of_textual() -> None:
    script = (
        "import sys; import esper_sink_tui, esper_sink_tui.aggregator, esper_sink_tui.schema, esper_sink_tui.plain\n"
        "import esper_sink_tui.intake, esper_sink_tui.watch\n"
        "assert not {'textual', 'numpy', 'torch', 'google.protobuf'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_the_server_listening_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from esper_core.cli.main import main\n"
        "sys.exit(main(['sanctum', '--listen', '127.0.0.1:0']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "--listen needs aiohttp" in done.stderr
    assert "pip install 'esper-sink-tui[listen]'" in done.stderr


class FakeChild:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.pid = os.getpid()
        self.stopped = 0
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def request_stop(self) -> None:
        self.stopped += 1


def test_the_sink_declares_what_it_needs() -> None:
    assert TuiSink.requires == ("journal",)
    assert TuiSink.Config is TuiConfig
    assert [name for name in vars(TuiSink) if name.startswith("esper_")] == ["esper_foreground"]
    assert set(HOOK_NAMES) >= {"esper_foreground"}
    assert TuiSink().config == TuiConfig()


def test_without_a_terminal_the_child_is_followed_in_lines(
    kit: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stored(kit, tmp_path, "run-a", [0.004] * 4, state=RunState.DONE)
    child = FakeChild(run.path)
    child.code = 0
    assert TuiSink(TuiConfig(interval_s=0.1)).esper_foreground(child) is None
    assert "HEALTHY" in capsys.readouterr().out
    assert show_child(child, TuiConfig()) is None


def test_only_a_process_that_is_surely_the_trainer_is_stopped(kit: Kit, tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        run = stored(kit, tmp_path, "run-a", [0.004], pid=sleeper.pid, process_start=0)
        watch = Watch()
        watch.add_run(run)
        kit.record(run, pid=sleeper.pid, process_start=1)
        assert "cannot see its process" in stop_run(watch, "run-a")  # a reused pid
        kit.record(run, pid=sleeper.pid, process_start=0, boot_id="another", host="elsewhere")
        assert "elsewhere" in stop_run(watch, "run-a")
        kit.record(run, state=RunState.DONE)
        assert stop_run(watch, "run-a") == "this run has ended"
        assert sleeper.poll() is None
        kit.record(run, pid=sleeper.pid, process_start=0)
        assert "asked pid" in stop_run(watch, "run-a")
        assert sleeper.wait(250) == -15
    finally:
        sleeper.kill()
        sleeper.wait()
    watch.receive([kit.event(kit.update(1), run_id="heard")], where="OTLP")
    assert "over the network" in stop_run(watch, "heard")


def test_a_screen_that_broke_down_says_so_and_the_training_goes_on(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was told as if the user had left it."""
    child = FakeChild(stored(kit, tmp_path, "run-a", [0.004] * 4).path)
    monkeypatch.setattr(foreground, "has_terminal", lambda: True)
    monkeypatch.setattr(foreground, "open_screen", lambda *_, **__: False)
    assert show_child(child, TuiConfig()) is True
    assert "the screen broke down" in capsys.readouterr().err
    assert not child.stopped


def test_the_last_words_name_no_run_that_is_gone() -> None:
    """Of a deleted run it said how to come back to it."""
    back = "esper sanctum runs/x"
    assert parting(Life(state=RunState.LIVE, pid=7), back) == f"training goes on (pid 7); come back with: {back}"
    assert parting(Life(state=RunState.DONE, pid=7), back) == f"come back with: {back}"
    assert parting(Life(state=RunState.DONE, gone=True), back) == "the folder of the run on show is gone"
