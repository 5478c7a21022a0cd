"""Surrogate gradients: a Heaviside step forward, a smooth derivative backward.

Each surrogate is a function of x = v - threshold that returns 1 where x > 0 (strictly, as the chip
compares) and whose gradient is

    sigmoid   alpha s(alpha x) (1 - s(alpha x)), s the logistic function
    atan      alpha / (2 (1 + (pi alpha x / 2)^2))          (Fang et al., ICCV 2021)
    triangle  alpha max(0, 1 - |x|)                         (Esser et al., PNAS 2016), norse's own
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from sca_deploy.errors import unknown_name

Surrogate = Callable[[torch.Tensor], torch.Tensor]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alpha: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.alpha = alpha
        return (x > 0).to(x.dtype)


class _Sigmoid(_Step):
    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(ctx.alpha * x)
        # grad s (1 - s) in one pass over memory, which is what limits this.
        return torch.ops.aten.sigmoid_backward(grad[0], s).mul_(ctx.alpha), None


class _Atan(_Step):
    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad[0] * (ctx.alpha / 2) / (1 + (math.pi / 2 * ctx.alpha * x).square()), None


def _triangle(x: torch.Tensor, alpha: float) -> torch.Tensor:
    # norse takes a second to import; only those who ask for its surrogate wait for it.
    from norse.torch.functional.threshold import triangle_fn

    spikes: torch.Tensor = triangle_fn(x, alpha)
    return spikes


_SURROGATES: dict[str, tuple[Callable[[torch.Tensor, float], torch.Tensor], float]] = {
    "sigmoid": (lambda x, alpha: _Sigmoid.apply(x, alpha), 4.0),
    "atan": (lambda x, alpha: _Atan.apply(x, alpha), 2.0),
    "triangle": (_triangle, 1.0),
}
SURROGATES = tuple(_SURROGATES)


def surrogate(name: str, alpha: float | None = None) -> Surrogate:
    """The named surrogate with sharpness `alpha` (default: sigmoid 4, atan 2, triangle 1).

    Raises:
        UsageError: if there is no surrogate of that name.
    """
    if name not in _SURROGATES:
        raise unknown_name("surrogate", name, _SURROGATES)
    function, default = _SURROGATES[name]
    sharpness = default if alpha is None else alpha
    return lambda x: function(x, sharpness)
