"""Esper sink ``otlp``."""
