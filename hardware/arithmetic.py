"""The chip's integer arithmetic on int32 tensors, without ever needing a wider type.

These are the operations of Lava's bit-accurate LIF model; `hardware.program` states the equations.
"""

from __future__ import annotations

import torch

from sca_deploy.hardware.program import DECAY_ONE, STATE_LIMIT

_LOW_BITS = 12


def decay(x: torch.Tensor, rate: int) -> torch.Tensor:
    """sign(x) * ((|x| * (4096 - rate)) >> 12): what is left of a state after one step.

    Args:
        x: int32, |x| <= 2^23.
        rate: 0 (keeps everything) to 4096 (keeps nothing).
    """
    if rate == 0:
        return x
    if rate == DECAY_ONE:
        return torch.zeros_like(x)
    keep = DECAY_ONE - rate
    magnitude = x.abs()
    # |x| * keep needs 35 bits. Splitting |x| = 4096 h + l keeps both products under 2^24.
    high, low = magnitude >> _LOW_BITS, magnitude & (DECAY_ONE - 1)
    left = high.mul_(keep).add_(low.mul_(keep) >> _LOW_BITS)
    return left * x.sign()


def wrap(x: torch.Tensor) -> torch.Tensor:
    """Bring x into (-2^23, 2^23] by at most one turn, as the current `u` overflows."""
    turned = torch.where(x > STATE_LIMIT, x - 2 * STATE_LIMIT, x)
    return torch.where(x <= -STATE_LIMIT, x + 2 * STATE_LIMIT, turned)


def wrap_activation(a: torch.Tensor) -> torch.Tensor:
    """Bring a convolution's sum into [-2^23, 2^23) modulo 2^24, as Lava's Conv does."""
    return (a + STATE_LIMIT).remainder(2 * STATE_LIMIT) - STATE_LIMIT


def saturate_(v: torch.Tensor) -> torch.Tensor:
    """Clip v to +-(2^23 - 1) in place, as the membrane potential overflows."""
    return v.clamp_(1 - STATE_LIMIT, STATE_LIMIT - 1)
