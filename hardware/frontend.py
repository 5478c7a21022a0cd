"""Reads a NIR graph as populations of neurons in floats and the linear paths that feed them.

A population reads the sum of some paths, each a source (another population, itself, or the input), a delay
and one convolution or matrix into which everything linear on the way was folded (see `operators`). How a
population follows from what it reads is in `euler`. Graphs inside the graph are taken apart first.
What a chip cannot do is refused by the name of the node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.euler import NEURONS, Neuron, discrete, drift, refuse
from sca_deploy.hardware.flattening import flattened
from sca_deploy.hardware.operators import FloatArray, Operator, identity, reading
from sca_deploy.hardware.program import INPUT, Shape
from sca_deploy.hardware.values import Delays, Term, Value, folded, leaving, merged, spikes_of

READOUT = Neuron(alpha=0.0, beta=1.0, gain=1.0, threshold=None)
"""What a graph that ends in a linear map is read by: neurons that add it up and never fire."""
PATHS_MAX = 256
"""Paths that may meet in a node; a graph can double them with every node."""
FLAT_MAX = 4096
"""Neurons that read flat values one by one; the chip has no cheaper synapse for that than a matrix."""


@dataclass(frozen=True, eq=False)
class Path:
    """What a population reads from one source, `delay` steps late: (1, 1) or what broadcasts to a matrix."""

    source: str
    operator: Operator
    delay: Delays


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons of one kind, what feeds them, and their constant input (channels,)."""

    name: str
    shape: Shape
    paths: tuple[Path, ...]
    bias: FloatArray
    neuron: Neuron


def read_populations(graph: nir.NIRGraph, dt: float) -> tuple[Shape, list[Population]]:
    """The input's shape and the populations of a graph, each after those it reads.

    One-dimensional maps (channels, length) are given as (channels, 1, length).

    Args:
        graph: one Input and one Output; a population may read itself.
        dt: the time step in seconds that turns the graph's time constants into decays.

    Raises:
        ScaDeployError: naming the node that cannot be carried onto the chip, and why.
    """
    try:
        return _Reader(graph, dt).read()
    except RecursionError as error:
        raise ScaDeployError("the graph has too many nodes between two populations", "merge some of them") from error


class _Reader:
    """Follows the edges back from the output and from every population it meets."""

    def __init__(self, graph: nir.NIRGraph, dt: float) -> None:
        self._ties_fire = _ties_fire(graph)
        self._nodes, edges = flattened(graph)
        edges = list(dict.fromkeys(edges))  # edges are a set, whatever a file repeats
        self._dt = dt
        self._sources: dict[str, list[str]] = {name: [] for name in self._nodes}
        for source, target in edges:
            if source not in self._nodes or target not in self._nodes:
                raise ScaDeployError(f"the edge '{source}' -> '{target}' names a node that the graph does not hold")
            self._sources[target].append(source)
        self._input, self._output = self._only(nir.Input), self._only(nir.Output)
        self._shapes: dict[str, Shape] = {}
        self._values: dict[str, Value] = {}
        self._under_way: list[str] = []
        self._met: list[str] = []

    def read(self) -> tuple[Shape, list[Population]]:
        """The input's shape and all populations in order."""
        shape = self._input_shape()
        self._shapes[self._input] = shape
        end = self._sum(self._output)
        populations: dict[str, Population] = {}
        while len(populations) < len(self._met):
            name = self._met[len(populations)]
            populations[name] = self._population(name)
        ordered = self._ordered(populations)
        sources = [term.source for term in end.terms]
        if any(term.operator is not None for term in end.terms):
            ordered.append(_feeding(end.last, end, READOUT))
        elif any(not term.plain for term in end.terms):
            raise ScaDeployError(f"the graph ends in '{end.last}' without neurons", "end it in neurons or in an Affine")
        elif not ordered:
            raise ScaDeployError("the graph holds no neurons", "nothing to lower")
        elif sources != [ordered[-1].name]:
            raise ScaDeployError(
                f"the Output sums {', '.join(sources)}; a chip has one last population",
                "end the graph in one population or in an Affine",
            )
        self._check_ends(ordered)
        return shape, ordered

    def _input_shape(self) -> Shape:
        given = self._nodes[self._input].input_type["input"]
        shape = () if given is None else _spatial(given)
        if not 1 <= len(shape) <= 3 or min(shape) < 1:
            raise ScaDeployError(f"the Input '{self._input}' says the shape {given}, one to three sizes are needed")
        return shape

    def _only(self, kind: type) -> str:
        found = [name for name, node in self._nodes.items() if isinstance(node, kind)]
        if len(found) != 1:
            raise ScaDeployError(f"the graph has {len(found)} {kind.__name__} nodes, one is needed")
        return found[0]

    def _check_ends(self, populations: list[Population]) -> None:
        for population in populations[:-1]:
            if population.neuron.threshold is None:
                node = self._nodes[population.name]
                raise refuse(population.name, node, "its neurons never fire, so it can only be the last")
        unreached = set(self._nodes) - set(self._values) - set(self._met) - {self._output, self._input}
        if unreached:
            raise ScaDeployError(f"node '{min(unreached)}' is not on the way from input to output")

    def _ordered(self, populations: dict[str, Population]) -> list[Population]:
        """Every population after those it reads; reading itself does not count."""
        waiting = {p.name: {path.source for path in p.paths} - {p.name, INPUT} for p in populations.values()}
        order: list[Population] = []
        while waiting:
            ready = [name for name, sources in waiting.items() if sources.isdisjoint(waiting)]
            if not ready:
                raise ScaDeployError(
                    f"the populations {', '.join(sorted(waiting))} read one another in a loop",
                    "only a population that reads itself can be lowered",
                )
            order += [populations[name] for name in ready]
            waiting = {name: sources for name, sources in waiting.items() if name not in ready}
        return order

    def _population(self, name: str) -> Population:
        node = self._nodes[name]
        value = self._sum(name)
        if value.shape != self._shapes[name]:
            raise refuse(name, node, f"it has neurons of shape {self._shapes[name]} and reads {value.shape}")
        neuron = discrete(name, node, self._dt)
        neuron = replace(neuron, ties_fire=self._ties_fire)
        if neuron.alpha and value.bias.any():
            raise refuse(
                name,
                node,
                "a constant input flows into its synaptic current, the chip adds it to the potential",
                "train the layer before it without a bias",
            )
        if not value.terms:
            raise refuse(name, node, "it reads nothing")
        return _feeding(name, value, neuron, drift(name, node, self._dt, value.shape[0]))

    def _sum(self, name: str) -> Value:
        """What enters a node: the sum of its edges."""
        values = [self._value(source) for source in self._sources[name]]
        if not values:
            raise refuse(name, self._nodes[name], "no edge leads to it")
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            raise refuse(name, self._nodes[name], f"it sums values of shapes {', '.join(map(str, sorted(shapes)))}")
        terms = merged(term for value in values for term in value.terms)
        if len(terms) > PATHS_MAX:
            raise refuse(name, self._nodes[name], f"it sums {len(terms)} paths, at most {PATHS_MAX} are followed")
        bias = np.sum([value.bias for value in values], axis=0)
        last = next((value.last for value in values if value.last), self._sources[name][0])
        return Value(values[0].shape, terms, bias, last)

    def _value(self, name: str) -> Value:
        """What leaves a node."""
        node = self._nodes[name]
        if name == self._input:
            return spikes_of(INPUT, self._shapes[name])
        if isinstance(node, NEURONS):
            return spikes_of(name, self._shape_of(name, node))
        if name in self._under_way:
            raise refuse(name, node, "it is part of a loop without neurons")
        if name not in self._values:
            _refuse_nan(name, node)
            self._under_way.append(name)
            self._values[name] = leaving(name, node, self._sum(name), self._dt)
            self._under_way.pop()
        return self._values[name]

    def _shape_of(self, name: str, node: nir.NIRNode) -> Shape:
        """The shape of a population, from its parameters, or from what it reads where those are single numbers."""
        if name not in self._shapes:
            _refuse_nan(name, node)
            self._met.append(name)
            parameters = np.shape(node.r)
            self._shapes[name] = _spatial(parameters)
            if int(np.prod(parameters)) == 1:
                others = [source for source in self._sources[name] if not self._leads_back(source, name)]
                self._shapes[name] = self._value(others[0]).shape if others else self._shapes[name]
        return self._shapes[name]

    def _leads_back(self, name: str, target: str) -> bool:
        frontier, seen = [name], {name}
        while frontier:
            frontier = [s for n in frontier for s in self._sources[n] if s not in seen]
            seen.update(frontier)
        return target in seen


def _ties_fire(graph: nir.NIRGraph) -> bool:
    """Whether a potential equal to the threshold fires; what else the graph says of its neurons must be the chip's.

    Raises:
        ScaDeployError: if it resets otherwise, fires several times a step or clamps its potentials.
    """
    for node in graph.nodes.values():
        if isinstance(node, nir.NIRGraph):
            _ties_fire(node)
    said = {"reset": "hard", "multi_spike": 0, "clamp": None, "tie": "gt"} | graph.metadata
    if said["reset"] != "hard":
        raise ScaDeployError(
            f"the graph says reset '{said['reset']}'; the chip's neurons reset to zero and no microcode for another "
            "is public",
            "bring it with --reset hard, and fine-tune it: sca-deploy prune FILE --reset hard --data SET --epochs 5",
        )
    for key in ("multi_spike", "clamp"):
        if said[key]:
            raise ScaDeployError(
                f"the graph says {key} '{said[key]}', which the chip's neurons cannot do",
                "bring it with --reset hard --clamp none",
            )
    return bool(said["tie"] == "ge")


def _feeding(name: str, value: Value, neuron: Neuron, drift: FloatArray | float = 0.0) -> Population:
    paths = tuple(_path(name, value.shape, term, neuron.gain) for term in value.terms)
    return Population(name, value.shape, paths, value.bias * neuron.gain + drift, neuron)


def _path(reader: str, shape: Shape, term: Term, gain: float) -> Path:
    operator = term.operator
    if operator is None and len(shape) == 1:
        if shape[0] > FLAT_MAX:
            raise ScaDeployError(
                f"'{reader}' reads {shape[0]} flat values as they are, at most {FLAT_MAX} are made a matrix of",
                "give it a convolution to read a map through",
            )
        operator = folded(reader, term, Operator(np.eye(shape[0])))
    elif operator is None:
        operator = identity(shape, term.factor) if term.pool is None else reading(term.pool, term.factor)
    delay = term.delay_in.reshape(1, -1) + term.delay_out.reshape(-1, 1)
    if term.source == reader:
        delay = delay + 1
    if operator.is_conv and delay.any():
        why = "reads itself through a convolution" if term.source == reader else "is reached late by a convolution"
        raise ScaDeployError(
            f"'{reader}' {why}; only fully connected synapses hold spikes back",
            "use an Affine map there, or no delay",
        )
    return Path(term.source, operator.scaled(gain), delay)


def _refuse_nan(name: str, node: nir.NIRNode) -> None:
    for key, value in vars(node).items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            raise refuse(name, node, f"'{key}' holds NaN or infinite values")


def _spatial(shape: Any) -> Shape:
    """(features,), (channels, height, width), or (channels, 1, length) for (channels, length)."""
    sizes = tuple(int(n) for n in np.ravel(shape)) or (1,)
    return (sizes[0], 1, sizes[1]) if len(sizes) == 2 else sizes
