"""The spiking neuron, updated exactly as the chip updates it.

    v = beta v + a;   s = 1 where v > theta;   v = v (1 - s), in the same step

IF is beta = 1. The reset is detached: no gradient flows through the spike that caused it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sca_deploy.nn.surrogate import Surrogate

Observer = Callable[[torch.Tensor, torch.Tensor], None]


class _MultiStepLIF(torch.autograd.Function):
    """All time steps at once, so that only the potentials before the reset need to be kept."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, beta: float, theta: float, surrogate: Surrogate) -> Any:
        # Not empty_like: for a frame repeated over time it would make time the innermost axis.
        potentials, spikes = a.new_empty(a.shape), a.new_empty(a.shape)
        v = torch.zeros_like(a[0])
        for t in range(a.shape[0]):
            torch.add(a[t], v, alpha=beta, out=potentials[t])
            torch.gt(potentials[t], theta, out=spikes[t])
            v = torch.addcmul(potentials[t], potentials[t], spikes[t], value=-1.0)
        ctx.save_for_backward(potentials, spikes)
        ctx.beta, ctx.theta, ctx.surrogate = beta, theta, surrogate
        ctx.set_materialize_grads(False)
        return spikes, potentials

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        potentials, spikes = ctx.saved_tensors
        from_spikes, from_potentials = grads
        if from_spikes is None:
            grad = torch.zeros_like(potentials)
        else:
            grad = _surrogate_gradient(ctx.surrogate, potentials - ctx.theta, from_spikes)
        if from_potentials is not None:
            grad += from_potentials
        kept = 1 - spikes
        for t in range(grad.shape[0] - 2, -1, -1):
            # dL/dv[t] also comes from v[t+1] = beta v[t] (1 - s[t]) + a[t+1].
            grad[t].addcmul_(grad[t + 1], kept[t], value=ctx.beta)
        return grad, None, None, None


def _surrogate_gradient(surrogate: Surrogate, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(surrogate(leaf), leaf, grad)
    return gradient


class LIF(nn.Module):
    """A population of LIF neurons over a whole sample.

    Args:
        beta: decay of the membrane potential per step, 0 to 1; 1 is an IF neuron.
        threshold: firing threshold theta, compared strictly.
        surrogate: gradient of the spike.

    Each of `observers` is called in every forward with (potentials, spikes), both (T, N, ...) and part
    of the autograd graph; potentials are those before the reset, which the threshold sees.
    """

    def __init__(self, beta: float, threshold: float, surrogate: Surrogate) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold
        self.surrogate = surrogate
        self.observers: list[Observer] = []

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Spikes (T, N, ...), 0 or 1, from the summed input a (T, N, ...), starting at rest."""
        spikes, potentials = _MultiStepLIF.apply(a, self.beta, self.threshold, self.surrogate)
        for observer in self.observers:
            observer(potentials, spikes)
        result: torch.Tensor = spikes
        return result

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"beta={self.beta:g}, threshold={self.threshold:g}"
