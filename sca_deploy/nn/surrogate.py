"""Surrogate gradients: a Heaviside step forward, a smooth derivative backward.

Each surrogate is a function of x = v - threshold that returns 1 where x > 0 (strictly, as the chip
compares) and whose derivative is taken to be

    sigmoid   alpha s(alpha x) (1 - s(alpha x)), s the logistic function
    tanh      alpha / (2 tanh(alpha / 2) cosh(alpha x)^2)
    atan      alpha / (2 (1 + (pi alpha x / 2)^2))          (Fang et al., ICCV 2021)
    triangle  alpha max(0, 1 - |x|)                         (Esser et al., PNAS 2016)

sigmoid and atan enclose the area 1; tanh encloses it between -1/2 and 1/2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sca_deploy.errors import unknown_name


@dataclass(frozen=True)
class Surrogate(ABC):
    """A step whose derivative is a bump of sharpness `alpha` at the threshold."""

    alpha: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """1 where x > 0, else 0, in x's shape and type; its gradient is `derivative`."""
        spikes: torch.Tensor = _Step.apply(x, self)
        return spikes

    @abstractmethod
    def derivative(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The derivative at every x, without a gradient of its own.

        Args:
            x: distances of the membrane potential from the threshold, any shape.
            out: where to write it, of x's shape and type; may be x itself.
        """


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """The derivative of the logistic function."""

    alpha: float = 4.0

    def derivative(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Alpha s(alpha x) (1 - s(alpha x))."""
        return _logistic_bump(x, self.alpha, self.alpha, out)


@dataclass(frozen=True)
class Tanh(Surrogate):
    """The derivative of a hyperbolic tangent that rises by 1 between -1/2 and 1/2."""

    alpha: float = 3.0

    def derivative(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Alpha / (2 tanh(alpha / 2) cosh(alpha x)^2)."""
        # 1 / cosh(z)^2 = 4 s(2 z) (1 - s(2 z))
        return _logistic_bump(x, 2 * self.alpha, 2 * self.alpha / math.tanh(self.alpha / 2), out)


@dataclass(frozen=True)
class Atan(Surrogate):
    """The derivative of an arc tangent."""

    alpha: float = 2.0

    def derivative(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Alpha / (2 (1 + (pi alpha x / 2)^2))."""
        scaled = torch.mul(x.detach(), math.pi / 2 * self.alpha, out=out)
        return scaled.square_().add_(1).reciprocal_().mul_(self.alpha / 2)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """A linear rise and fall that ends one unit from the threshold."""

    alpha: float = 1.0

    def derivative(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Alpha max(0, 1 - |x|)."""
        return torch.abs(x.detach(), out=out).neg_().add_(1).relu_().mul_(self.alpha)


def _logistic_bump(x: torch.Tensor, sharpness: float, height: float, out: torch.Tensor | None) -> torch.Tensor:
    """Height s(z) (1 - s(z)) at z = sharpness x, s the logistic function."""
    s = torch.mul(x.detach(), sharpness, out=out).sigmoid_()
    # All products in one pass over memory: this runs for every neuron at every step.
    bump: torch.Tensor = torch.ops.aten.sigmoid_backward.grad_input(s.new_full((), height), s, grad_input=s)
    return bump


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, surrogate: Surrogate) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x > 0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.surrogate.derivative(x).mul_(grad[0]), None


_SURROGATES: dict[str, Callable[..., Surrogate]] = {
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "atan": Atan,
    "triangle": Triangle,
}
SURROGATES = tuple(_SURROGATES)


def surrogate(name: str, alpha: float | None = None) -> Surrogate:
    """The named surrogate with sharpness `alpha` (default: sigmoid 4, tanh 3, atan 2, triangle 1).

    Raises:
        UsageError: if there is no surrogate of that name.
    """
    if name not in _SURROGATES:
        raise unknown_name("surrogate", name, _SURROGATES)
    kind = _SURROGATES[name]
    return kind() if alpha is None else kind(alpha)
