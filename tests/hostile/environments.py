"""Environments that break Gymnasium's contract, one breach each, and how a run with each of them must end.

``SUITE`` is the list: name, what the environment does, and the words, exit code and state that ``esper ppo`` leaves.
Each is registered as ``hostile/NAME-v0``; import this module as ``hostile_environments``.
"""

from __future__ import annotations

import _thread
import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

__all__ = ["SUITE", "Hostile"]

AFTER = 20
"""Steps of one environment before it breaks: within the second update of the test's runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hostile:
    """One environment, and what must come of it.

    Attributes:
        name: its class; the id is ``hostile/NAME-v0``.
        does: in words, for a table.
        says: parts of what is printed: what is wrong, and what to do.
        code: exit code.
        state: of the run; empty where none is begun.
        own_process: it needs a process of its own (it forks, or leaves a thread).
    """

    name: str
    does: str
    says: tuple[str, ...] = ()
    code: int = 0
    state: str = "done"
    own_process: bool = False


SUITE: list[Hostile] = []


class Calm(gym.Env[Any, Any]):
    """Does nothing wrong: ten steps an episode. Subclasses change one thing from step ``AFTER`` on."""

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (3,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(3)

    def __init__(self) -> None:
        self.steps = self.total = 0

    @property
    def late(self) -> bool:
        return self.total > AFTER

    def observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def reward(self) -> Any:
        return 1.0

    def ends(self) -> tuple[Any, Any]:
        return self.steps >= 10, False

    def info(self) -> Any:
        return {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), self.info()

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.total += 1
        return self.observe(), self.reward(), *self.ends(), self.info()


def hostile(does: str, *says: str, code: int = 1, state: str = "failed", own_process: bool = False) -> Any:
    """Register an environment and put it on the list."""

    def add(kind: type[Calm]) -> type[Calm]:
        if f"hostile/{kind.__name__}-v0" not in gym.registry:  # the generator of the page loads this file too
            gym.register(f"hostile/{kind.__name__}-v0", kind, max_episode_steps=1000)  # type: ignore[arg-type]  # its protocol asks for every keyword; it gives those of the id
        name = kind.__name__
        SUITE.append(Hostile(name=name, does=does, says=says, code=code, state=state, own_process=own_process))
        return kind

    return add


# --- what step() and reset() return -----------------------------------------------------------------------------


@hostile("step() returns four values", "step() returned a tuple of 4 items", "terminated and truncated")
class FourValues(Calm):
    def step(self, action: Any) -> Any:
        observation, reward, ended, _, info = super().step(action)
        return observation, reward, ended, info


@hostile("step() returns None", "step() returned None, not a tuple of five", "step() returns a tuple of 5")
class NoValues(Calm):
    def step(self, action: Any) -> Any:
        return None


@hostile("step() returns four values later on", "expected 5, got 4", "step() returns a tuple of 5")
class LateFourValues(Calm):
    def step(self, action: Any) -> Any:
        result = super().step(action)
        return result[:4] if self.late else result


@hostile("reset() returns no info", "reset() returned an array of shape (3,)", "observation, info")
class ResetWithoutInfo(Calm):
    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0]


@hostile("reset() returns None when an episode begins anew", "reset() returned None", "an empty info is {}")
class LateReset(Calm):
    def reset(self, **options: Any) -> Any:
        return None if self.late else super().reset(**options)


@hostile("reset() takes no seed", "unexpected keyword argument 'seed'", "reset(self, *, seed=None, options=None)")
class ResetWithoutSeed(Calm):
    def reset(self) -> Any:  # type: ignore[override]  # the breach
        return super().reset()


@hostile("step() takes no action", "NoAction.step() takes 1 positional argument", "write it as step(self, action)")
class NoAction(Calm):
    def step(self) -> Any:  # type: ignore[override]  # the breach
        return super().step(0)


@hostile("info is None", "info is None, not a dict", "{} when empty")
class NoInfo(Calm):
    def info(self) -> Any:
        return None if self.late else {}


@hostile("info of reset() is a list of pairs", "info is a list of 1 item, not a dict", "the last value of reset()")
class PairsInfo(Calm):
    def info(self) -> Any:
        return [("a", 1)]


@hostile("has no step()", "does not implement step()", "write the method")
class NoStep(Calm):
    step = gym.Env.step


# --- observations -----------------------------------------------------------------------------------------------


@hostile("observation of another shape", "observation has shape (4,), its observation_space has (3,)", "return")
class WrongShape(Calm):
    def observe(self) -> Any:
        return np.zeros(4 if self.late else 3, np.float32)


@hostile("observation of ragged lists", "observation is a list of 2 items, not an array of numbers", "wants shape (3,)")
class Ragged(Calm):
    def observe(self) -> Any:
        return [[1.0], [1.0, 2.0]] if self.late else super().observe()


@hostile("observation is text", "observation is a str, 'up'", "dtype float32")
class TextObservation(Calm):
    def observe(self) -> Any:
        return "up" if self.late else super().observe()


@hostile("observation is None", "observation is None", "wants shape (3,)")
class NoObservation(Calm):
    def observe(self) -> Any:
        return None if self.late else super().observe()


@hostile("floats in a space of bytes", "observation has dtype float64, its observation_space has uint8", "declare")
class FloatsAsBytes(Calm):
    observation_space = spaces.Box(0, 255, (3,), np.uint8)

    def observe(self) -> Any:
        return np.zeros(3) if self.late else np.zeros(3, np.uint8)


@hostile("a discrete observation outside its space", "observation is 5, outside its observation_space", "0 to 4")
class OutsideDiscrete(Calm):
    observation_space = spaces.Discrete(5)

    def observe(self) -> Any:
        return 5 if self.late else 0


@hostile("a flag that is 2", "observation is 2, outside its observation_space", "the values 0 and 1")
class OutsideFlags(Calm):
    observation_space = spaces.MultiBinary(3)

    def observe(self) -> Any:
        return np.array([0, 1, 2 if self.late else 1], np.int8)


@hostile("a negative discrete observation", "observation is -1, outside its observation_space", "0 to 4")
class BelowDiscrete(Calm):
    observation_space = spaces.Discrete(5)

    def observe(self) -> Any:
        return -1 if self.late else 0


@hostile("observation is NaN", "observation of environment 0 is nan", "--keep-going")
class NaNObservation(Calm):
    def observe(self) -> Any:
        return np.full(3, np.nan if self.late else 0.0, np.float32)


@hostile("the last observation of a cut episode is NaN", "last observation of environment 0 is nan", "--keep-going")
class NaNAtTheCut(Calm):
    def observe(self) -> Any:
        return np.full(3, np.nan if self.steps == 10 else 0.0, np.float32)

    def ends(self) -> Any:
        return False, self.steps >= 10


# --- rewards and flags ------------------------------------------------------------------------------------------


@hostile("reward is a number as text", "reward is a str, '1.0', not a number", "float(reward)")
class TextReward(Calm):
    def reward(self) -> Any:
        return "1.0"


@hostile("reward is None", "reward is None, not a number", "float(reward)")
class NoReward(Calm):
    def reward(self) -> Any:
        return None if self.late else 1.0


@hostile("reward is an array of two", "reward is an array of shape (2,) and dtype float64", "float(reward)")
class TwoRewards(Calm):
    def reward(self) -> Any:
        return np.ones(2)


@hostile("reward is complex", "reward is a complex", "float(reward)")
class ComplexReward(Calm):
    def reward(self) -> Any:
        return 1j


@hostile("reward is a whole number beyond every float", "reward is an int of 1329 bits", "a float can hold")
class WideReward(Calm):
    def reward(self) -> Any:
        return 10**400


@hostile("reward is NaN", "reward of environment 0 is nan", "--keep-going")
class NaNReward(Calm):
    def reward(self) -> Any:
        return float("nan") if self.late else 1.0


@hostile("reward is an array of one", code=0, state="done")
class RewardInArray(Calm):
    def reward(self) -> Any:
        return np.array([1.0], np.float32)


@hostile("returns beyond float32", "non-finite returns", "--keep-going")
class HugeReward(Calm):
    def reward(self) -> Any:
        return 1e38


@hostile("terminated is text", "terminated is a str, 'False', not a bool", "True or False")
class TextFlag(Calm):
    def ends(self) -> Any:
        return "False", False


@hostile("truncated is None", "truncated is None, not a bool", "True or False")
class NoFlag(Calm):
    def ends(self) -> Any:
        return self.steps >= 10, None


@hostile("truncated is an info dict", "truncated is a dict of 0 items, not a bool", "True or False")
class DictFlag(Calm):
    def ends(self) -> Any:
        return self.steps >= 10, {}


# --- masks ------------------------------------------------------------------------------------------------------


@hostile("action mask of another width", 'info["action_mask"] has shape (5,), expected (3,)', "all heads")
class WideMask(Calm):
    def info(self) -> Any:
        return {"action_mask": np.ones(5, bool)}


@hostile("action mask of floats", 'info["action_mask"] has dtype float64, not bool', "a mask is bool")
class FloatMask(Calm):
    def info(self) -> Any:
        return {"action_mask": np.array([0.5, 1, 0])}


@hostile("action mask of -1 and 1", "has dtype int64 and values from -1 to 1, not bool", "integers 0 and 1")
class SignedMask(Calm):
    def info(self) -> Any:
        return {"action_mask": np.array([-1, 1, 1])}


@hostile("action mask is text", 'info["action_mask"] is a str', "a mask is bool")
class TextMask(Calm):
    def info(self) -> Any:
        return {"action_mask": "110"}


@hostile("action mask without a legal choice", "leaves head action no legal choice", "need not give a mask")
class EmptyMask(Calm):
    def info(self) -> Any:
        return {"action_mask": np.array([1, 1, not self.late]) * (not self.late)}


@hostile("causal mask of another width", 'info["causal_mask"] has shape (3,), expected (1,)', "one value a head")
class WideCausal(Calm):
    def info(self) -> Any:
        return {"causal_mask": np.ones(3, bool)}


@hostile("conditional mask without conditioning head", "but no conditioning_head", "an attribute of the environment")
class NoConditioning(Calm):
    def info(self) -> Any:
        return {"conditional_action_mask": np.ones((3, 3), bool)}


@hostile("a mask on some steps only, as a list of integers", code=0, state="done")
class SometimesMask(Calm):
    def info(self) -> Any:
        return {"action_mask": [1, 0, 1]} if self.total % 3 == 0 else {"action_mask": None}


@hostile("info entries that change kind and length", code=0, state="done")
class MixedInfo(Calm):
    def info(self) -> Any:
        kinds = [3, None, "text", np.zeros(2), np.zeros((1, 3)), {"a": 1}, 10**30, [1, "b"], object()]
        return {"target": kinds[self.total % len(kinds)], "path": np.zeros(self.total % 3), f"k{self.total}": 1}


# --- spaces and attributes: refused before a run begins ---------------------------------------------------------


@hostile("no action space", "has no action_space", "set self.action_space", code=64, state="")
class NoActions(Calm):
    action_space = None  # type: ignore[assignment]


@hostile("continuous whole numbers", "a Box of int64 has no density", "use MultiDiscrete", code=64, state="")
class Continuous(Calm):
    action_space = spaces.Box(-1, 1, (2,), np.int64)


@hostile("continuous actions of size 0", "a space of size 0", "leave it out", code=64, state="")
class Sizeless(Calm):
    action_space = spaces.Box(-1, 1, (0,), np.float32)


@hostile("a part of the observation is missing", "observation is a dict of 1 item without b", "declares")
class Parts(Calm):
    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (3,), np.float32), "b": spaces.Discrete(2)})

    def observe(self) -> Any:
        return {"a": super().observe()}


@hostile("an array where a dict is declared", "dtype float32 in place of a dict", "declares")
class NoParts(Calm):
    observation_space = Parts.observation_space


@hostile("observations without elements", "has no elements", "declare Discrete(1)", code=64, state="")
class Blind(Calm):
    observation_space = spaces.Dict({})


@hostile("observations of free length", "has observation space Sequence", "in a wrapper", code=64, state="")
class Free(Calm):
    observation_space = spaces.Sequence(spaces.Box(-1, 1, (3,), np.float32))

    def observe(self) -> Any:
        return (super().observe(),)


@hostile("two names for one head", "names 2 heads, but Discrete(3) has 1", "one name a head", code=64, state="")
class TwoNames(Calm):
    head_names = ("left", "right")


@hostile("one name for two heads", 'names two heads "arm"', "each name is another", code=64, state="")
class OneName(Calm):
    action_space = spaces.MultiDiscrete([2, 2])
    head_names = ("arm", "arm")


@hostile("action_masks() that takes an argument", "action_masks() of", "write it as action_masks(self)")
class MasksOfState(Calm):
    def action_masks(self, state: Any) -> Any:
        return state


@hostile("a conditioning head that is none", 'conditioning_head "gear" is no head', "heads: action", code=64, state="")
class NoSuchHead(Calm):
    conditioning_head = "gear"


@hostile("a causal table of another shape", "causal_table is an array of shape (2, 2)", "one row", code=64, state="")
class WideTable(Calm):
    conditioning_head = "action"
    causal_table = np.ones((2, 2), bool)


@hostile("a causal table without conditioning head", "but no conditioning_head", "name that head", code=64, state="")
class TableAlone(Calm):
    causal_table = np.ones((3, 1), bool)


# --- exceptions, exits, threads, processes ----------------------------------------------------------------------


@hostile("its constructor raises", "cannot be built: KeyError: 'DISPLAY'", "environments.py, line", code=64, state="")
class ConstructorRaises(Calm):
    def __init__(self) -> None:
        raise KeyError("DISPLAY")


@hostile("its constructor calls exit()", "built: exit('no display') was called", "py, line", code=64, state="")
class ConstructorExits(Calm):
    def __init__(self) -> None:
        sys.exit("no display")


@hostile("step() raises with a file name that is no text", r"ValueError: caf\xe9", "environments.py, line")
class RaisesBytes(Calm):
    def reward(self) -> Any:
        raise ValueError(os.fsdecode(b"caf\xe9"))


@hostile("step() raises", "KeyError: 'boom'", "environments.py, line")
class Raises(Calm):
    def reward(self) -> Any:
        if self.late:
            raise KeyError("boom")
        return 1.0


@hostile("reset() raises", "ValueError: no more episodes", "environments.py, line")
class ResetRaises(Calm):
    def reset(self, **options: Any) -> Any:
        if self.late:
            raise ValueError("no more episodes")
        return super().reset(**options)


@hostile("step() calls exit(0)", "called exit(0) in", "ends an episode with terminated or truncated")
class Exits(Calm):
    def reward(self) -> Any:
        if self.late:
            sys.exit(0)
        return 1.0


@hostile("reset() calls exit(3)", "called exit(3) in", "ends an episode with terminated or truncated")
class ResetExits(Calm):
    def reset(self, **options: Any) -> Any:
        if self.late:
            sys.exit(3)
        return super().reset(**options)


@hostile("step() raises KeyboardInterrupt", code=130, state="stopped")
class Interrupts(Calm):
    def reward(self) -> Any:
        if self.late:
            raise KeyboardInterrupt
        return 1.0


@hostile("reset() raises KeyboardInterrupt", code=130, state="stopped")
class ResetInterrupts(Calm):
    def reset(self, **options: Any) -> Any:
        if self.late:
            raise KeyboardInterrupt
        return super().reset(**options)


@hostile("a thread of its own interrupts the main thread", code=130, state="stopped", own_process=True)
class ThreadInterrupts(Calm):
    done = False  # of both environments: a second interrupt would end the process at once, as a second Ctrl-C does

    def reward(self) -> Any:
        if self.total == AFTER and not ThreadInterrupts.done:
            ThreadInterrupts.done = True
            thread = threading.Thread(target=_thread.interrupt_main)
            thread.start()
            thread.join()
        return 1.0


@hostile("a thread of its own raises, another exits", "KeyError: 'in a thread'", code=0, state="done", own_process=True)
class ThreadRaises(Calm):
    def reward(self) -> Any:
        if self.total == AFTER:
            empty: dict[str, object] = {}
            for work in (lambda: empty["in a thread"], lambda: sys.exit(7)):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
        return 1.0


@hostile("close() raises", "closing it failed: ValueError: stuck", code=0, state="done")
class CloseRaises(Calm):
    def close(self) -> None:
        raise ValueError("stuck")


@hostile("close() calls exit(9)", "closing it failed: exit(9) was called", code=0, state="done")
class CloseExits(Calm):
    def close(self) -> None:
        sys.exit(9)


@hostile("children that it forks call exit(0) and exit(5)", code=0, state="done", own_process=True)
class Forks(Calm):
    def reward(self) -> Any:
        if self.total in {5, 15}:
            code = 0 if self.total == 5 else 5
            child = os.fork()
            if not child:
                sys.exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
        return 1.0


@hostile("the folder it runs in is deleted", state="done", code=0, own_process=True)
class DeletesFolder(Calm):
    def step(self, action: Any) -> Any:
        if self.total == AFTER:
            os.chdir(folder := tempfile.mkdtemp())
            Path(folder).rmdir()
        return super().step(action)


@hostile("stdout and stderr are set to None", state="done", code=0, own_process=True)
class NoStreams(Calm):
    def step(self, action: Any) -> Any:
        sys.stdout = sys.stderr = None  # as a program without a console has them
        return super().step(action)


class _Raising:
    """No stream at all."""

    def write(self, _text: str) -> int:
        raise ValueError("nothing is written here")

    flush = isatty = fileno = write


@hostile("streams that raise are put in the place of stdout and stderr", code=0, state="done", own_process=True)
class RaisingStreams(Calm):
    def step(self, action: Any) -> Any:
        sys.stdout = sys.stderr = _Raising()  # nothing that can be written to
        return super().step(action)


@hostile(
    "torch's default device becomes one that computes nothing",
    "torch's default device is meta, and was cpu",
    "torch.set_default_device() is for the whole process",
    own_process=True,
)
class DefaultDevice(Calm):
    def step(self, action: Any) -> Any:
        torch.set_default_device("meta")
        return super().step(action)


@hostile("gradients are switched off for the whole process", code=0, state="done")
class NoGradients(Calm):
    def reward(self) -> Any:
        torch.set_grad_enabled(False)
        return 1.0
