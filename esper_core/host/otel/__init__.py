"""Set-up of the OpenTelemetry SDK for a Session: providers, resource, guarded processors, replayed spans."""
