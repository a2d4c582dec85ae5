"""Every row of ``words.py`` ends as it says: in one sentence, with no control character and nothing unforeseen."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from loaded_file import load_file

from esper_core.cli.main import main
from esper_core.config.schema import EsperConfig
from esper_core.events import RunFinished, RunStarted, SinkStatusChanged
from esper_core.health import RunState
from esper_core.host.session import Session
from esper_core.runs import create_run
from esper_core.testing import make_heads, make_update

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("esper_sink_journal", reason="runs are recorded by the journal")
HERE = Path(__file__).parent
ENVIRONMENTS = """
import sys
import gymnasium as gym, numpy as np
ESCAPES = {escapes!r}

class Calm(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)
    steps = 0
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {{}}
    def step(self, action):
        self.steps += 1
        self.act()
        return np.zeros(2, np.float32), 1.0, self.steps % 5 == 0, False, {{}}

class Raises(Calm):
    def act(self):
        if self.steps > 20:
            raise ValueError(ESCAPES)

class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Mute(Calm):
    def act(self):
        if self.steps > 20:
            raise MuteError

class Prints(Calm):
    def act(self):
        print("a line of the environment's own", flush=True)

class Loud(Calm):
    def act(self):
        print("x" * 20_000)

class Closes(Calm):
    def act(self):
        sys.stdout.close()
        sys.stderr.close()

for kind in (Raises, Mute, Prints, Loud, Closes):
    if f"Hostile{{kind.__name__}}-v0" not in gym.registry:
        gym.register(f"Hostile{{kind.__name__}}-v0", kind)
"""


WORDS: Any = load_file(HERE / "words.py", "esper_hostile_words")


def _record(folder: Path, text: str) -> Path:
    """A run of two updates, in which every text is another's."""
    run = create_run(folder)
    heads = make_heads(0.05, (f"head {text}", "other"))
    with Session(
        EsperConfig(sinks=("journal",)), run=run, environment=text, install_signal_handlers=False, on_notice=_ignore
    ) as session:
        session.emitter.emit_run_started(RunStarted(environment=text, run_name=text, heads=(text,)))
        for number in (1, 2):
            session.emitter.emit_ppo_update(make_update(number, kl=0.05, heads=heads, reason=text))
        session.emitter.emit_sink_status(SinkStatusChanged(sink=text, state="failing", message=text))
        session.emitter.emit_run_finished(RunFinished(state=RunState.FAILED, reason=text, updates=2))
        session.finish(RunState.FAILED, text)
    return run.path


def _ignore(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _record(tmp_path_factory.mktemp("runs"), WORDS.ESCAPES)


@pytest.fixture(scope="module")
def named_in_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder whose name is Latin-1, not UTF-8."""
    path = _record(tmp_path_factory.mktemp("bytes"), "plain")
    try:
        return path.rename(path.with_name(os.fsdecode(b"caf\xe9")))
    except OSError:
        pytest.skip("the file system takes no such name")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder as the current one, with the environments of this file."""
    (tmp_path / "hostile_words_env.py").write_text(ENVIRONMENTS.format(escapes=WORDS.ESCAPES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("hostile_words_env", None)


class Place:
    """Where a stream goes, and what arrived there."""

    def __init__(self, kind: str, file: Path, encoding: str) -> None:
        self._file, self._encoding = file, encoding
        self._arrived = b""
        self._reader: threading.Thread | None = None
        self.stream = self._open(kind)

    def _open(self, kind: str) -> IO[str]:
        if kind == "full":
            return Path("/dev/full").open("w", encoding=self._encoding)
        if kind == "file":
            return self._file.open("w", encoding=self._encoding)
        if kind in {"gone", "slow"}:
            reader, writer = os.pipe()
            if kind == "gone":
                os.close(reader)
            else:
                os.set_blocking(writer, False)
                self._reader = threading.Thread(target=self._read, args=(reader, 0.05), daemon=True)
                self._reader.start()
            return os.fdopen(writer, "w", encoding=self._encoding)
        master, slave = pty.openpty()
        self._reader = threading.Thread(target=self._read, args=(master,), daemon=True)
        self._reader.start()
        return os.fdopen(slave, "w", encoding=self._encoding)

    def _read(self, master: int, pause_s: float = 0.0) -> None:
        with contextlib.suppress(OSError):  # a terminal's end is an error
            while part := os.read(master, 65536):
                self._arrived += part
                time.sleep(pause_s)
        os.close(master)

    def text(self) -> str:
        """Close the stream and return what arrived."""
        with contextlib.suppress(OSError):
            self.stream.close()
        if self._reader is not None:
            self._reader.join(250)
            return self._arrived.decode(self._encoding).replace("\r\n", "\n")
        return self._file.read_bytes().decode(self._encoding) if self._file.is_file() else ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("row", WORDS.SUITE, ids=lambda row: row.name)
def test_hostile_words(
    row: Any, place: Path, recorded: Path, named_in_bytes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if row.needs:
        pytest.importorskip(row.needs)
    if "console" in row.words:
        pytest.importorskip("esper_sink_console")
    for name, value in row.variables.items():
        monkeypatch.setenv(name, value)
    if row.config:
        (place / "esper.toml").write_text(row.config, encoding="utf-8")
    words = [
        word.replace("{runs}", str(recorded.parent))
        .replace("{run}", str(recorded))
        .replace("{bytes}", str(named_in_bytes))
        for word in shlex.split(row.words)
    ]
    streams = [
        Place(row.stdout, place / "out.txt", row.encoding),
        Place(row.stderr, place / "err.txt", row.encoding),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0].stream)
        patch.setattr(sys, "stderr", streams[1].stream)
        code = main(words)
    said = "".join(stream.text() for stream in streams)
    assert code == row.code, said
    for part in row.says:
        assert " ".join(part.split()) in " ".join(said.split()), said
    if row.code == 64:
        assert "\n  " in said or "did you mean" in said, f"no remedy: {said}"
    assert "unexpected error" not in said
    assert "Traceback" not in said
    if not row.raw:
        assert all(sign.isprintable() or sign == "\n" for sign in said), ascii(said)


def test_the_names_of_the_rows_are_unique() -> None:
    names = [row.name for row in WORDS.SUITE]
    assert len(names) == len(set(names))
