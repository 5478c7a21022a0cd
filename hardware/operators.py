"""Linear maps between populations: a convolution or a matrix, and what can be folded into one.

Everything linear between two populations becomes one Operator. A summing or averaging pool and a scale a
channel are folded into the map after them, exactly or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.program import Shape

FloatArray = npt.NDArray[np.float64]
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Operator:
    """A linear map of a source population: a convolution (weight of 4 axes) or a matrix (2 axes).

    weight is (out, in / groups, kernel_h, kernel_w) or (out, in).
    """

    weight: FloatArray
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def is_conv(self) -> bool:
        """Whether the map is a convolution."""
        return self.weight.ndim == 4

    def output_shape(self, source: Shape) -> Shape:
        """The shape this map gives to a source of shape (C, H, W) or (features,)."""
        if not self.is_conv:
            return (self.weight.shape[0],)
        size = [_conv_size(source[1 + a], self.weight.shape[2 + a], self, a) for a in (0, 1)]
        return (self.weight.shape[0], size[0], size[1])

    def scaled(self, gain: float | FloatArray) -> Operator:
        """The map times a number, or times one a row or output channel."""
        rows = np.asarray(gain, np.float64).reshape(-1, *(1,) * (self.weight.ndim - 1))
        return replace(self, weight=self.weight * rows)


def identity(shape: Shape, factor: FloatArray) -> Operator:
    """The map that multiplies every channel of a source by its factor, (channels,)."""
    if len(shape) == 3:
        return Operator(factor.reshape(-1, 1, 1, 1), groups=shape[0])
    return Operator(np.diag(factor))


def reading(operator: Operator, factor: FloatArray) -> Operator:
    """The map of a source whose channels are first multiplied by `factor`, (channels,)."""
    weight = operator.weight
    if not operator.is_conv:
        return replace(operator, weight=weight * np.repeat(factor, weight.shape[1] // len(factor)))
    per_output = factor.reshape(operator.groups, 1, -1)
    grouped = weight.reshape(operator.groups, -1, *weight.shape[1:])
    return replace(operator, weight=(grouped * per_output[..., None, None]).reshape(weight.shape))


def fold_pool(pool: Operator, source: Shape, after: Operator, name: str) -> Operator:
    """One operator that does what a depthwise sum and the operator after it do.

    A pool of kernel k and stride s before a convolution K, S is a convolution of kernel k + (K - 1) s
    and stride s S, padded by s P + p. That is exact where the windows that lie beyond the pool's own, which
    the convolution's padding takes for zero, hold nothing of the source.

    Raises:
        ScaDeployError: where folding would not be exact.
    """
    pooled = pool.output_shape(source)
    if not after.is_conv:
        return _fold_pool_into_matrix(pool, source, after)
    for axis in (0, 1):
        if after.padding[axis] and not _beyond_is_empty(pool, source, pooled, axis):
            raise ScaDeployError(
                f"'{name}': the pooling before it cannot be folded, because the convolution pads "
                "and the pooling overlaps, pads or does not divide the map evenly",
                "use a pooling whose stride equals its kernel and divides the map, or a convolution without padding",
            )
    folded = Operator(
        weight=_spread_kernel(after, pool),
        stride=(after.stride[0] * pool.stride[0], after.stride[1] * pool.stride[1]),
        padding=(
            after.padding[0] * pool.stride[0] + pool.padding[0],
            after.padding[1] * pool.stride[1] + pool.padding[1],
        ),
        groups=after.groups,
    )
    expected = after.output_shape(pooled)
    if folded.output_shape(source) != expected:
        raise ScaDeployError(
            f"'{name}': folding the pooling before it gives {folded.output_shape(source)}, not {expected}",
            "use a pooling that divides the map evenly",
        )
    return folded


def _beyond_is_empty(pool: Operator, source: Shape, pooled: Shape, axis: int) -> bool:
    """Whether the windows before the first and after the last see nothing of the source."""
    kernel, stride, padding = pool.weight.shape[2 + axis], pool.stride[axis], pool.padding[axis]
    ends_before = kernel - stride - padding <= 0
    starts_after = pooled[1 + axis] * stride - padding >= source[1 + axis]
    return ends_before and starts_after


def _spread_kernel(after: Operator, pool: Operator) -> FloatArray:
    out, channels, height, width = after.weight.shape
    k = pool.weight.shape[2:]
    step = (after.dilation[0] * pool.stride[0], after.dilation[1] * pool.stride[1])
    weight = np.zeros((out, channels, (height - 1) * step[0] + k[0], (width - 1) * step[1] + k[1]))
    # Output o reads the channels of its group, each through that channel's window.
    window = pool.weight[:, 0].reshape(after.groups, 1, channels, *k)
    window = np.broadcast_to(window, (after.groups, out // after.groups, channels, *k)).reshape(out, channels, *k)
    for i in range(height):
        for j in range(width):
            top, left = i * step[0], j * step[1]
            weight[:, :, top : top + k[0], left : left + k[1]] += window * after.weight[:, :, i, j, None, None]
    return weight


def _fold_pool_into_matrix(pool: Operator, source: Shape, after: Operator) -> Operator:
    channels, height, width = pool.output_shape(source)
    small = after.weight.reshape(-1, channels, height, width)
    window = pool.weight[:, 0]
    k, padding = window.shape[1:], pool.padding
    large = np.zeros((small.shape[0], channels, source[1] + 2 * padding[0], source[2] + 2 * padding[1]))
    for i in range(height):
        for j in range(width):
            top, left = i * pool.stride[0], j * pool.stride[1]
            large[:, :, top : top + k[0], left : left + k[1]] += window * small[:, :, i, j, None, None]
    inner = large[:, :, padding[0] : padding[0] + source[1], padding[1] : padding[1] + source[2]]
    return Operator(inner.reshape(small.shape[0], -1))


def _conv_size(size: int, kernel: int, operator: Operator, axis: int) -> int:
    reach = operator.dilation[axis] * (kernel - 1) + 1
    return (size + 2 * operator.padding[axis] - reach) // operator.stride[axis] + 1
