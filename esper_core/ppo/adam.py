"""Adam (Kingma and Ba 2015, arXiv:1412.6980) on all parameters as one vector.

The numbers and the kept state are those of ``torch.optim.Adam``. That class is not used where it can be avoided: it
takes each parameter by itself, which costs several times the arithmetic for small layers, and its constructor imports
torch's compiler, which takes longer than ``import torch``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper_core.ppo.reducer import Reducer

__all__ = ["FlatAdam", "adam_step", "step_sizes"]

BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-5


class State(NamedTuple):
    """What a step changes.

    Attributes:
        values: float32 (n), all parameters.
        mean: float32 (n), of the gradient.
        square: float32 (n), of its square.
        steps: taken so far.
    """

    values: Tensor
    mean: Tensor
    square: Tensor
    steps: int


def step_sizes(rate: float, steps: int) -> tuple[float, float]:
    """``size`` and ``root`` of :func:`adam_step`: how step number ``steps``, from 1, corrects the moments' bias."""
    first, second = BETAS
    return rate / (1.0 - first**steps), 1.0 / math.sqrt(1.0 - second**steps)


def adam_step(
    values: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, *, size: Tensor, root: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The step written out, in memory of its own, for the compiler: what :class:`FlatAdam` has torch's kernel do.

    Returns:
        Values, mean and square after it.
    """
    first, second = BETAS
    mean = mean + (1.0 - first) * (gradient - mean)
    square = second * square + (1.0 - second) * gradient * gradient
    return values - size * mean / (square.sqrt() * root + EPSILON), mean, square


class FlatAdam:
    """The optimizer of a policy. Parameters and their gradients become views of one vector each.

    A step takes what ``backward()`` has added to the gradients since :meth:`zero_grad`. A parameter that took part in
    no loss has a gradient of 0.

    Args:
        parameters: of one device; those of each dtype share a vector.
        learning_rate: see ``param_groups``.

    Attributes:
        param_groups: one, as torch's optimizers have it; ``lr`` may be set between steps.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> None:
        self._parameters = list(parameters)
        self._vectors: list[_Vector] = []
        for dtype in dict.fromkeys(parameter.dtype for parameter in self._parameters):
            self._vectors.append(_Vector([item for item in self._parameters if item.dtype == dtype]))
        fused = all(vector.fused for vector in self._vectors)
        self.param_groups: list[dict[str, Any]] = [_settings(learning_rate, len(self._parameters), fused=fused)]

    def hold(self) -> None:
        """Take in again parameters and gradients that were given memory of their own.

        ``copy.deepcopy``, ``zero_grad(set_to_none=True)`` of a module and ``load_state_dict(assign=True)`` do so.
        """
        for vector in self._vectors:
            vector.hold()

    def zero_grad(self) -> None:
        """Set every gradient to 0."""
        for vector in self._vectors:
            vector.gradient.zero_()

    def over_ranks(self, reducer: Reducer) -> None:
        """Add the gradients of all ranks up: one reduction for each dtype."""
        for vector in self._vectors:
            total = reducer.sum(vector.gradient)
            if total is not vector.gradient:
                vector.gradient.copy_(total)

    def grad_norm(self) -> Tensor:
        """Euclidean norm of the whole gradient, float ()."""
        norms: list[Tensor] = [torch.linalg.vector_norm(vector.gradient) for vector in self._vectors]
        if len(norms) == 1:
            return norms[0]
        whole: Tensor = torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms]))
        return whole

    def clip(self, grad_norm: float, most: float) -> None:
        """Scale the gradient, whose norm is known on the host, down to a norm of ``most``."""
        scale = most / (grad_norm + 1e-6)
        if scale < 1.0:
            for vector in self._vectors:
                vector.gradient.mul_(scale)

    def state(self) -> State | None:
        """What a step changes, in the optimizer's own memory; None where it is not one vector of float32.

        On a GPU this waits for the number of steps.
        """
        if len(self._vectors) != 1:
            return None
        (vector,) = self._vectors
        if vector.values.dtype != torch.float32:
            return None
        return State(vector.values, vector.mean, vector.square, int(vector.steps))

    def adopt(self, state: State) -> None:
        """Take a state as if the steps that led to it had been taken here."""
        (vector,) = self._vectors
        vector.values.copy_(state.values)
        vector.mean.copy_(state.mean)
        vector.square.copy_(state.square)
        vector.steps.fill_(state.steps)

    def step(self) -> None:
        """One step against the gradient."""
        rate = float(self.param_groups[0]["lr"])
        for vector in self._vectors:
            vector.step(rate)

    # --- as checkpoints keep it -----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As ``torch.optim.Adam.state_dict()`` of the same parameters, in their order."""
        # Each with a count of its own: torch counts up that of every parameter.
        kept = [{**state, "step": state["step"].clone()} for state in self._each_state()]
        return {
            "state": dict(enumerate(kept)) if all(int(state["step"]) for state in kept) else {},
            "param_groups": [dict(group) for group in self.param_groups],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take moments and step counts from a ``state_dict`` of this class or of ``torch.optim.Adam``.

        The settings stay this optimizer's own. A parameter without a state starts at 0.

        Raises:
            ValueError: the state is that of other parameters.
        """
        self.hold()
        kept: Mapping[int, Mapping[str, Tensor]] = state["state"]
        count = sum(len(group["params"]) for group in state["param_groups"])
        if count != len(self._parameters) or not kept.keys() <= set(range(count)):
            raise ValueError(f"the optimizer's state is of {count} parameters, the policy has {len(self._parameters)}")
        for index, mine in enumerate(self._each_state()):
            theirs = kept.get(index)
            for name in ("exp_avg", "exp_avg_sq"):
                if theirs is not None and theirs[name].shape != mine[name].shape:
                    shapes = f"{tuple(theirs[name].shape)}, not {tuple(mine[name].shape)}"
                    raise ValueError(f"the optimizer's state of parameter {index} has shape {shapes}")
                mine[name].copy_(theirs[name]) if theirs is not None else mine[name].zero_()
        # One count for all: they step together.
        taken = max((float(theirs["step"]) for theirs in kept.values()), default=0.0)
        for vector in self._vectors:
            vector.steps.fill_(taken)

    def _each_state(self) -> list[dict[str, Tensor]]:
        by_parameter = {id(parameter): state for vector in self._vectors for parameter, state in vector.each_state()}
        return [by_parameter[id(parameter)] for parameter in self._parameters]


class _Vector:
    """All parameters of one dtype, one after another, with gradient and moments alike.

    Args:
        parameters: become views; at least one.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._sizes = [parameter.numel() for parameter in parameters]
        self.values = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.gradient = torch.zeros_like(self.values)
        self.mean, self.square = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.fused = _fused(self.values.device, self.values.dtype)
        self.steps = torch.zeros((), device=self.values.device if self.fused else "cpu")
        self._take: Callable[[float], None] = self._step_fused if self.fused else _OfTorch(self)
        self._views = self._parts(self.values)
        self._gradient_views = self._parts(self.gradient)
        for parameter, view, gradient in zip(self._parameters, self._views, self._gradient_views, strict=True):
            parameter.data, parameter.grad = view, gradient

    def hold(self) -> None:
        """See :meth:`FlatAdam.hold`."""
        for parameter, view, gradient in zip(self._parameters, self._views, self._gradient_views, strict=True):
            if parameter.data_ptr() != view.data_ptr():
                view.copy_(parameter.detach())
                parameter.data = view
            if parameter.grad is not gradient:
                parameter.grad = gradient

    def each_state(self) -> list[tuple[nn.Parameter, dict[str, Tensor]]]:
        """Every parameter with its part of the state, under torch's names."""
        moments = zip(self._parts(self.mean), self._parts(self.square), strict=True)
        states = [{"step": self.steps, "exp_avg": mean, "exp_avg_sq": square} for mean, square in moments]
        return list(zip(self._parameters, states, strict=True))

    def step(self, rate: float) -> None:
        """One step with this learning rate."""
        self._take(rate)

    def _step_fused(self, rate: float) -> None:
        _step_fused(self.values, self.gradient, self.mean, self.square, self.steps, rate)

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector in the parameters' shapes."""
        parts = zip(vector.split_with_sizes(self._sizes), self._parameters, strict=True)
        return [part.view(parameter.shape) for part, parameter in parts]


class _OfTorch:
    """The public way to the same step, for a torch or a device that has not the fused one.

    Args:
        vector: whose memory is stepped in place.
    """

    def __init__(self, vector: _Vector) -> None:
        values = nn.Parameter(vector.values)
        values.grad = vector.gradient
        self._optimizer = torch.optim.Adam([values], betas=BETAS, eps=EPSILON, foreach=False)
        self._optimizer.state[values] = {"step": vector.steps, "exp_avg": vector.mean, "exp_avg_sq": vector.square}

    def __call__(self, rate: float) -> None:
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()


def _step_fused(values: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, steps: Tensor, rate: float) -> None:
    """What ``torch.optim.Adam(fused=True)`` does for one parameter; torch offers it under no public name."""
    steps.add_(1)
    torch._fused_adam_(  # _fused() has tried it
        [values],
        [gradient],
        [mean],
        [square],
        [],
        [steps],
        lr=rate,
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=0.0,
        eps=EPSILON,
        amsgrad=False,
        maximize=False,
    )


def _fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's fused step is there and right: tried on one number, since what is private may change."""
    if device.type not in {"cpu", "cuda"}:
        return False
    value, gradient, mean, square = (torch.full((1,), start, device=device, dtype=dtype) for start in (1.0, 2.0, 0, 0))
    try:
        _step_fused(value, gradient, mean, square, torch.zeros((), device=device), 0.25)
    except (AttributeError, TypeError, RuntimeError):  # absent, of another signature, not for this device or dtype
        return False
    # The first step is the rate, whatever the gradient's size.
    return math.isclose(float(value), 0.75, rel_tol=1e-2) and math.isclose(float(mean), 0.2, rel_tol=1e-2)


def _settings(learning_rate: float, count: int, *, fused: bool) -> dict[str, Any]:
    """The only group of parameters, under the names that ``torch.optim.Adam`` gives its settings."""
    return {
        "lr": learning_rate,
        "betas": BETAS,
        "eps": EPSILON,
        "weight_decay": 0,
        "amsgrad": False,
        "maximize": False,
        "foreach": False,
        "capturable": False,
        "differentiable": False,
        "fused": fused,
        "decoupled_weight_decay": False,
        "params": list(range(count)),
    }
