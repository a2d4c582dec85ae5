"""Typed configuration: schema, presets and layers with origins."""
