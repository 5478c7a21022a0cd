"""What reaches a population through its synapses, for many samples and all time steps at once.

Values over time are float tensors (steps, samples, neurons) that hold integers; a map's neurons are in
(height, width, channel) order, in which convolutions are fastest. One step stands for all, where they are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sca_deploy.hardware import events
from sca_deploy.hardware.arithmetic import wrap_activation
from sca_deploy.hardware.program import ALIGNMENT_BITS, STATE_LIMIT, Conv, Dense, Program, Shape, Synapse

ALIGNED = 1 << ALIGNMENT_BITS


def channels_last(shape: Shape) -> npt.NDArray[np.int64]:
    """The index in (C, H, W) order of every neuron of a map in (H, W, C) order; flat layers stay as they are."""
    index = np.arange(np.prod(shape)).reshape(shape)
    return (index.transpose(1, 2, 0) if len(shape) == 3 else index).reshape(-1)


def largest_sum(synapse: Synapse) -> int:
    """The largest magnitude of a sum, for payloads of 0 or 1: messages are never negative."""
    weight = synapse.weight.astype(np.int64).reshape(len(synapse.weight), -1)
    swings = weight.clip(min=0).sum(axis=1), -weight.clip(max=0).sum(axis=1)
    return int(np.maximum(*swings).max(initial=0))


class ConvKernel:
    """The aligned sums of a convolution, wrapped to 24 bits as Lava's Conv does.

    Args:
        delay: steps from a spike to its effect.
        dtype: one that holds every sum exactly.
    """

    def __init__(self, program: Program, conv: Conv, delay: int, dtype: torch.dtype) -> None:
        self._conv, self._delay = conv, delay
        self._map = program.shape_of(conv.source)
        weight = torch.tensor(conv.weight, dtype=dtype) * ALIGNED
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._wraps = largest_sum(conv) * program.payload_max(conv.source) >= STATE_LIMIT
        self._events_below = 0.0
        if conv.groups == 1 and program.payload_max(conv.source) == 1:
            out, inside, *kernel = conv.weight.shape
            places = 1 / (conv.stride[0] * conv.stride[1])
            self._events_below = events.pays_below(out, kernel[0] * kernel[1], places, inside)
        self._table = events.table(weight) if self._events_below else weight

    def parts(self, spikes: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(delay, sums of `spikes`), to be added up."""
        conv, steps = self._conv, len(spikes)
        if events.rare(spikes, self._events_below):
            sums = events.conv_sums(spikes, self._map, conv, self._table)
            yield self._delay, sums.view(steps, spikes.shape[1], -1)
            return
        frames = _maps(spikes, self._map).to(self._weight.dtype)
        a = F.conv2d(frames, self._weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
        if self._wraps:
            a = wrap_activation(a.double() / ALIGNED).to(a.dtype) * ALIGNED
        yield self._delay, a.permute(0, 2, 3, 1).reshape(steps, spikes.shape[1], -1)


def _maps(values: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(steps, samples, neurons) as images (steps x samples, C, H, W), without a copy."""
    channels, height, width = shape
    if channels == 1:
        # The same memory; torch can convolve wrongly where a single channel claims to be the innermost axis.
        return values.view(-1, 1, height, width)
    return values.view(-1, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class Bundle:
    """The weights of equal delay: (inputs, out), of the inputs in `columns`, or of all.

    Below a fraction of `events_below` that fires, their sums are made event by event.
    """

    delay: int
    columns: torch.Tensor | None
    weight: torch.Tensor
    events_below: float

    def sums(self, spikes: torch.Tensor) -> torch.Tensor:
        """(..., out) from (..., inputs)."""
        read = spikes if self.columns is None else spikes.index_select(-1, self.columns)
        if events.rare(read, self.events_below):
            return events.dense_sums(read, self.weight)
        return read.to(self.weight.dtype) @ self.weight


class DenseKernel:
    """The aligned sums of a fully connected synapse: one matrix product for each different delay.

    Args:
        later: steps from a spike to its effect, beyond the synapse's own delay.
        dtype: one that holds every sum exactly.
    """

    def __init__(self, program: Program, dense: Dense, later: int, dtype: torch.dtype) -> None:
        order = channels_last(program.shape_of(dense.source))
        binary = program.payload_max(dense.source) == 1
        weight = dense.weight[:, order]
        if np.ndim(dense.delay) == 0:
            self.bundles = [_bundle(weight, int(dense.delay) + later, dtype, binary)]
            return
        delay = np.broadcast_to(dense.delay, weight.shape)[:, order]
        self.bundles = [
            _bundle(np.where(delay == steps, weight, 0), int(steps) + later, dtype, binary)
            for steps in np.unique(delay[weight != 0])
        ]

    def parts(self, spikes: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(delay, sums of `spikes`), to be added up."""
        for bundle in self.bundles:
            yield bundle.delay, bundle.sums(spikes)


def _bundle(weight: npt.NDArray[np.int32], delay: int, dtype: torch.dtype, binary: bool) -> Bundle:
    used = np.flatnonzero(weight.any(axis=0))
    # Picking columns costs about as much as multiplying by those that it saves.
    picked = len(used) <= weight.shape[1] // 2
    held = torch.tensor(weight[:, used] if picked else weight, dtype=dtype) * ALIGNED
    events_below = events.pays_below(len(held), 1, 1, held.shape[1]) if binary and held.numel() else 0.0
    return Bundle(delay, torch.from_numpy(used) if picked else None, held.T.contiguous(), events_below)


Kernel = ConvKernel | DenseKernel


def kernel_of(program: Program, synapse: Synapse, later: int, dtype: torch.dtype) -> Kernel:
    """What computes a synapse's sums exactly in `dtype`, which reach the population `later` than its delay says."""
    if isinstance(synapse, Conv):
        return ConvKernel(program, synapse, later, dtype)
    return DenseKernel(program, synapse, later, dtype)


def arrived(parts: Iterator[tuple[int, torch.Tensor]], steps: int) -> torch.Tensor | None:
    """The sum of parts, each a number of steps later; one step where all are equal, None without parts."""
    total: torch.Tensor | None = None
    for delay, part in parts:
        if total is None and delay == 0:
            total = part
        elif delay == 0 and total is not None and len(total) <= len(part):
            total = part.add_(total)
        else:
            total = _over_time(total, part, steps)
            if delay < steps:
                total[delay:] += part[: steps - delay]
    return total


def _over_time(total: torch.Tensor | None, part: torch.Tensor, steps: int) -> torch.Tensor:
    """`total` with all its steps."""
    if total is None:
        return part.new_zeros(steps, *part.shape[1:])
    return total if len(total) == steps else total.repeat(steps, 1, 1)
