"""``esper_core.monitor``: opens the telemetry of a loop that is not Esper's."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper_core.config.digest import config_digest
from esper_core.config.layers import load_config
from esper_core.config.lower_layers import NO_PRESET
from esper_core.config.show import dump_toml, masked
from esper_core.errors import EsperError
from esper_core.events import RunStarted
from esper_core.host.load.secrets import secret_keys
from esper_core.host.load.selection import select_sinks, without_screen
from esper_core.host.session import Session
from esper_core.installed import CORE, versions_of
from esper_core.kl import STOP_FACTOR, stop_threshold
from esper_core.monitoring.arguments import checked
from esper_core.monitoring.closing import Closing
from esper_core.monitoring.loop import Monitor
from esper_core.monitoring.misuse import MisuseError
from esper_core.monitoring.ranks import Ranks, Reduce, ranks_of
from esper_core.monitoring.registry import close_at_exit, forked, interactive, open_monitor
from esper_core.runs import create_run
from esper_core.runs.held import HeldRun
from esper_core.updates import UpdateSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper_core.config.layers import Resolved
    from esper_core.events import Granularity, HeadKind
    from esper_core.kl import StopOn, StopRule

__all__ = ["monitor"]

_log = logging.getLogger("esper.monitor")

ORIGIN: Final = "monitor()"
"""Origin of the values that a call sets."""
EXTERNAL: Final = "external"
"""Id in ``config.toml`` of an environment that the loop did not name."""


def monitor(
    environment: str = "",
    *,
    name: str = "",
    heads: Sequence[str] = ("action",),
    head_kinds: Sequence[HeadKind] = (),
    granularity: Granularity = "step",
    target_kl: float | None = 0.0,
    stop_on: StopOn = "joint",
    stop_rule: StopRule = "pooled",
    kl_on: StopOn | None = None,
    kl_warning: float | None = None,
    kl_critical: float | None = None,
    default_limits: tuple[float, float] | None = None,
    clip_range: float | None = None,
    algorithm: str = "ppo",
    library: str = "",
    library_kl_name: str = "",
    seed: int | None = 0,
    n_envs: int = 1,
    updates_planned: int | None = None,
    steps_planned: int | None = None,
    episodes_planned: int | None = None,
    minibatches_planned: int | None = None,
    device: str = "cpu",
    sinks: Sequence[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    rank: int | None = None,
    world: int | None = None,
    reduce: Reduce | None = None,
    signals: bool = False,
    strict: bool = True,
) -> Monitor:
    """Open Esper's telemetry in a training loop of your own: journal, console, viewer, OTLP, alerts.

    Sinks and everything else come from ``esper.toml`` and ``ESPER_*`` variables, as for ``esper ppo``. The run's folder
    is one like any other: ``esper runs``, ``replay``, ``export`` and ``sanctum`` read it, also while it trains.

    Levels are on the **joint** KL a step, which is what other libraries compare: WARNING from 1.0 and CRITICAL from 1.5
    times ``target_kl``, or from 0.015 and 0.03 nats without one. ``kl_on``, ``kl_warning`` and ``kl_critical`` here, or
    ``[health]`` in the configuration, set others.

    Signals are left alone unless ``signals=True``; Ctrl-C ends the run as stopped and the script as usual. A monitor
    that is never closed is closed when the interpreter ends; in a notebook call ``close()``, or open the next one. In a
    child process of ``multiprocessing`` that is no rank it does nothing, and says so once.

    Args:
        environment: its id, for the record.
        name: for people; the run id holds it.
        heads: names, in the order of the columns.
        head_kinds: the distribution of each; default categorical, or what given distributions are.
        granularity: ``step``: rows are environment steps; ``token``: rows are sequences, columns are tokens.
        target_kl: nats; :meth:`Monitor.too_far` stops at 1.5 times it. 0 or None switches the stop off.
        stop_on: the KL that the stop is on.
        stop_rule: ``pooled``, ``minibatch`` (Stable-Baselines3's) or ``epoch`` (CleanRL's).
        kl_on: the KL that sets levels: ``joint`` or ``weighted``, per decision.
        kl_warning: nats.
        kl_critical: nats.
        default_limits: of WARNING and CRITICAL, nats, where neither this call nor the configuration gives one; for an
            adapter whose library has a target but does not stop at it.
        clip_range: of the surrogate, for clip fractions.
        algorithm: for the record.
        library: that runs the loop.
        library_kl_name: what it calls its own KL, given as ``library_kl``.
        seed: for the record.
        n_envs: environments side by side, for the record.
        updates_planned: for progress.
        steps_planned: environment steps, likewise.
        episodes_planned: likewise.
        minibatches_planned: optimizer steps of one update; the pooled stop's window follows from it. Default: what the
            updates before had.
        device: that the update runs on, for the record.
        sinks: names, in place of those of the configuration.
        config: read this file instead of looking for one.
        settings: more of the configuration, as :func:`esper_core.train` takes it: ``{"run": {"dir": "runs"}}``.
        rank: of this process; default that of ``torch.distributed``, else ``RANK``.
        world: number of ranks, likewise.
        reduce: joins the ranks, in place of ``torch.distributed``: ``reduce(vector, "sum" | "max")``.
        signals: let SIGINT, SIGTERM and SIGHUP set :attr:`Monitor.stopping`; a second Ctrl-C raises KeyboardInterrupt.
        strict: whether wrong arguments raise; False makes them a notice.

    Returns:
        The open monitor: a context manager, or to be closed.

    Raises:
        ConfigError: the configuration is wrong.
        UsageError: a sink cannot be used, or a monitor is open already.
        EsperError: the run's directory cannot be written.

    Example:
        >>> from esper_core import monitor
        >>> with monitor("CartPole-v1", name="mine", sinks=["journal"]) as run:  # doctest: +SKIP
        ...     run.ppo_update(old=[-0.7, -0.6], new=[-0.6, -0.7])
    """
    given = checked(locals())
    names, kinds, target = given["heads"], given["head_kinds"], given["target_kl"]
    if kinds and len(kinds) != len(names):
        raise MisuseError(f"head_kinds: {len(kinds)} kinds for {len(names)} heads")
    if granularity == "token" and len(names) != 1:
        raise MisuseError(f"granularity='token' has one head, a token; given are {len(names)}")
    update = UpdateSettings(
        heads=names,
        target_kl=target,
        stop_on=stop_on,
        stop_rule=stop_rule,
        clip_range=given["clip_range"],
        device=str(device),
        head_kinds=kinds or (("token",) if granularity == "token" else ()),
        granularity=granularity,
        library=library,
        library_kl_name=library_kl_name,
    )
    ranks = ranks_of(given["rank"], given["world"], reduce)
    if _is_helper(ranks) or forked():
        _log.warning("monitor() in a child process does nothing: the run belongs to the parent process")
        return Monitor(update, inert=True, strict=strict)
    _only_one(library)
    if not ranks.emits:
        return Monitor(update, ranks=ranks, strict=strict, minibatches=given["minibatches_planned"])
    started = RunStarted(
        environment=given["environment"],
        algorithm=algorithm,
        run_name=name,
        heads=names,
        seed=given["seed"],
        n_envs=n_envs,
        ranks=ranks.world,
        updates_planned=updates_planned,
        steps_planned=steps_planned,
        episodes_planned=episodes_planned,
        target_kl=target or None,
        stop_threshold=stop_threshold(target),
        stop_on=stop_on,
        versions=versions_of(filter(None, ("torch", "numpy", "gymnasium", library, CORE))),
    )
    resolved = _resolve(
        {**(settings or {}), **({} if sinks is None else {"sinks": sinks})},
        started=started,
        stop_rule=stop_rule,
        limits={"kl_on": kl_on, "kl_warning": kl_warning, "kl_critical": kl_critical},
        defaults=given["default_limits"] or ((target, STOP_FACTOR * target) if target else None),
        file=Path(config) if config is not None else None,
    )
    session = _open_session(resolved, started, signals=signals)
    opened = Monitor(
        update,
        emitter=session.emitter,
        ranks=ranks,
        closing=Closing(session, resolved, started.environment),
        path=session.run.path if session.run is not None else None,
        strict=strict,
        minibatches=given["minibatches_planned"],
        say=session.notice,
    )
    close_at_exit(opened)
    session.emitter.emit_run_started(
        replace(started, run_name=name or session.emitter.run_id, config_digest=config_digest(resolved.config))
    )
    return opened


def _is_helper(ranks: Ranks) -> bool:
    """Whether this process was started by ``multiprocessing`` and is no rank: it re-imports the script that trains."""
    # A spawned child has its name, but no parent_process() yet, while it imports the script.
    child = multiprocessing.current_process().name != "MainProcess" or multiprocessing.parent_process() is not None
    return ranks.world == 1 and child


def _only_one(library: str) -> None:
    """Close a monitor that was left open where that is usual; refuse a second one anywhere else.

    Usual it is in a notebook, whose cells run again, and for adapters: no library tells its callbacks that an exception
    ended the training.
    """
    earlier = open_monitor()
    if earlier is None:
        return
    if not interactive() and not (library and earlier.library):
        raise MisuseError(
            f"a monitor is open already: run {earlier.run_id}",
            hint="close it first: run.close(), or `with monitor(...) as run:`",
        )
    _log.warning("the run %s was left open and is closed: another one begins", earlier.run_id)
    earlier.end(None if interactive() else MisuseError("the run was left open, and another one began"))


def _resolve(
    keywords: dict[str, Any],
    *,
    started: RunStarted,
    stop_rule: StopRule,
    limits: Mapping[str, Any],
    defaults: tuple[float, float] | None,
    file: Path | None,
) -> Resolved:
    """The configuration: what the loop says, over variables and file; a preset is of Esper's own agent."""
    tables = {name: dict(keywords.get(name) or {}) for name in ("run", "ppo", "health")}
    tables["run"] |= {"seed": started.seed, **({"name": started.run_name} if started.run_name else {})}
    tables["ppo"] |= {"target_kl": started.target_kl or 0.0, "stop_on": started.stop_on, "stop_rule": stop_rule}
    tables["health"] |= {name: value for name, value in limits.items() if value is not None}
    whole = {
        **keywords,
        **tables,
        "preset": NO_PRESET,
        "env": {"id": started.environment or EXTERNAL, "n_envs": started.n_envs},
        "updates": started.updates_planned or 0,
        "steps": started.steps_planned or 0,
        "episodes": started.episodes_planned or 0,
    }

    def load() -> Resolved:
        return load_config(file=file, env=os.environ, keywords=whole, keyword_origin=ORIGIN)

    found = load()
    given = found.origins
    if "health.kl_on" in given:
        on = found.config.health.kl_on
    else:
        on = tables["health"]["kl_on"] = "joint"
    if defaults is not None and on == started.stop_on and not {"health.kl_warning", "health.kl_critical"} & set(given):
        tables["health"] |= dict(zip(("kl_warning", "kl_critical"), defaults, strict=True))
    return load()


def _open_session(resolved: Resolved, started: RunStarted, *, signals: bool) -> Session:
    """Create the run's directory and open its sinks; leave nothing behind when that fails."""
    selection = without_screen(
        select_sinks(resolved.config, origins=resolved.origins), origin=resolved.origin("sinks"), caller=ORIGIN
    )
    selection = replace(selection, notices=(*resolved.notices, *selection.notices))
    held = HeldRun(create_run(Path(resolved.config.run.dir), name=resolved.config.run.name))
    try:
        session = Session(
            resolved.config,
            run=held.run,
            held=held,
            ranks=started.ranks,
            environment=started.environment,
            heads=started.heads,
            install_signal_handlers=signals,
            exit_on_second_interrupt=False,  # the process is the user's
            origins=resolved.origins,
            selection=selection,
        )
        session.__enter__()
        try:
            _write_config(resolved, held)
        except EsperError as error:
            session.__exit__(EsperError, error, error.__traceback__)
            raise
    except BaseException:
        shutil.rmtree(held.run.path, ignore_errors=True)
        held.close()
        raise
    return session


def _write_config(resolved: Resolved, held: HeldRun) -> None:
    """Write ``config.toml``, of ``[ppo]`` only what the loop told: Esper's defaults say nothing about its update."""
    whole = masked(resolved, secret_keys(resolved.config))
    whole["ppo"] = {key: value for key, value in whole["ppo"].items() if resolved.origin(f"ppo.{key}") == ORIGIN}
    try:
        held.write("config.toml", dump_toml(whole).encode())
    except OSError as error:
        raise EsperError(
            f"cannot write {held.run.config_path}: {error.strerror}", hint="free some space, or name another run.dir"
        ) from error
