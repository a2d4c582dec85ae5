"""Esper sink ``console``."""
