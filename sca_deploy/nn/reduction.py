"""Means per channel that cost little beside the network's own work."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sca_deploy.nn.layout import arranged_like, blocks, channels_lie_together, dense

VALUES = 1 << 16
"""Values of a block, over all time steps; more than that and the scores of a block leave the cache."""


def channel_mean(score: Callable[..., torch.Tensor], *values: torch.Tensor) -> torch.Tensor:
    """The mean of an elementwise score over every axis but the channel's, which is the third.

    Args:
        score: takes a block of each of `values`, of whatever shape, and returns as many scores.
        values: tensors (T, N, C, ...) of the same shape, such as potentials and spikes.

    Returns:
        (C,), in float32 at least; 0 if there is no sample.
    """
    first = dense(values[0])
    others = [arranged_like(first, value) for value in values[1:]]
    steps, samples, channels, *places = first.shape
    together = channels_lie_together(first)
    # A block must not part the channels of a place, nor the places of a map.
    row = max(1, channels if together else torch.Size(places).numel())
    neurons = max(1, VALUES // max(1, steps) // row) * row
    sums = [_row_sums(score(*block), row, together) for block in blocks(first, *others, neurons=neurons)]
    total = torch.stack(sums).sum(0) if together else torch.cat(sums, 1).view(steps * samples, channels).sum(0)
    return total * (channels / max(1, first.numel()))


def _row_sums(scores: torch.Tensor, row: int, together: bool) -> torch.Tensor:
    """Of scores (T, n): sums per channel (row,) where rows are places, else sums per map (T, n / row)."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    rows = scores.reshape(-1, row)
    if together:
        return rows.sum(0, dtype=dtype)
    # A product with ones is the fastest sum of a row.
    return (rows.to(dtype) @ rows.new_ones(row, dtype=dtype)).view(len(scores), -1)
