"""Mutates run folders and reads them with every command that reads runs: how many crash, how many hang.

``python tests/benchmarks/fuzz_runs.py --seed 0 --count 10000 --jobs 2``. Each case is a copy of a real run with one to
three of its files cut, swapped, replaced, re-ordered, damaged or forbidden; which is a function of the seed and the
case's number, so that ``--first 4711 --count 1 --keep DIR`` makes one again. Commands run in the process, without the
right of root to read everything, under a watchdog; ``--real N`` runs N of the cases as processes of their own too.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mutated_runs import make_case, make_runs, remove, runs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

WATCHDOG_S: Final = 60.0
REAL_WATCHDOG_S: Final = 250.0
"""Of a process of its own, which imports torch on a busy machine."""
_MAY_READ_ALL: Final = (1, 2)
"""Linux capabilities CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
_PR_CAPBSET_DROP: Final = 24
_CAPABILITY_VERSION_3: Final = 0x20080522
EXIT_CODES: Final = frozenset({0, 1, 2, 3, 64})
"""What these commands may exit with: see docs/reference/cli.md and ``esper sanctum --help``."""
UNFORESEEN: Final = re.compile(r"an unexpected error|--debug shows|Traceback \(most recent")


class HangError(BaseException):
    """A command did not end in time. No Exception: no command may contain it."""


@dataclass(frozen=True)
class Fault:
    """A command that crashed or hung on a case."""

    case: int
    command: str
    kind: str
    mutations: list[str]
    said: str


# --- reading ------------------------------------------------------------------------------------


def commands(run: Path, whole: Path, *, json_too: bool) -> list[list[str]]:
    """The commands that read a run, each as its arguments, in one of their two forms.

    Args:
        run: the mutated run.
        whole: the run that it was copied from, to compare it with.
        json_too: the documents of the commands that have one, not their text.
    """
    folder = ["--dir", str(run.parent)]
    return [
        ["runs", *folder, *(["--json"] if json_too else [])],
        ["replay", str(run)],
        ["export", str(run)],
        ["sanctum", str(run), "--once", *(["--json"] if json_too else [])],
        ["eval", str(run), "--episodes", "1", "--deterministic"],
        ["compare", str(run), str(whole), *(["--json"] if json_too else [])],
        ["report", str(run), str(whole), "-o", str(run.parent / "report.html")],
    ]


def _obey_permissions() -> None:
    """Give up root's right to read everything, in this process and in those it starts; nothing for other users."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in _MAY_READ_ALL:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same of the upper half
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for place in range(3):
        sets[place] &= ~sum(1 << capability for capability in _MAY_READ_ALL)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _expired(*_: object) -> None:
    raise HangError


def read(words: Sequence[str]) -> tuple[int | None, str]:
    """Run one command in this process: its exit code, None when it hung, and all that it said."""
    from esper_core.cli.main import main

    said = io.StringIO()
    before = signal.signal(signal.SIGALRM, _expired)
    signal.setitimer(signal.ITIMER_REAL, WATCHDOG_S)
    faulthandler.dump_traceback_later(3 * WATCHDOG_S, exit=True)  # for what no signal interrupts
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code: int | None = main(words)
    except HangError:
        code = None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
    return code, said.getvalue()


def judge(case: int, words: Sequence[str], code: int | None, said: str, mutations: list[str]) -> Fault | None:
    """The fault of one command on one case, or None."""
    if code is None:
        kind = "hang"
    elif code not in EXIT_CODES or UNFORESEEN.search(said):
        kind = "crash"
    else:
        return None
    return Fault(case, words[0], kind, mutations, said[-600:])


def try_case(seed: int, case: int, sources: Sequence[Path], folder: Path) -> list[Fault]:
    """Make one case and read it with every command."""
    folder.mkdir()
    try:
        mutator = make_case(seed, case, sources, folder)
        found = [
            judge(case, words, *read(words), mutator.done)
            for words in commands(mutator.run, sources[case % len(sources)], json_too=case % 2 == 1)
        ]
        return [fault for fault in found if fault is not None]
    finally:
        remove(folder)


def try_for_real(seed: int, case: int, sources: Sequence[Path], folder: Path) -> list[Fault]:
    """As :func:`try_case`, each command a process of its own."""
    folder.mkdir()
    faults = []
    try:
        mutator = make_case(seed, case, sources, folder)
        for words in commands(mutator.run, sources[case % len(sources)], json_too=case % 2 == 1):
            call = [sys.executable, "-m", "esper_core", *words]
            try:
                done = subprocess.run(call, capture_output=True, text=True, timeout=REAL_WATCHDOG_S, check=False)
                code, said = done.returncode, done.stdout + done.stderr
            except subprocess.TimeoutExpired:
                code, said = None, ""
            fault = judge(case, words, code, said, mutator.done)
            faults += [] if fault is None else [fault]
        return faults
    finally:
        remove(folder)


# --- many of them -------------------------------------------------------------------------------


def work(seed: int, first: int, count: int, runs: Path, *, real: bool) -> None:
    """Try a range of cases; print one line of JSON a case."""
    sources = runs_of(runs)
    try_one = try_for_real if real else try_case
    _obey_permissions()
    with tempfile.TemporaryDirectory(prefix="fuzz-runs-") as name:
        Path(name).chmod(0o755)
        os.chdir(name)
        for case in range(first, first + count):
            faults = try_one(seed, case, sources, Path(name) / f"case-{case}")
            print(
                json.dumps({"case": case, "faults": [asdict(fault) for fault in faults]}),
                file=sys.__stdout__,
                flush=True,
            )


class Worker:
    """A process that tries a range of cases; its lines go to a file, so that they can be read at any time."""

    def __init__(self, seed: int, first: int, count: int, runs: Path, *, real: bool) -> None:
        self.first, self.count = first, count
        words = ["--work", str(runs), "--seed", str(seed), "--first", str(first), "--count", str(count)]
        call = [sys.executable, __file__, *words, *(["--real", "1"] if real else [])]
        self.lines = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the worker
        self.process = subprocess.Popen(call, stdout=self.lines)

    def tried(self) -> list[list[Fault]]:
        """The faults of each case so far, in order."""
        self.lines.seek(0)
        whole = [line for line in self.lines.read().splitlines(keepends=True) if line.endswith("\n")]
        return [[Fault(**fault) for fault in json.loads(line)["faults"]] for line in whole]


def run_many(
    seed: int, first: int, count: int, jobs: int, runs: Path, *, real: bool, until: float
) -> tuple[int, list[Fault]]:
    """Try a range of cases in several processes; one that dies is a crash of the case it had begun.

    Returns:
        How many cases were tried before ``until`` (monotonic seconds), and the faults.
    """
    share = max(-(-count // jobs), 1)
    workers = [
        Worker(seed, at, min(share, first + count - at), runs, real=real) for at in range(first, first + count, share)
    ]
    done, faults = 0, []
    for worker in workers:
        try:
            worker.process.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            worker.process.terminate()
            worker.process.wait()
        tried = worker.tried()
        done += len(tried)
        faults += [fault for case in tried for fault in case]
        rest = worker.first + len(tried) + 1
        if len(tried) == worker.count or time.monotonic() >= until:
            continue
        faults.append(Fault(rest - 1, "?", "crash", [], f"the process ended with {worker.process.returncode}"))
        if rest < worker.first + worker.count:
            more = run_many(seed, rest, worker.first + worker.count - rest, 1, runs, real=real, until=until)
            done, faults = done + more[0], faults + more[1]
    return done, faults


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--count", type=int, default=10_000, help="cases")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so many")
    parser.add_argument("--real", type=int, default=20, help="cases that are also read by processes of their own")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="only make the cases, in this folder")
    args = parser.parse_args()
    if args.work is not None:
        work(args.seed, args.first, args.count, args.work, real=args.real == 1)
        return 0
    with tempfile.TemporaryDirectory(prefix="fuzz-base-") as name:
        base = Path(name)
        base.chmod(0o755)
        sources = make_runs(base / "runs")
        if args.keep is not None:
            for case in range(args.first, args.first + args.count):
                args.keep.mkdir(parents=True, exist_ok=True)
                folder = args.keep / f"case-{case}"
                folder.mkdir()
                print(folder, *make_case(args.seed, case, sources, folder).done, sep="\n  ")
            return 0
        begun = time.monotonic()
        until = begun + args.minutes * 60
        done, faults = run_many(args.seed, args.first, args.count, args.jobs, base / "runs", real=False, until=until)
        minutes = (time.monotonic() - begun) / 60
        until = time.monotonic() + args.minutes * 60
        real, more = run_many(args.seed, args.first, args.real, args.jobs, base / "runs", real=True, until=until)
        faults += more
    for fault in faults:
        print(json.dumps(asdict(fault), indent=2))
    crashes = sum(fault.kind == "crash" for fault in faults)
    hangs = len(faults) - crashes
    each = len(commands(Path("runs/run"), Path("runs/run"), json_too=False))
    print(f"{done} mutated run folders x {each} commands in {minutes:.1f} min; as processes: {real} folders")
    print(f"crashes {crashes}, hangs {hangs}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
