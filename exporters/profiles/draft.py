"""A graph on its way into a profile: flat, in double precision, with what was lost and what cannot be carried.

A pass takes a draft and gives another; nodes are replaced, never changed in place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import Walk, plan
from sca_deploy.hardware.program import Shape

FloatArray = npt.NDArray[np.float64]
Edge = tuple[str, str]
MAPS = (nir.Affine, nir.Conv2d)
"""Weighted nodes once every Linear is an Affine; a convolution over length is in no profile that scales."""


VALUES_MAX = 1 << 28
"""Values that a map may grow to when it is written out; 2 GiB in double precision."""


@dataclass(frozen=True, eq=False)
class Draft:
    """A graph without graphs inside.

    Args:
        losses: one sentence for each thing that is written as the nearest instead.
        refusals: one sentence for each thing that cannot be written at all.
        renamed: the name each spiking node has now, by the one it came with.
    """

    nodes: Mapping[str, nir.NIRNode]
    edges: tuple[Edge, ...]
    dynamics: Dynamics
    metadata: Mapping[str, Any]
    losses: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def graph(self) -> nir.NIRGraph:
        """As a NIR graph whose types are not checked."""
        return nir.NIRGraph(dict(self.nodes), list(self.edges), dict(self.metadata), type_check=False)

    @cached_property
    def walk(self) -> Walk:
        """How the graph is run: shapes and the edges that close a loop.

        Raises:
            ScaDeployError: naming a node that does not fit what it reads.
        """
        return plan(self.graph)

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each node's output."""
        return self.walk.shapes

    def sources(self, name: str) -> list[str]:
        """What a node reads, in the order of the edges."""
        return [source for source, target in self.edges if target == name]

    def targets(self, name: str) -> list[str]:
        """What reads a node."""
        return [target for source, target in self.edges if source == name]

    def entering(self, name: str) -> Shape:
        """The shape of what enters a node."""
        return self.shapes[self.sources(name)[0]]

    def free(self, name: str) -> str:
        """`name`, with an underscore behind it for each node that is called so already."""
        while name in self.nodes:
            name += "_"
        return name

    def put(self, name: str, node: nir.NIRNode) -> Draft:
        """With a node of that name in the place of the earlier, or at the end."""
        return replace(self, nodes={**self.nodes, name: node})

    def wired(self, edges: Iterable[Edge]) -> Draft:
        """With these edges, each once."""
        return replace(self, edges=tuple(dict.fromkeys(edges)))

    def without(self, name: str) -> Draft:
        """With a node taken out and what it read led to what read it."""
        before, edges = self.sources(name), []
        for source, target in self.edges:
            if source == name:
                edges += [(origin, target) for origin in before]
            elif target != name:
                edges.append((source, target))
        nodes = {other: node for other, node in self.nodes.items() if other != name}
        return replace(self.wired(edges), nodes=nodes)

    def before(self, name: str, new: str, node: nir.NIRNode) -> Draft:
        """With a new node that reads what `name` read, and is all that `name` reads."""
        edges = [(source, new if target == name else target) for source, target in self.edges]
        return self.put(new, node).wired([*edges, (new, name)])

    def between(self, source: str, target: str, new: str, node: nir.NIRNode) -> Draft:
        """With a new node on one edge."""
        edges: list[Edge] = []
        for edge in self.edges:
            edges += [(source, new), (new, target)] if edge == (source, target) else [edge]
        return self.put(new, node).wired(edges)

    def losing(self, *sentences: str) -> Draft:
        """With further losses."""
        return replace(self, losses=(*self.losses, *sentences))

    def refusing(self, *sentences: str) -> Draft:
        """With further things that cannot be carried."""
        return replace(self, refusals=(*self.refusals, *sentences))


Pass = Callable[[Draft], Draft]


def double(value: Any) -> FloatArray:
    """As an array in double precision."""
    return np.asarray(value, np.float64)


def spread(value: Any, shape: Shape) -> FloatArray:
    """One value for all, or one each, in a shape and in double precision."""
    values = double(value)
    return np.full(shape, values.flat[0]) if values.size == 1 else values.reshape(shape).copy()


def changed(node: nir.NIRNode, **values: Any) -> Any:
    """A copy of a node with other values; of the same type, its inferred shapes left behind."""
    new = copy.copy(node)
    for key, value in values.items():
        setattr(new, key, value)
    return new


def identity(shape: Shape, factor: FloatArray, bias: FloatArray | None = None) -> nir.NIRNode | None:
    """The map that multiplies (channels,) of a map of (C, H, W), or each of (features,), and adds a bias.

    None where the values have another shape, which no convolution or matrix reads and keeps, or are too many.
    """
    if shape[0] ** 2 > VALUES_MAX:
        return None
    none = np.zeros(shape[0]) if bias is None else bias
    if len(shape) == 1:
        return nir.Affine(np.diag(np.broadcast_to(factor, shape)), none)
    if len(shape) != 3:
        return None
    weight = np.diag(np.broadcast_to(factor, shape[:1])).reshape(shape[0], shape[0], 1, 1)
    return convolution(weight, none, (1, 1), (0, 0), (1, 1))


def convolution(
    weight: FloatArray, bias: FloatArray, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> nir.Conv2d:
    """An ungrouped convolution whose shapes are inferred later."""
    return nir.Conv2d(None, weight, stride, padding, dilation, 1, bias)


def per_channel(values: FloatArray, shape: Shape) -> FloatArray | None:
    """What all values of a channel share: (channels,), or (features,) of flat values; None where they differ."""
    full = np.broadcast_to(values, shape).reshape(shape[0], -1)
    if np.ptp(full, axis=1).max(initial=0.0) > 1e-9 * np.abs(full).max(initial=0.0):
        return None
    return np.array(full[:, 0])
