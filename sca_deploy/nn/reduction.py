"""Means per channel that cost little beside the network's own work."""

from __future__ import annotations

from collections.abc import Callable

import torch

BLOCK = 1 << 16
"""Values that a processor core works on at a time: few enough that they stay in its cache between operations."""


def channel_mean(score: Callable[..., torch.Tensor], *values: torch.Tensor) -> torch.Tensor:
    """The mean of an elementwise score over every axis but the channel's, which is the third.

    Args:
        score: takes a block of each of `values`, of whatever shape, and returns as many scores.
        values: tensors (T, N, C, ...) of the same shape, such as potentials and spikes.

    Returns:
        (C,), in float32 at least.
    """
    channels, count = values[0].shape[2], max(1, values[0].numel())
    dtype = torch.promote_types(values[0].dtype, torch.float32)
    total = torch.zeros(channels, dtype=dtype, device=values[0].device)
    rows, innermost = _rows([value.flatten(0, 1) for value in values])
    ones = torch.ones(max(map(len, (rows[0], rows[0].T))), dtype=dtype, device=total.device)
    # A product with ones is the fastest sum there is.
    if innermost:
        for block in _blocks(rows):
            scores = score(*block).to(dtype)
            total.addmv_(scores.T, ones[: len(scores)])
    else:
        sums = [score(*block).to(dtype) @ ones[: rows[0].shape[1]] for block in _blocks(rows)]
        total += torch.cat(sums).view(-1, channels).sum(0)
    return total.mul_(channels / count)


def _rows(values: list[torch.Tensor]) -> tuple[list[torch.Tensor], bool]:
    """Tensors (N, C, ...) as matrices without copying: (N ..., C) and True for channels-last, else (N C, ...)."""
    if all(value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last) for value in values):
        return [value.permute(0, 2, 3, 1).flatten(0, 2) for value in values], True
    if values[0].dim() == 2:
        return values, True
    return [value.flatten(2).flatten(0, 1) for value in values], False


def _blocks(rows: list[torch.Tensor]) -> zip[tuple[torch.Tensor, ...]]:
    """The same rows of every matrix, a few at a time; on other devices all at once."""
    length, width = rows[0].shape
    block = length
    if rows[0].device.type == "cpu":
        block = BLOCK * torch.get_num_threads() // max(1, width)
    return zip(*(matrix.split(max(1, block)) for matrix in rows), strict=True)
