"""``esper sinks new NAME``: writes a distribution for a sink of your own, with tests that pass as they are."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from esper_core.cli._output import say
from esper_core.errors import EXIT_OK, UsageError

__all__ = ["write_package"]

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_FILES: Final = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "src/esper_sink_{name}/__init__.py": "sink.py.txt",
    "src/esper_sink_{name}/py.typed": "",
    "tests/test_{name}_sink.py": "test_sink.py.txt",
}


def write_package(name: str, folder: str | None) -> int:
    """Write the package.

    Args:
        name: lower-case letters, digits and single underscores.
        folder: where to write; ``./esper-sink-NAME`` when None.

    Raises:
        UsageError: the name is invalid or taken, or the folder exists and is not empty.
    """
    from esper_core.host.load.discovery import installed_sinks

    if not _NAME.fullmatch(name):
        raise UsageError(
            f'"{name}" is no name for a sink', hint="lower-case letters, digits and single underscores: my_sink"
        )
    if name in installed_sinks():
        raise UsageError(f'a sink named "{name}" is installed already', hint="choose another name; see: esper sinks")
    dashed = name.replace("_", "-")
    target = Path(folder) if folder is not None else Path(f"esper-sink-{dashed}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not empty", hint="choose another folder with --dir")
    # The class is called ...Sink once, whether the name ends in "sink" or not.
    camel = "".join(part.capitalize() for part in name.split("_")).removesuffix("Sink")
    values = {"name": name, "dashed": dashed, "camel": camel}
    for path, source in _FILES.items():
        file = target / path.format(name=name)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = files("esper_core.cli").joinpath("sink_template", source).read_text(encoding="utf-8") if source else ""
        file.write_text(Template(text).substitute(values), encoding="utf-8")
    say(f"wrote {target}: class {values['camel']}Sink in src/esper_sink_{name}/__init__.py")
    say("next:")
    say(f"  pip install -e {target}")
    say(f"  python -m pytest {target}")
    say(f"  esper sinks check --sinks {name}")
    return EXIT_OK
