"""The host of the sinks: loads them, delivers events to them, sets the SDK up, and looks after the process.

``session.py`` is the one way in.
"""
