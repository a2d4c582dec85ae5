"""A rank that waits for another over gloo: bounded, also after a signal, and then the process ends at once."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

GUARD_S = 250

PROGRAM = """
import os, signal, sys
import torch
from esper_core.errors import RanksError
from esper_core.host.process.signals import StopFlag, install_signals
from esper_core.training.ranks import Place, join

here, there = os.pipe()
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1]}
child = os.fork()
rank = 1 if child == 0 else 0
stop = StopFlag()
with install_signals(stop, exit_on_second=False), join(Place(rank, 2), 3600, stop, asked_s=ASKED_S) as group:
    assert group.gather({"rank": rank, "long": "x" * rank}) == [{"rank": 0, "long": ""}, {"rank": 1, "long": "x"}]
    assert group.share(("of", rank)) == ("of", 0)
    assert group.sum(torch.tensor([1.0 + rank, 2.0])).tolist() == [3.0, 4.0]
    assert group.max(torch.tensor([1.0 + rank, torch.nan])).tolist() == [2.0, torch.inf]
    assert group.sum(torch.zeros(0)).shape == (0,)
    if rank == 1:
        os.close(there)
        os.read(here, 1)  # until rank 0 has ended
        os._exit(0)
    os.close(here)
    asked = ASKED
    signal.signal(signal.SIGALRM, lambda *_: asked and signal.raise_signal(asked.pop(0)))
    signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)
    try:
        group.sum(torch.zeros(1))
    except RanksError as error:
        print(error.message, error.exit_code)
    except KeyboardInterrupt:
        print("interrupted")
signal.setitimer(signal.ITIMER_REAL, 0)
print("ended", flush=True)
"""


@pytest.mark.parametrize(
    ("asked", "asked_s", "said"),
    [
        ([15], 0.5, "SIGTERM: rank 0 of 2 waited 0.5 s for the others in vain 143"),
        ([2, 2], 3600, "interrupted"),
    ],
    ids=["signal", "second Ctrl-C"],
)
def test_a_rank_waits_for_a_bounded_time(asked: list[int], asked_s: float, said: str) -> None:
    """The other rank is there and answers nothing. The interpreter's end does not wait for it either."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = PROGRAM.replace("ASKED_S", str(asked_s)).replace("ASKED", str(asked))
    done = subprocess.run(
        [sys.executable, "-c", program, str(port)],
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [said, "ended"]
