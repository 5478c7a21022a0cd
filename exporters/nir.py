"""NIR, written the way its readers take it, and read back.

NIR (Pedersen et al. 2024, "Neuromorphic intermediate representation", Nature Communications 15) fixes the equations
but not the time step, and its readers differ in what they honour. So a graph is rewritten into a profile, by
default the portable one (`profiles.portable`), which norse 1.1, snntorch 1.0 and spikingjelly 2.0 execute alike. What
a rewriting must not change is run before and after; a graph that is within its profile is written as it is.
"""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import nir
import numpy as np

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.exporters.base import Check, Deployable, Exported
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.exporters.profiles.comparison import Difference, difference
from sca_deploy.exporters.profiles.rewriting import Rewritten, rewritten
from sca_deploy.exporters.profiles.rules import PORTABLE_DT, check_portable, projections
from sca_deploy.files import atomic_path
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import plan
from sca_deploy.hardware.lifting import lifted
from sca_deploy.hardware.restoring import restored

__all__ = ["NirExporter", "check_portable", "largest_difference", "topological_order", "write_nir"]

SHARE_MAX = 1e-4
"""Of the spikes, what single precision may turn in a rewriting that is exact otherwise."""
OUTPUT_MAX = 1e-3
"""Of the largest value, what the Output may differ by where no spike does."""


class NirExporter:
    """Writes `.nir` files (HDF5).

    Args:
        profile: whose readers it is for; one of `profiles.rewriting.PROFILES`.
        allow_lossy: write the nearest where the network cannot be carried, and say how many spikes differ.
        integers: write the chip's integers, divided by each layer's scale, from which they come back.
    """

    name = "nir"
    summary = "NIR graph of floats for norse, snntorch, spikingjelly and other NIR readers"
    suffix = ".nir"
    probes = False

    def __init__(self, profile: str = "portable", allow_lossy: bool = False, integers: bool = False) -> None:
        self._profile, self._allow_lossy, self.integers = profile, allow_lossy, integers

    def export(self, deployable: Deployable, output: Path) -> Exported:
        """Rewrite the graph, run both, write it, read it back and compare every array, edge and metadata value.

        Raises:
            ScaDeployError: if the profile cannot carry the graph, or the file cannot be written.
            UsageError: if there is no such profile.
            Mismatch: if the rewriting changes spikes it should not, or the file read back is not the graph written.
        """
        if self.integers:
            return self._export_integers(deployable, output)
        dynamics = deployable.dynamics or Dynamics(deployable.dt)
        made = rewritten(deployable.graph, dynamics, self._profile, self._allow_lossy)
        within = f"all {len(made.graph.nodes)} nodes are within it"
        checks = [Check(f"{self._profile} profile", None, within)]
        sums = projections(made.graph)
        if self._profile == "portable" and sums:
            checks.append(Check("norse", None, f"{UNSURE} ({', '.join(sums)})"))
        if made.losses or not same_values(deployable.graph, made.executed):
            checks.append(self._compared(deployable, dynamics, made))
        checks.append(_written(made.graph, deployable, made.dynamics.metadata(), output))
        return Exported(self.name, output, tuple(checks))

    def _compared(self, deployable: Deployable, dynamics: Dynamics, made: Rewritten) -> Check:
        """The rewriting, run against what was given.

        Raises:
            Mismatch: if it changes spikes though nothing was lost, and losses are not allowed.
        """
        x = None if deployable.probe is None else deployable.probe.x
        found = difference((deployable.graph, dynamics), (made.executed, made.dynamics), made.renamed, x)
        if not made.losses and not self._allow_lossy:
            _refuse_difference(found)
        if made.losses:
            return Check("lossy", None, f"{found}: {'; '.join(made.losses)}")
        return Check("rewriting", found.output, str(found))

    def _export_integers(self, deployable: Deployable, output: Path) -> Exported:
        """The Program as a graph, in the profile if that carries it; every field must come back from the file."""
        dynamics = Dynamics(PORTABLE_DT)
        graph = lifted(deployable.lowered, dynamics.dt)
        said = {key: value for key, value in deployable.graph.metadata.items() if key == "input_scale"}
        graph.metadata |= said  # whoever brings it on the same images must not scale them again
        try:
            made = rewritten(graph, dynamics, self._profile)
            graph, dynamics, within = made.graph, made.dynamics, "all nodes are within it"
        except ScaDeployError as error:
            within = f"not within it: {error.problem}"
        checks = [Check(f"{self._profile} profile", None, within)]
        checks.append(_written(graph, deployable, dynamics.metadata(), output, type_check=False))
        layers = restored(read_nir(output)).layers
        checks.append(Check("integers", None, f"those of all {len(layers)} layers come back from the file"))
        return Exported(self.name, output, tuple(checks))


UNSURE = "not known to add up branches alike, where neither is a way around the other"


def _refuse_difference(found: Difference) -> None:
    if found.share > SHARE_MAX:
        raise Mismatch(
            f"rewriting the graph changes its spikes: {found}, limit {100 * SHARE_MAX:g} %",
            "single precision decides potentials at the threshold otherwise; --allow-lossy writes it nevertheless",
        )
    if not found.differing and found.output > OUTPUT_MAX:
        raise Mismatch(
            f"rewriting the graph changes its output by {found.output:g} of the largest value, limit {OUTPUT_MAX}"
        )


def same_values(given: nir.NIRGraph, made: nir.NIRGraph) -> bool:
    """Whether two graphs have the same nodes, edges in any order, and bit-equal arrays."""
    if given.nodes.keys() != made.nodes.keys() or set(given.edges) != set(made.edges):
        return False
    try:
        return all(_node_difference(name, node, made.nodes[name]) == 0.0 for name, node in given.nodes.items())
    except Mismatch:
        return False


def write_nir(deployable: Deployable, output: Path) -> Check:
    """Write the graph as it is, in a profile or not, and read it back.

    Raises:
        ScaDeployError: if it cannot be written.
        Mismatch: if the file read back is not the graph given.
    """
    dynamics = deployable.dynamics or Dynamics(deployable.dt)
    return _written(deployable.graph, deployable, dynamics.metadata(), output, type_check=False)


def _written(
    graph: nir.NIRGraph, deployable: Deployable, dynamics: dict[str, Any], output: Path, type_check: bool = True
) -> Check:
    """Write and read back; NIR's own type check infers wrong shapes for grouped convolutions and oblong kernels."""
    graph = _described(graph, deployable, dynamics, type_check)
    content = io.BytesIO()
    # HDF5 reports a full disk in ways of its own; through memory it is an OSError like any other.
    nir.write(content, _WithoutResets(graph))
    with atomic_path(output) as temporary:
        temporary.write_bytes(content.getvalue())
        return Check(f"re-read {output.name}", largest_difference(graph, _reread(temporary, type_check)))


class _WithoutResets:
    """What `nir.write` asks of a graph, less the reset potentials that are zero.

    Readers built on nir < 1.0.6 refuse a file that has them; later ones read a missing one as zero.
    """

    def __init__(self, graph: nir.NIRGraph) -> None:
        self._graph = graph

    def to_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = self._graph.to_dict()
        _drop_zero_resets(document)
        return document


def _drop_zero_resets(document: dict[str, Any]) -> None:
    for node in document["nodes"].values():
        if "nodes" in node:
            _drop_zero_resets(node)
        elif not np.any(node.get("v_reset", 0.0)):
            node.pop("v_reset", None)


def _described(graph: nir.NIRGraph, deployable: Deployable, dynamics: dict[str, Any], type_check: bool) -> nir.NIRGraph:
    """A copy of the graph, type-checked where asked, whose metadata says what the format leaves open."""
    graph = copy.deepcopy(graph)
    metadata = graph.metadata | {"title": deployable.title} | dynamics
    if deployable.manifest:
        # One flat string: readers built on nir < 1.0.6 fail on nested metadata.
        metadata["manifest"] = json.dumps(dict(deployable.manifest), allow_nan=False)
    try:
        if not type_check:
            _say_shapes(graph)
        return nir.NIRGraph(graph.nodes, graph.edges, metadata, type_check=type_check)
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise ScaDeployError(f"the graph's shapes do not fit together: {error}") from error


def _say_shapes(graph: nir.NIRGraph) -> None:
    """Put in the shapes that a file must say and NIR's type check would infer."""
    walk = plan(graph)
    for name, node in walk.nodes.items():
        read = walk.shapes[walk.sources[name][0]] if walk.sources[name] else ()
        if isinstance(node, nir.Conv1d | nir.Conv2d) and node.input_shape is None:
            node.input_shape = read[1:] if isinstance(node, nir.Conv2d) else read[1]
        elif isinstance(node, nir.Flatten) and node.input_type["input"] is None:
            node.input_type = {"input": np.array(read)}


def _reread(path: Path, type_check: bool) -> nir.NIRGraph:
    try:
        return nir.read(path, type_check=type_check)
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
    if isinstance(given, nir.NIRGraph) and isinstance(read, nir.NIRGraph):
        return largest_difference(given, read)
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
