"""How each library takes the numbers of one update: Esper's session, and the peers' loggers on a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from contextlib import ExitStack

    from esper_core import Session
    from esper_core.events import PPOUpdatePayload

__all__ = [
    "Log",
    "Logger",
    "folder",
    "mlflow",
    "numbers",
    "payload",
    "session",
    "tensorboard",
    "tensorboardx",
    "trackio",
    "wandb",
]

Log = Callable[[dict[str, float], int], object]
"""Takes the numbers by name, and the step."""
Logger = Callable[["ExitStack"], Log]
"""Opens one in a new folder; the stack closes it."""
_NULL_SINK: Final = Path(__file__).parents[1] / "null_sink.py"


def payload(heads: int) -> PPOUpdatePayload:
    """An update with every field set, four epochs and an early stop, of so many heads."""
    import bench_telemetry

    full = bench_telemetry.full_payload()
    kind = full.heads[0]
    return replace(full, heads=tuple(replace(kind, name=f"head_{place}") for place in range(heads)))


def numbers(of: PPOUpdatePayload) -> dict[str, float]:
    """The same update as the peers take it: every number of it under a name."""
    found: dict[str, float] = {}

    def add(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}/{key}" if name else key, inner)
        elif isinstance(value, list | tuple):
            for place, inner in enumerate(value):
                add(f"{name}/{inner.get('name', place) if isinstance(inner, dict) else place}", inner)
        elif isinstance(value, int | float):
            found[name] = float(value)

    add("", asdict(of))
    return found


def folder(stack: ExitStack) -> str:
    """A new one, gone after the row."""
    return stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))


def session(stack: ExitStack, *, episodes: bool = False) -> Session:
    """Journal, SDK and all three signals, in a new folder; not entered yet. ``episodes``: each one is a span."""
    from esper_core import Session
    from esper_core.config.layers import load_config
    from esper_core.runs import create_run

    keywords = {"sinks": ["journal", f"{_NULL_SINK}:NullSink"], "otel": {"episodes": episodes}}
    return Session(
        load_config(no_file=True, keywords=keywords).config,
        run=create_run(Path(folder(stack))),
        environment="bench",
        install_signal_handlers=False,
        on_notice=lambda _: None,
    )


def tensorboard(stack: ExitStack) -> Log:
    """PyTorch's writer of event files."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder(stack))
    stack.callback(writer.close)

    def log(found: dict[str, float], step: int) -> None:
        for name, value in found.items():
            writer.add_scalar(name, value, step)

    return log


def tensorboardx(stack: ExitStack) -> Log:
    """The same files by a package that needs no TensorBoard."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(folder(stack))
    stack.callback(writer.close)

    def log(found: dict[str, float], step: int) -> None:
        for name, value in found.items():
            writer.add_scalar(name, value, step)

    return log


def wandb(stack: ExitStack) -> Log:
    """Offline: its service process writes the file."""
    os.environ |= {"WANDB_SILENT": "true", "WANDB_MODE": "offline"}
    place = folder(stack)
    import wandb as library

    run = library.init(project="bench", mode="offline", dir=place)
    stack.callback(run.finish)
    return lambda found, step: run.log(found, step=step)


def mlflow(stack: ExitStack) -> Log:
    """The file store, in a folder."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    import mlflow as library

    library.set_tracking_uri(Path(folder(stack)).as_uri())
    library.set_experiment("bench")
    stack.enter_context(library.start_run())
    return lambda found, step: library.log_metrics(found, step=step)


def trackio(stack: ExitStack) -> Log:
    """Its local database."""
    os.environ["TRACKIO_DIR"] = folder(stack)
    import trackio as library

    library.init(project="bench", embed=False, auto_log_cpu=False, auto_log_gpu=False)
    stack.callback(library.finish)
    return lambda found, step: library.log(found, step=step)
