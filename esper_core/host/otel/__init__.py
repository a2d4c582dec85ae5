"""The OpenTelemetry SDK as a Session sets it up: providers, resource, guarded processors, replayed spans."""
