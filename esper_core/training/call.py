"""``esper_core.train``: training as a function call, for scripts and notebooks."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper_core.config.layers import KEYWORD_ORIGIN, load_config
from esper_core.config.lower_layers import LIMITS
from esper_core.host.load.selection import select_sinks, without_screen
from esper_core.reading import Run, open_run
from esper_core.runs.arguments import A_RUN, path_text, working_directory
from esper_core.training.start import train_attempt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Unpack

    from esper_core.config.keywords import Settings
    from esper_core.config.layers import Resolved
    from esper_core.training.outcome import Started

__all__ = ["train"]

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP)


def train(
    *,
    resume: Run | str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    no_config: bool = False,
    **settings: Unpack[Settings],
) -> Run:
    """Train a PPO agent, as ``esper ppo`` does, and return the run.

    Settings that are not given come from ``ESPER_*`` variables, from ``esper.toml`` or ``pyproject.toml``, from the
    environment's preset and from the defaults, in this order. The run's directory holds the same files as that of
    ``esper ppo``: ``esper eval``, ``--resume``, ``export`` and ``runs`` accept it. Only sinks print; notices of the
    start are issued as warnings.

    Ctrl-C, or a notebook's interrupt, ends the run in order and returns it, stopped; a second one raises
    KeyboardInterrupt, with a note that names the run's directory. SIGTERM or SIGHUP ends the run in order too; then the
    signal is raised again with its earlier handler. Handlers are set in the main thread only, and restored. The call
    blocks a running event loop: call it in a thread (``asyncio.to_thread``). Two calls at a time need two threads.

    Args:
        resume: a run, its path, id, a unique part of its id, or ``"latest"``: continue it with a new attempt.
        config: read this file instead of looking for one.
        no_config: read no configuration file.
        **settings: ``env``: the environment's id, or the table ``[env]`` as a dict; ``updates``, ``steps``,
            ``episodes``: the first limit reached ends the run, 0 means no limit, and with no limit at all the run
            trains until it is stopped, with a warning at its start; ``seed``; ``sinks``: names, or ``./file.py:Class``;
            ``preset``; and the tables ``ppo``, ``health``, ``run``, ``otel``, ``delivery`` and ``sink`` as
            dicts. ``docs/reference/config.md`` has every key. None means not given.

    Returns:
        The run, ended: ``.verdict()``, ``.updates()``, ``.summary``, ``.path``.

    Raises:
        ConfigError: an unknown key or a wrong value; the message names it as ``ppo.target_kl``.
        UsageError: the environment, a sink or the run to resume cannot be used. Nothing was written.
        NonFiniteError: training met NaN or Inf. A note names the run's directory.
        TelemetryLostError: events were lost, and ``run.strict_telemetry`` is set.
        EnvironmentContractError: the environment returned what it may not, or called ``exit()``.
        EsperError: files cannot be written.
        Exception: whatever the environment raises, unchanged.

    Example:
        >>> import esper_core
        >>> run = esper_core.train(env="CartPole-v1", updates=5, sinks=["journal"])  # doctest: +SKIP
        >>> [update.payload.kl_divergence for update in run.updates()]  # doctest: +SKIP
    """
    base = working_directory()
    resolved, resumed = _resolve(dict(settings), resume, config, no_config=no_config)
    selection = without_screen(
        select_sinks(resolved.config, origins=resolved.origins, dropped=resolved.dropped_sinks),
        origin=resolved.origin("sinks"),
        caller=KEYWORD_ORIGIN,
    )
    notices = [*resolved.notices, *_unlimited(resolved)]
    where: list[Path] = []

    def started(begun: Started) -> None:
        where.append(begun.run.path)
        for notice in notices:
            warnings.warn(notice, stacklevel=6)  # the line that calls train
        notices.clear()  # what follows is said at the end: as an error, a warning would end the training

    with _naming(where):
        outcome = train_attempt(
            resolved,
            resumed=resumed,
            selection=selection,
            on_started=started,
            on_notice=notices.append,
            exit_on_second_interrupt=False,
            base=base,
        )
        for notice in notices:
            warnings.warn(notice, stacklevel=2)
        failure = outcome.failure()
        if failure is not None:
            raise failure
    if outcome.unwritten:
        warnings.warn(outcome.unwritten, stacklevel=2)
    if outcome.signal in _PASSED_ON:
        signal.raise_signal(outcome.signal)  # the signal asks the program to end, not only the run
    return open_run(outcome.run.path.resolve())


@contextlib.contextmanager
def _naming(where: list[Path]) -> Iterator[None]:
    """Add to an error that is raised a note with the run's directory, when the run has begun."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        for path in where:
            error.add_note(f"the run's directory is {path}")
        raise


def _resolve(
    settings: dict[str, object],
    resume: Run | str | os.PathLike[str] | None,
    config: str | os.PathLike[str] | None,
    *,
    no_config: bool,
) -> tuple[Resolved, Run | None]:
    """The configuration, and the run to resume."""

    def load(resumed: Run | None) -> Resolved:
        return load_config(
            file=Path(path_text("config", config, "a path")) if config is not None else None,
            no_file=no_config,
            env=os.environ,
            keywords=settings,
            base=resumed.config if resumed is not None else None,
            base_label=f"run {resumed.run_id}" if resumed is not None else "",
        )

    resolved = load(None)
    if resume is None:
        return resolved, None
    if not isinstance(resume, Run):
        resume = open_run(path_text("resume", resume, A_RUN), resolved.config.run.dir)
    run = resume
    return load(run), run


def _unlimited(resolved: Resolved) -> list[str]:
    """The warning of a run that nothing ends: ``updates=0`` switches a limit off, and every other is off too."""
    limits = resolved.config.run
    if limits.updates or limits.steps or limits.episodes:
        return []
    given = next((origin for name in LIMITS if (origin := resolved.origins.get(f"run.{name}"))), "")
    return [f"no limit: trains until it is stopped (0 means no limit; set by {given})"]
