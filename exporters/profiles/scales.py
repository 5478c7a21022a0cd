"""Factors and constants without a node of their own: folded into the maps before or after.

A factor moves forward through pools and Flattens until a map takes it into its columns, if everything it
reaches takes it; otherwise backward through them into the rows of the maps it comes from. Where it comes from
spikes, a map that does nothing else takes it.
"""

from __future__ import annotations

import nir
import numpy as np

from sca_deploy.exporters.profiles.draft import MAPS, Draft, FloatArray, changed, double, identity, per_channel, spread
from sca_deploy.hardware.float_nodes import pair
from sca_deploy.hardware.program import Shape

PASSING = (nir.SumPool2d, nir.Flatten)
"""Nodes that a factor passes through."""


def averages_as_sums(draft: Draft) -> Draft:
    """An average over k x k, zeros of its padding included, is a sum and a Scale of 1 / k^2."""
    for name, node in list(draft.nodes.items()):
        if isinstance(node, nir.AvgPool2d):
            kernel, stride, padding = (np.array(pair(getattr(node, k))) for k in ("kernel_size", "stride", "padding"))
            shape, scale = draft.shapes[name], draft.free(f"{name}_scale")
            targets = draft.targets(name)
            draft = draft.put(name, nir.SumPool2d(kernel, stride, padding))
            draft = draft.put(scale, nir.Scale(np.full(shape, 1.0 / float(np.prod(kernel)))))
            moved = [(scale if source == name else source, target) for source, target in draft.edges]
            draft = draft.wired([*moved, (name, scale)] if targets else moved)
    return draft


def scales_folded(draft: Draft) -> Draft:
    """Without Scale nodes."""
    for name, node in list(draft.nodes.items()):
        if isinstance(node, nir.Scale):
            factor = spread(node.scale, draft.shapes[name])
            ahead = _forward(draft, name, factor) or _backward(draft, name, name, factor)
            draft = ahead.without(name)
    return draft


def read_scaled(draft: Draft, name: str, factor: FloatArray) -> Draft:
    """With what enters a node multiplied by a factor, (channels,)."""
    shape = draft.entering(name)
    return _backward(draft, name, name, _spread(factor, shape))


def _spread(factor: FloatArray, shape: Shape) -> FloatArray:
    return np.array(np.broadcast_to(factor.reshape(-1, *(1,) * (len(shape) - 1)), shape))


def _forward(draft: Draft, name: str, factor: FloatArray) -> Draft | None:
    """With the factor in every map that the node's output reaches; None where something else reads it too."""
    if not draft.targets(name):
        return None
    for target in draft.targets(name):
        node = draft.nodes[target]
        if draft.sources(target) != [name]:
            return None
        passed: Draft | None
        if isinstance(node, PASSING):
            after = _after(draft, target, node, factor)
            passed = None if after is None else _forward(draft, target, after)
        elif isinstance(node, MAPS):
            passed = _into_columns(draft, target, node, factor)
        else:
            return None
        if passed is None:
            return None
        draft = passed
    return draft


def _after(draft: Draft, name: str, node: nir.NIRNode, factor: FloatArray) -> FloatArray | None:
    shape = draft.shapes[name]
    if isinstance(node, nir.Flatten):
        return factor.reshape(shape)
    channels = per_channel(factor, factor.shape)
    return None if channels is None else _spread(channels, shape)


def _into_columns(draft: Draft, name: str, node: nir.NIRNode, factor: FloatArray) -> Draft | None:
    if isinstance(node, nir.Affine):
        return draft.put(name, changed(node, weight=double(node.weight) * factor.reshape(1, -1)))
    channels = per_channel(factor, factor.shape)
    if channels is None:
        return None
    weight = double(node.weight)
    # Output o reads the channels of its group.
    mine = channels.reshape(int(node.groups), 1, -1).repeat(len(weight) // int(node.groups), 1)
    return draft.put(name, changed(node, weight=weight * mine.reshape(len(weight), -1, 1, 1)))


def _backward(draft: Draft, name: str, reader: str, factor: FloatArray) -> Draft:
    """With every value that enters `name` multiplied; `reader` names what new maps are for."""
    for source in draft.sources(name):
        node = draft.nodes[source]
        rows = per_channel(factor, factor.shape)
        if isinstance(node, MAPS) and rows is not None:
            draft, source = _own(draft, source, name, reader)
            weight, bias = double(node.weight), double(node.bias)
            by_row = rows.reshape(-1, *(1,) * (weight.ndim - 1))
            draft = draft.put(source, changed(node, weight=weight * by_row, bias=bias * rows))
        else:
            through = _through(draft, source, name, reader, factor)
            draft = through or _by_a_map(draft, source, name, reader, factor)
    return draft


def _through(draft: Draft, source: str, name: str, reader: str, factor: FloatArray) -> Draft | None:
    """With what enters a pool or a Flatten multiplied; None where that cannot be."""
    node, before = draft.nodes[source], len(draft.refusals)
    rows = per_channel(factor, factor.shape)
    if not isinstance(node, PASSING) or (rows is None and isinstance(node, nir.SumPool2d)):
        return None
    draft, source = _own(draft, source, name, reader)
    shape = draft.entering(source)
    inner = _spread(rows, shape) if isinstance(node, nir.SumPool2d) and rows is not None else factor.reshape(shape)
    moved = _backward(draft, source, reader, inner)
    return None if len(moved.refusals) > before else moved


def _own(draft: Draft, source: str, name: str, reader: str) -> tuple[Draft, str]:
    """The source, or where others read it too a copy that only `name` reads, under a name of its own."""
    if draft.targets(source) == [name]:
        return draft, source
    copy = draft.free(f"{source}_to_{reader}")
    edges = [(copy, name) if edge == (source, name) else edge for edge in draft.edges]
    read = [(origin, copy) for origin in draft.sources(source)]
    return draft.put(copy, draft.nodes[source]).wired([*read, *edges]), copy


def _by_a_map(draft: Draft, source: str, name: str, reader: str, factor: FloatArray) -> Draft:
    """With a map between the two that multiplies."""
    shape = draft.shapes[source]
    rows = per_channel(factor.reshape(shape), shape)
    node = None if rows is None else identity(shape, rows)
    if node is None:
        return draft.refusing(
            f"values of shape {shape} between '{source}' and '{reader}' are scaled one by one, which no map carries"
        )
    return draft.between(source, name, draft.free(f"{source}_to_{reader}"), node)


def biased(draft: Draft, name: str, bias: FloatArray) -> Draft:
    """With a constant (channels,) added to what enters a population, in the first map that feeds it alone."""
    loop = next(set(part) for part in draft.walk.parts if name in part)
    ahead = [source for source in draft.sources(name) if source not in loop]
    for source in ahead:
        node = draft.nodes[source]
        if isinstance(node, MAPS) and draft.targets(source) == [name] and len(node.bias) == len(bias):
            return draft.put(source, changed(node, bias=double(node.bias) + bias))
    node = identity(draft.shapes[name], np.ones(1), bias)
    if node is None or not ahead:
        return draft.refusing(f"'{name}' has a constant input, and no map before it can carry it")
    return draft.between(ahead[0], name, draft.free(f"{ahead[0]}_to_{name}"), node)
