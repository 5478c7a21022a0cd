"""Batch dimensions that a writer left in a NIR graph, whose shapes have none.

A leading axis of one is either the batch or a size like any other, and only the nodes around tell which: a matrix
reads and gives vectors, a convolution a map whose number of channels its weights say. Where they say nothing, or
the shape fits as it is, it stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sca_deploy.exporters.nir_members import FLOATS, GRAPH, Document
from sca_deploy.hardware.program import Shape

CONVOLUTIONS = {"Conv1d": 2, "Conv2d": 3}
"""How many axes their maps have."""
MATRICES = ("Affine", "Linear")
POOLS = ("SumPool2d", "AvgPool2d")
ENDS = {"Input": "input", "Output": "output"}
NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
ELEMENTWISE = (*NEURONS, "Scale", "Threshold", "Delay")
"""Types with one parameter for every value that passes."""

AXES = {"start_dim": 1, "end_dim": -1}
"""What a Flatten spans where its file does not say."""

log = logging.getLogger(__name__)

Fits = Callable[[Document, Shape], bool | None]


def without_batches(graph: Document) -> None:
    """Take the batch out of the shapes of a graph and of those inside it, where other nodes show it to be one."""
    for node in graph.nodes.values():
        if node.kind == GRAPH:
            without_batches(node)
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    after: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        if source in graph.nodes and target in graph.nodes:
            before[target].append(source)
            after[source].append(target)
    waiting = list(graph.nodes)
    while waiting:
        name = waiting.pop()
        around: list[tuple[Fits, Document]] = [(gives, graph.nodes[other]) for other in before[name]]
        around += [(reads, graph.nodes[other]) for other in after[name]]
        if _has_batch(graph.nodes[name], around):
            _drop(graph.nodes[name])
            waiting += [name, *before[name], *after[name]]  # which may see their own batch by this one's shape
    for name, node in graph.nodes.items():
        if node.kind == "Flatten":
            _count_axes_without_batch(node, [graph.nodes[other] for other in after[name]])


def _has_batch(node: Document, around: list[tuple[Fits, Document]]) -> bool:
    shape = shape_of(node)
    if shape is None or len(shape) < 2 or shape[0] != 1:
        return False
    # Nodes that have but a shape may have the same batch, so only maps and matrices speak for it as it is.
    whole = {fits(other, shape) for fits, other in around if other.kind not in (*ELEMENTWISE, *ENDS, GRAPH)}
    return True not in whole and any(fits(other, shape[1:]) for fits, other in around)


def shape_of(node: Document) -> Shape | None:
    """The shape that a node's own members say it has; None where they say none."""
    if node.kind in ELEMENTWISE:
        sizes = [node.values[key].shape for key in FLOATS[node.kind] if key in node.values]
        return max(sizes, key=lambda shape: (int(np.prod(shape)), len(shape)), default=None)
    values = node.values.get(_shape_key(node))
    return None if values is None else tuple(int(n) for n in values.ravel())


def gives(node: Document, shape: Shape) -> bool | None:
    """Whether values of this shape can leave the node; None where it does not say."""
    weight = node.values.get("weight")
    if node.kind in CONVOLUTIONS and weight is not None:
        return len(shape) == CONVOLUTIONS[node.kind] and shape[0] == weight.shape[0]
    if node.kind in MATRICES and weight is not None and weight.ndim == 2:
        return shape == weight.shape[:1]
    if node.kind == "Flatten":
        return None
    return _same(node, shape, "Output")


def reads(node: Document, shape: Shape) -> bool | None:
    """Whether values of this shape can enter the node; None where it does not say."""
    weight = node.values.get("weight")
    if node.kind in CONVOLUTIONS and weight is not None and weight.ndim > 1:
        groups = node.values.get("groups", np.ones(1, int)).ravel()
        return len(shape) == CONVOLUTIONS[node.kind] and shape[0] == weight.shape[1] * int(groups[0])
    if node.kind in MATRICES and weight is not None and weight.ndim == 2:
        return shape == weight.shape[1:]
    return _same(node, shape, "Input")


def _same(node: Document, shape: Shape, end: str) -> bool | None:
    if node.kind in POOLS:
        return True if len(shape) == 3 else False if len(shape) == 4 else None
    if node.kind == GRAPH:
        found = {shape_of(inner) for inner in node.nodes.values() if inner.kind == end}
        own = found.pop() if len(found) == 1 else None
    else:
        own = shape_of(node)
    return None if own is None or np.prod(own) == 1 else shape == own


def _shape_key(node: Document) -> str:
    """Which of its members says an end's or a Flatten's shape: `shape`, or the type of either port."""
    return next((key for key in ("shape", "input_type", "output_type") if key in node.values), "shape")


def _drop(node: Document) -> None:
    log.debug("%s: its first axis, of one, is the batch", node.place)
    if node.kind in ELEMENTWISE:
        rank = len(shape_of(node) or ())
        for key in FLOATS[node.kind]:
            value = node.values.get(key)
            if value is not None and value.ndim == rank:
                node.values[key] = value[0]
        return
    key = _shape_key(node)
    node.values[key] = node.values[key].ravel()[1:]
    if node.kind == "Flatten":
        _shift(node, -1)


def _count_axes_without_batch(node: Document, after: list[Document]) -> None:
    """A Flatten before a matrix leaves a vector; one that would leave more counted the batch."""
    start, end = (_axis(node, key, default) for key, default in AXES.items())
    matrices = [other.values["weight"] for other in after if other.kind in MATRICES and "weight" in other.values]
    shape = shape_of(node)
    reaches_end = end == -1 or shape is None or end == len(shape)
    if start == 1 and reaches_end and any(weight.ndim == 2 for weight in matrices):
        _shift(node, -1)


def _shift(node: Document, by: int) -> None:
    for key, default in AXES.items():
        axis = _axis(node, key, default)
        node.values[key] = np.array(max(axis + by, 0) if axis >= 0 else axis)


def _axis(node: Document, key: str, default: int) -> int:
    found: npt.NDArray[Any] = node.values.get(key, np.array(default)).ravel()
    return int(found[0]) if found.size else default
