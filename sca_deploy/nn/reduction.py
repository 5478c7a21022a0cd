"""Means per channel that cost little beside the network's own work."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sca_deploy.nn.layout import arranged_like, blocks, dense, is_channels_last


class ChannelMean:
    """The mean of an elementwise score over every axis but the channel's, taken from blocks of neurons.

    Args:
        score: takes a block of each value, of whatever shape, and returns as many scores.
        like: dense (T, N, C, ...); blocks of values arranged like it will come, in the order of memory.
    """

    def __init__(self, score: Callable[..., torch.Tensor], like: torch.Tensor) -> None:
        self._score, self._last = score, is_channels_last(like)
        self._shape = like.shape
        self.unit = max(1, like.shape[2] if self._last else like.shape[3:].numel())
        """Neurons that blocks must not part: the channels of a place, or the places of a map."""
        self._sums: list[torch.Tensor] = []

    def add(self, *block: torch.Tensor) -> None:
        """Take a block (T, n) of each value."""
        scores = self._score(*block)
        rows = scores.view(-1, self.unit)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        if self._last:
            self._sums.append(rows.sum(0, dtype=dtype))
        else:
            # A product with ones is the fastest sum of a row.
            self._sums.append((rows.to(dtype) @ rows.new_ones(self.unit, dtype=dtype)).view(len(scores), -1))

    def value(self) -> torch.Tensor:
        """(C,), in float32 at least; 0 for values without samples."""
        steps, samples, channels, *_ = self._shape
        if self._last:
            total = torch.stack(self._sums).sum(0)
        else:
            total = torch.cat(self._sums, 1).view(steps * samples, channels).sum(0)
        return total * (channels / max(1, self._shape.numel()))


def channel_mean(score: Callable[..., torch.Tensor], *values: torch.Tensor) -> torch.Tensor:
    """The mean of an elementwise score over every axis but the channel's, which is the third.

    Args:
        score: takes a block of each of `values`, of whatever shape, and returns as many scores.
        values: tensors (T, N, C, ...) of the same shape, such as potentials and spikes.

    Returns:
        (C,), in float32 at least.
    """
    first = dense(values[0])
    mean = ChannelMean(score, first)
    for block in blocks(first, *(arranged_like(first, value) for value in values[1:]), unit=mean.unit):
        mean.add(*block)
    return mean.value()
