"""Which channels of a graph are the same ones, and the graph without some of them.

Maps start new channels; neurons, pooling, scales, delays, depthwise convolutions, matrices along a last axis and sums
hand them on; flattening makes several values of each. Channels that meet in a sum live or die together. Those of the
Input and the Output, and those of convolutions in groups, stay; so do channels that a masked population would not
silence: what enters beside it by another way, biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import nir
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.euler import INTEGRATORS, NEURONS, SPIKING
from sca_deploy.hardware.flattening import flattened
from sca_deploy.hardware.float_graph import Walk
from sca_deploy.hardware.float_nodes import WEIGHTED, flat_axis
from sca_deploy.hardware.program import Shape
from sca_deploy.nn.graph_network import GraphNetwork, starts_channels
from sca_deploy.pruning.group import ChannelGroup

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Axis:
    """The first axis of a value: `each` entries of every channel of a set of channels."""

    channels: str
    each: int = 1


class Channels:
    """The sets of channels of a graph.

    `of` gives the axis of each node's output; `fixed` names the sets that keep all their channels.
    """

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._parent: dict[str, str] = {}
        self._fixed: set[str] = set()
        self._axes: dict[str, Axis] = {}
        self._sizes: dict[str, int] = {}
        order = [name for part in walk.parts for name in part]
        for name in order:
            self._axes[name] = self._starting(name)
        for name in order:
            self._meet(name)

    def of(self, name: str) -> Axis:
        """The axis of a node's output."""
        axis = self._axes[name]
        return Axis(self._root(axis.channels), axis.each)

    def read(self, name: str) -> Axis:
        """The axis of what a node reads."""
        return self.of(self._walk.sources[name][0])

    def fixed(self, channels: str) -> bool:
        """Whether a set of channels keeps all of them."""
        return self._root(channels) in {self._root(name) for name in self._fixed}

    def size(self, channels: str) -> int:
        """How many channels a set has."""
        return self._sizes[self._root(channels)]

    def members(self, channels: str) -> list[str]:
        """The nodes whose outputs have these channels, in order."""
        return [name for name, axis in self._axes.items() if self._root(axis.channels) == self._root(channels)]

    def _starting(self, name: str) -> Axis:
        """A set of its own for every node, joined later with what it hands on."""
        self._parent[name] = name
        shape = self._walk.shapes[name]
        node = self._walk.nodes[name]
        each = 1
        if isinstance(node, nir.Flatten):
            read = self._walk.shapes[self._walk.sources[name][0]]
            first, last = (flat_axis(int(n), len(read)) for n in (node.start_dim, node.end_dim))
            each = int(np.prod(read[1 : last + 1])) if first == 0 else 1
        elif not starts_channels(self._walk, name) and name != self._walk.input:
            source = self._walk.sources[name][0]
            each = self._axes[source].each if source in self._axes else 1
        self._sizes[name] = shape[0] // each
        if name in (self._walk.input, self._walk.output):
            self._fixed.add(name)
        return Axis(name, each)

    def _meet(self, name: str) -> None:
        node, sources = self._walk.nodes[name], self._walk.sources[name]
        for other in sources[1:]:
            self._join(self._axes[sources[0]], self._axes[other])
        if not sources:
            return
        read = self._axes[sources[0]]
        if isinstance(node, nir.Conv1d | nir.Conv2d) and int(node.groups) > 1:
            if not depthwise(node):
                self._fixed |= {name, read.channels}
                return
            self._join(read, self._axes[name])
        elif isinstance(node, nir.Flatten):
            own = self._axes[name]
            self._join(Axis(read.channels), Axis(own.channels))
        elif not starts_channels(self._walk, name):
            self._join(read, self._axes[name])

    def _join(self, one: Axis, other: Axis) -> None:
        a, b = self._root(one.channels), self._root(other.channels)
        if one.each != other.each or self._sizes[a] != self._sizes[b]:
            self._fixed |= {a, b}
        elif a != b:
            self._parent[b] = a

    def _root(self, name: str) -> str:
        while self._parent[name] != name:
            name = self._parent[name]
        return name


def depthwise(node: Any) -> bool:
    """Whether a convolution in groups has one output and one input channel a group."""
    return bool(1 < int(node.groups) == node.weight.shape[0] and node.weight.shape[1] == 1)


def graph_groups(network: GraphNetwork) -> list[ChannelGroup]:
    """The groups of a graph in the order of their first populations.

    Only channels that are zero everywhere once their populations read nothing: those that fire or leak towards
    anything by themselves, thresholds below zero, and what nothing masks on its way to a map, keep theirs.
    """
    channels, walk = Channels(network.walk), network.walk
    loud = _loud(walk)
    groups: dict[str, list[str]] = {}
    for name in network.neurons():
        groups.setdefault(channels.of(name).channels, []).append(name)
    found = []
    for key, populations in groups.items():
        members = channels.members(key)
        if channels.fixed(key) or any(name in loud for name in members):
            continue
        if any(channels.of(name).each != 1 for name in populations):
            continue
        maps = [name for name in members if starts_channels(walk, name)]
        parameters = tuple(cast(nn.Parameter, network.part(name).weight) for name in maps)
        gates = tuple(network.norms()[name] for name in populations)
        neurons = tuple(network.neurons()[name] for name in populations)
        found.append(ChannelGroup(populations[0], gates, neurons, parameters))
    return found


def _loud(walk: Walk) -> set[str]:
    """The nodes that still say something where other channels begin, in channels whose populations all read nothing.

    What only populations read, in the end, their gates stop.
    """
    loud = {name for name in walk.nodes if not _silenced(name, walk)}
    while more := {
        name
        for name, sources in walk.sources.items()
        if name not in loud and not isinstance(walk.nodes[name], SPIKING) and not loud.isdisjoint(sources)
    } - {walk.output}:
        loud |= more
    heard = {s for n, sources in walk.sources.items() if n == walk.output or _mixes(n, walk) for s in sources}
    return {name for name in loud if name in heard or isinstance(walk.nodes[name], SPIKING)}


def _mixes(name: str, walk: Walk) -> bool:
    """Whether a channel of the output is made of several of what is read."""
    node = walk.nodes[name]
    return starts_channels(walk, name) and not (isinstance(node, nir.Conv1d | nir.Conv2d) and depthwise(node))


def _silenced(name: str, walk: Walk) -> bool:
    """Whether no input in a channel means no output in it."""
    node = walk.nodes[name]
    if isinstance(node, nir.Threshold):
        return bool(np.min(node.threshold) >= 0)
    if isinstance(node, WEIGHTED):
        return not np.any(getattr(node, "bias", 0.0)) and not _mixes(name, walk)
    if not isinstance(node, NEURONS):
        return name != walk.input
    at_rest = not np.any(getattr(node, "v_leak", 0.0))
    return at_rest and (isinstance(node, INTEGRATORS) or bool(np.min(node.v_threshold) > 0))


def kept_channels(network: GraphNetwork) -> dict[str, torch.Tensor]:
    """For every population the channels (channels,) that compaction leaves."""
    kept = _Kept(network)
    return {name: torch.from_numpy(kept.of(name)) for name in network.neurons()}


def compact_graph(network: GraphNetwork) -> GraphNetwork:
    """A new network without masked channels, gates folded into the weights, in evaluation mode.

    Graphs inside the graph are taken apart: their nodes are called `<graph>.<node>`.

    Raises:
        ScaDeployError: if a population has no channel left.
    """
    kept = _Kept(network)
    opened = network.twin(network.dtype)
    for name, gate in opened.norms().items():
        if not kept.of(name).any():
            raise ScaDeployError(f"population '{name}' has no channel left", "raise prune.floor")
        if not gate.folds:  # its channels go, and with them the need for a mask
            gate.mask.fill_(1.0)
    whole = opened.to_nir()
    nodes, edges = flattened(whole)
    for name, sources in network.walk.sources.items():
        if sources:
            along = not starts_channels(network.walk, name)
            _cut(nodes[name], kept.of(name), kept.read(name), network.walk.shapes[sources[0]], along)
    graph = nir.NIRGraph(nodes, list(dict.fromkeys(edges)), metadata=whole.metadata, type_check=False)
    return GraphNetwork(graph, network.dynamics, network.steps, network.dtype).eval()


class _Kept:
    """Which entries of the first axes of all values stay, as the gates say."""

    def __init__(self, network: GraphNetwork) -> None:
        self._channels = Channels(network.walk)
        names = {id(part): name for name, part in network.neurons().items()}
        self._masks: dict[str, Mask] = {}
        for group in graph_groups(network):
            channels = self._channels.of(names[id(group.neurons[0])]).channels
            self._masks[channels] = group.mask.cpu().numpy() > 0

    def of(self, name: str) -> Mask:
        """Of a node's output."""
        return self._along(self._channels.of(name))

    def read(self, name: str) -> Mask:
        """Of what a node reads."""
        return self._along(self._channels.read(name))

    def _along(self, axis: Axis) -> Mask:
        mask = self._masks.get(axis.channels, np.ones(self._channels.size(axis.channels), bool))
        return np.repeat(mask, axis.each)


def _cut(node: Any, out: Mask, read: Mask, shape: Shape, along: bool) -> None:
    """Take what goes out of a node's arrays; it read values of this shape, and handed on their channels if `along`."""
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        grouped = depthwise(node)
        node.weight, node.bias = node.weight[out], None if node.bias is None else np.asarray(node.bias)[out]
        if grouped:
            node.groups = len(node.weight)
        elif int(node.groups) == 1:
            node.weight = node.weight[:, read]
    elif isinstance(node, nir.Affine | nir.Linear):
        if along:
            return
        columns = np.repeat(read, node.weight.shape[1] // len(read))
        node.weight = node.weight[out][:, columns]
        if isinstance(node, nir.Affine):
            node.bias = np.asarray(node.bias)[out]
    elif isinstance(node, nir.Flatten):
        node.input_type = {"input": np.array([int(read.sum()), *shape[1:]])}
    elif isinstance(node, (*NEURONS, nir.Scale, nir.Threshold, nir.Delay)):
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray) and value.size > 1:
                setattr(node, key, value.reshape(shape)[out])
    if not isinstance(node, nir.Output):
        node.__post_init__()  # which says anew what shapes it has
