"""Imports run one way, plugins see only the public modules, and one word names a plugin in four places."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "esper_core"
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))

# room -> rooms it may import; `errors`, `masking`, `config.schema` and the package itself are open to all.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "deadline": set(),
    "averages": set(),
    "terminal": set(),
    "code_cache": set(),
    "masking": set(),
    "version": set(),
    "forks": set(),
    "ids": set(),
    "installed": set(),
    "health": {"averages"},
    "events": {"health"},
    "hooks": {"events", "health"},
    "kl": {"health"},
    "semconv": {"events", "health", "hooks"},
    "runs": {"semconv", "hooks", "events", "health", "ids", "config"},
    "reading": {"averages", "runs", "semconv", "hooks", "events", "health", "ids"},
    "emitter": {"semconv", "hooks", "events", "health", "ids"},
    "updates": {"kl", "emitter", "events", "health"},
    "instrumentation": {"semconv", "hooks", "events", "health"},
    "host": {
        "emitter",
        "instrumentation",
        "reading",
        "runs",
        "semconv",
        "hooks",
        "events",
        "health",
        "ids",
        "installed",
    },
    "ppo": {
        "averages",
        "updates",
        "kl",
        "emitter",
        "runs",
        "semconv",
        "hooks",
        "events",
        "health",
        "config",
        "installed",
    },
    "envs": {"ppo", "config", "runs", "events", "health"},
    "config": {"hooks", "installed", "health"},
    "training": {"host", "envs", "ppo", "reading", "runs", "config", "events", "health", "hooks", "installed"},
    "monitoring": {
        "training",
        "host",
        "updates",
        "kl",
        "emitter",
        "reading",
        "runs",
        "config",
        "events",
        "health",
        "installed",
    },
    "testing": {"host", "emitter", "instrumentation", "reading", "runs", "semconv", "hooks", "events", "health", "ids"},
}
OPEN_TO_ALL = {"code_cache", "deadline", "errors", "masking", "config.schema", "forks", "terminal", "version"}
PLUGIN_MAY_IMPORT = {
    "code_cache",
    "errors",
    "events",
    "health",
    "hooks",
    "kl",
    "monitoring",
    "reading",
    "runs",
    "semconv",
    "terminal",
    "testing",
}
"""Rooms of the core that a plugin may import: the one list, which CONTRIBUTING and the how-to repeat."""
LIGHT_ROOMS = {
    "events",
    "health",
    "hooks",
    "kl",
    "emitter",
    "updates",
    "semconv",
    "runs",
    "reading",
    "config",
    "errors",
    "forks",
    "masking",
    "ids",
    "installed",
    "terminal",
}
KERNELS = {CORE / "kl" / "torch.py", CORE / "kl" / "numpy.py"}
NAMES = {
    "esper.sinks": "esper-sink-{}",
    "esper.environments": "esper-env-{}",
    "esper.adapters": "esper-{}",
    "esper.commands": "esper-{}",
}
"""Group -> distribution of a plugin that brings one; the package is the same with underscores."""
HEAVY = {"torch", "textual", "numpy", "gymnasium"}


def _room(path: Path) -> str:
    relative = path.relative_to(CORE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def _runtime_imports(path: Path) -> set[str]:
    """Absolute names a module imports outside ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text())
    typing_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing_only.update(inner for child in node.body for inner in ast.walk(child))
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _core_rooms(names: set[str]) -> set[tuple[str, str]]:
    """(room, dotted name below esper_core) of every core import."""
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "esper_core" and len(parts) > 1:
            found.add((parts[1], ".".join(parts[1:])))
    return found


def _modules() -> dict[str, Path]:
    """Dotted name -> file, of the core and of every plugin."""
    found = {}
    for base in (ROOT, *(plugin / "src" for plugin in PLUGINS)):
        for top in ("esper_core",) if base == ROOT else (item.name for item in base.iterdir() if item.is_dir()):
            for path in (base / top).rglob("*.py"):
                parts = path.relative_to(base).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _every_import(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules that a module names in any import: at its top, under TYPE_CHECKING, or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in modules else node.module)
    return names & set(modules)


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other."""
    reach: dict[str, set[str]] = {}
    for name, targets in graph.items():
        seen: set[str] = set()
        waiting = list(targets)
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting.extend(graph[other])
        reach[name] = seen
    groups = {
        frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]
    }
    return sorted(sorted(group) for group in groups)


def _core_modules() -> list[Path]:
    return sorted(path for path in CORE.rglob("*.py") if _room(path) not in {"__init__", "__main__", "cli"})


@pytest.mark.parametrize("path", _core_modules(), ids=lambda path: str(path.relative_to(CORE)))
def test_core_imports_run_one_way(path: Path) -> None:
    room = _room(path)
    assert room in ALLOWED, f"{room} is a new room: say here what it may import"
    for target, dotted in _core_rooms(_runtime_imports(path)):
        if target == room or any(dotted == name or dotted.startswith(f"{name}.") for name in OPEN_TO_ALL):
            continue
        assert target in ALLOWED[room], f"{path.relative_to(ROOT)} imports esper_core.{dotted}"


def test_no_module_imports_itself_by_a_detour_not_even_for_types() -> None:
    modules = _modules()
    graph = {name: _every_import(path, modules) - {name} for name, path in modules.items()}
    assert len(graph) > 200
    assert _circles(graph) == []


def test_a_circle_is_found() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert _circles({"a": {"b"}, "b": set()}) == []


@pytest.mark.parametrize(
    "path",
    [path for path in _core_modules() if _room(path) in LIGHT_ROOMS and path not in KERNELS],
    ids=lambda path: str(path.relative_to(CORE)),
)
def test_light_rooms_import_nothing_heavy(path: Path) -> None:
    names = _runtime_imports(path)
    heavy = {name for name in names if name.split(".")[0] in HEAVY or name.startswith("opentelemetry.sdk")}
    assert not heavy


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/how-to/write-a-sink.md"])
def test_pages_name_what_plugins_may_import(page: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    assert f"`esper_core.{{{', '.join(sorted(PLUGIN_MAY_IMPORT))}}}`" in text


def test_what_plugins_may_import_exists() -> None:
    assert {path.stem for path in CORE.iterdir()} >= PLUGIN_MAY_IMPORT


def test_ppo_and_host_are_joined_by_training_alone() -> None:
    joining = {room for room, allowed in ALLOWED.items() if {"ppo", "host"} <= allowed}
    assert joining == {"training"}
    assert "host" not in ALLOWED["ppo"]
    assert "ppo" not in ALLOWED["host"]


def test_the_command_that_trains_only_parses_calls_and_prints() -> None:
    """It reaches agent, environments and session through ``training``, which prints nothing and ends no process."""
    rooms = {dotted for _, dotted in _core_rooms(_runtime_imports(CORE / "cli" / "ppo.py"))}
    assert not {name for name in rooms if name.startswith(("ppo.", "envs.", "host.session", "emitter", "runs.writer"))}
    assert "training.train_attempt" in rooms
    for path in sorted((CORE / "training").glob("*.py")):
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        assert not calls & {"print", "sys.exit", "exit", "os._exit"}, path.name


def test_commands_print_through_the_one_filter() -> None:
    """``print`` in a command would let text from outside reach the terminal as it is."""
    for path in sorted((CORE / "cli").glob("*.py")):
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        if path.name != "_output.py":
            assert not calls & {"print", "sys.stdout.write", "sys.stderr.write"} or path.name == "export.py", path.name


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugins_import_only_public_modules(plugin: Path) -> None:
    for path in sorted((plugin / "src").rglob("*.py")):
        rooms = {room for room, _ in _core_rooms(_runtime_imports(path))}
        assert rooms <= PLUGIN_MAY_IMPORT, f"{path.relative_to(ROOT)} imports {rooms - PLUGIN_MAY_IMPORT}"


def _groups(project: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {group: points for group, points in project["entry-points"].items() if group.startswith("esper.")}


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_one_word_names_a_plugin_in_four_places(plugin: Path) -> None:
    """Folder WORD, distribution and package by what it brings first, and the entry point WORD."""
    word = plugin.name
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    groups = _groups(project)
    kind = next(kind for kind in NAMES if kind in groups)
    assert project["name"] == NAMES[kind].format(word.replace("_", "-"))
    package = project["name"].replace("-", "_")
    assert (plugin / "src" / package / "py.typed").is_file()
    assert set(groups[kind]) == {word}
    for points in groups.values():
        assert all(re.match(rf"{package}[.:]", value) for value in points.values())
    assert list((plugin / "tests").glob(f"test_{word}_*.py")), "each plugin has tests of its own"
    assert (plugin / "README.md").read_text().startswith(f"# {project['name']}")


def test_every_plugin_is_in_the_workspace_the_tools_and_the_development_environment() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {tomllib.loads((plugin / "pyproject.toml").read_text())["project"]["name"] for plugin in PLUGINS}
    sources = {f"plugins/{plugin.name}/src" for plugin in PLUGINS}
    assert set(whole["tool"]["uv"]["sources"]) == names | {"esper-core"}
    assert sources <= set(whole["tool"]["mypy"]["files"])
    assert sources <= set(whole["tool"]["mypy"]["mypy_path"])
    pip = re.findall(r"^-e plugins/(\w+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert sorted(pip) == [plugin.name for plugin in PLUGINS]
    extras = whole["project"]["optional-dependencies"]
    group = [re.split(r"[\[>]", item)[0] for item in (*whole["dependency-groups"]["dev"], *extras["default"])]
    assert set(group) == names | {"esper-core"}


def test_the_core_names_no_environment_but_the_default() -> None:
    """One string in ``config.schema``; what is the default's follows from it."""
    named = [path for path in sorted(CORE.rglob("*.py")) if "morphogenesis" in path.read_text().lower()]
    assert named == [CORE / "config" / "schema.py"]
    assert named[0].read_text().count("morphogenesis") == 1


@pytest.mark.parametrize("path", sorted((CORE / "cli").rglob("*.py")), ids=lambda path: path.name)
def test_commands_import_nothing_heavy_before_they_are_called(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = {
        alias.name if isinstance(node, ast.Import) else (node.module or "")
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    heavy = {
        name for name in top if name.split(".")[0] in HEAVY or name.startswith(("esper_core.ppo", "esper_core.envs"))
    }
    assert not heavy


def test_importing_the_public_modules_loads_neither_torch_nor_the_sdk() -> None:
    code = (
        "import sys, esper_core, esper_core.hooks, esper_core.events, esper_core.health, esper_core.semconv, "
        "esper_core.runs, esper_core.reading, esper_core.errors, esper_core.kl, esper_core.updates\n"
        "heavy = sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'textual', 'numpy', 'gymnasium'})\n"
        "heavy += [name for name in sys.modules if name == 'opentelemetry.sdk']\n"
        "print(heavy)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=250)
    assert result.stdout.strip() == "[]"
