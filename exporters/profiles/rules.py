"""What a graph within the portable profile is; each rule names what is outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError

PORTABLE_DT = 1e-4
PORTABLE_NODES = ("Input", "Conv2d", "SumPool2d", "Flatten", "Affine", "LIF", "CubaLIF", "IF", "Output")
RECURRENT = ("Input", "LIF", "CubaLIF", "IF", "Affine", "Output")
"""What a graph in the graph may hold: a population and the matrix through which it reads itself."""

Problems = Iterator[str]


def check_portable(graph: nir.NIRGraph, dt: float) -> None:
    """Accept a graph that every reader takes alike.

    Raises:
        ScaDeployError: naming the first thing that is outside the portable profile, and how many more there are.
    """
    problems = [problem for rule in RULES for problem in rule(graph, dt)]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ScaDeployError(f"outside the portable NIR profile: {problems[0]}{more}")


def projections(graph: nir.NIRGraph) -> list[str]:
    """The nodes that add up branches of which none is a way around another."""
    found = []
    for target in graph.nodes:
        main, *skips = [source for source, to in graph.edges if to == target] or [target]
        if any(skip not in _ancestors(graph, main) for skip in skips):
            found.append(target)
    return found


def _all_nodes(graph: nir.NIRGraph) -> Iterator[tuple[str, nir.NIRNode]]:
    for name, node in graph.nodes.items():
        yield name, node
        if isinstance(node, nir.NIRGraph):
            yield from ((f"{name}.{inner}", child) for inner, child in node.nodes.items())


def _time_step(graph: nir.NIRGraph, dt: float) -> Problems:
    if dt != PORTABLE_DT:
        yield f"dt is {dt:g} s, not {PORTABLE_DT:g} s"
    recorded = graph.metadata.get("dt", dt)
    if recorded != dt:
        yield f"the graph was built for dt = {recorded} s, the export asks for {dt:g} s"


def _node_types(graph: nir.NIRGraph, dt: float) -> Problems:
    for name, node in graph.nodes.items():
        kind = type(node).__name__
        if isinstance(node, nir.NIRGraph):
            kinds = sorted(type(child).__name__ for child in node.nodes.values())
            if len(kinds) != 4 or not set(kinds) <= set(RECURRENT) or not {"Affine", "Input", "Output"} <= set(kinds):
                yield f"the graph '{name}' holds {', '.join(kinds)}, not one population and its matrix"
        elif kind not in PORTABLE_NODES:
            yield f"node '{name}' is a {kind}, not one of {', '.join(PORTABLE_NODES)}"


def _names(graph: nir.NIRGraph, dt: float) -> Problems:
    for name, node in graph.nodes.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            yield f"node name '{name}' has characters other than letters, digits and _"
        for kind, only in ((nir.Input, "input"), (nir.Output, "output")):
            if isinstance(node, kind) and name != only:
                yield f"the {kind.__name__} is called '{name}', not '{only}'"


def _ends(graph: nir.NIRGraph, dt: float) -> Problems:
    for kind in (nir.Input, nir.Output):
        found = sorted(name for name, node in graph.nodes.items() if isinstance(node, kind))
        if len(found) != 1:
            yield f"{len(found)} {kind.__name__} nodes ({', '.join(found)}), not 1"
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.Input) and all(target != name for _, target in graph.edges):
            yield f"node '{name}' reads nothing"
        if not isinstance(node, nir.Output) and all(source != name for source, _ in graph.edges):
            yield f"nothing reads node '{name}'"
        if isinstance(node, nir.Output) and sum(target == name for _, target in graph.edges) > 1:
            yield f"several edges enter the Output '{name}'"


def _edges(graph: nir.NIRGraph, dt: float) -> Problems:
    """Edges sources first; where a branch is summed with a way around it, the branch is listed first."""
    for source, target in graph.edges:
        for end in (source, target):
            if end not in graph.nodes:
                yield f"edge '{source}' -> '{target}' names '{end}', which is not a node"
                return
    for i, (source, target) in enumerate(graph.edges):
        if any(later == source for _, later in graph.edges[i + 1 :]):
            yield f"edge '{source}' -> '{target}' is listed before an edge into '{source}'"
    for target in graph.nodes:
        main, *skips = [source for source, to in graph.edges if to == target] or [target]
        for skip in skips:
            if main in _ancestors(graph, skip):
                yield f"'{target}' reads '{main}' before '{skip}', the branch that it is the way around"


def _ancestors(graph: nir.NIRGraph, name: str) -> set[str]:
    found: set[str] = set()
    frontier = {name}
    while frontier:
        frontier = {source for source, target in graph.edges if target in frontier} - found
        found |= frontier
    return found


def _arrays(graph: nir.NIRGraph, dt: float) -> Problems:
    keys = ("weight", "bias", "tau", "tau_mem", "tau_syn", "r", "w_in", "v_leak", "v_threshold", "v_reset")
    for name, node in _all_nodes(graph):
        for key in keys:
            value = getattr(node, key, None)
            if value is None:
                continue
            if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim == 0:
                kind = getattr(value, "dtype", type(value).__name__)
                yield f"node '{name}': {key} is {kind} of shape {np.shape(value)}, not an array of float32"
            elif not np.isfinite(value).all():
                yield f"node '{name}': {key} has values that are not finite"


def _convolutions(graph: nir.NIRGraph, dt: float) -> Problems:
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.Conv2d):
            continue
        if node.groups != 1:
            yield f"convolution '{name}' has {node.groups} groups, not 1"
        if node.weight.shape[2] != node.weight.shape[3]:
            yield f"convolution '{name}' has a {node.weight.shape[2]}x{node.weight.shape[3]} kernel, not a square one"
        if isinstance(node.padding, str):
            yield f"convolution '{name}' has padding '{node.padding}', not a number"


def _pooling_and_flattening(graph: nir.NIRGraph, dt: float) -> Problems:
    for name, node in graph.nodes.items():
        if isinstance(node, nir.SumPool2d) and np.any(node.padding):
            yield f"pooling '{name}' is padded by {node.padding}, not 0"
        if isinstance(node, nir.Flatten) and (node.start_dim not in (-3, -2, -1) or node.end_dim != -1):
            yield f"'{name}' flattens {node.start_dim} to {node.end_dim}, not -3 to -1"


def _neurons(graph: nir.NIRGraph, dt: float) -> Problems:
    """What every reader takes a neuron's parameters to be."""
    for name, node in _all_nodes(graph):
        wanted: dict[str, float | npt.NDArray[np.float64]] = {}
        if isinstance(node, nir.LIF):
            wanted = {"r": 1.0, "v_leak": 0.0, "v_reset": 0.0}
            if np.min(node.tau) < dt * (1 - 1e-6):
                yield f"neurons '{name}': tau is {np.min(node.tau):g} s, less than dt = {dt:g} s"
        elif isinstance(node, nir.CubaLIF):
            wanted = {"r": np.asarray(node.tau_mem, np.float64) / dt, "w_in": np.asarray(node.tau_syn, np.float64) / dt}
            wanted |= {"v_leak": 0.0, "v_reset": 0.0}
        elif isinstance(node, nir.IF):
            wanted = {"r": 1.0 / dt, "v_reset": 0.0}
        for key, value in wanted.items():
            if not np.allclose(getattr(node, key), value, rtol=1e-6, atol=0.0):
                yield f"neurons '{name}': {key} is {np.ravel(getattr(node, key))[0]:g}, not {np.ravel(value)[0]:g}"
        for key in ("tau", "tau_mem", "tau_syn", "v_threshold"):
            value_of = getattr(node, key, None)
            if value_of is not None and np.size(value_of) and np.ptp(value_of) > 0:
                yield f"neurons '{name}': {key} differs from neuron to neuron"


def _metadata(graph: nir.NIRGraph, dt: float) -> Problems:
    for key, value in graph.metadata.items():
        if not isinstance(value, str | int | float):
            yield f"metadata '{key}' is a {type(value).__name__}, not a string or a number"


RULES: tuple[Callable[[nir.NIRGraph, float], Problems], ...] = (
    _time_step,
    _node_types,
    _ends,
    _names,
    _edges,
    _arrays,
    _convolutions,
    _pooling_and_flattening,
    _neurons,
    _metadata,
)
