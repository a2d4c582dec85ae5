"""Prometheus rules from Esper's own limits. Written by generate.py; the limits are esper_core.health's."""

from __future__ import annotations

from esper_core.health import HEALTH_WINDOW, WARM_UP_UPDATES, HealthLevel, TUIThresholds
from esper_core.runs.state import FIRST_PROGRESS_S, STALL_FACTOR, STALL_MIN_S

KL = "esper_ppo_last_kl_divergence"
RUN = "job, instance, esper_run_id, esper_run_attempt, esper_rank"
"""Labels that every series of one process shares, whatever else stands on it."""
ENDED = 'esper_run_state{esper_run_state=~"done|stopped|failed"}'
VANISHED_S = 60
"""A heartbeat comes every 5 s and is sent every 10 s: a minute allows for a slow way and clocks that differ."""
MEMORY = "2h"
"""How long a run that went silent is remembered; Prometheus itself forgets a series after 5 minutes without a point."""
CARRIES = 0.5
"""Share of the KL from which one head carries it: from there on `esper_core.health.suggestion` names the head."""


def rules() -> str:
    """The rule file."""
    return f"""\
# Written by collector-config/generate.py from esper_core/health/limits.py: change the limits there, not here.
# `promtool test rules esper.rules.test.yml` proves each alert, and that a normal end raises none.
#
# Alerts use the gauges (one point for every update, with the update's own time): a histogram's bucket includes its
# upper bound, while a KL is critical from {TUIThresholds.KL_CRITICAL} on.

groups:
  - name: esper-recorded
    rules:
      # The KL that every one of the last updates reached: the smallest within the shortest window that holds at least
      # {HEALTH_WINDOW} updates. A single spike never raises it; a streak does at once.
      - record: esper:kl_divergence:streak_min
        expr: |
          (
              (min_over_time({KL}[2m]) and count_over_time({KL}[2m]) >= {HEALTH_WINDOW})
            or
              (min_over_time({KL}[15m]) and count_over_time({KL}[15m]) >= {HEALTH_WINDOW})
            or
              (min_over_time({KL}[{MEMORY}]) and count_over_time({KL}[{MEMORY}]) >= {HEALTH_WINDOW})
          )
          unless on ({RUN}) esper:run:ended
          unless on ({RUN}) (last_over_time(esper_ppo_last_update_id[{MEMORY}]) <= {WARM_UP_UPDATES})
      - record: esper:run:ended
        expr: max by ({RUN}) (last_over_time({ENDED}[{MEMORY}])) == 1
      - record: esper:run:heartbeat_age_seconds
        expr: time() - max_over_time(esper_run_heartbeat_seconds[{MEMORY}]) unless on ({RUN}) esper:run:ended
      - record: esper:run:progress_age_seconds
        expr: time() - max_over_time(esper_run_last_progress_seconds[{MEMORY}]) unless on ({RUN}) esper:run:ended
      # What is long for this run: {STALL_FACTOR:g} times its last iteration, at least {STALL_MIN_S:g} s;
      # {FIRST_PROGRESS_S:g} s before the first update.
      - record: esper:run:stall_limit_seconds
        expr: |
          clamp_min(
            {STALL_FACTOR:g} * (
              last_over_time(esper_ppo_last_rollout_duration_seconds[{MEMORY}])
              + last_over_time(esper_ppo_last_update_duration_seconds[{MEMORY}])
            ), {STALL_MIN_S:g}
          )
          or last_over_time(esper_run_heartbeat_seconds[{MEMORY}]) * 0 + {FIRST_PROGRESS_S:g}
      - record: esper:early_stops:ratio30m
        expr: |
          increase(esper_ppo_early_stops_total[30m])
          / on ({RUN}) group_left () (sum by ({RUN}) (increase(esper_ppo_updates_total[30m])) >= 10)
      # The head's part in the KL over the window that streak_min looks at.
      - record: esper:head:share15m
        expr: |
          avg_over_time(esper_ppo_last_head_share_ratio[15m])
          and on ({RUN}) (count by ({RUN}) (last_over_time(esper_ppo_last_head_share_ratio[15m])) > 1)

  - name: esper-policy
    rules:
      - alert: EsperKLCritical
        expr: esper:kl_divergence:streak_min >= {TUIThresholds.KL_CRITICAL}
        labels: {{severity: critical}}
        annotations:
          summary: 'run {{{{ $labels.esper_run_id }}}}: the policy drifts too fast'
          description: >-
            KL was at least {{{{ $value | printf "%.4f" }}}} nats in every recent update (critical from
            {TUIThresholds.KL_CRITICAL}). Lower learning_rate, or set target_kl so that updates stop in time.
      - alert: EsperKLWarning
        expr: esper:kl_divergence:streak_min >= {TUIThresholds.KL_WARNING} < {TUIThresholds.KL_CRITICAL}
        labels: {{severity: warning}}
        annotations:
          summary: 'run {{{{ $labels.esper_run_id }}}}: the policy drifts'
          description: >-
            KL was at least {{{{ $value | printf "%.4f" }}}} nats in every recent update (warning from
            {TUIThresholds.KL_WARNING}). Lower learning_rate or use fewer epochs.
      - alert: EsperNonFinite
        expr: max_over_time(esper_ppo_last_health[10m]) >= {HealthLevel.NON_FINITE.severity}
        labels: {{severity: critical}}
        annotations:
          summary: 'run {{{{ $labels.esper_run_id }}}}: NaN or Inf in an update'
          description: >-
            Check rewards and observations, then resume from the last checkpoint with a lower learning_rate.
      - alert: EsperEarlyStops
        expr: esper:early_stops:ratio30m > 0.5
        for: 5m
        labels: {{severity: warning}}
        annotations:
          summary: 'run {{{{ $labels.esper_run_id }}}}: {{{{ $value | humanizePercentage }}}} of updates stop early'
          description: >-
            More than half of the planned work is not done. Lower learning_rate, plan fewer epochs, or raise target_kl.
      - alert: EsperOneHeadDrifts
        expr: |
          esper:head:share15m > {CARRIES}
          and on ({RUN}) esper:kl_divergence:streak_min >= {TUIThresholds.KL_WARNING}
        labels: {{severity: warning}}
        annotations:
          summary: 'run {{{{ $labels.esper_run_id }}}}: head {{{{ $labels.esper_ppo_head_name }}}} carries the drift'
          description: >-
            Head {{{{ $labels.esper_ppo_head_name }}}} has {{{{ $value | humanizePercentage }}}} of the KL.

  - name: esper-run
    rules:
      # The process is gone, or nothing of it arrives. An orderly end says done, stopped or failed before it goes quiet.
      # A newer attempt at the same run that is alive ends the alert.
      - alert: EsperRunVanished
        expr: |
          esper:run:heartbeat_age_seconds > {VANISHED_S}
          unless on (esper_run_id, esper_rank)
            count by (esper_run_id, esper_rank) (
              time() - last_over_time(esper_run_heartbeat_seconds[5m]) <= {VANISHED_S}
            )
        labels: {{severity: critical}}
        annotations:
          summary: 'run {{{{ $labels.esper_run_id }}}}: no sign of life for {{{{ $value | humanizeDuration }}}}'
          description: >-
            The trainer was killed, its machine is gone, or its Collector does not reach us. `esper runs` on
            {{{{ with $labels.host_name }}}}{{{{ . }}}}{{{{ else }}}}its machine{{{{ end }}}} says which; `esper ppo
            --resume` goes on.
      - alert: EsperRunStalled
        expr: |
          esper:run:progress_age_seconds > esper:run:stall_limit_seconds
          and on ({RUN}) esper:run:heartbeat_age_seconds <= {VANISHED_S}
        labels: {{severity: critical}}
        annotations:
          summary: 'run {{{{ $labels.esper_run_id }}}}: alive, no progress for {{{{ $value | humanizeDuration }}}}'
          description: The environment or the device hangs; the heartbeat comes from a thread of its own.
      - alert: EsperRunFailed
        expr: max by ({RUN}) (last_over_time(esper_run_state{{esper_run_state="failed"}}[10m])) == 1
        labels: {{severity: critical}}
        annotations:
          summary: 'run {{{{ $labels.esper_run_id }}}}: ended with an error'
          description: '`esper runs` says which; trainer.log in its directory has the traceback.'

  - name: esper-telemetry
    rules:
      - alert: EsperTelemetryLost
        expr: sum by (esper_sink_name, {RUN}) (increase(esper_sink_lost_total[15m])) > 0
        labels: {{severity: warning}}
        annotations:
          summary: 'run {{{{ $labels.esper_run_id }}}}: sink {{{{ $labels.esper_sink_name }}}} lost events'
          description: >-
            The journal has them, unless it is the journal that lost: `esper replay RUN --to otlp` sends them again.
"""  # noqa: S608  # PromQL has a `with` too, but nobody's input is in it
