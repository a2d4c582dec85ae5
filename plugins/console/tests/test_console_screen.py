"""The screen: plain lines in a pipe, a bar on a real terminal that nothing breaks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Any

import pytest

from esper_core.emitter import TelemetryEmitter
from esper_core.events import PPOUpdatePayload, RunFinished, RunStarted, SinkStatusChanged
from esper_core.health import RunState, classify_kl
from esper_core.hooks import CloseReason, SinkContext, SinkHooks
from esper_sink_console import ConsoleConfig, ConsoleSink
from esper_sink_console._screen import BarScreen, _Eta, wants_ascii

ESCAPE = "\x1b"


class Wired(ConsoleSink, SinkHooks):
    """The sink with the hooks it does not implement, so that an emitter can call it directly."""


def play(sink: Wired, *, mode: Any = "live", kls: tuple[float, ...] = (0.01, 0.04), finish: bool = True) -> None:
    sink.esper_sink_opened(SinkContext(run_id="r-1", mode=mode))
    emitter = TelemetryEmitter(sink, run_id="r-1")
    emitter.emit_run_started(RunStarted(environment="CartPole-v1", heads=("action",), updates_planned=4))
    for number, kl in enumerate(kls, start=1):
        emitter.emit_ppo_update(
            PPOUpdatePayload(update_id=number, kl_divergence=kl, health=classify_kl(kl), epochs_planned=4)
        )
    if finish:
        emitter.emit_run_finished(RunFinished(state=RunState.DONE, reason="4 updates", updates=4))
        sink.esper_sink_closed(CloseReason.DONE)


class Pipe(io.StringIO):
    """A stream of which every write fails, as of a pipe whose reader has gone or of a full disk."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.tries = 0

    def write(self, text: str, /) -> int:
        self.tries += 1
        raise OSError(self.number, os.strerror(self.number), text[:0] or None)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_without_a_reader_it_falls_silent_and_no_event_counts_as_lost(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipe(number)
    monkeypatch.setattr(sys, "stderr", pipe)
    play(Wired(), kls=(0.01, 0.01, 0.04))
    assert pipe.tries == 1


def test_a_full_disk_is_an_error_of_the_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Pipe(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        play(Wired())


@pytest.mark.parametrize("tty", [False, True])
def test_text_from_outside_is_printed_in_one_line(tty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if tty else io.StringIO()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", stream)
    sink = Wired()
    sink.esper_sink_opened(SinkContext(run_id="r-1", mode="replay"))
    emitter = TelemetryEmitter(sink, run_id="r-1")
    emitter.emit_sink_status(SinkStatusChanged(sink="otlp", state="failing", message="a\x1b]0;t\x07b\nc\x9bd\u202ee"))
    assert r"a\u001b]0;t\u0007b c\u009bd\u202ee" in stream.getvalue().replace("\n", "")
    assert "\x1b]" not in stream.getvalue()


class Terminal(io.StringIO):
    """Claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "")
    return Terminal()


# --- without a terminal ---------------------------------------------------------------------------


def test_a_pipe_gets_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    play(Wired())
    out, err = capsys.readouterr()
    assert out == ""
    assert ESCAPE not in err
    lines = err.splitlines()
    assert lines[0].startswith("update    1")
    assert lines[1].startswith("update    2")
    assert "lower learning_rate" in lines[2]
    assert len(lines) == 3


def test_the_lines_go_to_stdout_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    play(Wired(ConsoleConfig(stream="stdout")))
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), err) == (3, "")


def test_a_replay_says_which_run_and_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    play(Wired(), mode="replay")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "run r-1: started on CartPole-v1, seed 0, heads action"
    assert lines[-1] == "done: 4 updates, 0 steps, 0 episodes"


def test_every_nth_update_is_printed_and_every_one_that_needs_attention(capsys: pytest.CaptureFixture[str]) -> None:
    play(Wired(ConsoleConfig(every=3, advice=False)), kls=(0.01, 0.02, 0.01, 0.01, 0.01, 0.01))
    numbers = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert numbers == ["2", "3", "6"]


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with contextlib.redirect_stderr(terminal):
        play(Wired())
    assert ESCAPE not in terminal.getvalue()
    assert "update    2" in terminal.getvalue()


def test_a_stream_that_cannot_show_the_glyphs_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert wants_ascii(stream)
    monkeypatch.setattr(sys, "stderr", stream)
    play(Wired())
    assert b"* healthy" in raw.getvalue()


# --- with a terminal ------------------------------------------------------------------------------


def test_no_color_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.redirect_stderr(terminal):
        play(Wired())
    coloured = terminal.getvalue()
    assert re.search(r"\x1b\[1;38;5;\d+m✖ critical", coloured)
    terminal.seek(0)
    terminal.truncate()
    monkeypatch.setenv("NO_COLOR", "1")
    with contextlib.redirect_stderr(terminal):
        play(Wired())
    assert "✖ critical" in terminal.getvalue()
    assert not re.search(r"\x1b\[[\d;]*3[0-9](;\d+)*m", terminal.getvalue())


def test_closing_restores_streams_and_loggers_and_may_happen_twice(terminal: Terminal) -> None:
    out = Terminal()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    with contextlib.redirect_stderr(terminal), contextlib.redirect_stdout(out):
        try:
            screen = BarScreen(terminal)
            assert sys.stderr is not terminal
            assert sys.stdout is not out
            assert handler.stream is sys.stderr
            print("from the user")
            logging.getLogger().warning("from a logger")
            screen.close()
            screen.close()
        finally:
            logging.getLogger().removeHandler(handler)
        assert (sys.stderr, sys.stdout, handler.stream) == (terminal, out, terminal)
    assert "from the user\n" in terminal.getvalue()
    assert "from a logger\n" in terminal.getvalue()


def test_a_piped_stdout_keeps_what_the_user_prints(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.redirect_stderr(terminal):
        screen = BarScreen(terminal)
        print("for the pipe")
        screen.close()
    assert capsys.readouterr().out == "for the pipe\n"
    assert "for the pipe" not in terminal.getvalue()


def test_the_cursor_is_never_hidden(terminal: Terminal) -> None:
    with contextlib.redirect_stderr(terminal):
        play(Wired())
    assert "━" in terminal.getvalue()
    assert "\x1b[?25l" not in terminal.getvalue()


def test_a_replay_has_no_bar(terminal: Terminal) -> None:
    with contextlib.redirect_stderr(terminal):
        play(Wired(), mode="replay")
    assert "✖ critical" in terminal.getvalue()
    assert "━" not in terminal.getvalue()


def test_time_left_counts_down_between_updates() -> None:
    now = 100.0
    eta = _Eta(lambda: now)
    assert eta.text() == ""
    eta.reached(0.1)
    now = 110.0
    eta.reached(0.2)
    assert eta.text() == "ETA 1m20s"
    now = 140.0
    assert eta.text() == "ETA 50 s"
    now = 1000.0
    assert eta.text() == "ETA 0 s"


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from test_console_screen import Wired, play
from esper_core.emitter import TelemetryEmitter
from esper_core.events import PPOUpdatePayload
from esper_core.hooks import CloseReason
sink = Wired()
play(sink, finish=False)
print("printed to stdout")
print("printed to stderr", file=sys.stderr)
sys.stdin.readline()  # until the bar was drawn beneath
{end}
"""


def _on_terminal(code: str, columns: int) -> str:
    """Run a script on a pseudo-terminal and return all that it wrote there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    modes = termios.tcgetattr(slave)
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    for name in ("NO_COLOR", "COLUMNS"):
        env.pop(name, None)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    written = b""
    answered = False
    deadline = time.monotonic() + 250
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            if not part:
                break
            written += part
        if not answered and "━" in written.rpartition(b"printed to stderr")[2].decode(errors="ignore"):
            os.write(master, b"\n")
            answered = True
    process.wait(250)
    with contextlib.suppress(OSError):
        os.close(master)
    return written.decode()


@pytest.mark.parametrize(
    ("columns", "end"), [(80, "sink.esper_sink_closed(CloseReason.DONE)"), (120, "raise SystemExit(3)")]
)
def test_what_others_print_stands_above_the_bar_and_the_bar_goes_at_the_end(columns: int, end: str) -> None:
    written = _on_terminal(SCRIPT.format(folder=os.path.dirname(__file__), end=end), columns)  # noqa: PTH120  # str for -c
    assert "━" in written
    # What stays of a row is what was written after it was last erased.
    rows = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", row.rpartition("\x1b[2K")[2]) for row in written.split("\n")]
    assert "printed to stdout" in rows
    assert "printed to stderr" in rows
    assert all(len(row) <= columns for row in rows if "━" not in row), rows
    # The last thing that happens to the bar's row is that it is erased.
    assert written.rfind("\x1b[2K") > written.rfind("━")
