"""The last touches: one edge into the Output, edges in the order they run, single precision, shapes."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np

from sca_deploy.exporters.profiles.draft import Draft, changed, identity
from sca_deploy.hardware.float_nodes import pair


def one_way_out(draft: Draft) -> Draft:
    """One edge into the Output: a sum needs a node, and becomes a map that changes nothing else."""
    output = draft.walk.output
    if len(draft.sources(output)) > 1:
        node = identity(draft.shapes[output], np.ones(1))
        if node is None:
            return draft.refusing(f"the Output adds values of shape {draft.shapes[output]}, which no map carries")
        draft = draft.before(output, draft.free("sum"), node)
    return draft


def in_order(draft: Draft) -> Draft:
    """Nodes and edges as they run; of the edges into a node the longest way first, then the skips around it."""
    place = {name: i for i, name in enumerate(name for part in draft.walk.parts for name in part)}
    depth: dict[str, int] = {}
    for name in sorted(place, key=lambda name: place[name]):
        depth[name] = 1 + max((depth.get(source, 0) for source in draft.sources(name)), default=0)
    edges = sorted(draft.edges, key=lambda edge: (place[edge[1]], -depth[edge[0]]))
    return replace(draft, nodes={name: draft.nodes[name] for name in place}, edges=tuple(edges))


def narrowed(draft: Draft) -> Draft:
    """All values in single precision, sizes as pairs, and the shapes of convolutions and Flattens said."""
    if draft.refusals:  # what was refused may have sizes that no file can hold
        return draft
    nodes: dict[str, nir.NIRNode] = {}
    for name, node in draft.nodes.items():
        single = {
            key: value.astype(np.float32)
            for key, value in vars(node).items()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        }
        if isinstance(node, nir.Conv2d):
            height, width = draft.entering(name)[1:]
            two = {key: pair(getattr(node, key)) for key in ("stride", "padding", "dilation")}
            nodes[name] = nir.Conv2d((height, width), single["weight"], groups=1, bias=single["bias"], **two)
        elif isinstance(node, nir.Affine):
            nodes[name] = nir.Affine(single["weight"], single["bias"])
        elif isinstance(node, nir.SumPool2d):
            sizes = (np.array(pair(getattr(node, key))) for key in ("kernel_size", "stride", "padding"))
            nodes[name] = nir.SumPool2d(*sizes)
        elif isinstance(node, nir.Flatten):
            shape = {"input": np.array(draft.entering(name))}
            nodes[name] = nir.Flatten(shape, start_dim=node.start_dim, end_dim=node.end_dim)
        else:
            nodes[name] = changed(node, **single) if single else node
    return replace(draft, nodes=nodes)
