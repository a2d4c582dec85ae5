"""The sink: one run of W&B for a run of Esper, over all its attempts."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from esper_core.errors import SinkError
from esper_core.health import RunState
from esper_core.hooks import CloseReason, SinkContext, hookimpl, redact
from esper_core.reading.run import Run
from esper_core.runs import RunDir
from esper_core.semconv.attributes import event_attributes
from esper_core.semconv.points import evaluation_points, points
from esper_sink_wandb.config import WandbConfig
from esper_sink_wandb.library import finish_within, load, require_login

if TYPE_CHECKING:
    from types import ModuleType

    from esper_core.events import (
        PolicyEvaluated,
        PolicyHealthChanged,
        PPOUpdatePayload,
        RunFinished,
        RunStarted,
        TelemetryEvent,
    )

__all__ = ["WandbSink"]

_OPEN_S: Final = 8
"""Seconds for wandb to reach its server: the host gives all sinks 10 to open."""
_CLOSE_S: Final = 2.5
"""Seconds for it to send the rest: the host gives all sinks 3 to close."""
_FOR_IDS: Final = re.compile(r"[^\w.\-]", re.ASCII)


class WandbSink:
    """Logs every number of every update, per head too, and of evaluations, to a run of Weights & Biases.

    The run is this sink's own (``reinit="create_new"``): a run that the program itself began is not touched.

    Args:
        config: the options.

    Raises:
        SinkError: wandb is absent.
    """

    Config: ClassVar[type[WandbConfig]] = WandbConfig

    def __init__(self, config: WandbConfig | None = None) -> None:
        self._config = config if config is not None else WandbConfig()
        self._context = SinkContext(run_id="")
        self._wandb: ModuleType = load()  # here, and not while the host's ten seconds for opening run
        self._run: Any = None
        self._offline = False
        self._ended: RunState | None = None
        self._updates = 0

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Begin the run, or go on with the one of this id.

        Raises:
            SinkError: nobody is logged in, the server does not answer, or a replay would double what
                the run has.
        """
        self._context = context
        mode = require_login(self._wandb, self._config.mode)
        self._offline = mode == "offline"
        try:
            self._run = self._begun(mode)
        except Exception as error:  # noqa: BLE001  # wandb's kinds of error are many
            raise SinkError(f"wandb did not begin the run: {' '.join(redact(str(error)).split())}") from None
        if context.mode == "replay" and self._run.resumed:
            where = self._place()
            self._run.finish()
            raise SinkError(f"{where} has this run already, and a replay would double it: delete it there first")
        for names in ("ppo", "head", "divergence", "evaluation"):
            self._run.define_metric(f"{names}/*", step_metric=f"ppo/{self._config.step}")
        context.logger.info("wandb: %s", self._place())

    @hookimpl
    def esper_run_started(self, event: TelemetryEvent[RunStarted]) -> None:
        """Describe the run: what it is, its configuration with secrets masked, and its name."""
        facts = {"esper": {key: _plain(value) for key, value in event_attributes(event).items()}}
        self._run.config.update(facts | self._settings(), allow_val_change=True)
        if event.payload.run_name:
            self._run.name = event.payload.run_name
        self._ended = None

    @hookimpl
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Log the update's numbers as one row, at the update's own time."""
        self._run.log(dict(points(event.payload)) | {"_timestamp": event.time_ns / 1e9})
        self._updates += 1

    @hookimpl
    def esper_policy_evaluated(self, event: TelemetryEvent[PolicyEvaluated]) -> None:
        """Log the evaluation's numbers as one row, at the axis of the update whose policy played."""
        played = event.payload
        axis = {"ppo/update_id": played.update_id, "ppo/env_steps": played.env_steps}
        self._run.log(dict(evaluation_points(played)) | axis | {"_timestamp": event.time_ns / 1e9})

    @hookimpl
    def esper_policy_health_changed(self, event: TelemetryEvent[PolicyHealthChanged]) -> None:
        """Tag the run with the policy's level, instead of the one before."""
        level = event.payload.current.value
        kept = [tag for tag in self._run.tags or () if not tag.startswith("health:")]
        self._run.tags = (*kept, f"health:{level}")
        self._run.summary["esper/health"] = level

    @hookimpl
    def esper_run_finished(self, event: TelemetryEvent[RunFinished]) -> None:
        """Put how the run ended into its summary."""
        self._ended = event.payload.state
        self._run.summary.update({"esper/state": event.payload.state.value, "esper/reason": event.payload.reason})

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:
        """Finish the run: as finished when it is done or was stopped, else as failed."""
        if self._run is None:
            return
        run, self._run = self._run, None
        folder = Path(run.dir).parent
        orderly = self._ended in {RunState.DONE, RunState.STOPPED} and reason is not CloseReason.DISABLED
        if not finish_within(self._wandb, run, 0 if orderly else 1, _CLOSE_S):
            text = f"not everything was sent to W&B in time; `wandb sync {folder}` sends it"
            self._context.report("failing", text)
            self._context.logger.warning(text)
        if self._context.mode == "check" and self._offline:
            shutil.rmtree(folder, ignore_errors=True)

    def check_report(self) -> str:
        """Say where the marked update went.

        Raises:
            SinkError: it was not logged.
        """
        if not self._updates:
            raise SinkError("nothing was logged")
        return f"logged the marked update to {self._place()}"

    # --- inside -------------------------------------------------------------------------------

    def _begun(self, mode: str) -> Any:
        wandb, context, config = self._wandb, self._context, self._config
        wanted = context.run_id if context.rank == 0 else f"{context.run_id}-rank-{context.rank}"
        if context.mode == "check":
            wanted = f"{wanted}-{os.urandom(4).hex()}"
        quiet = wandb.Settings(
            console="off",  # stdout and stderr stay the program's
            silent=True,
            init_timeout=_OPEN_S,
            x_disable_stats=True,  # the machine's load is not Esper's to record
        )
        return wandb.init(
            id=_FOR_IDS.sub("-", wanted),
            name=wanted,
            project=config.project or os.environ.get("WANDB_PROJECT") or "esper",
            entity=config.entity or None,
            group=config.group or None,
            tags=config.tags or None,
            dir=config.dir or None,
            mode=mode,
            job_type="check" if context.mode == "check" else None,
            resume=None if mode == "offline" else "allow",
            reinit="create_new",
            settings=quiet,
        )

    def _place(self) -> str:
        """The run's page; offline, its folder (wandb warns when it is asked for a page then)."""
        return str(Path(self._run.dir).parent if self._offline else self._run.url)

    def _settings(self) -> dict[str, Any]:
        if self._context.run_dir is None:
            return {}
        return Run(RunDir(self._context.run_dir, self._context.run_id)).config


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
