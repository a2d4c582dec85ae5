"""Esper's ``webhook`` sink: messages about a run, to a URL.

Imports nothing: the watcher process is a module of this package, and stays small. The sink is ``sink.WebhookSink``.
"""

from __future__ import annotations
