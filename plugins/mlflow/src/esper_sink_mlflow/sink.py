"""The sink: one run of MLflow for a run of Esper, over all its attempts."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Final

from esper_core.errors import SinkError
from esper_core.health import RunState
from esper_core.hooks import CloseReason, SinkContext, hookimpl
from esper_core.reading.run import Run
from esper_core.runs import RunDir
from esper_core.semconv.attributes import event_attributes
from esper_core.semconv.points import evaluation_points, points
from esper_sink_mlflow.config import MlflowConfig
from esper_sink_mlflow.library import in_words, load, passing, quiet, require_server, shown
from esper_sink_mlflow.names import flat, part_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from esper_core.events import (
        PolicyEvaluated,
        PolicyHealthChanged,
        PPOUpdatePayload,
        RunFinished,
        RunStarted,
        TelemetryEvent,
    )

__all__ = ["MlflowSink"]

_OPEN_S: Final = 8
"""Seconds for the run to begin before training does: the host gives all sinks 10 to open."""
_METRICS: Final = 1000
_PARAMS: Final = 100
"""The most that one request may hold."""
_ID: Final = "esper.run.id"
_STATUS: Final = {RunState.DONE: "FINISHED", RunState.STOPPED: "KILLED"}


class MlflowSink:
    """Logs every number of every update, per head too, and of evaluations, to a run of MLflow.

    Through a client of its own: the program's tracking URI, experiment and active run are not touched.

    Args:
        config: the options.

    Raises:
        SinkError: MLflow is absent.
    """

    Config: ClassVar[type[MlflowConfig]] = MlflowConfig

    def __init__(self, config: MlflowConfig | None = None) -> None:
        self._config = config if config is not None else MlflowConfig()
        self._context = SinkContext(run_id="")
        self._mlflow: ModuleType = load()  # here, and not while the host's ten seconds for opening run
        self._client: Any = None
        self._uri = ""
        self._id = ""
        self._fault: SinkError | None = None
        self._beginning = threading.Thread()
        self._ended: RunState | None = None
        self._updates = 0

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Begin the run, or go on with the one that has this id.

        Raises:
            SinkError: its store does not answer or refuses, or a replay would double what the run has.
        """
        self._context = context
        self._uri = self._config.tracking_uri or str(self._mlflow.get_tracking_uri())
        require_server(self._uri)
        self._beginning = threading.Thread(target=self._begin, name="esper-mlflow-begin", daemon=True)
        self._beginning.start()
        # Tables made for the first time may take longer on a busy machine: then the first event waits for them.
        self._beginning.join(_OPEN_S)
        if self._fault is not None:
            raise self._fault

    @hookimpl
    def esper_run_started(self, event: TelemetryEvent[RunStarted]) -> None:
        """Describe the run: what it is and its configuration, with secrets masked, as parameters, and its name."""
        self._ended = None
        tree = dict(event_attributes(event))
        if self._context.run_dir is not None:
            tree |= Run(RunDir(self._context.run_dir, self._context.run_id)).config
        with self._ready():
            self._describe(dict(flat(tree)), event.attempt)
            if event.payload.run_name:
                self._client.update_run(self._id, name=event.payload.run_name)

    @hookimpl
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Log the update's numbers in one request, at the update's own time.

        Raises:
            OSError: the store does not answer now; the host tries again.
        """
        self._log(event, points(event.payload, clean=part_name))
        self._updates += 1

    @hookimpl
    def esper_policy_evaluated(self, event: TelemetryEvent[PolicyEvaluated]) -> None:
        """Log the evaluation's numbers at the step of the update whose policy played.

        Raises:
            OSError: the store does not answer now; the host tries again.
        """
        self._log(event, evaluation_points(event.payload))

    @hookimpl
    def esper_policy_health_changed(self, event: TelemetryEvent[PolicyHealthChanged]) -> None:
        """Tag the run with the policy's level."""
        with self._ready():
            self._client.set_tag(self._id, "esper.health", event.payload.current.value)

    @hookimpl
    def esper_run_finished(self, event: TelemetryEvent[RunFinished]) -> None:
        """Tag the run with how it ended."""
        self._ended = event.payload.state
        with self._ready():
            self._client.set_tag(self._id, "esper.state", event.payload.state.value)
            self._client.set_tag(self._id, "esper.reason", event.payload.reason)

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:
        """Set the run's status: FINISHED when it is done, KILLED when it was stopped, else FAILED."""
        if self._beginning.ident is not None:
            self._beginning.join()
        if not self._id:
            return
        status = (
            "FAILED" if self._ended is None or reason is CloseReason.DISABLED else _STATUS.get(self._ended, "FAILED")
        )
        self._client.set_terminated(self._id, status)
        if self._context.mode == "check":
            self._client.delete_run(self._id)

    def check_report(self) -> str:
        """Say where the marked update went.

        Raises:
            SinkError: it was not logged.
        """
        if not self._updates:
            raise SinkError("nothing was logged")
        return f"logged the marked update to {self._place()}"

    # --- inside -------------------------------------------------------------------------------

    def _log(
        self,
        event: TelemetryEvent[PPOUpdatePayload] | TelemetryEvent[PolicyEvaluated],
        found: Iterable[tuple[str, float]],
    ) -> None:
        step = event.payload.update_id if self._config.step == "update_id" else event.payload.env_steps
        made = self._mlflow.entities.Metric
        at_ms = event.time_ns // 1_000_000
        metrics = [made(name, value, at_ms, step) for name, value in found]
        with self._ready():
            for first in range(0, len(metrics), _METRICS):
                self._client.log_batch(self._id, metrics=metrics[first : first + _METRICS])

    def _begin(self) -> None:
        try:
            with quiet():
                self._client = self._mlflow.tracking.MlflowClient(tracking_uri=self._uri)
                self._id = self._begun()
        except SinkError as error:
            self._fault = error
        except Exception as error:  # noqa: BLE001  # MLflow passes on what its store's library raises
            self._fault = SinkError(f"MLflow did not begin the run at {shown(self._uri)}: {in_words(error)}")
        else:
            self._context.logger.info("mlflow: %s", self._place())

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        """The run has begun, and what the store refuses for now is an OSError."""
        self._beginning.join()
        if self._fault is not None:
            raise self._fault
        with passing(self._mlflow.exceptions.MlflowException):
            yield

    def _begun(self) -> str:
        context, client = self._context, self._client
        wanted = context.run_id if context.rank == 0 else f"{context.run_id}-rank-{context.rank}"
        experiment = self._experiment()
        found = client.search_runs([experiment], f"tags.`{_ID}` = '{wanted}'", max_results=1)
        if found and context.mode == "replay":
            raise SinkError(
                f"{self._place()} has this run already, and a replay would double it: delete it there first"
            )
        if found:
            name: str = found[0].info.run_id
            client.update_run(name, status="RUNNING")
            return name
        return str(client.create_run(experiment, tags={_ID: wanted}, run_name=wanted).info.run_id)

    def _experiment(self) -> str:
        name = self._config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "esper"
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise SinkError(
                f'the experiment "{name}" was deleted: restore it, or set another in sink.mlflow.experiment'
            )
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def _describe(self, wanted: dict[str, str], attempt: int) -> None:
        """Log parameters. MLflow never changes one: what a later attempt has otherwise stands under its number."""
        known = self._client.get_run(self._id).data.params
        fresh = {key: value for key, value in wanted.items() if key not in known}
        changed = {f"attempt-{attempt}.{key}": value for key, value in wanted.items() if known.get(key, value) != value}
        made = self._mlflow.entities.Param
        # An attempt's own changes are logged once; a replay of them is refused before.
        params = [made(key, value) for key, value in (fresh | changed).items() if key not in known]
        for first in range(0, len(params), _PARAMS):
            self._client.log_batch(self._id, params=params[first : first + _PARAMS])

    def _place(self) -> str:
        return f"{shown(self._uri)}, run {self._id}" if self._id else shown(self._uri)
