"""Esper sink ``tui``."""
