"""The engine in C: compiled once for a user, several times faster than torch operations on tensors this small."""

from esper_env_morphogenesis.native.engine import Choice, Native, engine

__all__ = ["Choice", "Native", "engine"]
