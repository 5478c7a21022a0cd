"""NIR, written in the one way that its readers take alike, and read back.

NIR (Pedersen et al. 2024, "Neuromorphic intermediate representation", Nature Communications 15) fixes the equations
but not the time step, and its readers differ in what they honour. The portable profile is what norse 1.1,
snntorch 1.0 and spikingjelly 2.0 execute alike:

- LIF: tau dv/dt = v_leak - v + R i with R = 1, v_leak = 0, hard reset to 0. One Euler step of dt is
  v = beta v + (1 - beta) i with beta = 1 - dt / tau, so weights and biases carry the factor 1 / (1 - beta).
  spikingjelly takes no tau of one step or less, so not the memoryless neurons (tau = dt) of a max-pooling.
- IF: dv/dt = R i with R = 1 / dt, so one Euler step adds the input exactly; norse, which ignores R, does the same.
  snntorch takes no IF of this kind.
- dt is 1e-4 s (snntorch knows no other), parameters are float32 and the same for every neuron of a layer.
- no groups, square kernels, unpadded sum-pooling, Flatten(-3, -1): the rest is refused or misread by some reader.
"""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.exporters.base import Check, Deployable, Exported
from sca_deploy.files import atomic_path

PORTABLE_DT = 1e-4
PORTABLE_NODES = ("Input", "Conv2d", "SumPool2d", "Flatten", "Affine", "LIF", "IF", "Output")

Problems = Iterator[str]


class NirExporter:
    """Writes `.nir` files (HDF5)."""

    name = "nir"
    summary = "NIR graph of floats for norse, snntorch, spikingjelly and other NIR readers"
    suffix = ".nir"
    integers = False
    probes = False

    def export(self, deployable: Deployable, output: Path) -> Exported:
        """Write the graph, read it back and compare every array, edge and metadata value.

        Raises:
            ScaDeployError: if the graph is outside the portable profile, or cannot be written.
            Mismatch: if the file read back is not the graph given.
        """
        check_portable(deployable.graph, deployable.dt)
        within = Check("portable profile", None, f"all {len(deployable.graph.nodes)} nodes are within it")
        return Exported(self.name, output, (within, write_nir(deployable, output)))


def write_nir(deployable: Deployable, output: Path) -> Check:
    """Write the graph as it is, in the profile or not, and read it back.

    Raises:
        ScaDeployError: if it cannot be written.
        Mismatch: if the file read back is not the graph given.
    """
    graph = _described(deployable)
    content = io.BytesIO()
    # HDF5 reports a full disk in ways of its own; through memory it is an OSError like any other.
    nir.write(content, _WithoutResets(graph))
    with atomic_path(output) as temporary:
        temporary.write_bytes(content.getvalue())
        return Check(f"re-read {output.name}", largest_difference(graph, _reread(temporary)))


class _WithoutResets:
    """What `nir.write` asks of a graph, less the reset potentials, which are zero throughout the profile.

    Readers built on nir < 1.0.6 refuse a file that has them; later ones read a missing one as zero.
    """

    def __init__(self, graph: nir.NIRGraph) -> None:
        self._graph = graph

    def to_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = self._graph.to_dict()
        for node in document["nodes"].values():
            node.pop("v_reset", None)
        return document


def _described(deployable: Deployable) -> nir.NIRGraph:
    """A type-checked copy of the graph whose metadata says what the format leaves open."""
    graph = copy.deepcopy(deployable.graph)
    metadata = graph.metadata | {"title": deployable.title, "dt": deployable.dt, "reset": "hard"}
    if deployable.manifest:
        # One flat string: readers built on nir < 1.0.6 fail on nested metadata.
        metadata["manifest"] = json.dumps(dict(deployable.manifest), allow_nan=False)
    try:
        return nir.NIRGraph(graph.nodes, graph.edges, metadata, type_check=True)
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise ScaDeployError(f"the graph's shapes do not fit together: {error}") from error


def _reread(path: Path) -> nir.NIRGraph:
    try:
        return nir.read(path, type_check=True)
    except Exception as error:
        # nir and h5py raise nearly every kind of error for a file they cannot make sense of.
        raise Mismatch(f"the NIR file just written cannot be read: {type(error).__name__}: {error}") from error


def largest_difference(given: nir.NIRGraph, read: nir.NIRGraph) -> float:
    """Compare two graphs node by node; returns 0.0.

    Raises:
        Mismatch: naming the first thing that differs: nodes, edges and their order, metadata, or a parameter's
            presence, type, shape or value.
    """
    if given.nodes.keys() != read.nodes.keys():
        raise Mismatch(f"nodes written {sorted(given.nodes)}, read {sorted(read.nodes)}")
    if list(given.edges) != list(read.edges):
        raise Mismatch(f"edges written {given.edges}, read {read.edges}")
    if given.metadata != read.metadata:
        raise Mismatch(f"metadata written {given.metadata}, read {read.metadata}")
    return max(_node_difference(name, given.nodes[name], read.nodes[name]) for name in given.nodes)


def _node_difference(name: str, given: nir.NIRNode, read: nir.NIRNode) -> float:
    left, right = given.to_dict(), read.to_dict()
    if left.pop("type") != right.pop("type") or left.keys() != right.keys():
        raise Mismatch(f"node '{name}' written as {type(given).__name__}, read as {type(read).__name__}")
    worst = 0.0
    for key in left.keys() - {"metadata"}:
        a, b = np.asarray(left[key]), np.asarray(right[key])
        if a.shape != b.shape or a.dtype != b.dtype:
            raise Mismatch(f"node '{name}': {key} written {a.dtype}{a.shape}, read {b.dtype}{b.shape}")
        difference = float(np.max(np.abs(a - b), initial=0.0))
        if not difference == 0.0:
            raise Mismatch(f"node '{name}': {key} read back differs by {difference:g}, limit 0")
        worst = max(worst, difference)
    return worst


def topological_order(graph: nir.NIRGraph) -> list[str]:
    """Node names, each after all it reads.

    Raises:
        ScaDeployError: if an edge names no node, or edges form a loop.
    """
    sources: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for source, target in graph.edges:
        for end in (source, target):
            if end not in sources:
                raise ScaDeployError(f"edge '{source}' -> '{target}' names '{end}', which is not a node")
        sources[target].add(source)
    order: list[str] = []
    while sources:
        ready = [name for name, waiting in sources.items() if waiting.isdisjoint(sources)]
        if not ready:
            raise ScaDeployError(
                f"nodes {', '.join(sorted(sources))} form a loop", "only feed-forward networks can be exported"
            )
        order += ready
        sources = {name: waiting for name, waiting in sources.items() if name not in ready}
    return order


def check_portable(graph: nir.NIRGraph, dt: float) -> None:
    """Check that a graph is within the portable profile.

    Args:
        graph: the graph.
        dt: its time step in seconds.

    Raises:
        ScaDeployError: naming the first node or value outside it, and how many more there are.
    """
    problems = [problem for rule in _RULES for problem in rule(graph, dt)]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ScaDeployError(f"outside the portable NIR profile: {problems[0]}{more}")


def _time_step(graph: nir.NIRGraph, dt: float) -> Problems:
    if dt != PORTABLE_DT:
        yield f"dt is {dt:g} s, not {PORTABLE_DT:g} s"
    recorded = graph.metadata.get("dt", dt)
    if recorded != dt:
        yield f"the graph was built for dt = {recorded} s, the export asks for {dt:g} s"


def _node_types(graph: nir.NIRGraph, dt: float) -> Problems:
    for name, node in graph.nodes.items():
        if type(node).__name__ not in PORTABLE_NODES:
            yield f"node '{name}' is a {type(node).__name__}, not one of {', '.join(PORTABLE_NODES)}"


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
    """Edges sources first; where edges are summed, the skip leaves the main path and is listed after it."""
    topological_order(graph)
    for i, (source, target) in enumerate(graph.edges):
        if any(later == source for _, later in graph.edges[i + 1 :]):
            yield f"edge '{source}' -> '{target}' is listed before an edge into '{source}'"
    for target in graph.nodes:
        main, *skips = [source for source, to in graph.edges if to == target] or [target]
        for skip in skips:
            if skip not in _ancestors(graph, main):
                yield f"'{target}' sums '{main}' and '{skip}', which does not lead to '{main}'"


def _ancestors(graph: nir.NIRGraph, name: str) -> set[str]:
    found: set[str] = set()
    frontier = {name}
    while frontier:
        frontier = {source for source, target in graph.edges if target in frontier} - found
        found |= frontier
    return found


def _arrays(graph: nir.NIRGraph, dt: float) -> Problems:
    for name, node in graph.nodes.items():
        for key in ("weight", "bias", "tau", "r", "v_leak", "v_threshold", "v_reset"):
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
        if isinstance(node, nir.Flatten) and (node.start_dim, node.end_dim) not in ((-3, -1), (-1, -1)):
            yield f"'{name}' flattens {node.start_dim} to {node.end_dim}, not -3 to -1"


def _neurons(graph: nir.NIRGraph, dt: float) -> Problems:
    """What every reader takes a neuron's parameters to be."""
    for name, node in graph.nodes.items():
        wanted: dict[str, float] = {}
        if isinstance(node, nir.LIF):
            wanted = {"r": 1.0, "v_leak": 0.0, "v_reset": 0.0}
            if np.min(node.tau) < dt * (1 - 1e-6):
                yield f"neurons '{name}': tau is {np.min(node.tau):g} s, less than dt = {dt:g} s"
        elif isinstance(node, nir.IF):
            wanted = {"r": 1.0 / dt, "v_reset": 0.0}
        for key, value in wanted.items():
            if not np.allclose(getattr(node, key), value, rtol=1e-6, atol=0.0):
                yield f"neurons '{name}': {key} is {np.ravel(getattr(node, key))[0]:g}, not {value:g}"
        for key in ("tau", "v_threshold"):
            value_of = getattr(node, key, None)
            if value_of is not None and np.size(value_of) and np.ptp(value_of) > 0:
                yield f"neurons '{name}': {key} differs from neuron to neuron"


def _metadata(graph: nir.NIRGraph, dt: float) -> Problems:
    for key, value in graph.metadata.items():
        if not isinstance(value, str | int | float):
            yield f"metadata '{key}' is a {type(value).__name__}, not a string or a number"


_RULES: tuple[Callable[[nir.NIRGraph, float], Problems], ...] = (
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
