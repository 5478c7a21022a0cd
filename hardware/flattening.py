"""Takes graphs inside a NIR graph apart."""

from __future__ import annotations

import nir

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.euler import refuse

DEPTH_MAX = 16
"""Graphs inside graphs are followed this deep; deeper ones hold themselves."""


def flattened(graph: nir.NIRGraph, depth: int = 0) -> tuple[dict[str, nir.NIRNode], list[tuple[str, str]]]:
    """Nodes and edges with the graphs inside the graph taken apart: their nodes are called `<graph>.<node>`.

    An edge from a graph inside to itself leads from what enters its Output to what its Input leads to.

    Raises:
        ScaDeployError: if a graph inside has not one Input and one Output, names collide, or graphs are nested
            more than 16 deep.
    """
    if depth > DEPTH_MAX:
        raise ScaDeployError(f"the graph holds graphs inside graphs more than {DEPTH_MAX} deep")
    nodes: dict[str, nir.NIRNode] = {}
    edges = list(graph.edges)
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRGraph):
            nodes[name] = node
            continue
        inside, inner_edges = flattened(node, depth + 1)
        ends = {kind: [n for n, child in inside.items() if isinstance(child, kind)] for kind in (nir.Input, nir.Output)}
        if any(len(found) != 1 for found in ends.values()):
            raise refuse(name, node, "a graph inside the graph needs one Input and one Output")
        (entry,), (leaving,) = ends[nir.Input], ends[nir.Output]
        before = [source for source, target in edges if target == name != source]
        after = [target for source, target in edges if source == name != target]
        again = (name, name) in edges
        edges = [edge for edge in edges if name not in edge]
        into = [target for source, target in inner_edges if source == entry and target != leaving]
        out = [source for source, target in inner_edges if target == leaving and source != entry]
        if again and (entry, leaving) in inner_edges:
            raise refuse(name, node, "it reads itself without neurons in between")
        edges += [(f"{name}.{source}", f"{name}.{target}") for source in out for target in into if again]
        if (entry, leaving) in inner_edges:
            edges += [(source, target) for source in before for target in after]
        edges += [(source, f"{name}.{target}") for source in before for target in into]
        edges += [(f"{name}.{a}", f"{name}.{b}") for a, b in inner_edges if a != entry and b != leaving]
        edges += [(f"{name}.{source}", target) for source in out for target in after]
        for inner, child in inside.items():
            if f"{name}.{inner}" in graph.nodes:
                raise refuse(name, node, f"its node '{inner}' and the node '{name}.{inner}' beside it share a name")
            if inner not in (entry, leaving):
                nodes[f"{name}.{inner}"] = child
    return nodes, edges
