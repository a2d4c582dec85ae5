"""A user's own network, ``ppo.policy = "package.module:factory"``: made, and checked against its contract."""

from __future__ import annotations

import importlib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from esper_core.errors import ConfigError, EsperError, error_text, nearest
from esper_core.ppo.networks import Trunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.ppo.preprocessing import ObservationForm, Part

__all__ = ["CustomTrunk", "NetworkInput"]

_ROWS: Final = 3
"""Of the batch that the contract is checked with."""
_TOLERANCE: Final = 1e-4
_LIBRARIES: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
_PAGE: Final = "see docs/how-to/normalise-pixels-own-network.md"
_NO_STATE: Final = "no dropout, no batch normalisation (nn.LayerNorm works), no state between calls"
_NO_MEMORY: Final = (
    "recurrent policies are not there: the KL of an update compares the policy before and after at the very same "
    "inputs, which needs the memory that each step was taken with"
)


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """What a factory is given.

    Attributes:
        inputs: length of a row, which is what the module's ``forward`` gets: float32 (B, inputs).
        shape: of the observation, when it is one array of numbers: ``rows.view(-1, *shape)`` restores it; else None.
        parts: what lies in a row, one after another.
        hidden: ``ppo.hidden``.
    """

    inputs: int
    shape: tuple[int, ...] | None
    parts: tuple[Part, ...]
    hidden: tuple[int, ...]


class CustomTrunk(Trunk):
    """The module that a user's factory made.

    Args:
        spec: ``package.module:factory``.
        form: what an observation consists of.
        hidden: ``ppo.hidden``.
        generator: seeds torch's global generator while the factory runs, which is put back afterwards.

    Raises:
        ConfigError: there is no such factory, it raised, or its module breaks the contract.
    """

    def __init__(self, spec: str, form: ObservationForm, hidden: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.widths = ()  # type: ignore[assignment]  # not known yet
        self._spec = spec
        only = form.parts[0] if len(form.parts) == 1 and form.parts[0].kind != "choices" else None
        given = NetworkInput(form.size, None if only is None else only.shape, form.parts, hidden)
        factory = _factory(spec)
        word = int(torch.randint(2**62, (), generator=generator))
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(word)
        try:
            with _told(f'ppo.policy "{spec}"'):
                module = factory(given)
            if not isinstance(module, nn.Module):
                raise ConfigError(
                    f'ppo.policy "{spec}" returned {type(module).__name__}, not a torch.nn.Module', hint=_PAGE
                )
            self.module = module
            self.widths = self._checked(torch.randn(_ROWS, form.size, generator=generator))
        finally:
            torch.set_rng_state(before)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features of policy and value."""
        with _told(f'ppo.policy "{self._spec}", forward()'):
            found = self.module(rows)
        both = found if isinstance(found, tuple) else (found, found)
        if self.widths and tuple(map(_shape, both)) != ((len(rows), self.widths[0]), (len(rows), self.widths[1])):
            raise ConfigError(
                f'ppo.policy "{self._spec}" returns {_shapes(found)} for rows of shape {tuple(rows.shape)}, '
                f"and features of widths {self.widths} when it was made",
                hint=f"forward(rows) returns as many features for any number of rows; {_PAGE}",
            )
        return both

    def _checked(self, rows: Tensor) -> tuple[int, int]:
        """The widths of the features, when a batch of rows passes as the contract has it."""
        name = f'ppo.policy "{self._spec}"'
        with _told(f"{name}, forward()"):
            found = self.module(rows)
        if isinstance(found, tuple) and (len(found) != 2 or any(isinstance(part, tuple | list) for part in found)):
            raise ConfigError(f"{name} returns {_shapes(found)}, not one or two tensors: {_NO_MEMORY}", hint=_PAGE)
        both = found if isinstance(found, tuple) else (found, found)
        for features in both:
            if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(rows):
                raise ConfigError(
                    f"{name} returns {_shapes(found)} for rows of shape {tuple(rows.shape)}, "
                    f"where ({len(rows)}, features) is expected",
                    hint=f"forward(rows) returns one tensor (B, features) for policy and value, or two; {_PAGE}",
                )
            if not features.shape[1]:
                raise ConfigError(f"{name} returns no features: shape {tuple(features.shape)}", hint=_PAGE)
            if features.dtype != torch.float32 or not features.isfinite().all():
                what = "values that are not finite" if features.dtype == torch.float32 else f"dtype {features.dtype}"
                raise ConfigError(f"{name} returns {what}, not finite float32", hint=_PAGE)
        self._refuse_memory(rows, both, name)
        if any(parameter.requires_grad for parameter in self.module.parameters()) and not any(
            features.requires_grad for features in both
        ):
            raise ConfigError(f"{name} returns features without a gradient: nothing would be learned", hint=_PAGE)
        return both[0].shape[1], both[1].shape[1]

    @torch.no_grad()
    def _refuse_memory(self, rows: Tensor, before: tuple[Tensor, ...], name: str) -> None:
        """Raise when features depend on more than their own row: on chance, on earlier calls, or on other rows."""
        kept = {key: value.clone() for key, value in self.module.named_buffers()}
        again = self.forward(rows)
        alone = [self.forward(row[None]) for row in rows]
        for side in range(2):
            single = torch.cat([features[side] for features in alone])
            for other, why in ((again[side], "in a second pass"), (single, "when each row comes alone")):
                if other.shape != before[side].shape or not torch.allclose(
                    other, before[side], rtol=_TOLERANCE, atol=_TOLERANCE
                ):
                    raise ConfigError(
                        f"{name} returns other features for the same rows {why}: the KL would measure that as a change "
                        "of the policy",
                        hint=f"{_NO_STATE}; {_PAGE}",
                    )
        # A change too small to see at the start, as spectral_norm's once it has settled, grows when weights move.
        for key, value in self.module.named_buffers():
            if not torch.equal(value, kept.get(key, value)):
                raise ConfigError(
                    f"{name} changes its buffer {key} in forward(): what it returns would depend on earlier calls",
                    hint=f"{_NO_STATE}; {_PAGE}",
                )


def _factory(spec: str) -> Callable[[NetworkInput], Any]:
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(
            f'ppo.policy "{spec}" is none of auto, mlp, cnn, and not of the form package.module:factory',
            hint=f"{_NO_MEMORY}"
            if any(word in spec.lower() for word in ("lstm", "gru", "recurrent", "rnn"))
            else _PAGE,
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f'ppo.policy "{spec}": {error}', hint="is the module on PYTHONPATH or installed?") from error
    except Exception as error:
        raise ConfigError(
            f'ppo.policy "{spec}" cannot be imported{_place(error)}: {error_text(error)}', hint=_PAGE
        ) from error
    found = module
    for step in attribute.split("."):
        if not hasattr(found, step):
            close = nearest(step, vars(found) if hasattr(found, "__dict__") else ())
            raise ConfigError(f'ppo.policy "{spec}": {module_name} has no {attribute}{close}', hint=_PAGE)
        found = getattr(found, step)
    if not callable(found):
        raise ConfigError(f'ppo.policy "{spec}" cannot be called', hint=_PAGE)
    return found


class _told:  # noqa: N801  # reads as the function that it stands for
    """Raises an error of user code again as one of Esper, with the line of that code."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SystemExit):
            raise ConfigError(f"{self._what} called exit({error.code!r}){_place(error)}", hint=_PAGE) from error
        if isinstance(error, Exception) and not isinstance(error, EsperError):
            raise ConfigError(f"{self._what} failed{_place(error)}: {error_text(error)}", hint=_PAGE) from error


def _place(error: BaseException) -> str:
    """File and line of the last frame that is neither torch's nor ours; of a SyntaxError its own."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" in {error.filename}, line {error.lineno}"
    library = (*_LIBRARIES, "<", str(Path(importlib.__file__ or "").parent))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(library)]
    return f" in {frames[-1].filename}, line {frames[-1].lineno}, {frames[-1].name}()" if frames else ""


def _shape(found: object) -> tuple[int, ...] | None:
    return tuple(found.shape) if isinstance(found, Tensor) else None


def _shapes(found: object) -> str:
    if isinstance(found, Tensor):
        return f"shape {tuple(found.shape)}"
    if isinstance(found, tuple | list):
        return f"({', '.join(map(_shapes, found))})"
    return f"a {type(found).__name__}"
