"""The host of the sinks: loads them, delivers events to them, sets up the SDK, and manages signals, logs and heartbeat.

``session.py`` is the entry point: every caller goes through ``Session``.
"""
