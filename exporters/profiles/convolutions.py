"""Maps as every reader takes them: matrices with a bias, convolutions without groups, square, padded by numbers."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np

from sca_deploy.exporters.profiles.draft import VALUES_MAX, Draft, FloatArray, changed, convolution, double
from sca_deploy.hardware.float_nodes import pair

Pair = tuple[int, int]


def with_biases(draft: Draft) -> Draft:
    """Every Linear an Affine with a bias of zero, every missing bias of a convolution zero; in double precision."""
    nodes = dict(draft.nodes)
    for name, node in draft.nodes.items():
        if isinstance(node, nir.Linear):
            nodes[name] = nir.Affine(double(node.weight), np.zeros(len(node.weight)))
        elif isinstance(node, nir.Affine | nir.Conv1d | nir.Conv2d):
            bias = np.zeros(len(node.weight)) if node.bias is None else double(node.bias).reshape(-1)
            nodes[name] = changed(node, weight=double(node.weight), bias=bias)
    return replace(draft, nodes=nodes)


def matrices_read_flat(draft: Draft) -> Draft:
    """A Flatten before every matrix that reads a map."""
    for name, node in list(draft.nodes.items()):
        if isinstance(node, nir.Affine):
            shape = draft.entering(name)
            if len(shape) > 1 and int(np.prod(shape)) == node.weight.shape[1]:
                draft = draft.before(name, draft.free(f"{name}_flatten"), _flatten(len(shape)))
    return draft


def flattening_everything(draft: Draft) -> Draft:
    """Flatten counted from the end, so that no reader takes the batch for a part of the map."""
    for name, node in list(draft.nodes.items()):
        if isinstance(node, nir.Flatten):
            shape = draft.entering(name)
            everything = len(draft.shapes[name]) == 1
            matrices = all(isinstance(draft.nodes[target], nir.Affine) for target in draft.targets(name))
            if everything or matrices:
                draft = draft.put(name, _flatten(len(shape)))
            else:
                draft = draft.refusing(f"'{name}' flattens a part of {shape} to {draft.shapes[name]}")
    return draft


def _flatten(dims: int) -> nir.Flatten:
    return nir.Flatten({"input": None}, start_dim=-dims, end_dim=-1)


def plain_convolutions(draft: Draft) -> Draft:
    """Groups written out, padding in numbers, kernels made square with zeros."""
    for name, node in list(draft.nodes.items()):
        if isinstance(node, nir.Conv2d):
            shape = draft.entering(name)
            if _written_out(node) > VALUES_MAX:
                draft = draft.refusing(f"convolution '{name}' would hold {_written_out(node):,} weights if written out")
                continue
            weight, stride, padding, dilation = _numbers(node)
            weight = _ungrouped(weight, int(node.groups))
            square = _square(weight, (shape[1], shape[2]), stride, padding, dilation)
            if square is None:
                size = "x".join(map(str, weight.shape[2:]))
                draft = draft.refusing(f"convolution '{name}' has a {size} kernel, which no padding makes square")
                continue
            weight, padding = square
            draft = draft.put(name, convolution(weight, node.bias, stride, padding, dilation))
    return draft


def _written_out(node: nir.Conv2d) -> int:
    """At most how many weights it has without groups, holes and oblong kernels."""
    rows, columns, *kernel = node.weight.shape
    holes = pair(node.dilation) if isinstance(node.padding, str | bytes) else (1, 1)
    side = 2 + max(d * (k - 1) for d, k in zip(holes, kernel, strict=True))
    return int(rows * columns * int(node.groups) * side**2)


def _numbers(node: nir.Conv2d) -> tuple[FloatArray, Pair, Pair, Pair]:
    """Weight, stride, padding and dilation; 'same' around an even reach gets a row of zeros in front of the kernel."""
    weight, stride, dilation = double(node.weight), pair(node.stride), pair(node.dilation)
    if not isinstance(node.padding, str | bytes):
        return weight, stride, pair(node.padding), dilation
    word = node.padding.decode() if isinstance(node.padding, bytes) else str(node.padding)
    if word == "valid":
        return weight, stride, (0, 0), dilation
    reach = [dilation[a] * (weight.shape[2 + a] - 1) for a in (0, 1)]
    if any(r % 2 for r in reach):
        weight, dilation = _spread_out(weight, dilation), (1, 1)
        weight = np.pad(weight, ((0, 0), (0, 0), (reach[0] % 2, 0), (reach[1] % 2, 0)))
    return weight, stride, ((reach[0] + 1) // 2, (reach[1] + 1) // 2), dilation


def _spread_out(weight: FloatArray, dilation: Pair) -> FloatArray:
    """A dilated kernel with its holes written as zeros."""
    out, channels, height, width = weight.shape
    wide = np.zeros((out, channels, dilation[0] * (height - 1) + 1, dilation[1] * (width - 1) + 1))
    wide[:, :, :: dilation[0], :: dilation[1]] = weight
    return wide


def _ungrouped(weight: FloatArray, groups: int) -> FloatArray:
    out, channels = weight.shape[:2]
    full = np.zeros((out, channels * groups, *weight.shape[2:]))
    for group in range(groups):
        rows, columns = slice(group * out // groups, (group + 1) * out // groups), group * channels
        full[rows, columns : columns + channels] = weight[rows]
    return full


def _square(
    weight: FloatArray, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[FloatArray, Pair] | None:
    """A square kernel and its padding with the same outputs, zeros around the kernel and more padding before it.

    None where the parities are against it.
    """
    if weight.shape[2] == weight.shape[3]:
        return weight, padding
    longest = max(weight.shape[2:])
    for side in (longest, longest + 1):
        before = [_zeros_before(weight.shape[2 + a], side, size[a], stride[a], padding[a], dilation[a]) for a in (0, 1)]
        if before[0] is not None and before[1] is not None:
            sides = [(z, side - weight.shape[2 + a] - z) for a, z in enumerate((before[0], before[1]))]
            wider = (padding[0] + before[0] * dilation[0], padding[1] + before[1] * dilation[1])
            return np.pad(weight, ((0, 0), (0, 0), *sides)), wider
    return None


def _zeros_before(kernel: int, side: int, size: int, stride: int, padding: int, dilation: int) -> int | None:
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride
    for before in range(side - kernel + 1):
        wider = padding + before * dilation
        if (size + 2 * wider - dilation * (side - 1) - 1) // stride == outputs:
            return before
    return None


def padded_pools_as_convolutions(draft: Draft) -> Draft:
    """A sum over padded blocks as a convolution, because readers leave the padding of a pool out."""
    for name, node in list(draft.nodes.items()):
        if isinstance(node, nir.SumPool2d) and np.any(node.padding):
            kernel, channels = pair(node.kernel_size), draft.shapes[name][0]
            if channels**2 * max(kernel) ** 2 > VALUES_MAX:
                draft = draft.refusing(
                    f"pooling '{name}' of {channels:,} channels pads its map, which readers leave out"
                )
                continue
            weight = np.zeros((channels, channels, *kernel))
            weight[np.arange(channels), np.arange(channels)] = 1.0
            new = convolution(weight, np.zeros(channels), pair(node.stride), pair(node.padding), (1, 1))
            draft = draft.put(name, new)
    return draft
