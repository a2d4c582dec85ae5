"""``esper replay``: prints a recorded run, or plays it into any sink. Needs no torch."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from esper_core.cli._damage import refuse_without_journal, say_faults, say_lines
from esper_core.cli._output import note, say
from esper_core.cli._parser import add_config_arguments, resolve_config, runs_dir
from esper_core.errors import EXIT_FAILED, EXIT_OK, EXIT_SIGNAL, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from esper_core.config.layers import Resolved
    from esper_core.config.schema import EsperConfig
    from esper_core.events import Payload, PPOUpdatePayload, TelemetryEvent
    from esper_core.reading import Run
    from esper_core.reading.attempts import Once
    from esper_core.runs import JournalReader

    Event = TelemetryEvent[Payload]

__all__ = ["ReplayCommand", "command"]

_POLL_S: Final = 0.2
_BATCH: Final = 500
_LONGEST_NAP_S: Final = 0.2


class ReplayCommand:
    """Plays a journal."""

    name = "replay"
    help = "print a run's updates, or play them into a sink"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("run", metavar="RUN", help="path, id, unique part of one, or latest")
        parser.add_argument(
            "--to",
            action="append",
            default=[],
            metavar="NAME|FILE:CLASS",
            help="play into this sink instead: an installed name, or ./my_sink.py:MySink; repeatable",
        )
        parser.add_argument("--follow", action="store_true", help="go on with what a live run writes, until it ends")
        parser.add_argument(
            "--speed", type=float, metavar="X", help="keep the original pace, X times as fast; default: no waiting"
        )
        parser.add_argument("--dir", metavar="DIR", help="folder that holds the runs; default run.dir, which is runs")
        add_config_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Print or play the run."""
        from esper_core.reading import open_run, run_faults
        from esper_core.reading.attempts import Once
        from esper_core.runs import JournalReader

        if args.speed is not None and not 0 < args.speed < float("inf"):
            raise UsageError(
                f"esper replay: --speed {args.speed:g} is no pace", hint="1 is the original, 10 ten times it"
            )
        run = open_run(args.run, runs_dir(args))
        refuse_without_journal(run)
        say_faults([fault for fault in run_faults(run.directory) if fault.path.parent != run.directory.telemetry])
        reader = JournalReader(run.directory)
        once = Once()
        code = _play(run, reader, once, args) if args.to else _print(run, reader, once, args)
        say_lines(reader)
        _say_order(once)
        reader.check()
        return code


def _print(run: Run, reader: JournalReader, once: Once, args: argparse.Namespace) -> int:
    tell = _Teller()
    count = 0
    for event in _events(run, reader, once, args, stopped=lambda: False):
        line = None if event.marked else tell(event)
        if line is not None:
            say(line, flush=args.follow)
            count += event.kind == "ppo_updated"
    if not count:
        say(f"no updates in {run.path}")
        return EXIT_OK
    judged = run.verdict()
    say(f"{_counted(run, count)}; {run.state}; verdict {judged.label}: {judged.reason}")
    return EXIT_OK


def _counted(run: Run, printed: int) -> str:
    """How many updates count: those that a resumed attempt replaced were printed, and do not."""
    from esper_core.reading import scan_index

    found = min(len(scan_index(run.directory)), printed)
    record = run.record
    made = record.updates if record is not None and record.state.ended else 0
    if made > found:
        return f"{found} of {made} updates, the others are not in its journal"
    return "1 update" if found == 1 else f"{found} updates"


class _Teller:
    """Prints events as the console prints them: updates in columns, other events as sentences."""

    def __init__(self) -> None:
        from esper_core.reading.aggregator import SanctumAggregator
        from esper_core.reading.glyphs import encodable, to_ascii

        self._run = SanctumAggregator()
        self._draw: Callable[[str], str] = str if encodable(sys.stdout.encoding) else to_ascii

    def __call__(self, event: Event) -> str | None:
        """Format the event as a line; None for an event that a listing leaves out."""
        from esper_core.events import PPOUpdatePayload, RunFinished, RunStarted
        from esper_core.reading.sentences import sentence

        self._run.handle(event)
        if isinstance(event.payload, PPOUpdatePayload):
            return self._update(event.payload)
        text = sentence(event, self._run.tamiyo.limits)
        if text is None or isinstance(event.payload, RunStarted | RunFinished):
            return text
        return f"  {text}"

    def _update(self, update: PPOUpdatePayload) -> str:
        from esper_core.health import HealthLevel
        from esper_core.reading.sentences import carries
        from esper_core.reading.trend import trend
        from esper_core.reading.updateline import update_line

        tamiyo = self._run.tamiyo
        pieces = update_line(update, trend(tamiyo.judged_kl_history), limits=tamiyo.limits, draw=self._draw)
        tail = carries(update) if update.health.severity >= HealthLevel.WARNING.severity else ""
        if update.early_stop is None and update.outcome != "completed":
            tail = update.reason
        return f"{''.join(text for text, _ in pieces)}   {tail}".rstrip()


def _play(run: Run, reader: JournalReader, once: Once, args: argparse.Namespace) -> int:
    """Play into sinks through the host: same guards, channels and closing as in training, but wait for slow sinks."""
    from esper_core.host.session import Session
    from esper_core.runs import journal_resource

    resolved = resolve_config(args, {"sinks": args.to})
    resource = journal_resource(run.directory)
    record = run.record
    session = Session(
        _as_live(resolved, run),
        run=run.directory,
        mode="replay",
        attempt=record.attempt if record is not None else _whole(resource.get("esper.run.attempt")),
        environment=record.environment if record is not None else "",
        extra_resource=resource,
        run_id=str(resource.get("esper.run.id") or run.run_id),
        origins=resolved.origins,
    )
    count = 0
    with session:
        for event in _events(run, reader, once, args, stopped=lambda: session.stop.requested):
            session.deliver(event)
            count += 1
    for sink in session.active:
        report: Callable[[], str] | None = getattr(sink.instance, "replay_report", None)
        for line in report().splitlines() if report is not None else ():
            note(f"{sink.loaded.name}: {line}")
    for line in session.report.lines():
        note(f"esper: {line}")
    if session.stop.signal is not None:
        return EXIT_SIGNAL + session.stop.signal
    into = ", ".join(args.to)
    ended = [sink for sink in session.report.sinks if sink.lost or sink.state == "disabled"]
    if ended:
        short = ", ".join(f"{sink.name} took {sink.delivered} and lost {sink.lost}" for sink in ended)
        note(f"{count} events of {run.run_id} read for {into}: {short}")
    else:
        note(f"{count} events of {run.run_id} played into {into}")
    return EXIT_FAILED if session.report.lost_total or session.report.cut_off else EXIT_OK


def _as_live(resolved: Resolved, run: Run) -> EsperConfig:
    """The configuration, with the form that the run gave its events, unless this command's own names a form."""
    from esper_core.runs.form import run_form

    form = run_form(run.directory) if resolved.origin("otel.events") == "default" else None
    if form is None:
        return resolved.config
    return replace(resolved.config, otel=replace(resolved.config.otel, events=form))


def _say_order(once: Once) -> None:
    """Print on stderr what of the journal no run writes: updates twice, updates out of order."""
    if once.repeated:
        times = "1 update stands" if once.repeated == 1 else f"{once.repeated} updates stand"
        note(f"esper: {times} in the journal again; each counts once")
    if once.late:
        lines = "1 update stands" if once.late == 1 else f"{once.late} updates stand"
        note(f"esper: {lines} in the journal behind a later one; other commands sort them")


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 1


def _events(
    run: Run, reader: JournalReader, once: Once, args: argparse.Namespace, *, stopped: Callable[[], bool]
) -> Iterator[Event]:
    """Yield the journal's events in its order, each update of an attempt once, at the requested pace."""
    from esper_core.events import PPOUpdatePayload

    pace = _Pace(args.speed) if args.speed is not None else None
    for event in _followed(run, reader, stopped) if args.follow else reader.stream():
        if isinstance(event.payload, PPOUpdatePayload) and not once.passes(event.attempt, event.payload.update_id):
            continue
        if pace is not None:
            pace.wait(event.time_ns, stopped)
        if stopped():
            return
        yield event


def _followed(run: Run, reader: JournalReader, stopped: Callable[[], bool]) -> Iterator[Event]:
    """Yield the recorded events, then new ones, until the run has ended or was deleted.

    Without a ``run.json`` the event RunFinished is its end.
    """
    finished = False
    while not stopped():
        ended = run.state.ended or reader.deleted or finished  # test before reading: nothing is written after the end
        events = reader.poll(_BATCH)
        for event in events:
            yield event
            finished = event.kind == "run_finished" and run.record is None
        if ended and not events:
            yield from reader.finish()
            return
        if not events:
            time.sleep(_POLL_S)


class _Pace:
    """Waits until an event is due."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first_ns: int | None = None
        self._begun = 0.0

    def wait(self, time_ns: int, stopped: Callable[[], bool]) -> None:
        if self._first_ns is None:
            self._first_ns, self._begun = time_ns, time.monotonic()
        due = self._begun + (time_ns - self._first_ns) / 1e9 / self._speed
        while not stopped() and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, _LONGEST_NAP_S))


command = ReplayCommand()
