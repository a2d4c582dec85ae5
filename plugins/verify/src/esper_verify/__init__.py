"""Verifies telemetry records: checks each claim of a record against the running code."""
