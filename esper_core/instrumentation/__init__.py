"""Turns events into OpenTelemetry metrics, span attributes, span events, log events and ``rl.*``; uses only the API."""
