"""The chip's integer arithmetic on floating-point tensors that hold integers, exactly.

These are the operations of Lava's bit-accurate LIF model; `hardware.program` states the equations.
Floats are used because they are what a CPU multiplies fastest; that every result is exact is a matter of
bits: a state has 24, a decay 12, and float64 holds 53.
"""

from __future__ import annotations

import torch

from sca_deploy.hardware.program import DECAY_ONE, STATE_LIMIT


def decay_(x: torch.Tensor, rate: int) -> torch.Tensor:
    """sign(x) * ((|x| * (4096 - rate)) >> 12), in place: what is left of a state after one step.

    Args:
        x: integers of magnitude up to 2^23, in a dtype that `state_dtype` allows for this rate.
        rate: 0 (keeps everything) to 4096 (keeps nothing).
    """
    if rate == 0:
        return x
    if rate == DECAY_ONE:
        return x.zero_()
    return x.mul_((DECAY_ONE - rate) / DECAY_ONE).trunc_()


def state_dtype(*rates: int) -> torch.dtype:
    """The narrowest dtype in which states with these decays stay exact.

    Multiplying by a power of two only shifts, so 24 bits are enough; any other decay needs 24 + 12.
    """
    keeps = [DECAY_ONE - rate for rate in rates]
    shifts_only = all(keep & (keep - 1) == 0 for keep in keeps)
    return torch.float32 if shifts_only else torch.float64


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
