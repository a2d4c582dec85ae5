"""Proving telemetry records: what a record claims of a number is checked against the code that runs."""
