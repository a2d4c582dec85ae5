"""What ``esper sinks check`` and ``esper replay`` print for this sink."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.errors import SinkError
from esper_core.semconv.names import METRICS
from esper_sink_otlp.clock import clock_words
from esper_sink_otlp.points import EVENT_GAUGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_sink_otlp.config import Signal
    from esper_sink_otlp.exporter import Exporter
    from esper_sink_otlp.settings import SignalSettings

__all__ = ["check_words", "not_rebuilt"]


def check_words(exporters: Mapping[Signal, Exporter], settings: Mapping[Signal, SignalSettings]) -> str:
    """One line a signal: endpoint, protocol, answer, latency.

    Raises:
        SinkError: at least one signal did not arrive; the message has a line for each.
    """
    lines, failed, hints, clocks = [], False, [], []
    for signal, exporter in exporters.items():
        here = settings[signal]
        start = f"{signal}: {here.shown} ({here.protocol})"
        answer = exporter.last_answer
        clocks.append(clock_words(answer.clock_ahead_s if answer is not None else None))
        if answer is None:
            failed = True
            lines.append(f"{start}: no answer within {here.timeout_s:g} s")
        elif not answer.ok or answer.rejected:
            failed = True
            lines.append(f"{start}: {answer.cause or 'rejected'} ({answer.latency_s * 1000:.0f} ms)")
            if answer.hint and answer.hint not in hints:
                hints.append(answer.hint)
        else:
            lines.append(f"{start}: {answer.code} in {answer.latency_s * 1000:.0f} ms")
    if not exporters:
        return "nothing to send: [sink.otlp] signals is empty, or the application exports for itself"
    lines += [words for words in clocks if words][:1]
    text = "\n".join(lines)
    if failed:
        raise SinkError(text, hint="; ".join(hints) or None)
    return text


def not_rebuilt() -> str:
    """The metrics that no journal can bring back, by kind."""
    words = []
    kinds = {
        "histogram": "histograms",
        "counter": "counters",
        "updowncounter": "up-down counters",
        "gauge": "gauges",
    }
    for kind, plural in kinds.items():
        made = (metric.name for metric in METRICS.values() if metric.instrument == kind)
        names = sorted(set(made) - set(EVENT_GAUGES))
        if names:
            words.append(f"{plural} {', '.join(names)}")
    return (
        "not rebuilt, because they accumulate in the training process and a journal holds no collections: "
        + "; ".join(words)
    )
