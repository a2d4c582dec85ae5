"""The step captured in CUDA graphs: a minibatch's hundreds of kernels are launched by one call.

See "CUDA Graphs" in torch's notes on CUDA semantics: what is captured reads and writes the same memory in every replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

from esper_core.ppo.compiled.graph import step_of
from esper_core.ppo.compiled.refusal import NotCompiledError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.policy import MultiHeadPolicy

__all__ = ["CapturedCode", "refuse_own_network"]

_WARM_UP = 3
"""Runs before the capture, in which libraries and autograd take what they keep: as torch's notes have it."""

_Form: TypeAlias = "tuple[tuple[torch.Size, torch.dtype], ...]"


class CapturedCode:
    """The step of a policy on a GPU, captured for each size of minibatch when it is first met: at most two an update.

    Graphs are kept for as long as the agent is: rollouts that change their size with every update would fill the GPU.

    Args:
        policy: whose step it is, whatever its weights are; of dense layers or convolutions.
        config: the ``[ppo]`` table.
    """

    def __init__(self, policy: MultiHeadPolicy, config: PPOConfig) -> None:
        self._step = step_of(policy, config)
        self._graphs: dict[_Form, _Graph] = {}

    def __deepcopy__(self, memo: object) -> CapturedCode:
        return self  # copies of an agent share it: nothing that a call has left counts in the next

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """One step: inputs and results of :func:`~esper_core.ppo.compiled.graph.step_of`. Nothing waits for the GPU.

        Args:
            inputs: on the GPU, but for the seven numbers, which may be in pinned memory of the host: they are read
                before the results are.

        Raises:
            RuntimeError: the step cannot be captured.
        """
        form = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        graph = self._graphs.get(form)
        if graph is None:
            graph = self._graphs[form] = _captured(self._step, inputs)
        return graph.run(inputs)


def refuse_own_network(config: PPOConfig) -> None:
    """Raise for a network of one's own: it may wait for the GPU, or change in each call."""
    if config.policy not in {"mlp", "cnn"}:
        raise NotCompiledError(f'on a GPU it is made for ppo.policy = "mlp" or "cnn", and not for "{config.policy}"')


class _Graph(NamedTuple):
    """A graph, and the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    results: list[Tensor]

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        self.graph.replay()
        # The next replay writes over them; a step that is not taken must not.
        return [result.clone() for result in self.results]


def _captured(step: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor]) -> _Graph:
    """Capture a step in memory of its own."""
    device = inputs[0].device
    with torch.cuda.device(device):
        own = [tensor.to(device, copy=True) for tensor in inputs]
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch ships it without annotations
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                step(*own)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = list(step(*own))
    return _Graph(graph, own, results)
