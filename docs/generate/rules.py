"""Prometheus's rule file, whose alerts follow the verdict. ``make docs`` writes it; a test does with shorter times."""

from __future__ import annotations

from typing import Final

from collector_rules import COLLECTORS, collectors
from esper_core.health import HealthLevel
from recorded_rules import RUN, Times, duration, recorded

__all__ = ["ALERTS", "RUNBOOK", "Times", "rules"]

CARRIES: Final = 0.5
"""Share of the KL from which one head carries it: from there on `esper_core.health.suggestion` names the head."""
RUNBOOK: Final = "https://github.com/esper-core/esper/blob/main/docs/how-to/alerts.md"
"""The page with one section an alert; anchors are the alerts' names in lower case."""
ALERTS: Final = (
    "EsperKLCritical",
    "EsperKLWarning",
    "EsperNonFinite",
    "EsperEarlyStops",
    "EsperOneHeadDrifts",
    "EsperRunVanished",
    "EsperRunStalled",
    "EsperRunFailed",
    "EsperTelemetryLost",
    "EsperPipelineDown",
    "EsperCollectorDown",
    "EsperCollectorFull",
    "EsperCollectorDiskFull",
    "EsperCollectorDrops",
    "EsperClockAhead",
)


_NAME: Final = (
    "{{ if $labels.esper_run_id }}{{ $labels.esper_run_id }}{{ else }}{{ $labels.job }} {{ $labels.instance }}{{ end }}"
)
_HOST: Final = "{{ with $labels.host_name }}{{ . }}{{ else }}its machine{{ end }}"
_OF_ALERT: Final = 'job="%[1]s", instance="%[2]s"'
_LAST_KL: Final = (
    # The KL that the run is judged by: the joint one where its limits are on that, else the weighted one.
    "{{ with printf `"
    f"(last_over_time(esper_ppo_last_kl_joint{{{_OF_ALERT}}}[2h]) and on (job, instance) "
    f'last_over_time(esper_run_kl_limit{{esper_run_kl_on="joint", {_OF_ALERT}}}[2h])) or on (job, instance) '
    f"last_over_time(esper_ppo_last_kl_divergence{{{_OF_ALERT}}}[2h])"
    "` $labels.job $labels.instance | query }}The last KL, of the kind that the run is judged by, was "
    "{{ . | first | value | printf `%.4g` }} nats. {{ end }}"
)


def rules(times: Times | None = None) -> str:
    """The rule file."""
    chosen = times if times is not None else Times()
    parts = (_head(), recorded(chosen), collectors(chosen), _policy(chosen), _run(chosen), _telemetry(chosen))
    return "\n".join(parts)


def _runbook(alert: str) -> str:
    return f"runbook_url: {RUNBOOK}#{alert.lower()}"


def _head() -> str:
    return """\
# Written by docs/generate from esper_core/health and esper_core/runs: run `make docs`.
# `promtool test rules esper.rules.test.yml` proves each alert, and that a normal end raises none.
#
# KL alerts read the verdict, esper.policy.health: the limits are the run's own, none stands here. A trainer's clock may
# be wrong: nothing here compares one with Prometheus's.

groups:"""


def _policy(times: Times) -> str:
    return f"""\
  - name: esper-policy
    interval: {duration(times.every_s)}
    rules:
      - alert: EsperKLCritical
        expr: esper:policy:critical
        for: {duration(times.held_s)}
        labels: {{severity: critical}}
        annotations:
          summary: 'run {_NAME}: the policy drifts too fast'
          description: >-
            The verdict was critical for {{{{ $value | humanizePercentage }}}} of the recent time or updates.
            {_LAST_KL}Lower learning_rate, or set target_kl so that updates stop in time.
          {_runbook("EsperKLCritical")}
      - alert: EsperKLWarning
        expr: esper:policy:warning unless esper:policy:critical
        for: {duration(times.held_s)}
        labels: {{severity: warning}}
        annotations:
          summary: 'run {_NAME}: the policy drifts'
          description: >-
            The verdict was warning or worse for {{{{ $value | humanizePercentage }}}} of the recent time or updates.
            {_LAST_KL}One head at critical warns too, whatever the policy's KL is.
            Lower learning_rate or use fewer epochs.
          {_runbook("EsperKLWarning")}
      - alert: EsperNonFinite
        expr: max_over_time(esper_ppo_last_health[10m]) >= {HealthLevel.NON_FINITE.severity}
        labels: {{severity: critical}}
        annotations:
          summary: 'run {_NAME}: NaN or Inf in an update'
          description: >-
            Check rewards and observations, then resume from the last checkpoint with a lower learning_rate.
          {_runbook("EsperNonFinite")}
      - alert: EsperEarlyStops
        expr: esper:early_stops:ratio30m > 0.5
        for: 5m
        labels: {{severity: warning}}
        annotations:
          summary: 'run {_NAME}: {{{{ $value | humanizePercentage }}}} of updates stop early'
          description: >-
            More than half of the planned work is not done. Lower learning_rate, plan fewer epochs, or raise target_kl.
          {_runbook("EsperEarlyStops")}
      - alert: EsperOneHeadDrifts
        expr: esper:head:share15m > {CARRIES} and on ({RUN}) esper:policy:warning
        for: {duration(times.held_s)}
        labels: {{severity: warning}}
        annotations:
          summary: 'run {_NAME}: head {{{{ $labels.esper_ppo_head_name }}}} carries the drift'
          description: >-
            Head {{{{ $labels.esper_ppo_head_name }}}} has {{{{ $value | humanizePercentage }}}} of the KL.
          {_runbook("EsperOneHeadDrifts")}
"""


def _run(times: Times) -> str:
    return f"""\
  - name: esper-run
    interval: {duration(times.every_s)}
    rules:
      # The process is gone, or nothing of it arrives. An orderly end says done, stopped or failed before it goes quiet.
      # Only the attempt that was heard last counts, whatever became of the others. `for` is the time that Prometheus's
      # senders need after an outage of its own.
      - alert: EsperRunVanished
        expr: esper:run:silence_seconds > {times.vanished_s}
        for: {duration(times.returned_s)}
        labels: {{severity: critical}}
        annotations:
          summary: 'run {_NAME}: no sign of life for {{{{ $value | humanizeDuration }}}}'
          description: >-
            The trainer was killed, its machine is gone, or its Collector does not reach us. `esper runs` on
            {_HOST} says which; `esper ppo --resume` goes on.
          {_runbook("EsperRunVanished")}
      - alert: EsperRunStalled
        expr: |
          esper:run:progress_age_seconds > esper:run:stall_limit_seconds
          and on ({RUN}) esper:run:silence_seconds <= {times.vanished_s}
        labels: {{severity: critical}}
        annotations:
          summary: 'run {_NAME}: alive, no progress for {{{{ $value | humanizeDuration }}}}'
          description: The environment or the device hangs; the heartbeat comes from a thread of its own.
          {_runbook("EsperRunStalled")}
      - alert: EsperRunFailed
        expr: |
          esper:run:ended
          and on ({RUN}) last_over_time(esper_run_state{{esper_run_state="failed"}}[{duration(times.memory_s)}]) == 1
          and on ({RUN}) time() - esper:run:heard_seconds < 600
          unless on ({RUN}) esper:run:superseded
        labels: {{severity: critical}}
        annotations:
          summary: 'run {_NAME}: ended with an error'
          description: '`esper runs` says which; trainer.log in its directory has the traceback.'
          {_runbook("EsperRunFailed")}
"""


def _telemetry(times: Times) -> str:
    silence = "esper:run:silence_seconds"
    return f"""\
  - name: esper-telemetry
    interval: {duration(times.every_s)}
    rules:
      - alert: EsperTelemetryLost
        expr: sum by (esper_sink_name, {RUN}) (increase(esper_sink_lost_total[15m])) > 0
        labels: {{severity: warning}}
        annotations:
          summary: 'run {_NAME}: sink {{{{ $labels.esper_sink_name }}}} lost events'
          description: >-
            The journal has them, unless it is the journal that lost: `esper replay RUN --to otlp` sends them again.
          {_runbook("EsperTelemetryLost")}
      # One page for an outage, not one a run: alertmanager.yml lets it inhibit EsperRunVanished, which comes later
      # and ends sooner.
      # Every gateway that Prometheus scrapes is away; or no run is heard at all, and several went silent together.
      - alert: EsperPipelineDown
        expr: |
          max by () (up{{job="esper-gateway"}}) == 0
          or (
            count({silence} < scalar(min({silence})) + {times.together_s}) >= 2
            and min({silence}) > {times.pipeline_s}
          )
        for: {duration(times.pipeline_held_s)}
        keep_firing_for: {duration(times.back_s)}
        labels: {{severity: critical}}
        annotations:
          summary: metrics of runs do not arrive
          description: >-
            The gateway is away, or no run is heard. Agents and sinks keep what they have; training goes on.
          {_runbook("EsperPipelineDown")}
      # One agent or one of several gateways. An agent's target carries host_name: alertmanager.yml lets it inhibit
      # EsperRunVanished of the runs on its machine.
      - alert: EsperCollectorDown
        expr: up{{{COLLECTORS}}} == 0
        for: {duration(times.pipeline_held_s)}
        keep_firing_for: {duration(times.back_s)}
        labels: {{severity: critical}}
        annotations:
          summary: 'Collector {{{{ $labels.instance }}}} ({{{{ $labels.job }}}}) does not answer'
          description: Its machine or its process is gone. Sinks keep what they have until it is back.
          {_runbook("EsperCollectorDown")}
      # With a full queue a Collector refuses data, with full memory too; the sink or the agent before it holds its
      # data meanwhile.
      - alert: EsperCollectorFull
        expr: |
          esper:collector:queue_ratio > 0.8
          or esper:collector:refuses unless on (job, instance) esper:collector:disk_full
        labels: {{severity: warning}}
        annotations:
          summary: 'Collector {{{{ $labels.instance }}}} ({{{{ $labels.job }}}}) has no room'
          description: What comes behind it does not take its data, or its memory is full.
          {_runbook("EsperCollectorFull")}
      - alert: EsperCollectorDiskFull
        expr: esper:collector:disk_full
        labels: {{severity: critical}}
        annotations:
          summary: 'Collector {{{{ $labels.instance }}}} ({{{{ $labels.job }}}}) cannot write its queue to disk'
          description: >-
            Its disk is full, or ESPER_STORAGE cannot be written. It answers 503: senders keep their data and try again,
            until their own queues are full.
          {_runbook("EsperCollectorDiskFull")}
      # Only an answer that the Collector calls permanent makes it give data up: 400, 401, 403, 404, 413.
      - alert: EsperCollectorDrops
        expr: esper:collector:drops
        labels: {{severity: warning}}
        annotations:
          summary: 'Collector {{{{ $labels.instance }}}} ({{{{ $labels.job }}}}) drops data'
          description: >-
            What comes behind it refuses data for good: an agent's token, or a point that Prometheus does not take. Its
            log has the answer.
          {_runbook("EsperCollectorDrops")}
      - alert: EsperClockAhead
        expr: esper:collector:takes_out_too_new
        labels: {{severity: warning}}
        annotations:
          summary: "a trainer's clock is ahead, and gateway {{{{ $labels.instance }}}} takes its points out"
          description: >-
            Points more than 9 minutes ahead do not reach Prometheus, which would refuse others' with them. The spans
            arrive, with wrong times.
          {_runbook("EsperClockAhead")}
"""
