"""The gate of one environment: checks what it returns, once, and lets through what the trainer reads.

It stands in the process of the environment, so that a synchronous and an asynchronous vector environment receive the
same: values that batch, and an ``info`` that holds masks alone. Other entries may change their kind or length between
steps, which Gymnasium's batching in arrays does not survive.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import gymnasium as gym
import numpy as np

from esper_core.envs.action_spaces import action_space
from esper_core.envs.attributes import wrapped_attribute
from esper_core.envs.contract import (
    conditional_without_head,
    flag_of,
    info_of,
    mask_of,
    mask_without_choices,
    observation_of,
    reset_of,
    reward_of,
    step_of,
)
from esper_core.envs.observations import copied, leaf_checked, leaves_of
from esper_core.errors import EnvironmentContractError, EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from esper_core.ppo.task import BoolArray

__all__ = ["Gate", "Masks", "gated"]

Masks: TypeAlias = Literal["auto", "info", "method", "off"]
"""Values of ``env.masks``."""

_LEGAL: Final = ("action_mask", "conditional_action_mask")
_AXES: Final = {
    "action_mask": "the choices of all heads one after another",
    "conditional_action_mask": "the choices of conditioning_head, then those of all heads one after another",
    "causal_mask": "one value a head",
}


def gated(env: gym.Env[Any, Any], name: str, index: int, masks: Masks = "auto") -> Gate:
    """Put a gate around an environment, and one that counts values around the innermost.

    Gymnasium's own wrappers (a time limit, say) unpack what the environment returns before the outer gate receives it.

    Args:
        env: the environment, with its wrappers.
        name: its id, for messages.
        index: its place in the vector environment, for messages.
        masks: see :class:`Gate`.
    """
    place = f"{name}, environment {index}"
    inner = env
    while isinstance(inner, gym.Wrapper) and isinstance(inner.env, gym.Wrapper):
        inner = inner.env
    if isinstance(inner, gym.Wrapper):
        inner.env = _Counted(inner.env, place, inner)
    return Gate(env, place, masks)


class _Counted(gym.Wrapper[Any, Any, Any, Any]):
    """Lets only five values of ``step()`` and two of ``reset()`` through.

    After the first step it steps aside: hardly an environment changes how many it returns, and one that does is told in
    Gymnasium's words.
    """

    def __init__(self, env: gym.Env[Any, Any], place: str, outer: gym.Wrapper[Any, Any, Any, Any]) -> None:
        super().__init__(env)
        self._place = place
        self._outer = outer

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Step, and count."""
        with _taken(f"step(action) of {self._place}", "step(self, action)"):
            returned = self.env.step(action)
        result = step_of(returned, self._place)
        self._outer.env = self.env
        return result

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Reset, and count."""
        with _taken(f"reset(seed=..., options=...) of {self._place}", "reset(self, *, seed=None, options=None)"):
            returned = self.env.reset(seed=seed, options=options)
        return reset_of(returned, self._place)


@contextlib.contextmanager
def _taken(call: str, signature: str, by: str = "gymnasium.Env declares it") -> Iterator[None]:
    """Tell a call that the environment's own method does not take from a TypeError within the method."""
    try:
        yield
    except TypeError as error:
        trace = error.__traceback__
        within = trace.tb_next if trace is not None else None  # this frame, then that of the caller
        if within is None or within.tb_next is not None:
            raise
        raise EnvironmentContractError(
            f"{call} cannot be called: {error}", hint=f"write it as {signature}, as {by}"
        ) from error


class Gate(gym.Wrapper[Any, Any, Any, Any]):
    """Checks observation, reward, flags and masks of one environment.

    What leaves it is the environment's own only where nothing is kept: masks, and the last observation of an episode
    (the reset that follows may write into the same array), are copies.

    Args:
        env: the environment with all its wrappers.
        place: its id and index, for messages.
        masks: where masks are read: ``info``; ``method``, sb3-contrib's ``action_masks()`` of the environment or of one
            of its wrappers, for the legal choices; ``auto``, the method where there is one and ``info`` has no mask;
            ``off``, nowhere.

    Raises:
        EnvironmentUnsupportedError: it lacks a space, or the method that ``masks`` names.
    """

    def __init__(self, env: gym.Env[Any, Any], place: str, masks: Masks = "auto") -> None:
        super().__init__(env)
        self._place = place
        for what in ("action_space", "observation_space"):
            if not isinstance(getattr(env, what, None), gym.Space):
                raise EnvironmentUnsupportedError(
                    f"{place} has no {what}", hint=f"set self.{what} to a gymnasium.spaces space in __init__"
                )
        self._shape = env.observation_space.shape
        self._dtype = env.observation_space.dtype
        self._leaves = [
            (path, tuple(leaf.shape), np.dtype(leaf.dtype))
            for path, leaf in leaves_of(env.observation_space)
            if leaf.shape is not None and leaf.dtype is not None
        ]
        self._shapes = self._mask_shapes() if masks != "off" else {}
        self._legal: tuple[str, ...] = _LEGAL if masks != "method" else ()
        self._taken = (*self._legal, "causal_mask")
        self._method = self._mask_method(masks) if masks in {"auto", "method"} else None

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        returned: Any = self.env.step(action)
        if type(returned) is not tuple or len(returned) != 5:  # each step of each environment passes here: no calls
            returned = step_of(returned, self._place)
        observation, reward, terminated, truncated, info = returned
        if type(reward) is not float:
            reward = reward_of(reward, self._place)
        if type(terminated) is not bool:
            terminated = flag_of("terminated", terminated, self._place)
        if type(truncated) is not bool:
            truncated = flag_of("truncated", truncated, self._place)
        if type(observation) is not np.ndarray or observation.dtype != self._dtype or observation.shape != self._shape:
            observation = self._observation(observation)
        if terminated or truncated:
            observation = copied(observation)
        found = {} if type(info) is dict and not info else self._masks(info, self._taken)
        if self._method is not None and not (terminated or truncated):
            self._ask(found)
        return observation, reward, terminated, truncated, found

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. A causal mask is of an action, and none was taken."""
        observation, info = reset_of(self.env.reset(seed=seed, options=options), self._place)
        found = self._masks(info, self._legal)
        if self._method is not None:
            self._ask(found)
        return self._observation(observation), found

    def _observation(self, value: Any) -> Any:
        if self._shape is None or self._dtype is None:  # a space of several
            for path, shape, dtype in self._leaves:
                leaf_checked(value, path, shape, dtype, self._place)
            return value
        return observation_of(value, self._shape, self._dtype, self._place)

    def _masks(self, info: Any, keys: tuple[str, ...]) -> dict[str, BoolArray]:
        found = info_of(info, self._place)
        masks = {}
        for key in keys:
            value = found.get(key)
            if value is None or not self._shapes:
                continue
            if key not in self._shapes:
                continuous = "action_mask" not in self._shapes
                raise (mask_without_choices(self._place, key) if continuous else conditional_without_head(self._place))
            masks[key] = mask_of(f'info["{key}"]', value, self._shapes[key], _AXES[key], self._place)
        return masks

    def _ask(self, found: dict[str, BoolArray]) -> None:
        """Add the legal choices that ``action_masks()`` gives, where ``info`` gave none."""
        if self._method is None or "action_mask" in found or "conditional_action_mask" in found:
            return
        with _taken(f"action_masks() of {self._place}", "action_masks(self)", "sb3-contrib calls it"):
            masks = self._method()
        found["action_mask"] = mask_of(
            "action_masks()", masks, self._shapes["action_mask"], _AXES["action_mask"], self._place
        )

    def _mask_method(self, masks: Masks) -> Callable[[], Any] | None:
        """The environment's ``action_masks()``; None where it has none and needs none."""
        name = "action_masks"
        if "action_mask" in self._shapes and self.env.has_wrapper_attr(name):
            method = self.env.get_wrapper_attr(name)
            return method if callable(method) else lambda: self.env.get_wrapper_attr(name)
        if masks == "method":
            raise EnvironmentUnsupportedError(
                f'{self._place} has no {name}(), which env.masks = "method" asks for'
                if "action_mask" in self._shapes
                else f'{self._place} has no choices that env.masks = "method" could mask',
                hint='env.masks = "auto" reads masks where there are any',
            )
        return None

    def _mask_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the masks that are read; none for an action space that the adapter refuses."""
        names = wrapped_attribute(self.env, "head_names")
        try:
            heads = action_space(self.env.action_space, self._place, names).heads
        except EnvironmentUnsupportedError:
            return {}
        total = sum(head.size for head in heads)
        shapes: dict[str, tuple[int, ...]] = {"causal_mask": (len(heads),)}
        if total:
            shapes["action_mask"] = (total,)
        conditioning = wrapped_attribute(self.env, "conditioning_head")
        for head in heads:
            if head.name == conditioning and head.size:
                shapes["conditional_action_mask"] = (head.size, total)
        return shapes
