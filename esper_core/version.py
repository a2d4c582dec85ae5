"""The version, in a module of its own: the face imports nearly everything, so nothing beneath may import the face."""

__version__ = "0.1.0"
