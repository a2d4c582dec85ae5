"""What callers receive about an attempt: at its start, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper_core.errors import EsperError, NonFiniteError, TelemetryLostError
from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_core.health import KLLimits, Verdict
    from esper_core.host.session import SessionReport
    from esper_core.ppo.train_result import TrainResult
    from esper_core.runs import RunDir

__all__ = ["Outcome", "Started"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """An attempt whose sinks are open, before its first step.

    Attributes:
        run: its directory.
        attempt: counts from 1.
        first_update: id of the first update it makes.
        heads: name -> number of choices, or the kind of a head that draws from a density.
        active_heads: heads with a choice that are usually active in a step (mean over the conditioning head's choices);
            None when the task does not define it.
        sinks: names of the loaded sinks.
        ranks: how many train together.
    """

    run: RunDir
    attempt: int
    first_update: int
    heads: Mapping[str, int | str]
    active_heads: float | None
    sinks: tuple[str, ...]
    ranks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        run: its directory.
        attempt: counts from 1.
        result: counts, state and reason.
        verdict: the verdict on its last updates and its losses.
        limits: the limits that the verdict was made by.
        report: the final counters of every sink.
        duration_s: seconds this attempt took, closing included.
        signal: the signal that stopped it, or None.
        strict: whether lost telemetry is a failure (``run.strict_telemetry``).
        unwritten: why ``summary.json`` could not be written; empty when it was.
    """

    run: RunDir
    attempt: int
    result: TrainResult
    verdict: Verdict
    limits: KLLimits
    report: SessionReport
    duration_s: float
    signal: int | None
    strict: bool
    unwritten: str

    def failure(self) -> EsperError | None:
        """The error of a failed attempt; None for a run that is done, or that was stopped in order."""
        result = self.result
        if result.unsaved:
            older = ", and the checkpoint is of an earlier update" if self.run.checkpoint.is_file() else ""
            return EsperError(result.unsaved, hint=f"the training itself was done; its policy was not kept{older}")
        if result.state is RunState.STOPPED and self.signal is not None:
            return None
        if result.state is RunState.FAILED:
            kept = f"; the last good weights can be resumed: {self.run.path}" if self.run.checkpoint.is_file() else ""
            return NonFiniteError(result.reason, hint=f"run.keep_going = true goes on in spite of it{kept}")
        if self.strict and self.report.lost_total:
            return TelemetryLostError(f"{self.report.lost_total} events were lost (run.strict_telemetry)")
        return None
