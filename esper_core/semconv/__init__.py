"""The wire form of events: names, flat attributes, OTLP JSON. Imports neither the OpenTelemetry SDK nor torch.

Attributes and gauges are the fields of ``esper_core.events`` (``_plan.py`` derives them); ``names.py`` adds the metrics
beyond them, ``span_events.py`` the span events. ``attributes.py`` turns an event into flat attributes and back,
``codec.py`` turns it into one line of OTLP JSON and back. ``registry/*.yaml`` (weaver's format) and
``docs/reference/telemetry.md`` document the same names; ``make docs`` writes them.
"""
