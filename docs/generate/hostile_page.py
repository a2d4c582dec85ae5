"""The page ``docs/explanation/hostile.md``, from the hostile suites that the tests run: ``tests/hostile/*.py``.

A suite is a module with a list ``SUITE``; a row says what is done (``does``), the exit code (``code`` or ``exit_code``)
and the words that must be printed (``says`` or ``sentence``). A row with a ``gap`` is known not to hold, and says why.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper_core.terminal import one_line
from modules import load_module
from tables import template

if TYPE_CHECKING:
    from types import ModuleType

SUITES: Final = Path(__file__).resolve().parents[2] / "tests" / "hostile"
_LONGEST: Final = 90


def hostile_page() -> str:
    """The table of suites (tried, held), then every row of every suite."""
    suites = [(path.stem, module) for path in _files() if (module := load_module(path)) is not None]
    lines = [template("hostile.md.txt").rstrip(), "", "| suite | tried | held |", "|---|---|---|"]
    totals = [0, 0]
    for name, module in suites:
        tried, held = len(module.SUITE), sum(not getattr(row, "gap", "") for row in module.SUITE)
        totals = [totals[0] + tried, totals[1] + held]
        lines.append(f"| [{name}](#{name}) | {tried} | {held} |")
    lines.append(f"| all | {totals[0]} | {totals[1]} |")
    for name, module in suites:
        lines += ["", f"## {name}", "", _first(module), "", "| what is done | exit code | says |", "|---|---|---|"]
        lines += [_row(row) for row in module.SUITE]
    return "\n".join(lines) + "\n"


def _files() -> list[Path]:
    """The modules that hold a suite; tests of suites are left unread."""
    return [path for path in sorted(SUITES.glob("*.py")) if not path.stem.startswith("test_") and _has_suite(path)]


def _has_suite(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: list[ast.expr] = [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    names += [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(name, ast.Name) and name.id == "SUITE" for name in names)


def _first(module: ModuleType) -> str:
    return " ".join((module.__doc__ or "").partition("\n\n")[0].split())


def _row(row: Any) -> str:
    code = row.code if hasattr(row, "code") else row.exit_code
    says = row.says if hasattr(row, "says") else (row.sentence,)
    said = " … ".join(part for part in says if part)
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
    gap = getattr(row, "gap", "")
    return f"| {_cell(row.does)} | {code} | {_code(said)}{f' (does not hold: {_cell(gap)})' if gap else ''} |"


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


def _code(text: str) -> str:
    """As code, with a fence longer than any within."""
    if not text:
        return ""
    fence = "``" if "`" in text else "`"
    return f"{fence}{' ' if fence == '``' else ''}{_cell(text)}{' ' if fence == '``' else ''}{fence}"
