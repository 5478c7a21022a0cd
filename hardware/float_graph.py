"""Runs any NIR graph in floats, node by node.

What does not lie on a loop runs over the whole time at once. Nodes on a loop run together, one step at a time; an edge
that closes a loop brings a population's spikes one step late, and zero at the first. Where a loop holds several
populations, those nearest to the Input, counted in edges, are first, and an edge that leads to an earlier one, an
equally near one or itself closes the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce

import nir
import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.euler import INTEGRATORS, NEURONS, SPIKING, refuse
from sca_deploy.hardware.flattening import flattened
from sca_deploy.hardware.float_nodes import KNOWN, Memory, apply, coefficients, delay, fire, integrate, weights
from sca_deploy.hardware.program import Shape

Values = dict[str, torch.Tensor]
Node = Callable[[str, torch.Tensor, Memory], tuple[torch.Tensor, Memory]]
"""A node's output (T, N, ...) and memory, from its name, what enters it (T, N, ...) and its memory (None at first)."""


@dataclass(frozen=True, eq=False)
class Walk:
    """The order in which a graph is run.

    Args:
        nodes: all nodes by name, those of nested graphs as `<graph>.<node>`.
        sources: what each node reads, in the order of the edges.
        parts: names in order; those of one part lie on a common loop if they are several, or if `late` says so.
        late: edges (source, target) that are read one step late.
        shapes: of each node's output, without time and batch.
        input, output: the names of the ends.
    """

    nodes: dict[str, nir.NIRNode]
    sources: dict[str, list[str]]
    parts: list[list[str]]
    late: set[tuple[str, str]]
    shapes: dict[str, Shape]
    input: str
    output: str

    def run(self, x: torch.Tensor, node: Node, wanted: Iterable[str] | None = None) -> Values:
        """Outputs (T, N, *shape) of the nodes wanted (None: all), by name; x is (T, N, *input shape).

        The Output's value is what entered it, the sum of its edges.
        """
        keep = set(self.nodes if wanted is None else wanted)
        last = {source: i for i, part in enumerate(self.parts) for name in part for source in self.sources[name]}
        values: Values = {self.input: x}
        for i, part in enumerate(self.parts):
            if part == [self.input]:
                continue
            if not self.looped(part):
                values[part[0]] = self._node(part[0], values, None, node)[0]
            else:
                values |= self._loop(part, values, node, x)
            for name in [name for name in values if last.get(name, -1) <= i and name not in keep]:
                del values[name]
        return values

    def _node(self, name: str, values: Values, memory: Memory, node: Node) -> tuple[torch.Tensor, Memory]:
        total = reduce(torch.add, [values[source] for source in self.sources[name]])
        return (total, None) if name == self.output else node(name, total, memory)

    def looped(self, part: list[str]) -> bool:
        """Whether a part is a loop, which is run step by step."""
        return len(part) > 1 or (part[0], part[0]) in self.late

    def _loop(self, part: list[str], values: Values, node: Node, x: torch.Tensor) -> Values:
        """The nodes of a loop, step by step; x is the graph's input."""
        outside = {source for name in part for source in self.sources[name]} - set(part)
        memory: dict[str, Memory] = dict.fromkeys(part)
        before = {name: x.new_zeros(1, x.shape[1], *self.shapes[name]) for name in part}
        outputs: dict[str, list[torch.Tensor]] = {name: [] for name in part}
        for t in range(len(x)):
            now = {name: values[name][t : t + 1] for name in outside}
            for name in part:
                arriving = [
                    before[source] if (source, name) in self.late else now[source] for source in self.sources[name]
                ]
                now[name], memory[name] = node(name, reduce(torch.add, arriving), memory[name])
                outputs[name].append(now[name])
            before = {name: now[name] for name in part}
        return {name: torch.cat(steps_of) for name, steps_of in outputs.items()}


def plan(graph: nir.NIRGraph) -> Walk:
    """How a graph is run.

    Raises:
        ScaDeployError: naming a node of unknown type or that does not fit what it reads, or a loop without neurons.
    """
    nodes, edges = flattened(graph)
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in dict.fromkeys(edges):
        if source not in nodes or target not in nodes:
            raise ScaDeployError(f"the edge '{source}' -> '{target}' names a node that the graph does not hold")
        sources[target].append(source)
    ends = [_only(nodes, kind) for kind in (nir.Input, nir.Output)]
    if sources[ends[0]] or any(ends[1] in reads for reads in sources.values()):
        raise ScaDeployError(f"an edge leads into the Input '{ends[0]}' or out of the Output '{ends[1]}'")
    for name, node in nodes.items():
        if name not in ends and not isinstance(node, KNOWN):
            raise refuse(name, node, "this node type is not known", "replace it by nodes of NIR's own")
        if name != ends[0] and not sources[name]:
            raise refuse(name, node, "no edge leads to it")
    parts, late = [], set()
    distance = _distances(ends[0], sources)
    for part in _components(sources):
        ordered, closing = _opened(part, nodes, sources, distance)
        parts.append(ordered)
        late |= closing
    walk = Walk(nodes, sources, parts, late, {}, *ends)
    return Walk(nodes, sources, parts, late, _shapes(walk), *ends)


class FloatNodes:
    """The nodes of a graph as plain functions without gradients; fills the lists in `potentials`, by node."""

    def __init__(self, walk: Walk, dynamics: Dynamics, dtype: torch.dtype) -> None:
        self.potentials: dict[str, list[torch.Tensor]] = {}
        self._walk, self._dynamics = walk, dynamics
        self._tensors = {name: weights(node, dtype) for name, node in walk.nodes.items()}
        self._steps = {
            name: coefficients(name, node, dynamics, dtype)
            for name, node in walk.nodes.items()
            if isinstance(node, NEURONS)
        }

    def __call__(self, name: str, x: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """The node's output and memory."""
        node = self._walk.nodes[name]
        if isinstance(node, SPIKING):
            watched = self.potentials.get(name)
            return fire(x, memory, self._steps[name], self._dynamics, watched)
        if isinstance(node, INTEGRATORS):
            return integrate(x, memory, self._steps[name])
        if isinstance(node, nir.Delay):
            return delay(name, node, x, memory, self._dynamics)
        return apply(name, node, x.flatten(0, 1), self._tensors[name]).unflatten(0, x.shape[:2]), None


def run_graph(
    graph: nir.NIRGraph,
    dynamics: Dynamics,
    x: npt.NDArray[np.generic],
    dtype: torch.dtype = torch.float64,
    potentials: dict[str, npt.NDArray[np.floating]] | None = None,
) -> dict[str, npt.NDArray[np.floating]]:
    """What every node of a graph puts out: spikes (counts with `multi_spike`), potentials of integrators, values.

    Args:
        x: (samples, steps, *input shape).
        dtype: what is computed in.
        potentials: takes the v of every spiking node after each step, (samples, steps, *shape).

    Returns:
        By node name, (samples, steps, *shape); of the Output what entered it.

    Raises:
        ScaDeployError: as `plan`, or if x has another shape than the Input.
    """
    walk = plan(graph)
    shape = walk.shapes[walk.input]
    if x.ndim < 3 or x.shape[2:] != shape:
        raise ScaDeployError(f"input has shape {x.shape}, the graph expects (samples, steps, {shape})")
    with torch.inference_mode():
        frames = torch.from_numpy(np.ascontiguousarray(x)).to(dtype).transpose(0, 1)
        nodes = FloatNodes(walk, dynamics, dtype)
        if potentials is not None:
            nodes.potentials = {name: [] for name, node in walk.nodes.items() if isinstance(node, SPIKING)}
        values = walk.run(frames, nodes)
        if potentials is not None:
            potentials |= {name: torch.stack(v, 1).numpy() for name, v in nodes.potentials.items()}
    return {name: value.transpose(0, 1).numpy() for name, value in values.items()}


def _only(nodes: dict[str, nir.NIRNode], kind: type) -> str:
    found = [name for name, node in nodes.items() if isinstance(node, kind)]
    if len(found) != 1:
        raise ScaDeployError(f"the graph has {len(found)} {kind.__name__} nodes, one is needed")
    return found[0]


def _components(sources: dict[str, list[str]]) -> list[list[str]]:
    """Strongly connected nodes together, each part after all it reads (Tarjan 1972, without recursion)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    parts: list[list[str]] = []
    placed: set[str] = set()
    for root in sources:
        if root in number:
            continue
        work = [(root, iter(sources[root]))]
        number[root] = low[root] = len(number)
        stack.append(root)
        while work:
            name, rest = work[-1]
            following = next(rest, None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == number[name]:
                    part: list[str] = []
                    while not part or part[-1] != name:
                        part.append(stack.pop())
                    placed |= set(part)
                    parts.append(part)
            elif following not in number:
                number[following] = low[following] = len(number)
                stack.append(following)
                work.append((following, iter(sources[following])))
            elif following not in placed:
                low[name] = min(low[name], number[following])
    return parts


def _opened(
    part: list[str], nodes: dict[str, nir.NIRNode], sources: dict[str, list[str]], distance: dict[str, int]
) -> tuple[list[str], set[tuple[str, str]]]:
    """The nodes of a loop in order, and the edges that close it."""
    inside = set(part)
    if len(part) == 1 and part[0] not in sources[part[0]]:
        return part, set()
    rank = {name: distance.get(name, len(nodes)) for name in part if isinstance(nodes[name], NEURONS)}
    late = set()
    for name in part:
        for source in sources[name]:
            if source in rank and min(_reached(name, inside, rank, sources)) <= rank[source]:
                late.add((source, name))
    waiting = {name: {s for s in sources[name] if s in inside and (s, name) not in late} for name in part}
    order: list[str] = []
    while waiting:
        ready = sorted(name for name, reads in waiting.items() if reads.isdisjoint(waiting))
        if not ready:
            name = min(waiting)
            raise refuse(name, nodes[name], "it is part of a loop without neurons")
        order += ready
        waiting = {name: reads for name, reads in waiting.items() if name not in ready}
    return order, late


def _distances(entry: str, sources: dict[str, list[str]]) -> dict[str, int]:
    """How many edges lead from the Input to each node, by the shortest way."""
    distance, frontier = {entry: 0}, {entry}
    while frontier:
        frontier = {n for n, reads in sources.items() if n not in distance and not frontier.isdisjoint(reads)}
        distance |= dict.fromkeys(frontier, max(distance.values()) + 1)
    return distance


def _reached(name: str, inside: set[str], rank: dict[str, int], sources: dict[str, list[str]]) -> set[int]:
    """How far the populations are that a node of a loop leads to without another in between."""
    found, seen, frontier = set(), {name}, [name]
    while frontier:
        here = frontier.pop()
        if here in rank:
            found.add(rank[here])
            continue
        onward = [target for target in inside if here in sources[target] and target not in seen]
        seen |= set(onward)
        frontier += onward
    return found or {-1}


def _shapes(walk: Walk) -> dict[str, Shape]:
    """The shape of every node's output, by showing it one empty sample."""
    shapes = {walk.input: _input_shape(walk.nodes[walk.input])}
    for part in walk.parts:
        if walk.looped(part):
            shapes |= _loop_shapes(part, walk, shapes)
        for name in part:
            if name != walk.input:
                shapes[name] = _output_shape(name, walk, shapes)
    return shapes


def _input_shape(node: nir.Input) -> Shape:
    given = next(iter((node.input_type or {}).values()), None)
    shape = () if given is None else tuple(int(n) for n in np.ravel(given))
    if not shape or min(shape) < 1:
        raise ScaDeployError(f"the Input says the shape {given}, sizes from 1 are needed")
    return shape


def _loop_shapes(part: list[str], walk: Walk, outside: dict[str, Shape]) -> dict[str, Shape]:
    """The shapes on a loop: those of populations as their parameters say, or else as whatever they read does."""
    shapes = dict(outside)
    populations = {n: _parameters_shape(walk.nodes[n]) for n in part if isinstance(walk.nodes[n], NEURONS)}
    shapes |= {name: given for name, given in populations.items() if int(np.prod(given)) > 1}
    while waiting := [name for name in part if name not in shapes]:
        known = {n: [shapes[source] for source in walk.sources[n] if source in shapes] for n in waiting}
        told = [n for n in waiting if n in populations and known[n]]
        worked_out = [n for n in waiting if n not in populations and len(known[n]) == len(walk.sources[n])]
        if told:
            shapes[told[0]] = known[told[0]][0]
        elif worked_out:
            shapes[worked_out[0]] = _output_shape(worked_out[0], walk, shapes)
        else:
            name = next(n for n in waiting if n in populations)
            shapes[name] = _shape_of_rows(name, walk, populations[name])
    return {name: shapes[name] for name in part}


def _shape_of_rows(name: str, walk: Walk, given: Shape) -> Shape:
    """The shape of a population that has single numbers: a matrix before it tells how many neurons share them."""
    maps = [np.shape(getattr(walk.nodes[source], "weight", ())) for source in walk.sources[name]]
    rows = {shape[0] for shape in maps if len(shape) == 2}
    return (rows.pop(),) if len(rows) == 1 else given


def _parameters_shape(node: nir.NIRNode) -> Shape:
    sizes = [np.shape(value) for value in vars(node).values() if isinstance(value, np.ndarray)]
    return max(sizes, key=lambda shape: (int(np.prod(shape)), len(shape)), default=()) or (1,)


def _output_shape(name: str, walk: Walk, shapes: dict[str, Shape]) -> Shape:
    node, read = walk.nodes[name], [shapes[source] for source in walk.sources[name]]
    if len(set(read)) > 1:
        raise refuse(name, node, f"it sums values of shapes {', '.join(str(shape) for shape in sorted(set(read)))}")
    if isinstance(node, (*NEURONS, nir.Delay, nir.Output)):
        given = _parameters_shape(node)
        if not isinstance(node, nir.Output) and int(np.prod(given)) != 1 and given != read[0]:
            raise refuse(name, node, f"it has neurons of shape {given} and reads {read[0]}")
        return read[0]
    tensors = {key: value.to("meta") for key, value in weights(node, torch.float32).items()}
    return tuple(apply(name, node, torch.zeros(1, *read[0], device="meta"), tensors).shape[1:])
