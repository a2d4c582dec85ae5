"""The recording rules on the Collectors' own metrics: who refuses, drops or has no room, for the alerts to read."""

from __future__ import annotations

from typing import Final

from recorded_rules import Times, duration

__all__ = ["COLLECTORS", "collectors"]

COLLECTORS: Final = 'job=~"esper-agent|esper-gateway"'
_ONE: Final = "job, instance, host_name"
_SIGNALS: Final = "(metric_points|spans|log_records)"


def collectors(times: Times) -> str:
    """The group of recording rules."""
    return f"""\
  - name: esper-collectors
    interval: {duration(times.every_s)}
    rules:
      - record: esper:collector:queue_ratio
        expr: max by ({_ONE}) (otelcol_exporter_queue_size{{{COLLECTORS}}} / otelcol_exporter_queue_capacity)
      # Counters of trouble, over all signals. Such a counter appears with the first trouble.
      - record: esper:collector:refused_items
        expr: {_counted(f"otelcol_receiver_refused_{_SIGNALS}")}
      - record: esper:collector:unqueued_items
        expr: {_counted(f"otelcol_exporter_enqueue_failed_{_SIGNALS}")}
      - record: esper:collector:dropped_items
        expr: {_counted(f"otelcol_exporter_send_failed_{_SIGNALS}")}
      - record: esper:collector:too_new_points
        expr: {_counted("otelcol_processor_filter_datapoints_filtered", 'filter="filter/too_new", ')}
      # Who has such a trouble now, in items within 5 minutes.
      - record: esper:collector:refuses
        expr: |
          {_rises("esper:collector:refused_items")}
      - record: esper:collector:drops
        expr: |
          {_rises("esper:collector:dropped_items")}
      - record: esper:collector:takes_out_too_new
        expr: |
          {_rises("esper:collector:too_new_points")}
      # The queue has room and takes nothing: its file cannot grow.
      - record: esper:collector:disk_full
        expr: |
          ({_rises("esper:collector:unqueued_items")})
          unless on (job, instance) esper:collector:queue_ratio > 0.8
"""


def _counted(name: str, labels: str = "") -> str:
    # Collectors differ in the suffix.
    return f"""'sum by ({_ONE}) ({{__name__=~"{name}(_total)?", {labels}{COLLECTORS}}})'"""


def _rises(counter: str) -> str:
    """Its increase; or all of it when it appears at a Collector that Prometheus knew before."""
    return (
        f"increase({counter}[5m]) > 0\n"
        f"          or ({counter} > 0 unless {counter} offset 5m) and on (job, instance) up offset 5m"
    )
