"""Code that AOTInductor has compiled for the CPU: found on the disk, or built and kept there."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from esper_core.code_cache import CodeCache, UnusableFolderError, cache_folder
from esper_core.ppo.compiled.graph import samples_of
from esper_core.ppo.compiled.key import compiler, key_of
from esper_core.ppo.compiled.refusal import NotCompiledError, first_line
from esper_core.ppo.compiled.worker import BuildFailedError, build_apart

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.compiled.plan import Plan
    from esper_core.ppo.compiled.step import Run
    from esper_core.ppo.minibatches import Minibatch

__all__ = ["PackagedCode", "packaged", "refuse_other_networks", "refuse_others"]

_FOLDER: Final = "compiled"
_SUFFIX: Final = ".pt2"


class PackagedCode:
    """What a file holds, loaded. Copies of an agent share it: it keeps nothing between calls.

    Args:
        file: a package of AOTInductor.
    """

    def __init__(self, file: Path) -> None:
        # torch._inductor.aoti_load_package() does this and imports torch's compiler before, which takes 1 s.
        load: Any = torch._C._aoti.AOTIModelPackageLoader  # noqa: SLF001  # as above
        self._package = load(str(file), "model", True, 1, -1)  # for one thread; one instance; on the CPU
        self.run: Run = self._package.run

    def __deepcopy__(self, memo: object) -> PackagedCode:
        return self


def packaged(plan: Plan, should_stop: Callable[[], bool], tell: Callable[[str], object]) -> PackagedCode:
    """Load the step of a plan, or build it first.

    Args:
        plan: of the policy and its batches.
        should_stop: looked at while the step is built; True ends that.
        tell: called with lines for the user.

    Raises:
        NotCompiledError: it cannot be had here.
        BuildInterruptedError: ``should_stop`` was True.
    """
    program = compiler()
    if program is None:
        raise NotCompiledError(f"there is no C++ compiler ({os.environ.get('CXX') or 'g++'} is not on PATH)")
    key = key_of(plan, program)
    with contextlib.ExitStack() as stack:
        try:
            cache = CodeCache(cache_folder(os.environ, _FOLDER), _SUFFIX)
        except (UnusableFolderError, RuntimeError) as error:  # RuntimeError: there is no home directory
            tell(f"ppo.compile: the compiled step is not kept for the next run: {error}")
            cache = CodeCache(_temporary(stack) / _FOLDER, _SUFFIX)
        return _loaded(cache.find(key) or _built(cache, key, plan, should_stop, tell))


def refuse_other_networks(config: PPOConfig) -> None:
    """Raise for a network that a plan does not describe."""
    if config.policy != "mlp":
        what = "convolutions are" if config.policy == "cnn" else f'"{config.policy}" is'
        raise NotCompiledError(f'on the CPU it is made for ppo.policy = "mlp", and {what} not')


def refuse_others(minibatch: Minibatch, plan: Plan) -> None:
    """Raise for tensors that the code would read wrongly: it looks at no dtype and no shape."""
    for mine, expected in zip(samples_of(minibatch), samples_of(plan.minibatch()), strict=True):
        if mine.dtype != expected.dtype or mine.shape[1:] != expected.shape[1:]:
            raise NotCompiledError(
                f"the rollout holds a {mine.dtype} tensor of shape {tuple(mine.shape)} where "
                f"{expected.dtype} (N, {', '.join(map(str, expected.shape[1:]))}) is expected"
            )


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
        raise NotCompiledError(str(error)) from error
    except OSError as error:
        raise NotCompiledError(f"{cache.folder}: {error.strerror or error}") from error
    tell(f"ppo.compile: compiled in {time.monotonic() - begun:.0f} s: {cache.folder}")
    return file


def _temporary(stack: contextlib.ExitStack) -> Path:
    """A folder that the stack removes."""
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="esper-")))
    except OSError as error:
        raise NotCompiledError(f"there is no temporary folder either: {error.strerror or error}") from error


def _loaded(file: Path) -> PackagedCode:
    """The code of a file; one that cannot be loaded is removed, so that the next run builds another one."""
    try:
        return PackagedCode(file)
    except (AttributeError, TypeError, ImportError) as error:
        raise NotCompiledError(f"torch {torch.__version__} loads no compiled step: {first_line(error)}") from error
    except RuntimeError as error:
        file.unlink(missing_ok=True)
        raise NotCompiledError(f"the compiled step cannot be loaded: {first_line(error)}") from error
