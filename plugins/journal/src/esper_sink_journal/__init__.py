"""Esper sink ``journal``: the crash-safe run journal, one line of OTLP JSON per event."""

from __future__ import annotations

from esper_sink_journal.sink import JournalConfig, JournalSink

__all__ = ["JournalConfig", "JournalSink"]
