"""The version, in its own module: ``esper_core/__init__.py`` imports nearly everything, so no module may import it."""

__version__ = "0.1.0"
