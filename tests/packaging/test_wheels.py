"""Real wheels in a fresh environment: the core alone trains, plugins add what they bring, and uninstalling removes.

The environment holds the wheels built here and links to the dependencies of this one, so that nothing is downloaded
and no editable install shows through.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATSD = ROOT / "docs" / "examples" / "esper-sink-statsd"
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
_QUIET = ("-q", "--disable-pip-version-check", "--no-color")


def _run(*words: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    arguments = [str(word) for word in words]
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=250, check=False)
    if check and done.returncode:
        raise AssertionError(f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="module")
def environment(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the core's wheel and no plugin."""
    home = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if not entry.name.startswith(("esper", "_editable_impl", "__editable__", "pip", "distutils-precedence")):
                (site / entry.name).symlink_to(entry)
    _install(home, wheels, "esper_core")
    return home


def _install(home: Path, wheels: Path, distribution: str) -> None:
    (wheel,) = wheels.glob(f"{distribution}-*.whl")
    _run(sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", *_QUIET, "--no-deps",
         "--no-index", wheel, cwd=home)  # fmt: skip


def _uninstall(home: Path, distribution: str, cwd: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python")
    _run(*pip, "uninstall", *_QUIET, "-y", distribution, cwd=cwd)


def _esper(home: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return _run(home / "bin" / "esper", *words, cwd=folder, check=False)


def test_wheels_hold_their_package_and_nothing_else(wheels: Path) -> None:
    import zipfile

    projects = [tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (ROOT, *PLUGINS, STATSD)]
    packages = {project["project"]["name"].replace("-", "_") for project in projects}
    assert {"esper_core", "esper_env_morphogenesis", "esper_verify", "esper_sink_statsd"} <= packages
    assert {path.name.split("-")[0] for path in wheels.iterdir()} == packages
    for package in packages:
        (path,) = wheels.glob(f"{package}-*.whl")
        names = zipfile.ZipFile(path).namelist()
        assert {name.split("/")[0].split("-")[0] for name in names} == {package}
        assert f"{package}/py.typed" in names
    core = zipfile.ZipFile(next(wheels.glob("esper_core-*.whl")))
    assert "esper_core/cli/sink_template/sink.py.txt" in core.namelist()
    sources = {name: core.read(name).decode() for name in core.namelist() if name.endswith(".py")}
    developers = [name for name, text in sources.items() if "generate.py" in name or "import yaml" in text]
    assert not developers, "the tool that writes pages and needs PyYAML stays in the repository: docs/generate"
    assert not [name for name in core.namelist() if "morphogenesis" in name or "verify" in name]


def test_the_core_alone_lists_no_sink_and_trains(environment: Path, tmp_path: Path) -> None:
    listed = _esper(environment, tmp_path, "sinks")
    assert "no sink is installed" in listed.stdout
    trained = _esper(environment, tmp_path, "ppo", "--env", "CartPole-v1", "--updates", "2")
    assert trained.returncode == 0, trained.stderr
    assert 'esper: default sinks "console" and "journal" are not installed, going on without them' in trained.stderr
    assert "pip install 'esper-core[default]'" in trained.stderr
    assert "pip install 'esper-core[default]'" in listed.stdout
    watch = "import esper_core\nwith esper_core.monitor('mine') as run:\n    run.ppo_update(old=[-1.0], new=[-1.1])"
    watched = _run(environment / "bin" / "python", "-c", watch, cwd=tmp_path)
    assert "pip install esper-sink-console esper-sink-journal" in watched.stderr
    assert "done: 2 of 2 updates" in trained.stdout


def test_without_its_plugin_the_default_task_is_refused_and_with_it_it_trains(
    environment: Path, wheels: Path, tmp_path: Path
) -> None:
    bare = _esper(environment, tmp_path, "ppo", "--updates", "1")
    assert bare.returncode == 64
    assert (
        'env.id "morphogenesis", the default, comes with esper-env-morphogenesis, which is not installed' in bare.stderr
    )
    assert "`pip install esper-env-morphogenesis`, or train another environment: --env CartPole-v1" in bare.stderr
    assert not (tmp_path / "runs").exists(), "a refused start leaves no run"
    shown = _esper(environment, tmp_path, "config", "show")
    assert shown.returncode == 0, shown.stderr
    _install(environment, wheels, "esper_env_morphogenesis")
    trained = _esper(environment, tmp_path, "ppo", "--updates", "1")
    assert trained.returncode == 0, trained.stderr
    _uninstall(environment, "esper-env-morphogenesis", tmp_path)
    assert _esper(environment, tmp_path, "ppo", "--updates", "1").returncode == 64


def test_a_command_comes_and_goes_with_its_plugin(environment: Path, wheels: Path, tmp_path: Path) -> None:
    absent = _esper(environment, tmp_path, "verify")
    assert absent.returncode == 64
    assert "pip install 'esper-core[verify]'" in absent.stderr
    for package in ("esper_sink_journal", "esper_sink_tui", "esper_verify"):
        _install(environment, wheels, package)
    words = ("verify", "TELE-111", "--records-dir", str(ROOT / "docs" / "telemetry"), "--json")
    proved = _esper(environment, tmp_path, *words)
    checks = {check["check"]: check for check in json.loads(proved.stdout)["checks"]}
    assert len(checks) == 7
    assert all(check["passed"] for check in checks.values()), checks
    for name in ("esper-verify", "esper-sink-tui", "esper-sink-journal"):
        _uninstall(environment, name, tmp_path)
    assert _esper(environment, tmp_path, "verify").returncode == 64


def test_the_tests_of_the_core_pass_with_no_plugin(environment: Path) -> None:
    """Those that train are left out for their time; they open no sink of a plugin by themselves.

    So are those that look at pages and files of the repository alone.
    """
    unit = [path for path in sorted((ROOT / "tests" / "unit").glob("test_*.py")) if "torch" not in path.read_text()]
    assert len(unit) > 10
    words = ["-q", "-p", "no:cacheprovider", "--no-header", *map(str, unit), "tests/contract"]
    files = ["alert_page", "docs_commands", "docs_links", "generated_files", "kubernetes", "what_a_change_costs"]
    files.append("benchmark_scripts")  # of plugins too
    words += [f"--ignore=tests/contract/test_{name}.py" for name in files]
    told = ("replay_commands", "faults_sinks", "slow_sinks", "closing_sinks")
    words += [f"tests/integration/test_{name}.py" for name in told]
    done = _run(environment / "bin" / "python", "-m", "pytest", *words, cwd=ROOT)
    said = done.stdout.splitlines()
    assert " passed" in said[-1]
    assert any("esper_sink_journal" in line for line in said if line.startswith("SKIPPED")), "no plugin is there"


def test_a_third_party_sink_is_installed_selected_fed_and_really_removed(
    environment: Path, wheels: Path, tmp_path: Path
) -> None:
    _install(environment, wheels, "esper_sink_statsd")
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(1)
        port = server.getsockname()[1]
        (tmp_path / "esper.toml").write_text(f'sinks = ["statsd"]\n[sink.statsd]\nport = {port}\n')
        listed = _esper(environment, tmp_path, "sinks").stdout
        assert [line.split()[:4] for line in listed.splitlines()[1:2]] == [
            ["statsd", "esper-sink-statsd", "0.1.0", "yes"]
        ]
        trained = _esper(environment, tmp_path, "ppo", "--env", "CartPole-v1", "--updates", "3")
        assert trained.returncode == 0, trained.stderr
        lines = [line for _ in range(3) for line in server.recv(2000).decode().split("\n")]
    assert [line.split(":")[0] for line in lines].count("esper.ppo.updates") == 3
    assert sum(line.startswith("esper.ppo.kl_divergence:") for line in lines) == 3
    _uninstall(environment, "esper-sink-statsd", tmp_path)
    gone = _esper(environment, tmp_path, "ppo", "--env", "CartPole-v1", "--updates", "1")
    assert gone.returncode == 64
    assert 'no sink named "statsd" is installed' in gone.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 1, "a refused start leaves no run"


def test_a_new_sink_from_the_template_passes_its_own_tests(tmp_path: Path) -> None:
    _run(sys.executable, "-m", "esper_core", "sinks", "new", "my_redis", cwd=tmp_path)
    package = tmp_path / "esper-sink-my-redis"
    done = _run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", package, cwd=tmp_path)
    assert " passed" in done.stdout
    project = (package / "pyproject.toml").read_text()
    assert 'my_redis = "esper_sink_my_redis:MyRedisSink"' in project
    again = _run(sys.executable, "-m", "esper_core", "sinks", "new", "my_redis", cwd=tmp_path, check=False)
    assert again.returncode == 64
    assert "exists and is not empty" in again.stderr


def test_the_example_sink_passes_its_own_tests() -> None:
    done = _run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", STATSD, cwd=STATSD)
    assert " passed" in done.stdout
