"""``esper sinks check``: opens the selected sinks as a run would, sends one marked update, and prints the result."""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper_core.cli._output import say
from esper_core.errors import EXIT_FAILED, EXIT_OK
from esper_core.events import PPOUpdatePayload
from esper_core.health import HealthLevel, RunState
from esper_core.host.load.selection import select_sinks
from esper_core.host.session import Session
from esper_core.masking import redact
from esper_core.runs.layout import RunDir

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.config.layers import Resolved
    from esper_core.reading.account import SinkAccount

__all__ = ["check_sinks"]

DELIVERY_S: Final = 5.0
REPORT_S: Final = 20.0


@dataclass(slots=True)
class _Answer:
    """The result of a sink's own ``check_report``."""

    text: str = ""
    failed: bool = False


def check_sinks(resolved: Resolved) -> int:
    """Check every selected sink.

    Returns:
        0 when all sinks handled the event, 1 otherwise.
    """
    with tempfile.TemporaryDirectory(prefix=".esper-check-", dir=_folder(resolved.config.run.dir)) as folder:
        Path(folder, "telemetry").mkdir()
        session = Session(
            resolved.config,
            run=RunDir(Path(folder), "sinks-check"),
            mode="check",
            environment="sinks-check",
            origins=resolved.origins,
            selection=select_sinks(resolved.config, origins=resolved.origins, dropped=resolved.dropped_sinks),
            on_notice=lambda line: say(f"note: {line}"),
        )
        answers: dict[str, _Answer] = {}
        with session:
            begun = time.monotonic()
            session.emitter.emit_ppo_update(
                # With an epoch's KL, so that there is a span event or log event to send too.
                PPOUpdatePayload(
                    update_id=1, kl_divergence=0.01, kl_joint=0.01, kl_by_epoch=(0.01,), health=HealthLevel.HEALTHY
                )
            )
            session.hub.drain(DELIVERY_S)
            for sink in session.active:
                answers[sink.loaded.name] = _ask(sink.instance)
            spent = time.monotonic() - begun
            session.finish(RunState.DONE, "check")
        hooks = {sink.loaded.name: sink.loaded.hooks for sink in session.active}
    if not hooks:
        say("no sink is selected")
        return EXIT_OK
    failed = 0
    width = max(len(name) for name in hooks)
    for name, received in hooks.items():
        reports = [item for item in session.report.sinks if item.name == name or item.name.startswith(f"{name}/")]
        ok, lines = _judge(reports, answers[name], has_updates="esper_ppo_updated" in received)
        failed += not ok
        first, *rest = lines
        say(f"{name.ljust(width)}  {'ok    ' if ok else 'FAILED'}  {first}")
        for line in rest:
            say(f"{' ' * width}          {line}")
    say(f"{len(hooks) - failed} of {len(hooks)} sinks work, in {spent:.1f} s")
    return EXIT_FAILED if failed else EXIT_OK


def _folder(runs: str) -> str | None:
    """The folder of runs, so that its disk is tested; the system's temporary folder when there is none."""
    return runs if Path(runs).is_dir() else None


def _ask(sink: Any) -> _Answer:
    """Call the sink's ``check_report`` in a thread: it may wait for a network."""
    report: Callable[[], str] | None = getattr(sink, "check_report", None)
    if report is None:
        return _Answer()
    answer = _Answer(text=f"no report within {REPORT_S:.0f} s", failed=True)

    def ask() -> None:
        try:
            text = redact(str(report()))
        except BaseException as error:  # noqa: BLE001  # any exception is the result: the check failed
            answer.text = redact(str(error) or type(error).__name__)
        else:
            answer.text, answer.failed = text, False

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REPORT_S)
    return answer


def _judge(reports: list[SinkAccount], answer: _Answer, *, has_updates: bool) -> tuple[bool, list[str]]:
    lines = answer.text.splitlines()
    own = reports[0]
    bad = [item for item in reports if item.lost or item.failures or item.cut_off or item.state == "disabled"]
    if bad or answer.failed:
        why = [item.message or f"{item.lost} events lost" for item in bad if item.message not in lines]
        return False, [*lines, *why] or ["failed"]
    if not has_updates:
        taken = "opened and closed; it receives no updates"
    else:
        taken = f"took the marked update in {own.slowest_s * 1000:.1f} ms ({own.delivery})"
    return True, [taken, *lines]
