"""Delivery of each emitted event to every sink: hub, channels, buffers, guards, and the count of lost events."""
