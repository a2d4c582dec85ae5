"""Which torch device a name of ``ppo.device`` means here."""

from __future__ import annotations

import torch

from esper_core.errors import ConfigError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or cannot compute on it here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'ppo.device "{name}" is no torch device', hint=_devices()) from error
    try:
        torch.ones(1, device=device).item()  # a name says little: meta computes nothing, cuda:7 may be absent
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError, ImportError
        raise ConfigError(f'ppo.device "{name}" is not available here', hint=_devices()) from error
    return device


def _devices() -> str:
    """The devices that can be named on this machine."""
    accelerators = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    accelerators += ["mps"] if torch.backends.mps.is_available() else []
    return f"here: {', '.join(['auto', 'cpu', *accelerators])}"
