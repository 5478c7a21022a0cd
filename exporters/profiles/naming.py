"""Names that every reader can make attributes and keywords of."""

from __future__ import annotations

import json
import keyword
import re
from dataclasses import replace

import nir
import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.exporters.profiles.draft import Draft
from sca_deploy.hardware.program import Shape

RESERVED = frozenset(dir(torch.nn.ModuleDict())) | {"input", "output", "state", *keyword.kwlist}
"""What torch readers cannot call a module: their own attributes, the ends, and words of Python."""


def named(draft: Draft) -> Draft:
    """Letters, digits and _ alone; the ends are `input` and `output`."""
    ends = {draft.walk.input: "input", draft.walk.output: "output"}
    names: dict[str, str] = {}
    taken = {"input", "output"}
    for name in draft.nodes:
        if name in ends:
            names[name] = ends[name]
            continue
        clean = re.sub(r"[^A-Za-z0-9_]", "_", name) or "node"
        clean = f"{clean}_" if clean in RESERVED else clean
        while clean in taken or (clean != name and clean in draft.nodes):
            clean += "_"
        names[name] = clean
        taken.add(clean)
    nodes = {names[name]: node for name, node in draft.nodes.items()}
    shape = draft.shapes[draft.walk.input]
    nodes["input"] = nir.Input({"input": _sizes(shape)})
    nodes["output"] = nir.Output({"output": _sizes(draft.shapes[draft.walk.output])})
    edges = tuple((names[source], names[target]) for source, target in draft.edges)
    renamed = {old: names[new] for old, new in draft.renamed.items()}
    return replace(draft, nodes=nodes, edges=edges, renamed=renamed)


def _sizes(shape: Shape) -> npt.NDArray[np.int64]:
    return np.array(shape, np.int64)


def flat_metadata(draft: Draft) -> Draft:
    """Metadata of strings and numbers, as readers built on nir < 1.0.6 need; the rest as JSON text."""
    flat = {
        key: value if isinstance(value, str | int | float) else json.dumps(value, default=str)
        for key, value in draft.metadata.items()
    }
    return replace(draft, metadata=flat)
