"""The way to compiled steps: found on the disk, or built; and where neither can be, why."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from esper_core.code_cache import CodeCache, UnusableFolderError, cache_folder
from esper_core.ppo.compiled.check import agrees
from esper_core.ppo.compiled.graph import samples_of
from esper_core.ppo.compiled.key import compiler, key_of
from esper_core.ppo.compiled.plan import Plan
from esper_core.ppo.compiled.step import CompiledStep
from esper_core.ppo.compiled.worker import BuildFailedError, BuildInterruptedError, build_apart
from esper_core.ppo.minibatches import minibatches

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.adam import FlatAdam
    from esper_core.ppo.compiled.step import Run
    from esper_core.ppo.minibatches import Minibatch
    from esper_core.ppo.policy import MultiHeadPolicy
    from esper_core.ppo.reducer import Reducer
    from esper_core.ppo.rollout import Batch

__all__ = ["CompiledSteps"]

_FOLDER: Final = "compiled"
_SUFFIX: Final = ".pt2"


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
            _refuse_others(minibatch, plan)
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
        except _NotCompiledError as why:
            self._off = True
            tell(f"ppo.compile: the update is not compiled, and runs as without it: {why}")
            return None

    def _step(self, code: _Code, clip_range: float, entropy_coef: float) -> CompiledStep:
        state = self._optimizer.state()
        if state is None:
            raise _NotCompiledError("the weights are not one vector of float32")
        return CompiledStep(
            code.run, self._optimizer, state, self._config, clip_range=clip_range, entropy_coef=entropy_coef
        )

    def _refuse_wrong(self, code: _Code, inputs: list[Tensor]) -> None:
        """Raise for code that fails, or gives other numbers than what it was made from."""
        try:
            right = agrees(code.run, self._policy, self._config, inputs)
        except RuntimeError as error:
            raise _NotCompiledError(f"the compiled code fails: {_first_line(error)}") from error
        if not right:
            raise _NotCompiledError("the compiled code gives other numbers on the first minibatch")

    def _refuse_impossible(self) -> None:
        """Raise where no step can be compiled."""
        policy, device = self._config.policy, self._policy.logit_bias.device.type
        if self._reducer.world_size > 1:
            raise _NotCompiledError("several ranks add their gradients up in the middle of a step")
        if device != "cpu":
            raise _NotCompiledError(f"it is made for the CPU, and ppo.device is {device}")
        if policy != "mlp":
            what = "convolutions are" if policy == "cnn" else f'"{policy}" is'
            raise _NotCompiledError(f'it is made for ppo.policy = "mlp", and {what} not')

    def _obtain(self, plan: Plan, should_stop: Callable[[], bool], tell: Callable[[str], object]) -> _Code:
        """Load the step of a plan, or build it first."""
        program = compiler()
        if program is None:
            raise _NotCompiledError(f"there is no C++ compiler ({os.environ.get('CXX') or 'g++'} is not on PATH)")
        key = key_of(plan, program)
        with contextlib.ExitStack() as stack:
            try:
                cache = CodeCache(cache_folder(os.environ, _FOLDER), _SUFFIX)
            except (UnusableFolderError, RuntimeError) as error:  # RuntimeError: there is no home directory
                tell(f"ppo.compile: the compiled step is not kept for the next run: {error}")
                cache = CodeCache(_temporary(stack) / _FOLDER, _SUFFIX)
            return _loaded(cache.find(key) or _built(cache, key, plan, should_stop, tell))


class _NotCompiledError(Exception):
    """This and the later updates run eagerly; the text says why."""


def _built(
    cache: CodeCache, key: str, plan: Plan, should_stop: Callable[[], bool], tell: Callable[[str], object]
) -> Path:
    """Build a step and keep it."""
    tell("ppo.compile: compiles the update's step for this network and machine: half a minute, once")
    begun = time.monotonic()
    try:
        with cache.building() as folder:
            file = cache.keep(key, build_apart(plan, folder, should_stop))
    except BuildFailedError as error:
        raise _NotCompiledError(str(error)) from error
    except OSError as error:
        raise _NotCompiledError(f"{cache.folder}: {error.strerror or error}") from error
    tell(f"ppo.compile: compiled in {time.monotonic() - begun:.0f} s: {cache.folder}")
    return file


def _temporary(stack: contextlib.ExitStack) -> Path:
    """A folder that the stack removes."""
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="esper-")))
    except OSError as error:
        raise _NotCompiledError(f"there is no temporary folder either: {error.strerror or error}") from error


def _never() -> bool:
    return False


class _Code:
    """What a file holds, loaded. Copies of an agent share it: it keeps nothing between calls.

    Args:
        file: a package of AOTInductor.
    """

    def __init__(self, file: Path) -> None:
        # torch._inductor.aoti_load_package() does this and imports torch's compiler before, which takes 1 s.
        load: Any = torch._C._aoti.AOTIModelPackageLoader  # noqa: SLF001  # as above
        self._package = load(str(file), "model", True, 1, -1)  # for one thread; one instance; on the CPU
        self.run: Run = self._package.run

    def __deepcopy__(self, memo: object) -> _Code:
        return self


def _loaded(file: Path) -> _Code:
    """The code of a file; one that cannot be loaded is removed, so that the next run builds another one."""
    try:
        return _Code(file)
    except (AttributeError, TypeError, ImportError) as error:
        raise _NotCompiledError(f"torch {torch.__version__} loads no compiled step: {_first_line(error)}") from error
    except RuntimeError as error:
        file.unlink(missing_ok=True)
        raise _NotCompiledError(f"the compiled step cannot be loaded: {_first_line(error)}") from error


def _refuse_others(minibatch: Minibatch, plan: Plan) -> None:
    """Raise for tensors that the code would read wrongly: it looks at no dtype and no shape."""
    for mine, expected in zip(samples_of(minibatch), samples_of(plan.minibatch()), strict=True):
        if mine.dtype != expected.dtype or mine.shape[1:] != expected.shape[1:]:
            raise _NotCompiledError(
                f"the rollout holds a {mine.dtype} tensor of shape {tuple(mine.shape)} where "
                f"{expected.dtype} (N, {', '.join(map(str, expected.shape[1:]))}) is expected"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
