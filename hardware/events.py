"""Synaptic sums event by event: the rows of a weight table that spikes point at are added up.

A dense product costs the same however few neurons fire. Here the price is a look at every neuron, and then so much
for every spike: it pays where spikes are rare and fan out widely.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sca_deploy.hardware.program import Conv, Shape

# Nanoseconds, measured on one core with 512-bit vectors; their ratios are what matters.
_MULTIPLY_ADD = 0.0115
_LOOK = 1.4
_BAG = 100.0
_EVENT = 35.0
_ADD = 0.1


def pays_below(outputs: int, taps: int, places: float, inputs: int) -> float:
    """The fraction of neurons that fire in a step below which events are faster than a dense product; 0 for never.

    Args:
        outputs: neurons that a spike reaches through one tap: the output channels, or all neurons.
        taps: of the kernel, 1 without one.
        places: output places for each place of the source, 1 without places.
        inputs: source neurons at a place.
    """
    dense = _MULTIPLY_ADD * outputs * taps * places
    saved = dense - _LOOK - _BAG * places / inputs
    return max(0.0, saved / (taps * places * (_EVENT + _ADD * outputs)))


def rare(spikes: torch.Tensor, below: float) -> bool:
    """Whether less than that fraction of the neurons fires."""
    return below > 0 and float(spikes.mean()) < below


def dense_sums(spikes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., inputs) of 0 and 1 times (inputs, out)."""
    rows, columns = spikes.reshape(-1, spikes.shape[-1]).nonzero().unbind(1)
    sums = _bags(rows, columns, weight, spikes[..., 0].numel())
    return sums.view(*spikes.shape[:-1], -1)


def table(weight: torch.Tensor) -> torch.Tensor:
    """The weights (O, I, kh, kw) of a convolution as rows of O, for every tap and input channel."""
    return weight.permute(2, 3, 1, 0).reshape(-1, len(weight)).contiguous()


def conv_sums(spikes: torch.Tensor, source: Shape, conv: Conv, rows: torch.Tensor) -> torch.Tensor:
    """The sums of an ungrouped convolution, (images x places, O).

    Args:
        spikes: 0 and 1, any shape that holds images in (H, W, C) order.
        source: (C, H, W).
        conv: its geometry.
        rows: the `table` of its weights.
    """
    channels, height, width = source
    _, out_height, out_width = conv.output_shape(source)
    place, channel = _divided(spikes.view(-1).nonzero().squeeze(1), channels)
    line, x = _divided(place, width)
    image, y = _divided(line, height)
    kernel = conv.weight.shape[2:]
    ys = [_reached(conv, 0, y, tap, out_height) for tap in range(kernel[0])]
    xs = [_reached(conv, 1, x, tap, out_width) for tap in range(kernel[1])]
    targets, entries = [], []
    for i, (row, row_exists) in enumerate(ys):
        for j, (column, column_exists) in enumerate(xs):
            exists = row_exists & column_exists
            targets.append(((image * out_height + row) * out_width + column)[exists])
            entries.append((channel + (i * kernel[1] + j) * channels)[exists])
    target, order = torch.cat(targets).sort()
    images = spikes.numel() // (channels * height * width)
    return _bags(target, torch.cat(entries)[order], rows, images * out_height * out_width)


def _divided(x: torch.Tensor, by: int) -> tuple[torch.Tensor, torch.Tensor]:
    quotient = x // by
    return quotient, x - quotient * by


def _reached(
    conv: Conv, axis: int, position: torch.Tensor, tap: int, outputs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output position that a spike reaches through a tap along an axis, and whether it exists."""
    shifted = position + (conv.padding[axis] - tap * conv.dilation[axis])
    output, rest = _divided(shifted, conv.stride[axis])
    return output, (rest == 0) & (output >= 0) & (output < outputs)


def _bags(bag: torch.Tensor, entry: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """For each of `count` bags the sum of the rows whose `entry` is in it; `bag` is sorted."""
    starts = torch.searchsorted(bag, torch.arange(count))
    return F.embedding_bag(entry, rows, starts, mode="sum")
