"""How events look on the wire: names, flat attributes, OTLP JSON. No OpenTelemetry SDK, no torch.

``registry/*.yaml`` (weaver's format) is the source of every name; ``names.py`` and ``docs/reference/telemetry.md`` are
generated from it by ``make docs``. ``attributes.py`` turns an event into flat attributes and back, ``codec.py`` turns
it into one line of OTLP JSON and back.
"""
