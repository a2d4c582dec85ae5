"""Events as OpenTelemetry telemetry, on the API alone: metrics, span attributes and events, log events, ``rl.*``."""
