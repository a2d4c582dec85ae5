"""Makes the folders that fuzz_runs.py reads: copies of real runs, each with one to three mutations."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["make_case", "make_runs", "remove", "runs_of"]

WILD: Final = (
    b"-1", b"0", b"1e308", b"1e999", b"9223372036854775808", b"18446744073709551616", b"-9223372036854775809",
    b"null", b'""', b"[]", b"{}", b"true", b'"NaN"', b"1.5", b'"\x1b[31mred"', b"4294967296", b'"12"',
)  # fmt: skip


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


def make_case(seed: int, case: int, sources: Sequence[Path], folder: Path) -> Mutator:
    """Copy one of the runs into an empty folder and mutate it."""
    source = sources[case % len(sources)]
    run = folder / source.name
    shutil.copytree(source, run)
    mutator = Mutator(seed, case, run)
    mutator.mutate()
    return mutator


def remove(folder: Path) -> None:
    """Delete a case's folder, also what nobody may enter."""
    for path in (folder, *folder.iterdir()):
        if not path.is_symlink():
            path.chmod(0o755)
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


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
