"""A secret stands nowhere but where it was given: canaries at every door, and every command, sink and file searched."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from esper_core import masking
from esper_core.cli.main import main
from esper_core.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from esper_core.runs.segments import read_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")
pytest.importorskip("esper_sink_otlp", reason="endpoints, headers and proxies are the otlp sink's")
pytest.importorskip("esper_sink_tui", reason="sanctum is one of the commands")

MARK = "canary-"
TINY = ["--set", "ppo.rollout_steps=16", "--set", "env.n_envs=2", "--set", "ppo.minibatch_size=16", "--preset", "none"]


def canary(place: str) -> str:
    """A secret with signs that URLs, JSON and Python's repr write otherwise."""
    return f"{MARK}{place}/+'\"x"


def user(place: str) -> str:
    return f"ann:{quote(canary(place), safe='')}"


def basic(place: str) -> str:
    return base64.b64encode(f"ann:{canary(place)}".encode()).decode()


ENCODED = [basic(place)[6:] for place in ("endpoint", "proxy", "sink-url")]
"""What requests carry for user and password; without its first characters, which are the user's."""


def leaks(text: str) -> list[str]:
    """Every line that holds one."""
    return [line[:400] for line in text.splitlines() if any(item in line for item in (MARK, *ENCODED))]


PLUGINS = """
import json, logging, os, threading, urllib.parse
import gymnasium as gym, msgspec, numpy as np
from esper_core.hooks import Secret, hookimpl
from typing import Any

class Config(msgspec.Struct):
    url: str = ""
    api_token: str = ""
    password: Secret = Secret("")
    headers: dict[str, Secret] = {}
    extra: dict[str, Any] = {}

def told(config):
    parts = [config.url, config.api_token, config.password.reveal(), *(v.reveal() for v in config.headers.values())]
    parts += [str(config.extra.get("deep", {}).get("password")), os.environ.get("SERVICE_API_KEY", "")]
    parts += [urllib.parse.unquote(config.url), config.url.partition("//")[2].partition("/")[2]]
    return " ".join([*parts, json.dumps(parts), repr(parts), urllib.parse.quote(" ".join(parts))])

def quoting(config):
    try:
        raise OSError(told(config))
    except OSError as error:
        raise ValueError(told(config)) from error

class loud:
    Config = Config
    def __init__(self, config):
        self.config = config
    @hookimpl
    def esper_sink_opened(self, context):
        context.logger.error("opened with %s", told(self.config))
        context.report("failing", told(self.config))
        thread = threading.Thread(target=quoting, args=(self.config,))
        thread.start()
        thread.join()
    @hookimpl
    def esper_ppo_updated(self, event):
        quoting(self.config)
    @hookimpl
    def esper_sink_closed(self, reason):
        quoting(self.config)
    def check_report(self):
        quoting(self.config)
    def replay_report(self):
        return told(self.config)

class NotMade(loud):
    def __init__(self, config):
        quoting(config)

class NotOpened(loud):
    @hookimpl
    def esper_sink_opened(self, context):
        quoting(self.config)

class NoProcessor(loud):
    @hookimpl
    def esper_span_processors(self, context):
        quoting(self.config)

class Screen:
    @hookimpl
    def esper_foreground(self, child):
        import pathlib, time
        shown = {}
        while child.poll() is None:
            for folder in pathlib.Path("/proc").glob("[0-9]*"):
                try:
                    status = (folder / "stat").read_text().rpartition(")")[2].split()
                    if int(status[3]) == child.pid:  # the session that the trainer leads
                        line = (folder / "cmdline").read_bytes().decode()
                        shown[folder.name] = line or shown.get(folder.name, "")  # empty once it has ended
                except OSError:
                    pass
            time.sleep(0.05)
        print(json.dumps(shown))

class Task(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)
    def __init__(self, password="", url="", fails=False):
        self.told, self.fails, self.steps = f"{password} {url} {url.partition('//')[2]}", fails, 0
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.steps += 1
        if self.fails and self.steps > 20:
            raise RuntimeError("the simulator says " + self.told)
        return np.zeros(2, np.float32), 1.0, self.steps % 5 == 0, False, {}

if "Leaky-v0" not in gym.registry:
    gym.register("Leaky-v0", Task)
"""


class Echo(BaseHTTPRequestHandler):
    """Refuses each request with all that it was sent but the body: errors quote the receiver."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        type(self).bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        said = f"no such path: {self.path} {dict(self.headers)}".encode()
        self.send_response(404)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[tuple[str, list[bytes]]]:
    """Address of a receiver that quotes its requests, and the bodies that it got."""
    handler: Any = type("Handler", (Echo,), {"bodies": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}", handler.bodies
    server.shutdown()
    server.server_close()
    thread.join(250)


def configuration(folder: Path) -> str:
    """The file's doors: a third-party sink's table, and the environment's."""
    url = f"https://{user('sink-url')}@host/hook?sig={quote(canary('sink-query'), safe='')}"
    table = {
        "url": url,
        "api_token": canary("sink-token"),
        "headers": {"x-auth": f"Bearer {canary('sink-header')}"},
        "extra": {"deep": {"password": canary("sink-deep")}},
    }
    return (
        "".join(
            f"[sink.{name}]\n" + "".join(f"{key} = {inline(value)}\n" for key, value in table.items())
            for name in ("loud", "NotMade", "NotOpened", "NoProcessor", "elsewhere")
        )
        + f"[env.kwargs]\npassword = {inline(canary('env-password'))}\nurl = {inline(url)}\n"
    )


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, echo: tuple[str, list[bytes]]) -> Iterator[Path]:
    """A folder with canaries in its file, and in the environment's variables."""
    (tmp_path / "leaky.py").write_text(PLUGINS)
    (tmp_path / "esper.toml").write_text(configuration(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    # Traces go to the receiver itself, metrics through a proxy.
    key = quote(canary("query"), safe="")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://{user('endpoint')}@{echo[0]}/v1/traces?key={key}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://collector.invalid:4318/v1/metrics")
    monkeypatch.setenv("HTTP_PROXY", f"http://{user('proxy')}@{echo[0]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-tenant={quote(canary('header'), safe='')}")
    monkeypatch.setenv("SERVICE_API_KEY", canary("variable"))
    monkeypatch.setenv("ESPER_SINK__LOUD__PASSWORD", canary("sink-variable"))
    monkeypatch.setenv("NO_COLOR", "1")
    yield tmp_path
    sys.modules.pop("leaky", None)


@pytest.fixture
def esper(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command as a process does, which knows no secret at its start; what it printed holds none."""

    def run(*words: str, code: int = EXIT_OK) -> str:
        masking._known, masking._pattern = frozenset(), None
        found = main(list(words))
        printed = "".join(capfd.readouterr())
        assert found == code, printed
        assert not leaks(printed), words
        return printed

    return run


def search(folder: Path) -> list[str]:
    """Every file of the runs, packed ones unpacked."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        parts = [read_segment(path)]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                parts += [packed.read(name) for name in packed.namelist()]
        found += [f"{path.name}: {line}" for part in parts for line in leaks(part.decode(errors="replace"))]
    return found


SINKS = "console,journal,otlp,./leaky.py:loud"
TASK = ("--env", "leaky:Leaky-v0", *TINY)


def test_a_run_and_every_command_on_it(here: Path, esper: Callable[..., str], echo: tuple[str, list[bytes]]) -> None:
    said = esper("ppo", "--updates", "2", "--sinks", SINKS, *TASK, "--set", f"sink.loud.extra.token={canary('set')}")
    assert "loud" in said
    assert echo[1], "nothing reached the receiver"
    (run,) = (here / "runs").iterdir()
    files = {path.name for path in run.iterdir()}
    assert {"trainer.log", "run.json", "summary.json", "config.toml", "checkpoint.pt", "telemetry"} <= files
    log = (run / "trainer.log").read_text()
    assert "opened with https://***@host" in log
    assert "404" in log
    assert not search(run)
    esper("config", "show", "--sinks", SINKS)
    esper("config", "show", "--toml", "--sinks", "./leaky.py:loud,otlp")
    esper("config", "show", "--json")
    esper("sinks", "--sinks", SINKS)
    checked = esper("sinks", "check", "--sinks", SINKS, code=EXIT_FAILED)
    assert "404" in checked
    assert "FAILED" in checked
    esper("runs", "--no-config")
    esper("runs", "--json")
    esper("replay", "latest")
    esper("replay", "latest", "--to", "otlp", code=EXIT_FAILED)
    esper("replay", "latest", "--to", "./leaky.py:loud", code=EXIT_FAILED)
    esper("export", "latest")
    esper("sanctum", "latest", "--once", code=1)
    esper("sanctum", "latest", "--once", "--json", code=1)
    again = ("--set", f"env.kwargs.password={canary('set')}", "--set", f"env.kwargs.url=https://{user('set')}@host")
    esper("eval", "latest", "--episodes", "1", *again)
    esper("--help")
    esper("ppo", "--help")
    resumed = ("--resume", "latest", "--updates", "3", *again)
    esper("ppo", *resumed, "--sinks", "journal,otlp", "--debug")
    assert not search(here / "runs")
    assert not [line for body in echo[1] for line in leaks(body.decode(errors="replace"))]


def test_sinks_that_serve_write_and_post(
    here: Path, esper: Callable[..., str], echo: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the sinks of the test above: the page, the event files, and a hook whose address is the secret."""
    for package in ("esper_sink_prometheus", "esper_sink_tensorboard", "esper_sink_webhook"):
        pytest.importorskip(package)
    key = quote(canary("hook"), safe="")
    monkeypatch.setenv("ESPER_SINK__WEBHOOK__URL", f"http://{echo[0]}/services/{key}?sig={key}")
    monkeypatch.setenv("ESPER_SINK__WEBHOOK__TOKEN", canary("hook-token"))
    monkeypatch.setenv("ESPER_SINK__PROMETHEUS__PORT", "0")
    sinks = ("--sinks", "journal,prometheus,tensorboard,webhook")
    esper("ppo", "--updates", "2", *sinks, *TASK)
    esper("sinks", "check", *sinks, code=EXIT_FAILED)
    esper("sinks", *sinks)
    esper("config", "show", *sinks)
    esper("replay", "latest", "--to", "tensorboard")
    esper("ppo", "--updates", "9", *sinks, *TASK, "--set", "env.kwargs.fails=true", "--debug", code=EXIT_FAILED)
    assert echo[1], "nothing reached the receiver"
    assert not search(here / "runs")
    assert not [line for body in echo[1] for line in leaks(body.decode(errors="replace"))]


@pytest.mark.parametrize("more", [(), ("--debug",)])
def test_an_environment_that_raises(here: Path, esper: Callable[..., str], more: tuple[str, ...]) -> None:
    sinks = "journal,./leaky.py:loud"
    words = ("ppo", "--updates", "9", "--sinks", sinks, *TASK, "--set", "env.kwargs.fails=true", *more)
    said = esper(*words, code=EXIT_FAILED)
    assert "the simulator says *** https://***@host/hook?***" in said
    assert ("cli/main.py" in said) == bool(more)
    (run,) = (here / "runs").iterdir()
    assert "the simulator says" in (run / "summary.json").read_text()
    assert not search(run)
    assert "the simulator says" in esper("replay", "latest")
    esper("runs")
    esper("sanctum", "latest", "--once", code=2)


@pytest.mark.parametrize("sink", ["NotMade", "NotOpened", "NoProcessor"])
@pytest.mark.parametrize("command", [("ppo", *TASK), ("sinks", "check")])
@pytest.mark.usefixtures("here")
def test_a_sink_that_cannot_begin(esper: Callable[..., str], sink: str, command: tuple[str, ...]) -> None:
    code = EXIT_FAILED if (command[0], sink) == ("sinks", "NotOpened") else EXIT_USAGE
    said = esper(*command, "--sinks", f"./leaky.py:{sink}", "--debug", code=code)
    assert "https://***@host/hook?***" in said


SECRET = canary("typed")
GRPC = ("--sinks", "otlp", "--set", "sink.otlp.protocol=grpc")
WRONG: list[tuple[str, ...]] = [
    ("ppo", "--token", SECRET),
    ("ppo", f"--token={SECRET}"),
    ("sanctum", "--tokn", SECRET, "--listen", "127.0.0.1:0"),
    ("ppo", "--set", f"sink.otlp.headers authorization={SECRET}", "--sinks", "otlp"),
    ("ppo", "--set", f"sink.otlp.headers.x:{SECRET}", "--sinks", "otlp"),
    ("ppo", "--set", f"sink.otlp.headers={SECRET}", "--sinks", "otlp"),
    ("ppo", "--set", f"sink.otlp.token={SECRET}", "--sinks", "otlp"),
    ("ppo", "--set", f"sink.otlp.headers.x={SECRET}\n", "--sinks", "otlp", "--set", 'sink.otlp.endpoint="x"'),
    ("ppo", "--set", f"sink.otlp.traces_endpoint=ftp://ann:{SECRET}@host", "--sinks", "otlp"),
    ("ppo", "--set", f"sink.otlp.traces_endpoint=http://ann:{SECRET}@ho st", "--sinks", "otlp"),
    ("ppo", "--set", f"sink.otlp.traces_endpoint=http://{SECRET}@host:port", "--sinks", "otlp"),
    ("ppo", "--set", f"sink.otlp.endpoint=http://host:4318?key={SECRET}", "--sinks", "otlp"),
    (
        "ppo",
        "--set",
        "sink.otlp.protocol=grpc",
        "--set",
        f"sink.otlp.traces_endpoint=ann:{SECRET}@h",
        "--sinks",
        "otlp",
    ),
    (
        "ppo",
        "--set",
        "sink.otlp.protocol=grpc",
        "--set",
        f"sink.otlp.traces_endpoint=ann:{SECRET}@h x",
        "--sinks",
        "otlp",
    ),
    ("ppo", "--set", f"sink.loud.unknown_token={SECRET}", "--sinks", "./leaky.py:loud"),
    ("ppo", "--set", f"sink.loud.headers={SECRET}", "--sinks", "./leaky.py:loud"),
    ("ppo", "--set", f"sink.loud.password=[{json.dumps(SECRET)}]", "--sinks", "./leaky.py:loud"),
    ("ppo", "--set", f"env.kwargs.session_key={SECRET}", *TASK),
    ("ppo", "--set", f"ppo.api_token={SECRET}"),
    ("ppo", "--set", f"run.updates=http://ann:{SECRET}@host"),
    ("runs", "--password", SECRET),
    ("replay", "latest", "--to", f"http://ann:{SECRET}@host"),
    ("replay", f"https://ann:{SECRET}@host"),
]


@pytest.mark.parametrize("words", WRONG, ids=[" ".join(words).replace(SECRET, "***") for words in WRONG])
@pytest.mark.usefixtures("here")
def test_wrong_use(esper: Callable[..., str], words: tuple[str, ...]) -> None:
    esper(*words, "--debug", code=EXIT_USAGE)


VARIABLES = [
    ("OTEL_EXPORTER_OTLP_HEADERS", f"x={SECRET}%0A"),
    ("OTEL_EXPORTER_OTLP_HEADERS", f"Bearer {SECRET}"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http//ann:{SECRET}@host"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"ftp://ann:{SECRET}@host"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", f"http://ann:{SECRET}@host"),
    ("ESPER_SINK__OTLP__HEADERS", SECRET),
    ("ESPER_SINK__OTLP__API_TOKEN", SECRET),
]


@pytest.mark.parametrize(("name", "value"), VARIABLES)
@pytest.mark.usefixtures("here")
def test_wrong_variables(esper: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    esper("ppo", "--sinks", "otlp", "--debug", code=EXIT_USAGE)
    esper("sinks", "check", "--sinks", "otlp", "--debug", code=EXIT_USAGE)


def test_no_process_of_a_run_behind_a_screen_shows_one(here: Path) -> None:
    """Given by file and variable, and by ``--set`` through the parent's own list of words, which nobody else sees."""
    words = ["ppo", "--updates", "20", "--sinks", "journal,otlp,./leaky.py:Screen,./leaky.py:loud", *TASK]
    words += ["--set", f"sink.loud.api_token={canary('set')}"]
    code = f"import sys; from esper_core.cli.main import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == EXIT_OK, done.stderr
    shown = json.loads(done.stdout)
    assert any("esper_core.host.process.child" in line for line in shown.values()), shown
    assert not leaks(done.stdout + done.stderr)
    assert not search(here / "runs")


def test_the_viewers_listener_tells_no_token(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "esper_core", "--debug", "sanctum", "--listen", "127.0.0.1:0", "--interval", "0.1"]
    (tmp_path / "token").write_text(SECRET)
    viewer = subprocess.Popen(
        [*words, "--token", f"@{tmp_path}/token"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert viewer.stdout is not None
    first = viewer.stdout.readline()
    host = first.partition("http://")[2].partition("/")[0]
    for path, sent in (
        ("/v1/traces", SECRET),
        ("/v1/traces", f"{SECRET}x"),
        (f"/v1/nothing?token={quote(SECRET, safe='')}", SECRET),
        ("/v1/metrics", SECRET),
    ):
        client = http.client.HTTPConnection(host, timeout=250)
        client.request("POST", path, b"{}", {"authorization": f"Bearer {sent}", "content-type": "application/json"})
        assert not leaks(client.getresponse().read().decode())
        client.close()
    viewer.send_signal(signal.SIGINT)
    rest = viewer.communicate(timeout=250)[0]
    assert not leaks(first + rest)
