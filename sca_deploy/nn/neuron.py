"""The spiking neuron, updated exactly as the chip updates it.

    v = beta v + a;   s = 1 where v > theta;   v = v (1 - s), in the same step

IF is beta = 1. The reset is detached: no gradient flows through the spike that caused it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from sca_deploy.nn.layout import arranged_like, blocks, dense, empty_like
from sca_deploy.nn.surrogate import Surrogate

Observer = Callable[[torch.Tensor, torch.Tensor], None]


class _MultiStepLIF(torch.autograd.Function):
    """All time steps at once, so that only the potentials before the reset need to be kept."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, steps: int, beta: float, theta: float, surrogate: Surrogate) -> Any:
        repeated = a.expand(steps, *a.shape[1:])
        potentials = empty_like(repeated, _state_type(a))
        spikes = _integrate(repeated, beta, theta, potentials)
        ctx.save_for_backward(potentials)
        ctx.frames, ctx.type = len(a), a.dtype
        ctx.beta, ctx.theta, ctx.surrogate = beta, theta, surrogate
        ctx.set_materialize_grads(False)
        return spikes, potentials

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        (potentials,) = ctx.saved_tensors
        from_spikes, from_potentials = grads
        total = empty_like(potentials[: ctx.frames], ctx.type)
        parts = [torch.zeros_like(potentials) if from_spikes is None else from_spikes]
        if from_potentials is not None:
            parts.append(from_potentials)
        parts = [arranged_like(potentials, part) for part in parts]
        for v, out, from_s, *from_v in blocks(potentials, total, *parts):
            slope = v - ctx.theta
            ctx.surrogate.derivative(slope, out=slope)
            grad = torch.mul(slope, from_s, out=out if _alike(out, v) else torch.empty_like(v))
            for more in from_v:
                grad += more
            kept = torch.le(v, ctx.theta, out=slope)
            for t in range(len(v) - 2, -1, -1):
                # dL/dv[t] also comes from v[t+1] = beta v[t] (1 - s[t]) + a[t+1].
                grad[t].addcmul_(grad[t + 1], kept[t], value=ctx.beta)
            if grad is not out:
                out.copy_(grad if len(out) == len(grad) else grad.sum(0, keepdim=True))
        return total, None, None, None, None


def _integrate(a: torch.Tensor, beta: float, theta: float, potentials: torch.Tensor) -> torch.Tensor:
    """Spikes for the input a; the potentials before the reset are left in `potentials`."""
    spikes = empty_like(a, a.dtype)
    for currents, before_reset, fired in blocks(a, potentials, spikes):
        carried = torch.zeros_like(before_reset[0])
        for current, v, s in zip(currents.unbind(), before_reset.unbind(), fired.unbind(), strict=True):
            torch.add(current, carried, alpha=beta, out=v)
            torch.gt(v, theta, out=s)
            torch.addcmul(v, v, s, value=-1.0, out=carried)
    return spikes


def _alike(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype


def _state_type(a: torch.Tensor) -> torch.dtype:
    """Potentials are sums over time: what autocast halves is added up in float32."""
    return torch.promote_types(a.dtype, torch.float32)


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

    def forward(self, a: torch.Tensor, steps: int | None = None) -> torch.Tensor:
        """Spikes (T, N, ...), 0 or 1, from the summed input a, starting at rest.

        Args:
            a: (T, N, ...), or (1, N, ...) for an input that stays the same over all `steps`.
            steps: T; needed only to have one frame repeated.

        Spikes have the type and the memory layout of `a`; potentials are float32 at least.
        """
        a, steps = dense(a), len(a) if steps is None else steps
        if not self.observers and not (torch.is_grad_enabled() and a.requires_grad):
            # Nobody will ask for the potentials: every step may overwrite those of the step before.
            repeated = a.expand(steps, *a.shape[1:])
            scratch = empty_like(a[:1], _state_type(a)).expand_as(repeated)
            return _integrate(repeated, self.beta, self.threshold, scratch)
        spikes, potentials = _MultiStepLIF.apply(a, steps, self.beta, self.threshold, self.surrogate)
        for observer in self.observers:
            observer(potentials, spikes)
        result: torch.Tensor = spikes
        return result

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"beta={self.beta:g}, threshold={self.threshold:g}"
