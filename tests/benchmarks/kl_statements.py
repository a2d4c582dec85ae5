"""Runs the statements of a library's own source that compute its KL, without importing the library."""

from __future__ import annotations

import ast
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributions import Normal

if TYPE_CHECKING:
    from collections.abc import Callable

    from kl_record import Record

__all__ = ["Library", "Own", "own_value"]


@dataclass(frozen=True)
class Own:
    """Statements of a library's source that compute its KL of one minibatch.

    Attributes:
        function: that holds them, ``Class.method``.
        names: whose first assignments are run, in order; empty for the whole function, which is then called.
        given: the record -> what the statements find under their names; of a whole function, its arguments.
        ours: the same number by the formula here.
    """

    function: str
    names: tuple[str, ...]
    given: Callable[[Record], dict[str, Any]]
    ours: Callable[[Record], float]


@dataclass(frozen=True)
class Library:
    """One library's KL.

    Attributes:
        name: of the library and, where it has several, of the number.
        distribution: on PyPI; empty for a file that people copy.
        version: the formula was read in.
        file: inside the distribution.
        logged: what its log calls the number; empty when it logs none.
        formula: for people; r = log new - log old of the action taken.
        when: it is taken, and over what.
        value: on the record; None when there is no such number.
        own: how to run the library's own statements.
    """

    name: str
    distribution: str
    version: str
    file: str
    logged: str
    formula: str
    when: str
    value: Callable[[Record], float] | None
    own: Own | None = None


def own_value(library: Library, of: Record) -> float | None:
    """The number by the library's own statements, on the record's last minibatch; None when it is not installed.

    Raises:
        LookupError: the function or a statement is not in the installed version.
    """
    own = library.own
    if own is None:
        return None
    try:
        path = Path(str(importlib.metadata.distribution(library.distribution).locate_file(library.file)))
    except importlib.metadata.PackageNotFoundError:
        return None
    function = _function(ast.parse(path.read_text(encoding="utf-8")), own.function)
    scope: dict[str, Any] = {"torch": torch, "Normal": Normal}
    if own.names:
        scope |= own.given(of)
        run = ast.Module([_assignment(function, name, path) for name in own.names], [])
        exec(compile(run, str(path), "exec"), scope)  # the library's own code, as its training would run it
        found = scope[own.names[-1]]
    else:
        # Annotations name types of modules that are not imported here.
        function.returns = None
        for argument in function.args.args:
            argument.annotation = None
        exec(compile(ast.Module([function], []), str(path), "exec"), scope)  # likewise
        found = scope[function.name](**own.given(of))
    return float(torch.as_tensor(found).mean())


def _function(tree: ast.AST, name: str) -> ast.FunctionDef:
    for part in name.split("."):
        found = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        ]
        if not found:
            raise LookupError(f"no {name}")
        tree = found[0]
    if isinstance(tree, ast.FunctionDef):
        return tree
    raise LookupError(f"{name} is no function")


def _assignment(function: ast.FunctionDef, name: str, path: Path) -> ast.Assign:
    assigned = (node for node in ast.walk(function) if isinstance(node, ast.Assign))
    found = sorted(
        (node for node in assigned if any(isinstance(item, ast.Name) and item.id == name for item in node.targets)),
        key=lambda node: node.lineno,
    )
    if not found:
        raise LookupError(f"{path}: nothing is assigned to {name} in {function.name}")
    return found[0]
