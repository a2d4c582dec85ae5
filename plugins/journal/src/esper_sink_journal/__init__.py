"""Esper sink ``journal``."""
