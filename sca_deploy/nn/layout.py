"""How values over time lie in memory, and blocks of them that stay in the cache.

Values are (T, N, ...). They are dense if every time step is a contiguous or a channels-last map; where a
time step begins does not matter, so a frame that is repeated over time is dense too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

BLOCK = 1 << 15
"""Neurons that a processor core works on at a time: few enough that they stay in its cache between operations."""


def dense(x: torch.Tensor) -> torch.Tensor:
    """X itself if it is dense, else a copy; one repeated over time is copied once."""
    if x[0].is_contiguous() or _is_channels_last(x):
        return x
    return x[:1].contiguous().expand_as(x) if x.stride(0) == 0 else x.contiguous()


def channels_lie_together(x: torch.Tensor) -> bool:
    """Whether the channels of a place are neighbours in dense (T, N, C, ...); of (T, N, C) they are."""
    return x.dim() == 3 or _is_channels_last(x)


def _is_channels_last(x: torch.Tensor) -> bool:
    return x.dim() == 5 and x[0].is_contiguous(memory_format=torch.channels_last)


def empty_like(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A new tensor, each time step arranged as those of dense `x`.

    Not torch.empty_like, which makes time the innermost axis of a frame that is repeated over time.
    """
    return torch.empty_strided(x.shape, (x[0].numel(), *x.stride()[1:]), dtype=dtype, device=x.device)


def arranged_like(like: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """X itself if its time steps are arranged as those of dense `like`, else a copy that is."""
    return x if x.stride()[1:] == like.stride()[1:] else empty_like(like, x.dtype).copy_(x)


def blocks(*values: torch.Tensor, neurons: int | None = None) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same neurons of values arranged alike, as views (T, n) in the order of memory, block after block.

    Args:
        values: dense, of the same shape but for T.
        neurons: n, BLOCK if not given; times the number of threads. On devices other than the CPU all neurons
            are one block.
    """
    count = values[0][0].numel()
    block = max(1, count)
    if values[0].device.type == "cpu":
        block = (neurons or BLOCK) * torch.get_num_threads()
    flat = (x.as_strided((len(x), count), (x.stride(0), 1)) for x in values)
    return zip(*(x.split(block, 1) for x in flat), strict=True)
