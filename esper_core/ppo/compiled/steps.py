"""The way to the update's step as one call: compiled code on the CPU, a CUDA graph on a GPU; or why neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from esper_core.ppo.compiled.captured import CapturedCode, refuse_own_network
from esper_core.ppo.compiled.check import agrees
from esper_core.ppo.compiled.packaged import PackagedCode, packaged, refuse_other_networks, refuse_others
from esper_core.ppo.compiled.plan import Plan
from esper_core.ppo.compiled.refusal import NotCompiledError, first_line
from esper_core.ppo.compiled.step import CompiledStep
from esper_core.ppo.compiled.worker import BuildInterruptedError
from esper_core.ppo.minibatches import minibatches

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.adam import FlatAdam
    from esper_core.ppo.minibatches import Minibatch
    from esper_core.ppo.policy import MultiHeadPolicy
    from esper_core.ppo.reducer import Reducer
    from esper_core.ppo.rollout import Batch

__all__ = ["CompiledSteps"]

_Code: TypeAlias = "PackagedCode | CapturedCode"


class CompiledSteps:
    """Gives each update its compiled step, for as long as that works; the first time that it does not is told.

    Args:
        policy: learns.
        optimizer: of its parameters.
        config: the ``[ppo]`` table.
        reducer: joins the ranks.
    """

    def __init__(self, policy: MultiHeadPolicy, optimizer: FlatAdam, config: PPOConfig, *, reducer: Reducer) -> None:
        self._policy = policy
        self._optimizer = optimizer
        self._config = config
        self._reducer = reducer
        self._off = False
        self._codes: dict[Plan, _Code] = {}

    def begin(
        self,
        batch: Batch,
        parts: int,
        *,
        clip_range: float,
        entropy_coef: float,
        should_stop: Callable[[], bool] | None,
        tell: Callable[[str], object],
    ) -> CompiledStep | None:
        """The step of an update.

        Args:
            batch: samples of the update, with the advantages that the loss takes.
            parts: minibatches of an epoch.
            clip_range: in force.
            entropy_coef: in force.
            should_stop: looked at while a step is built; True ends that.
            tell: called with lines for the user.

        Returns:
            None where this update, or every one, is to run eagerly.
        """
        if self._off or len(batch) < 2 * parts:  # code is traced for at least two samples
            return None
        try:
            self._refuse_impossible()
            (minibatch, *_) = minibatches(batch, parts, clip_range=clip_range, reducer=self._reducer)
            plan = Plan.of(self._policy.layout, self._config, batch)
            self._refuse_inputs(minibatch, plan)
            self._optimizer.hold()
            code = self._codes.get(plan)
            if code is None:
                code = self._obtain(plan, should_stop or _never, tell)
                inputs = self._step(code, clip_range, entropy_coef).inputs(minibatch)
                self._refuse_wrong(code, [part.contiguous() for part in inputs])
                self._codes[plan] = code
            return self._step(code, clip_range, entropy_coef)
        except BuildInterruptedError:
            return None
        except NotCompiledError as why:
            self._off = True
            tell(f"ppo.compile: the update is not compiled, and runs as without it: {why}")
            return None

    def _step(self, code: _Code, clip_range: float, entropy_coef: float) -> CompiledStep:
        state = self._optimizer.state()
        if state is None:
            raise NotCompiledError("the weights are not one vector of float32")
        return CompiledStep(
            code.run, self._optimizer, state, self._config, clip_range=clip_range, entropy_coef=entropy_coef
        )

    def _refuse_wrong(self, code: _Code, inputs: list[Tensor]) -> None:
        """Raise for code that fails, or gives other numbers than what it was made from."""
        try:
            right = agrees(code.run, self._policy, self._config, inputs)
        except RuntimeError as error:
            raise NotCompiledError(f"the compiled code fails: {first_line(error)}") from error
        if not right:
            raise NotCompiledError("the compiled code gives other numbers on the first minibatch")

    def _refuse_impossible(self) -> None:
        """Raise where no step can be compiled."""
        if self._reducer.world_size > 1:
            raise NotCompiledError("several ranks add their gradients up in the middle of a step")
        device = self._policy.logit_bias.device.type
        if device not in {"cpu", "cuda"}:
            raise NotCompiledError(f"it is made for the CPU and CUDA, and ppo.device is {device}")

    def _refuse_inputs(self, minibatch: Minibatch, plan: Plan) -> None:
        """Raise for a network, or an update's tensors, that the device's code is not made for."""
        if self._on_gpu:
            refuse_own_network(self._config)
        else:
            refuse_other_networks(self._config)
            refuse_others(minibatch, plan)

    def _obtain(self, plan: Plan, should_stop: Callable[[], bool], tell: Callable[[str], object]) -> _Code:
        """The code for the policy's device."""
        if self._on_gpu:
            return CapturedCode(self._policy, self._config)
        return packaged(plan, should_stop, tell)

    @property
    def _on_gpu(self) -> bool:
        return self._policy.logit_bias.is_cuda


def _never() -> bool:
    return False
