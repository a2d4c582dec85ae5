"""TRL's private names, in one place: the batch of completions that a trainer learns from, and its log-probabilities.

TRL hands a callback neither. Read are ``_buffered_inputs`` (the completions, one dict a micro-batch), ``_step``
(micro-batches so far) and ``_get_per_token_logps_and_entropies``. A test holds each against every tested release.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from esper_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PRIVATE", "Generation", "Judged", "buffered", "generate_every", "micro_steps", "require_private"]

PRIVATE: Final = ("_buffered_inputs", "_step", "_get_per_token_logps_and_entropies")
"""What this module reads beyond TRL's public surface."""
_INPUTS: Final = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)
"""What a model takes beside text; such a micro-batch is passed whole."""

Batch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """Every completion token under the policy as it was at one moment.

    Attributes:
        log_prob: float32 (sequences, tokens), nats.
        entropy: float32 (sequences, tokens), nats; None when it was not asked for.
    """

    log_prob: torch.Tensor
    entropy: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Generation:
    """The completions that one update learns from, or the part of them that is measured.

    Attributes:
        source: the trainer's own list, by which a new generation is told from this one.
        batches: micro-batches; each goes through the model by itself.
        sequences: generated on this rank, measured or not.
    """

    source: list[Batch]
    batches: tuple[Batch, ...]
    sequences: int

    @classmethod
    def of(cls, source: list[Batch], *, rows: int | None) -> Generation:
        """The trainer's buffer.

        Args:
            source: the buffer.
            rows: sequences to keep, the first ones of a list that TRL has shuffled; None keeps all. With images the
                last micro-batch is kept whole.
        """
        kept: list[Batch] = []
        left = rows
        for batch in source:
            size = len(batch["completion_ids"])
            if left is not None and left < size and not any(key in batch for key in _INPUTS):
                batch = {key: _first(value, left, size) for key, value in batch.items()}  # noqa: PLW2901  # its part
            kept.append(batch)
            left = None if left is None else left - size
            if left is not None and left <= 0:
                break
        return cls(source, tuple(kept), sum(len(batch["completion_ids"]) for batch in source))

    @property
    def mask(self) -> torch.Tensor:
        """Bool (sequences, tokens): the policy's own tokens; padding and what tools said are not."""
        parts = [
            batch["completion_mask"] * batch["tool_mask"] if "tool_mask" in batch else batch["completion_mask"]
            for batch in self.batches
        ]
        return torch.cat(parts).bool()

    def given(self, name: str) -> torch.Tensor | None:
        """A tensor of TRL's own, over all sequences; None where TRL did not make it."""
        parts = [part for batch in self.batches if isinstance(part := batch.get(name), torch.Tensor)]
        return torch.cat(parts) if len(parts) == len(self.batches) else None

    def judge(self, trainer: Any, *, entropy: bool = False) -> Judged:
        """Pass the completions through the policy as it is, without gradient, dropout, or a change of its mode."""
        log_probs, entropies = [], []
        with torch.no_grad(), _evaluating(trainer.model):
            for batch in self.batches:
                found = trainer._get_per_token_logps_and_entropies(  # noqa: SLF001  # see the module
                    trainer.model,
                    torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                    torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                    batch["completion_ids"].size(1),
                    batch_size=trainer.args.per_device_train_batch_size,
                    compute_entropy=entropy,
                    **{key: batch[key] for key in _INPUTS if batch.get(key) is not None},
                )
                log_probs.append(found[0].float())
                entropies.append(found[1])
        return Judged(torch.cat(log_probs), torch.cat(entropies).float() if entropy else None)


def buffered(trainer: Any) -> list[Batch]:
    """The completions that the trainer learns from now."""
    found: list[Batch] = trainer._buffered_inputs  # noqa: SLF001  # see the module
    return found


def micro_steps(trainer: Any) -> int:
    """Micro-batches that the trainer has learnt from."""
    return int(trainer._step)  # noqa: SLF001  # see the module


def generate_every(trainer: Any) -> int:
    """Micro-batches between two generations."""
    return int(trainer.args.steps_per_generation * trainer.num_iterations)


def require_private(trainer: Any) -> None:
    """Refuse a trainer that lacks one of the private names."""
    missing = [name for name in PRIVATE if not hasattr(trainer, name)]
    if missing:
        raise UsageError(
            f"{type(trainer).__name__} has no {missing[0]}, which esper-trl reads",
            hint="it is a subclass that changed it, or another TRL: `esper adapters` shows the tested versions",
        )


def _first(value: Any, rows: int, of: int) -> Any:
    """The first rows of what has one entry a sequence; anything else as it is."""
    sized = isinstance(value, list) or (isinstance(value, torch.Tensor) and value.ndim > 0)
    return value[:rows] if sized and len(value) == of else value


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode for a while: dropout would blur the policy and draw from the training's generator."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True
