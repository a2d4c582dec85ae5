"""``esper verify``: prove telemetry records by machine."""
