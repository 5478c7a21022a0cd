"""A population that reads itself, as the nested graph of four nodes that torch readers run exactly.

Its Input and the matrix lead into the neurons, the neurons into the matrix and the Output. A flat loop is not
read alike: some readers take the loop's nodes in another order.
"""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np

from sca_deploy.exporters.profiles.draft import Draft, changed, double, identity
from sca_deploy.exporters.profiles.scales import biased
from sca_deploy.hardware.euler import SPIKING

NEURONS = "neurons"
"""What the population is called inside its graph."""


def through_matrices(draft: Draft) -> Draft:
    """A matrix on every edge from a population straight to itself."""
    for name, node in list(draft.nodes.items()):
        if isinstance(node, SPIKING) and (name, name) in draft.edges:
            itself = identity(draft.shapes[name], np.ones(1))
            if itself is not None and len(draft.shapes[name]) == 1:
                draft = draft.between(name, name, draft.free(f"{name}_to_itself"), itself)
    return draft


def without_constant_feedback(draft: Draft) -> Draft:
    """The bias of a recurrent matrix in the maps from outside, because readers differ on it in the first step."""
    for name, matrix in loops(draft).items():
        bias = double(draft.nodes[matrix].bias)
        if bias.any():
            quiet = changed(draft.nodes[matrix], bias=np.zeros(len(bias)))
            draft = biased(draft.put(matrix, quiet), name, bias)
    return draft


def loops(draft: Draft) -> dict[str, str]:
    """The recurrent matrix of each flat population that reads itself through one and no other way."""
    found = {}
    for part in draft.walk.parts:
        populations = [name for name in part if isinstance(draft.nodes[name], SPIKING)]
        matrices = [name for name in part if isinstance(draft.nodes[name], nir.Affine)]
        if len(part) == 2 and len(populations) == len(matrices) == 1:
            name, matrix = populations[0], matrices[0]
            closed = draft.sources(matrix) == [name] and draft.targets(matrix) == [name]
            if closed and (name, name) not in draft.edges and len(draft.shapes[name]) == 1:
                found[name] = matrix
    return found


def unlooped(draft: Draft) -> Draft:
    """With a refusal for each loop."""
    for part in _looping(draft):
        draft = draft.refusing(f"{_named(part)} form a loop, which no reader of this profile runs")
    return draft


def nested(draft: Draft) -> Draft:
    """Every recurrent population and its matrix as a graph in the graph; other loops are refused."""
    known = loops(draft)
    for part in _looping(draft):
        if not known.keys() & set(part):
            draft = draft.refusing(
                f"{_named(part)} form a loop; only a flat population that reads itself through one matrix is read alike"
            )
    for name, matrix in known.items():
        shape, node = draft.shapes[name], draft.nodes[name]
        inside = {
            "input": nir.Input({"input": np.array(shape)}),
            NEURONS: node,
            "weights": draft.nodes[matrix],
            "output": nir.Output({"output": np.array(shape)}),
        }
        edges = [("input", NEURONS), (NEURONS, "weights"), ("weights", NEURONS), (NEURONS, "output")]
        graph = nir.NIRGraph(inside, edges, {}, type_check=False)
        nodes = {other: kept for other, kept in draft.nodes.items() if other != matrix}
        outside = [edge for edge in draft.edges if matrix not in edge]
        renamed = {old: f"{name}.{NEURONS}" if new == name else new for old, new in draft.renamed.items()}
        draft = replace(draft.wired(outside), nodes={**nodes, name: graph}, renamed=renamed)
    return draft


def met_after_what_they_read(draft: Draft) -> Draft:
    """Names in the order of the graph, where nested graphs need it.

    A file gives nodes back in the order of their names, and nirtorch 2.6 fails on a nested graph that it meets before
    what it reads. Where that would be, every node but the ends is numbered.
    """
    if not _met_too_early(draft):
        return draft
    digits = len(str(len(draft.nodes)))
    inner = [name for name in draft.nodes if name not in ("input", "output")]
    names = {name: f"n{place:0{digits}d}_{name}" for place, name in enumerate(inner, 1)}
    nodes = {names.get(name, name): node for name, node in draft.nodes.items()}
    edges = tuple((names.get(source, source), names.get(target, target)) for source, target in draft.edges)
    heads = {old: new.partition(".") for old, new in draft.renamed.items()}
    renamed = {old: names.get(head, head) + dot + rest for old, (head, dot, rest) in heads.items()}
    return replace(draft, nodes=nodes, edges=edges, renamed=renamed)


def _met_too_early(draft: Draft) -> bool:
    """Whether a reader that goes round the sorted names, from the Input on, meets a nested graph too early."""
    ordered = sorted(draft.nodes)
    start = ordered.index("input")
    waiting, known = ordered[start:] + ordered[:start], set[str]()
    while waiting:
        later = []
        for name in waiting:
            if known.issuperset(draft.sources(name)):
                known.add(name)
            elif isinstance(draft.nodes[name], nir.NIRGraph):
                return True
            else:
                later.append(name)
        if len(later) == len(waiting):  # a loop, which was refused
            return False
        waiting = later
    return False


def _looping(draft: Draft) -> list[list[str]]:
    late = {name for edge in draft.walk.late for name in edge}
    return [part for part in draft.walk.parts if late & set(part)]


def _named(part: list[str]) -> str:
    shown = sorted(part)
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(f"'{name}'" for name in shown[:3]) + more
