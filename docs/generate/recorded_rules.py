"""The recording rules: what is known of each run and its policy at this moment, for the alerts to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from esper_core.health import HEALTH_WINDOW, WARM_UP_UPDATES, HealthLevel
from esper_core.runs.state import FIRST_PROGRESS_S, STALL_FACTOR, STALL_MIN_S

__all__ = ["RUN", "Times", "duration", "recorded"]

RUN: Final = "job, instance, esper_run_id, esper_run_attempt, esper_rank"
"""Labels that every series of one process shares, whatever else stands on it."""
ENDED: Final = 'esper_run_state{esper_run_state=~"done|stopped|failed"}'
MOST: Final = 0.5
"""Share of the recent time, or of the recent updates, from which a level is the rule and not a spike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long each thing takes, in seconds. The defaults are the rule file's; tests take smaller ones.

    Attributes:
        every_s: from one evaluation to the next. Records of the last evaluation are read back, so it is fixed here.
        windows_s: where the recent updates are looked for: in the shortest that holds enough of them.
        held_s: how long a KL alert must hold.
        vanished_s: silence after which a run has vanished. A heartbeat comes every 5 s; our sink sends it every 10 s,
            an SDK of the application's own every 60 s.
        returned_s: added to that, for what waits in a queue after an outage: a sender tries again every 30 s.
        pipeline_s: silence of all runs after which the way is suspected: one evaluation more than those 60 s.
        pipeline_held_s: how long that must hold; together they come before `vanished_s` and `returned_s`.
        back_s: how long the alerts on the way outlast the trouble: until the last sender has tried again, runs still
            look silent that are not.
        together_s: runs that went silent within this time did so for one reason.
        stall_min_s: time without progress that is never called a stall.
        first_progress_s: time that a run may take until its first update.
        memory_s: how long a silent run is remembered; Prometheus itself forgets a series after 5 minutes.
    """

    every_s: int = 15
    windows_s: tuple[int, int, int] = (300, 1800, 7200)
    held_s: int = 60
    vanished_s: int = 90
    returned_s: int = 30
    pipeline_s: int = 75
    pipeline_held_s: int = 15
    back_s: int = 90
    together_s: int = 60
    stall_min_s: float = STALL_MIN_S
    first_progress_s: float = FIRST_PROGRESS_S
    memory_s: int = 7200


def duration(seconds: float) -> str:
    """A PromQL duration: ``5m``, ``90s``."""
    whole = round(seconds)
    for size, unit in ((3600, "h"), (60, "m")):
        if whole and whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def _recent(times: Times, selector: str) -> str:
    """Increase of a counter within the shortest window that holds enough updates for a verdict."""
    enough = HEALTH_WINDOW - 0.5  # increase() is not exact
    of = [f"sum without (esper_ppo_health) (increase({selector}[{duration(window)}]))" for window in times.windows_s]
    windows = [duration(window) for window in times.windows_s]
    counted = 'esper_policy_updates_total{esper_ppo_health!="unknown"}'
    lines = []
    for window, expression in zip(windows[:-1], of[:-1], strict=True):
        total = f"sum without (esper_ppo_health) (increase({counted}[{window}]))"
        lines.append(f"({expression}\n            and {total} >= {enough})")
    return "\n          or ".join([*lines, of[-1]])


def recorded(times: Times) -> str:
    """The group of recording rules."""
    memory, window, every = duration(times.memory_s), duration(times.windows_s[0]), duration(times.every_s)
    gauge = f"(esper_policy_health < {HealthLevel.NON_FINITE.severity})"
    heartbeat = f"last_over_time(esper_run_heartbeat_seconds[{memory}])"
    return f"""\
  - name: esper-recorded
    interval: {every}
    rules:
      # --- the run -------------------------------------------------------------------------------------------------
      # When Prometheus last saw a heartbeat change, by its own clock: value and time of a sample are by the trainer's,
      # which may lag. The heartbeat of the last evaluation is the record two rules below.
      - record: esper:run:heard_seconds
        expr: |
          (
            {heartbeat} * 0 + time()
            unless {heartbeat} == esper:run:heartbeat_seconds
          )
          or (last_over_time(esper:run:heard_seconds[{memory}]) and {heartbeat})
      - record: esper:run:heartbeat_seconds
        expr: {heartbeat}
      - record: esper:run:ended
        expr: max by ({RUN}) (last_over_time({ENDED}[{memory}])) == 1
      # Which attempt at a run was heard last. After an outage several may be heard at once: then the later heartbeat
      # counts, which weighs less than one evaluation here.
      - record: esper:run:recency
        expr: |
          esper:run:heard_seconds{{esper_run_id!=""}}
          - (time() - esper:run:heartbeat_seconds{{esper_run_id!=""}}) / 1e6
      - record: esper:run:superseded
        expr: |
          esper:run:recency
          < on (esper_run_id, esper_rank) group_left () max by (esper_run_id, esper_rank) (esper:run:recency)
      - record: esper:run:silence_seconds
        expr: |
          time() - esper:run:heard_seconds
          unless on ({RUN}) esper:run:ended
          unless on ({RUN}) esper:run:superseded
      # Both by the trainer's clock.
      - record: esper:run:progress_age_seconds
        expr: |
          esper:run:heartbeat_seconds - last_over_time(esper_run_last_progress_seconds[{memory}])
          unless on ({RUN}) esper:run:ended
          unless on ({RUN}) esper:run:superseded
      # What is long for this run: {STALL_FACTOR:g} times its last iteration, at least {times.stall_min_s:g} s, and
      # {times.first_progress_s:g} s before the first update.
      - record: esper:run:stall_limit_seconds
        expr: |
          clamp_min(
            {STALL_FACTOR:g} * (
              last_over_time(esper_ppo_last_rollout_duration_seconds[{memory}])
              + last_over_time(esper_ppo_last_update_duration_seconds[{memory}])
            ), {times.stall_min_s:g}
          )
          or {heartbeat} * 0 + {times.first_progress_s:g}

      # --- the policy ----------------------------------------------------------------------------------------------
      # Share of the last minutes in which the verdict was at a level, from the gauge. The verdict is the worst of the
      # last {HEALTH_WINDOW} updates. NaN and Inf have an alert of their own.
      - record: esper:policy:time_critical
        expr: avg_over_time(({gauge} >= bool {HealthLevel.CRITICAL.severity})[{window}:{every}])
      - record: esper:policy:time_warning
        expr: avg_over_time(({gauge} >= bool {HealthLevel.WARNING.severity})[{window}:{every}])
      # Updates at a level by their own KL, from the counter, within the shortest window that holds {HEALTH_WINDOW}.
      - record: esper:policy:updates_critical
        expr: |
          {_recent(times, 'esper_policy_updates_total{esper_ppo_health="critical"}')}
      - record: esper:policy:updates_warning
        expr: |
          {_recent(times, 'esper_policy_updates_total{esper_ppo_health=~"warning|critical"}')}
      - record: esper:policy:updates_judged
        expr: |
          {_recent(times, 'esper_policy_updates_total{esper_ppo_health!="unknown"}')}
      # A level is the rule when the verdict held it for most of the time, or most updates had it. One update alone is
      # a spike, for however long its verdict holds: half an hour where an update takes ten minutes.
      - record: esper:policy:critical
        expr: |
          {_drifts("critical")}
      # Warm-up, the first {WARM_UP_UPDATES} updates, mutes a warning as the verdict does, and labels a critical level.
      - record: esper:policy:warning
        expr: |
          {_drifts("warning")}
          unless on ({RUN}) (last_over_time(esper_ppo_last_update_id[{memory}]) <= {WARM_UP_UPDATES})
      - record: esper:early_stops:ratio30m
        expr: |
          increase(esper_ppo_early_stops_total[30m])
          / on ({RUN}) group_left () (sum by ({RUN}) (increase(esper_ppo_updates_total[30m])) >= 10)
      - record: esper:head:share15m
        expr: |
          avg_over_time(esper_ppo_last_head_share_ratio[15m])
          and on ({RUN}) (count by ({RUN}) (last_over_time(esper_ppo_last_head_share_ratio[15m])) > 1)
"""


def _drifts(level: str) -> str:
    """The runs at a level or worse, with the share of time or updates as the value."""
    return f"""\
(
            esper:policy:time_{level} > {MOST}
            or esper:policy:updates_{level} / esper:policy:updates_judged > {MOST}
          )
          unless esper:policy:updates_{level} < 1.5
          unless on ({RUN}) esper:run:ended
          unless on ({RUN}) esper:run:superseded"""
