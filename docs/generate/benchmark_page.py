"""The page ``docs/reference/benchmarks.md``, from the figures that ``make bench`` recorded."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, Final

from tables import template

RECORDED: Final = Path(__file__).resolve().parents[2] / "tests" / "benchmarks" / "results" / "peers.json"


def benchmark_page(record: dict[str, Any] | None = None) -> str:
    """The machine, the peers' versions, and a table for each subject.

    Args:
        record: as ``esper_bench.record.Record`` is written; None reads the repository's.
    """
    found = json.loads(RECORDED.read_text(encoding="utf-8")) if record is None else record
    parts = [template("benchmarks.md.txt").rstrip(), "", _machine(found), ""]
    for subject, rows in itertools.groupby(found["rows"], key=lambda row: str(row["subject"])):
        parts += _subject(subject, list(rows))
    return "\n".join(parts).rstrip() + "\n"


def _machine(record: dict[str, Any]) -> str:
    machine, rows = record["machine"], record["rows"]
    loads = [row["load"] for row in rows]
    dates = sorted({row["date"] for row in rows})
    commits = sorted({row["commit"] for row in rows} - {""})
    versions = {
        f"{peer['name'].partition(',')[0]} {peer['version']}"
        for row in rows
        for peer in row["peers"]
        if peer.get("version")
    }
    lines = [
        "## The machine",
        "",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['system']}",
        f"- Python {machine['python']}, torch {machine['torch']}",
        f"- peers: {', '.join(sorted(versions, key=str.lower))}",
        f"- recorded {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, at commit {', '.join(commits)}",
        f"- load {min(loads):.1f} to {max(loads):.1f} while it was recorded",
    ]
    return "\n".join(lines)


def _subject(subject: str, rows: list[dict[str, Any]]) -> list[str]:
    """What each row is, then a line a peer."""
    parts = [f"## {subject}", ""]
    for (what, clock), alike in itertools.groupby(rows, key=lambda row: (_text(row["what"]), _clock(row))):
        names = ", ".join(f"**{row['name']}**" for row in alike)
        parts.append(f"- {names}: {what}. {clock}")
    parts += ["", "| row | Esper | peer | its cost | ratio | rounds |", "|---|---:|---|---:|---:|---:|"]
    for row in rows:
        for place, peer in enumerate(row["peers"]):
            name, ours = (row["name"], _cost(row["ours"], row["unit"])) if place == 0 else ("", "")
            rounds = str(row["rounds"]) if place == 0 else ""
            if peer.get("absent"):
                parts.append(f"| {name} | {ours} | {peer['name']} | {_text(peer['absent'])} | | {rounds} |")
                continue
            cost, ratio = _cost(peer["cost"], row["unit"]), _ratio(peer["ratio"])
            parts.append(f"| {name} | {ours} | {peer['name']} | {cost} | {ratio} | {rounds} |")
    return [*parts, ""]


def _clock(row: dict[str, Any]) -> str:
    kept = f"; kept {row['kept']:,} of {row['planned']:,}" if row.get("planned") else ""
    return f"Cost of one {row['per']}: {_CLOCKS[row['clock']]}{kept}."


_CLOCKS: Final = {
    "process": "all threads of the process",
    "thread": "the calling thread alone",
    "commands": "the command, from its start to its exit",
    "tree": "the process and every process that it has started",
}


def _cost(quartiles: list[float], unit: str) -> str:
    low, middle, high = quartiles
    return f"{_number(middle)} {unit} ({_number(low)} to {_number(high)})"


def _ratio(quartiles: list[float]) -> str:
    low, middle, high = quartiles
    return f"**{_number(middle)}** ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(text: str) -> str:
    return text.replace("|", "\\|")
