"""What a sink contributes to the OpenTelemetry SDK, checked before it is attached. Imported only with the SDK."""

from __future__ import annotations

from typing import Final

from esper_core.errors import SinkError

__all__ = ["check_contribution"]

_KINDS: Final = {
    "esper_span_processors": (
        "span processor",
        ("on_start", "on_end", "shutdown", "force_flush"),
        "BatchSpanProcessor(EXPORTER)",
    ),
    "esper_metric_readers": ("metric reader", ("collect", "shutdown"), "PeriodicExportingMetricReader(EXPORTER)"),
    "esper_log_record_processors": (
        "log record processor",
        ("shutdown", "force_flush"),
        "BatchLogRecordProcessor(EXPORTER)",
    ),
}
"""Of each hook: what it is to give, the methods that this has, and what makes one of an exporter."""


def check_contribution(item: object, origin: str, hook: str) -> None:
    """A sink may give anything; what is no processor or reader would end the training, at its first span at the latest.

    Args:
        item: what the sink gave.
        origin: the sink, in words.
        hook: the hook that gave it.

    Raises:
        SinkError: it is not what the hook is to give.
    """
    what, methods, wrap = _KINDS[hook]
    if isinstance(item, type):
        fault = f"the class {item.__name__}, not an instance of it"
    elif all(callable(getattr(item, name, None)) for name in methods) and _fits(item, hook):
        return
    else:
        fault = f"an instance of {type(item).__name__}, which is no {what}"
    raise SinkError(f"sink {origin}: {hook} gave {fault}", hint=f"an exporter becomes one by {wrap}")


def _fits(item: object, hook: str) -> bool:
    """Whether the provider takes it: a meter provider calls what only the SDK's own base class has."""
    if hook != "esper_metric_readers":
        return True
    from opentelemetry.sdk.metrics.export import MetricReader  # noqa: PLC0415  # a run without readers needs it not

    return isinstance(item, MetricReader)
