"""``torchrun -m esper_core ppo`` with two ranks: one run, one end when a rank is gone, and one run again, resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.health import RunState
from esper_core.reading import open_run
from esper_core.runs.layout import journal_files
from esper_core.runs.segments import read_segment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper_core.reading import Run

GUARD_S = 250
TIMEOUT_S = {"SIGKILL": 250, "SIGSTOP": 15}
TRACE = "0af7651916cd43dd8448eb211c80319c"

ENVIRONMENT = """
import os, signal
import gymnasium as gym

class Hurt(gym.Wrapper):
    steps = 0

    def step(self, action):
        Hurt.steps += 1
        if os.environ["RANK"] == "1" and Hurt.steps == 800 and "HURT" in os.environ:
            os.kill(os.getpid(), getattr(signal, os.environ["HURT"]))
        return self.env.step(action)

gym.register("Hurt-v0", entry_point=lambda **_: Hurt(gym.make("CartPole-v1")))
"""

SPANS = """
import json, os
from opentelemetry.sdk.trace import SpanProcessor
from esper_core.hooks import hookimpl

class Spans(SpanProcessor):
    every_rank = True

    def __init__(self, config=None):
        self._file = open(f"spans-{os.environ['RANK']}", "a")

    @hookimpl
    def esper_span_processors(self, context):
        return [self]

    def on_end(self, span):
        rank, trace = span.resource.attributes["esper.rank"], span.links and f"{span.links[0].context.trace_id:032x}"
        self._file.write(json.dumps([span.name, rank, trace or "", span.parent is None]) + "\\n")
        self._file.flush()
"""

ARGUMENTS = [
    *("-m", "esper_core", "ppo", "--sinks", "console,journal", "--no-config", "--set", "otel.episodes=true"),
    *("--set", "ppo.rollout_steps=32", "--set", "env.n_envs=4", "--set", "ppo.minibatch_size=64"),
    *("--set", "ppo.normalise_observations=true", "--set", "ppo.normalise_rewards=true"),
    *("--set", "run.rank_check_updates=1", "--set", "run.checkpoint_interval_s=0.001"),
    *("--env", "hurt_env:Hurt-v0", "--episodes", "0"),
]


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of ranks; what the test leaves of them is killed, and waited for."""
    (tmp_path / "hurt_env.py").write_text(ENVIRONMENT)
    (tmp_path / "spans.py").write_text(SPANS)
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def start_two(hurt: str, path: Path) -> list[subprocess.Popen[str]]:
    """Two ranks as a cluster starts them, without torchrun; the second one hurts itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "HURT": hurt}
    limits = ["--updates", "100000", "--set", f"run.rank_timeout_s={TIMEOUT_S[hurt]}"]
    return [
        subprocess.Popen(
            [sys.executable, *ARGUMENTS, *limits],
            cwd=path,
            env=os.environ | where | {"RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


def lost_rank_1(started: list[subprocess.Popen[str]], path: Path) -> Run:
    """The run after rank 0 has ended because of rank 1: failed, and readable to its end."""
    said = started[0].communicate(timeout=GUARD_S)[1]
    assert started[0].returncode == 1, said
    assert "rank 0 of 2 lost the others" in said
    assert "Traceback" not in said
    (directory,) = (path / "runs").iterdir()
    run = open_run(directory)
    assert run.state is RunState.FAILED
    assert [event.payload.update_id for event in run.updates()][:2] == [1, 2]
    assert "run.started" in journal(run, 1)
    victim = f"rank 1 (pid {started[1].pid} on {socket.gethostname()})"
    if "rank_timeout_s" in said:
        assert f"{victim} did not come within 15 s" in said
    else:
        assert f"lost the others: {victim} is gone" in said
    assert victim in run.verdict().reason
    return run


def journal(run: Run, rank: int) -> str:
    return "".join(read_segment(item.path).decode() for item in journal_files(run.directory) if item.rank == rank)


def test_a_rank_that_hangs_ends_all(tmp_path: Path, ranks: list[subprocess.Popen[str]]) -> None:
    ranks += start_two("SIGSTOP", tmp_path)
    run = lost_rank_1(ranks, tmp_path)
    assert "rank_timeout_s" in run.record.message  # type: ignore[union-attr]  # it has one
    assert ranks[1].poll() is None, "it is stopped, and whoever started it has to end it"


def test_a_rank_that_is_killed_ends_all_and_torchrun_resumes_them(
    tmp_path: Path, ranks: list[subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts are of both ranks, readers see one run through both attempts, and each rank wrote its own journal."""
    ranks += start_two("SIGKILL", tmp_path)
    broken = lost_rank_1(ranks, tmp_path)
    assert ranks[1].wait(GUARD_S) == -signal.SIGKILL
    first = [event.payload.update_id for event in broken.updates()]
    last = first[-1] + 3
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(*ARGUMENTS, "--resume", "latest", "--updates", str(last), "--sink", "./spans.py:Spans"),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TRACEPARENT": f"00-{TRACE}-b7ad6b7169203331-01"},
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: ") == 1, "the console is rank 0's"
    run = open_run(broken.path)
    assert run.state is RunState.DONE
    updates = [event.payload for event in run.updates()]
    assert [update.update_id for update in updates] == list(range(1, last + 1))
    assert [update.env_steps for update in updates] == [256 * number for number in range(1, last + 1)]
    assert all(update.steps == 256 for update in updates), "an update is of both ranks' samples"
    assert sorted({(item.attempt, item.rank) for item in journal_files(run.directory)}) == [
        *((1, 0), (1, 1), (2, 0), (2, 1)),
    ]
    mine, others = journal(run, 0), journal(run, 1)
    assert mine.count('"esper.ppo.update"') >= last
    assert '"esper.ppo.update"' not in others, "updates are told once"
    assert re.search(r'"esper\.rank","value":\{"intValue":"1"\}', others)
    returns = [re.findall(r'episode\.return","value":\{"doubleValue":([\d.]+)', text) for text in (mine, others)]
    assert returns[0]
    assert returns[0] != returns[1], "the ranks play other episodes"
    one_run(run, last, capsys)
    spans = {
        rank: [json.loads(line) for line in (tmp_path / f"spans-{rank}").read_text().splitlines()] for rank in (0, 1)
    }
    for rank, found in spans.items():
        assert {name for name, *_ in found} >= {"esper.run.started", "esper.episode", "esper.run.finished"}
        assert {own for _, own, *_ in found} == {rank}
        assert all(trace == (TRACE if begins else "") for _, _, trace, begins in found), "one TRACEPARENT for all ranks"


def one_run(run: Run, last: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What lists, prints, draws, exports and watches runs knows one, with each update once."""
    assert json.loads((run.path / "run.json").read_text())["env_steps"] == 256 * last
    said = {}
    page = run.path.parent / "page.html"
    for words in (
        ["runs", "--json", "--dir", str(run.path.parent)],
        ["replay", str(run.path)],
        ["export", str(run.path), "--jsonl"],
        ["report", str(run.path), "-o", str(page)],
        ["sanctum", str(run.path), "--once", "--json"],
    ):
        assert main(words) in {0, 1, 2}, words
        said[words[0]] = capsys.readouterr().out
    (listed,) = json.loads(said["runs"])
    assert (listed["updates"], listed["ranks"]) == (last, 2)
    assert [(item["rank"], item["log"]) for item in listed["processes"]] == [(0, "trainer.log"), (1, "trainer-1.log")]
    assert said["replay"].count("KL") >= last
    assert [json.loads(line)["update_id"] for line in said["export"].splitlines()] == list(range(1, last + 1))
    assert run.run_id in page.read_text()
    assert "2 ranks" in page.read_text()
    shown = json.loads(said["sanctum"])["run"]
    assert (shown["attempt"], shown["message"]) == (2, f"{last} of {last} updates")
