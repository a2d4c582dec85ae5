"""What ``import esper_core`` offers: exactly these names, lazily, and no module ever takes one's place."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import esper_core

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["PPOAgent", "Run", "Session", "__version__", "monitor", "open_run", "train"]


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_exported_members() -> None:
    assert esper_core.__all__ == NAMES
    assert sorted(esper_core.__all__) == esper_core.__all__
    assert {name for name in dir(esper_core) if not re.fullmatch(r"__\w+__", name)} == set(NAMES) - {"__version__"}
    assert "__version__" in dir(esper_core)
    with pytest.raises(AttributeError, match="has no attribute 'tarin'"):
        getattr(esper_core, "tarin")  # noqa: B009  # as a person's slip would


def test_every_exported_member_is_documented_and_typed() -> None:
    pytest.importorskip("torch")
    for name in NAMES:
        found = getattr(esper_core, name)
        if name != "__version__":
            assert inspect.getdoc(found), name
            assert inspect.signature(found).parameters, name


def test_type_checkers_see_the_names_that_programs_get() -> None:
    """Each lazy name has one home, and the import that only type checkers read names the same."""
    tree = ast.parse(Path(esper_core.__file__).read_text())
    shown = {
        alias.name: node.module
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == esper_core._HOMES
    assert set(shown) | {"__version__"} == set(NAMES)


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import esper_core\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    assert _python(code) == "['__future__', 'esper_core']"


def test_a_name_stays_what_it_is_whatever_is_imported() -> None:
    """A lazy name beside a module of the same name would turn into the module once that is imported."""
    pytest.importorskip("torch")
    code = f"""
import importlib, pkgutil, esper_core
names = {NAMES!r}
first = {{name: getattr(esper_core, name) for name in names}}
assert first == {{name: getattr(esper_core, name) for name in names}}
modules = [item.name for item in pkgutil.walk_packages(esper_core.__path__, "esper_core.")]
for module in modules:
    if not module.endswith("__main__"):
        importlib.import_module(module)
assert all(getattr(esper_core, name) is first[name] for name in names)
assert not {{module.split(".")[1] for module in modules}} & set(names)
print(len(modules) > 50)
"""
    assert _python(code) == "True"
    in_order = f"""
import importlib, pkgutil, esper_core
for item in pkgutil.walk_packages(esper_core.__path__, "esper_core."):
    if not item.name.endswith("__main__"):
        importlib.import_module(item.name)
print([type(getattr(esper_core, name)).__name__ for name in {NAMES!r}])
"""
    assert "module" not in _python(in_order)


def test_an_editor_knows_the_face(tmp_path: Path) -> None:
    """mypy, strict, on a program that uses it: right calls pass, a wrong key and a wrong name are found."""
    program = tmp_path / "program.py"
    program.write_text(
        "import esper_core\n"
        'run = esper_core.train(env="CartPole-v1", updates=5, sinks=["journal"], ppo={"target_kl": 0.01})\n'
        "reveal_type(run)\n"
        'esper_core.train(ppo={"target_kll": 0.01})\n'
        'esper_core.train(updatess="5")\n'
        "esper_core.tarin()\n"
    )
    # Without what is installed: torch alone takes a minute to be read.
    words = ["--strict", "--cache-dir", str(tmp_path / "cache"), "--no-site-packages", "--ignore-missing-imports"]
    words = [sys.executable, "-m", "mypy", *words, "--follow-imports", "silent", str(program)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    said = re.findall(r"program\.py:(\d+): (error: .*|note: Revealed .*)", done.stdout)
    assert [int(line) for line, _ in said] == [3, 4, 5, 6], done.stdout
    for (_, words_of_line), expected in zip(said, ("Run", "target_kll", "updatess", "tarin"), strict=True):
        assert expected in words_of_line
