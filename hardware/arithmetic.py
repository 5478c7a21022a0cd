"""The chip's integer arithmetic on floating-point tensors that hold integers, exactly.

These are the operations of Lava's bit-accurate LIF model; `hardware.program` states the equations.
Floats are used because they are what a CPU multiplies fastest; that every result is exact is a matter of
bits: float32 holds integers of 24 bits, float64 of 53, and a product needs the bits of both factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sca_deploy.hardware.program import DECAY_ONE, STATE_LIMIT

SINGLE_LIMIT = 1 << 24
"""float32 holds every integer up to this magnitude, and every multiple of 2^n up to 2^n times it."""
_LOW = 1 << 12


class Decay:
    """sign(x) * ((|x| * (4096 - rate)) >> 12): what is left of a state after one step, for integers x.

    A product of 24 and 12 bits does not fit into float32. It is taken apart: with x = 4096 h + l, both of x's sign,
    |x| keep >> 12 is |h| keep + (|l| keep >> 12), and each of these products has at most 24 bits. One
    multiplication does where x has few enough bits, or the type is float64.

    Args:
        rate: 0 (keeps everything) to 4096 (keeps nothing).
        largest: the largest magnitude x can have, at most 2^24 in float32.
        dtype: of x.
    """

    def __init__(self, rate: int, largest: int, dtype: torch.dtype) -> None:
        self.keep = DECAY_ONE - rate
        odd = self.keep // (self.keep & -self.keep) if self.keep else 0
        # Multiplying by a power of two only shifts: the bits that count are those of the odd factor.
        self._whole = dtype == torch.float64 or largest * odd <= SINGLE_LIMIT

    def __call__(self, x: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Decay x in place; `high` is scratch of its shape and type."""
        if self.keep == DECAY_ONE:
            return x
        if self.keep == 0:
            return x.zero_()
        if self._whole:
            return x.mul_(self.keep / DECAY_ONE).trunc_()
        torch.mul(x, 1 / _LOW, out=high).trunc_()
        return x.sub_(high, alpha=_LOW).mul_(self.keep / DECAY_ONE).trunc_().add_(high, alpha=self.keep)


def wrap_(x: torch.Tensor) -> torch.Tensor:
    """Bring x into (-2^23, 2^23] by at most one turn, in place, as the current `u` overflows."""
    low, high = (int(value) for value in torch.aminmax(x))
    if low > -STATE_LIMIT and high <= STATE_LIMIT:
        return x
    above, below = (x > STATE_LIMIT).to(x.dtype), (x <= -STATE_LIMIT).to(x.dtype)
    return x.add_(below.sub_(above), alpha=2 * STATE_LIMIT)


def wrap_activation(a: torch.Tensor) -> torch.Tensor:
    """Bring a convolution's sum into [-2^23, 2^23) modulo 2^24, as Lava's Conv does."""
    return (a + STATE_LIMIT).remainder(2 * STATE_LIMIT) - STATE_LIMIT


def saturate_(v: torch.Tensor) -> torch.Tensor:
    """Clip v to +-(2^23 - 1) in place, as the membrane potential overflows."""
    return v.clamp_(1 - STATE_LIMIT, STATE_LIMIT - 1)


@contextmanager
def exact_kernels() -> Iterator[None]:
    """Have torch multiply and add in the type of its tensors, whatever the caller allows elsewhere.

    NNPACK may convolve by Winograd transforms, which round; autocast and a lowered matmul precision drop bits.
    """
    with (
        torch.inference_mode(),
        torch.autocast("cpu", enabled=False),
        torch.backends.nnpack.flags(enabled=False),
        _full_precision(),
    ):
        yield


@contextmanager
def _full_precision() -> Iterator[None]:
    kinds: list[Any] = [getattr(torch.backends.mkldnn, kind, None) for kind in ("matmul", "conv")]
    if None in kinds:  # torch before 2.9 has one setting for all
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
