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
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
WILD: Final = (
    b"-1", b"0", b"1e308", b"1e999", b"9223372036854775808", b"18446744073709551616", b"-9223372036854775809",
    b"null", b'""', b"[]", b"{}", b"true", b'"NaN"', b"1.5", b'"\x1b[31mred"', b"4294967296", b'"12"',
)  # fmt: skip


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


# --- the runs that are mutated ------------------------------------------------------------------


def make_runs(base: Path) -> list[Path]:
    """Train three real runs: one in two attempts, one whose journal has several files, one without a journal."""
    from esper_core.cli.main import main

    common = ["ppo", "--env", "CartPole-v1", "--dir", str(base), "--set", "ppo.hidden=[8]", "--set", "env.n_envs=2"]
    common += ["--set", "sink.journal.compress=false"]  # lines are what is mutated
    short = [*common, "--set", "ppo.rollout_steps=16"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main([*short, "--updates", "6", "--sinks", "journal", "--run-name", "resumed"])
        main(["ppo", "--resume", "resumed", "--updates", "12", "--dir", str(base), "--sinks", "journal"])
        main([*short, "--updates", "9", "--sinks", "journal", "--run-name", "parts"])
        main([*short, "--updates", "3", "--sinks", "", "--run-name", "bare"])
    found = runs_of(base)
    _split_journal(next(path for path in found if "-parts-" in path.name))
    return found


def runs_of(base: Path) -> list[Path]:
    """The runs of a folder in the order of the names that they were given, so that a case is the same one again."""
    return sorted(base.iterdir(), key=lambda path: path.name.split("-")[1])


def _split_journal(run: Path) -> None:
    """Give the journal three files, as a long run has."""
    whole = run / "telemetry" / "1-0-0001.otlp.jsonl"
    lines = whole.read_bytes().splitlines(keepends=True)
    for number in range(3):
        part = lines[number * len(lines) // 3 : (number + 1) * len(lines) // 3]
        (run / "telemetry" / f"1-0-{number + 1:04d}.otlp.jsonl").write_bytes(b"".join(part))


# --- mutations ----------------------------------------------------------------------------------


class Mutator:
    """Makes one case.

    Args:
        seed: with the case's number, the source of every choice.
        case: its number.
        run: the copy to mutate.
    """

    def __init__(self, seed: int, case: int, run: Path) -> None:
        self.random = random.Random(f"{seed}:{case}")  # a test's choices, not a secret
        self.run = run
        self.done: list[str] = []

    def mutate(self) -> None:
        """Apply one to three mutations."""
        for _ in range(self.random.choice((1, 1, 2, 3))):
            weights = [weight for _, weight in MUTATIONS]
            [(mutation, _)] = self.random.choices(MUTATIONS, weights)
            path = self._target()
            try:
                mutation(self, path)
            except OSError:
                continue  # an earlier one has put something else there
            self.done.append(f"{mutation.__name__} {path.relative_to(self.run.parent)}")

    def _target(self) -> Path:
        """A file of the run, the journal's more often."""
        files = sorted(path for path in self.run.rglob("*") if path.parent.name == "telemetry")
        names = ("run.json", "config.toml", "summary.json", "checkpoint.pt", "trainer.log")
        others = [self.run / name for name in names]
        return self.random.choice([*others, *others, *(files or [self.run / "telemetry"]) * 2, self.run / "telemetry"])


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.read_bytes()


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def cut(m: Mutator, path: Path) -> None:
    content = _content(path)
    path.write_bytes(content[: m.random.randrange(len(content) + 1)])


def cut_front(m: Mutator, path: Path) -> None:
    content = _content(path)
    path.write_bytes(content[m.random.randrange(len(content) + 1) :])


def empty(m: Mutator, path: Path) -> None:
    _content(path)
    path.write_bytes(b"")


def delete(m: Mutator, path: Path) -> None:
    _clear(path)


def swap(m: Mutator, path: Path) -> None:
    other = m._target()
    one, two = _content(path), _content(other)
    path.write_bytes(two)
    other.write_bytes(one)


def flip(m: Mutator, path: Path) -> None:
    content = bytearray(_content(path) or b"?")
    for _ in range(m.random.choice((1, 1, 3, 30))):
        content[m.random.randrange(len(content))] = m.random.randrange(256)
    path.write_bytes(content)


def hole(m: Mutator, path: Path) -> None:
    content = _content(path)
    place = m.random.randrange(len(content) + 1)
    path.write_bytes(
        content[:place]
        + m.random.choice((b"\0", b"\n", b"[", b"{", b"\xff")) * m.random.choice((1, 64, 300_000))
        + content[place:]
    )


def sparse(m: Mutator, path: Path) -> None:
    os.truncate(path, len(_content(path)) + 40_000_000)


def byte_order_mark(m: Mutator, path: Path) -> None:
    content = _content(path)
    if m.random.random() < 0.7:
        path.write_bytes(b"\xef\xbb\xbf" + content)
    else:
        path.write_bytes(content.decode("utf-8", "replace").encode("utf-16"))


def line_ends(m: Mutator, path: Path) -> None:
    path.write_bytes(_content(path).replace(b"\n", m.random.choice((b"\r\n", b"\r", b"\n\n"))))


def lines(m: Mutator, path: Path) -> None:
    found = _content(path).splitlines(keepends=True)
    match m.random.randrange(6):
        case 0:
            m.random.shuffle(found)
        case 1:
            found.reverse()
        case 2:
            found += found
        case 3:
            found = [line for line in found for _ in range(m.random.choice((1, 1, 2, 3)))]
        case 4:
            found = [line for line in found if m.random.random() < 0.7]
        case _:
            found = [line.rstrip(b"\n") if m.random.random() < 0.2 else line for line in found]
    path.write_bytes(b"".join(found))


def number(m: Mutator, path: Path) -> None:
    content = _content(path)
    places = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", content))
    if places:
        place = m.random.choice(places)
        path.write_bytes(content[: place.start()] + m.random.choice(WILD) + content[place.end() :])


def value(m: Mutator, path: Path) -> None:
    content = _content(path)
    places = list(re.finditer(rb'(?<=[:=] )[^,\n]+|(?<=":)[^,{}\[\]]+', content))
    if places:
        place = m.random.choice(places)
        path.write_bytes(content[: place.start()] + m.random.choice(WILD) + content[place.end() :])


def key(m: Mutator, path: Path) -> None:
    content = _content(path)
    places = list(re.finditer(rb"[a-z_.]{3,}", content))
    if places:
        place = m.random.choice(places)
        path.write_bytes(
            content[: place.start()] + m.random.choice((b"", b"x", place.group().upper())) + content[place.end() :]
        )


def nested(m: Mutator, path: Path) -> None:
    _content(path)
    path.write_bytes(m.random.choice((b"[", b'{"a":', b"a = " + b"[" * 9)) * 50_000)


def fifo(m: Mutator, path: Path) -> None:
    _clear(path)
    os.mkfifo(path)


def directory(m: Mutator, path: Path) -> None:
    _clear(path)
    path.mkdir()


def plain_file(m: Mutator, path: Path) -> None:
    _clear(path)
    path.write_bytes(m.random.randbytes(200))


def unix_socket(m: Mutator, path: Path) -> None:
    _clear(path)
    with socket.socket(socket.AF_UNIX) as end, contextlib.chdir(path.parent):
        end.bind(path.name)


def link(m: Mutator, path: Path) -> None:
    _clear(path)
    path.symlink_to(
        m.random.choice((path.name, "nothing", "/dev/zero", "/dev/null", "..", "run.json", "/proc/self/mem"))
    )


def forbid(m: Mutator, path: Path) -> None:
    if path.is_symlink():  # an earlier mutation's: it may lead to a device of the machine
        raise FileNotFoundError(path)
    path.chmod(m.random.choice((0, 0o200, 0o111)))


def forbid_run(m: Mutator, path: Path) -> None:
    m.run.chmod(m.random.choice((0, 0o444, 0o111)))


def rename_run(m: Mutator, path: Path) -> None:
    m.run = m.run.rename(m.run.with_name(m.random.choice(("backup", "20260101T000000Z-copy-aaaaaa", "a b"))))


def rename_journal(m: Mutator, path: Path) -> None:
    if path.parent.name == "telemetry":
        name = m.random.choice(("0-0-0000", "99999999999999999999-0-0001", "1-7-0001", "2-0-0001", "1-0-x", "3-0-0001"))
        path.rename(path.with_name(f"{name}.otlp.jsonl"))


MUTATIONS: Final[list[tuple[Callable[[Mutator, Path], None], int]]] = [
    (cut, 8), (cut_front, 3), (empty, 3), (delete, 3), (swap, 6), (flip, 10), (hole, 5), (sparse, 1),
    (byte_order_mark, 4), (line_ends, 2), (lines, 12), (number, 10), (value, 8), (key, 6), (nested, 2), (fifo, 6),
    (directory, 5), (plain_file, 3), (unix_socket, 3), (link, 6), (forbid, 6), (forbid_run, 1), (rename_run, 4),
    (rename_journal, 3),
]  # fmt: skip


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


def make_case(seed: int, case: int, sources: Sequence[Path], folder: Path) -> Mutator:
    """Copy one of the runs into an empty folder and mutate it."""
    source = sources[case % len(sources)]
    run = folder / source.name
    shutil.copytree(source, run)
    mutator = Mutator(seed, case, run)
    mutator.mutate()
    return mutator


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


def remove(folder: Path) -> None:
    """Delete a case's folder, also what nobody may enter."""
    for path in (folder, *folder.iterdir()):
        if not path.is_symlink():
            path.chmod(0o755)
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


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
