"""What a NIR file holds, node by node, before anything is made of it.

A `.nir` file is HDF5: `/node` is a group with a `type` and the members of that type; a graph has `nodes`, a group of
such groups, and `edges`, pairs of names. Graphs may hold graphs. Files of every nir library from 0.1 on look like this;
which members a type has, and of what shape, differs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.hdf5_members import (
    VALUES_MAX,
    group_of,
    identity,
    integers,
    is_group,
    is_text,
    members,
    numbers,
    opened,
    strings,
    text,
)

GRAPH = "NIRGraph"
DEPTH_MAX = 16
"""Graphs in graphs, and groups of metadata in groups, are followed this deep."""
COUNT_MAX = 100_000
"""Nodes, edges and members of a file, each."""

_LEAKY = ("tau", "r", "v_leak")
_FIRING = ("v_threshold", "v_reset")
_CURRENT = ("tau_syn", "tau_mem", "r", "v_leak", "w_in")
FLOATS: dict[str, tuple[str, ...]] = {
    "Affine": ("weight", "bias"), "Linear": ("weight",), "Scale": ("scale",), "Threshold": ("threshold",),
    "Conv1d": ("weight", "bias"), "Conv2d": ("weight", "bias"), "Delay": ("delay",),
    "I": ("r",), "IF": ("r", *_FIRING), "LI": _LEAKY, "LIF": (*_LEAKY, *_FIRING),
    "CubaLI": _CURRENT, "CubaLIF": (*_CURRENT, *_FIRING),
    "SumPool2d": (), "AvgPool2d": (), "Flatten": (), "Input": (), "Output": (), GRAPH: (),
}  # fmt: skip
"""Every node type of NIR, and its members that are real numbers."""
_CONV = ("input_shape", "stride", "padding", "dilation", "groups")
_POOL = ("kernel_size", "stride", "padding")
_ENDS = ("shape", "input_type", "output_type")
WHOLES: dict[str, tuple[str, ...]] = {
    "Conv1d": _CONV, "Conv2d": _CONV, "SumPool2d": _POOL, "AvgPool2d": _POOL,
    "Flatten": ("start_dim", "end_dim", "input_type"), "Input": _ENDS, "Output": _ENDS,
}  # fmt: skip
"""The members that are whole numbers; a padding may be a word instead."""

log = logging.getLogger(__name__)


@dataclass
class Document:
    """A node of a file: its place there, its type, its members, and what it holds if it is a graph."""

    place: str
    kind: str
    values: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Document] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def all(self) -> Iterator[Document]:
        """This node, and all inside it."""
        yield self
        for node in self.nodes.values():
            yield from node.all()


def read_document(path: str | Path) -> Document:
    """What the file holds at `/node`.

    Raises:
        ScaDeployError: naming the member that is missing, of another type, or leads out of the file.
        Exception: whatever h5py raises for a file that is not HDF5 or is damaged.
    """
    with opened(path) as file:
        members(file, COUNT_MAX)
        return _Walk().node(group_of(file, "node"), 0)


class _Walk:
    """Goes through the groups of a file and keeps count, since links between them can make a small file endless."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], str] = {}
        self._members = self._values = 0

    def node(self, group: h5py.Group, depth: int) -> Document:
        """The node that a group describes, which lies in `depth` graphs."""
        names = self._enter(group, depth)
        kind = text(group, "type")
        if kind not in FLOATS:
            raise ScaDeployError(f"{group.name} is of type '{kind}'", f"NIR's types are: {', '.join(FLOATS)}")
        document = Document(group.name, kind)
        known = (*FLOATS[kind], *WHOLES.get(kind, ()))
        for name in names:
            if name in known:
                self._value(document, group, name)
            elif name == "metadata":
                document.metadata = self._metadata(group_of(group, name), 0)
            elif name not in ("type", "nodes", "edges"):
                log.debug("%s/%s is not read, %s nodes have no such member", group.name, name, kind)
        if kind == GRAPH:
            inside = group_of(group, "nodes")
            names = self._enter(inside, depth)
            document.nodes = {name: self.node(group_of(inside, name), depth + 1) for name in names}
            document.edges = self._edges(group)
        return document

    def _enter(self, group: h5py.Group, depth: int) -> list[str]:
        known = self._seen.setdefault(identity(group), group.name)
        if known != group.name:
            raise ScaDeployError(f"{group.name} is {known} once more")
        if depth > DEPTH_MAX + 1:
            raise ScaDeployError(f"{group.name} lies deeper than {DEPTH_MAX} graphs or groups")
        names = members(group, COUNT_MAX)
        self._members += len(names)
        if self._members > COUNT_MAX:
            raise ScaDeployError(f"{group.name} brings the members of the file to more than {COUNT_MAX}")
        return names

    def _count(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self._values += values.size
        if self._values > VALUES_MAX:
            raise ScaDeployError(f"the file claims more than {VALUES_MAX} values")
        return values

    def _value(self, document: Document, group: h5py.Group, name: str) -> None:
        if name in FLOATS[document.kind]:
            document.values[name] = self._count(_floats(group, name))
        elif name in _ENDS and is_group(group, name):
            # A shape by the name of the port it belongs to.
            ports = members(group_of(group, name), COUNT_MAX)
            if len(ports) != 1:
                raise ScaDeployError(f"{group.name}/{name} holds {len(ports)} shapes, expected one")
            document.values[name] = self._count(integers(group_of(group, name), ports[0]))
        elif name == "padding" and is_text(group, name):
            document.words[name] = text(group, name)
        else:
            document.values[name] = self._count(integers(group, name))

    def _edges(self, group: h5py.Group) -> list[tuple[str, str]]:
        if not is_text(group, "edges"):
            if numbers(group, "edges").size == 0:  # what h5py makes of an empty list
                return []
            raise ScaDeployError(f"{group.name}/edges are not names of nodes")
        pairs = strings(group, "edges")
        if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) > COUNT_MAX:
            raise ScaDeployError(f"{group.name}/edges has shape {pairs.shape}, expected up to {COUNT_MAX} pairs")
        return [(str(source), str(target)) for source, target in pairs]

    def _metadata(self, group: h5py.Group, depth: int) -> dict[str, Any]:
        """Plain Python values: text, numbers, lists of them, and dictionaries."""
        found: dict[str, Any] = {}
        for name in self._enter(group, depth):
            if is_group(group, name):
                found[name] = self._metadata(group_of(group, name), depth + 1)
            else:
                values = strings(group, name) if is_text(group, name) else numbers(group, name)
                found[name] = self._count(values).tolist()
        return found


def _floats(group: h5py.Group, name: str) -> npt.NDArray[np.floating]:
    """Real numbers: float32 and float64 as they are, halves and integers as float32.

    Raises:
        ScaDeployError: if there are none, or one is NaN or infinite.
    """
    found = numbers(group, name)
    if found.dtype not in (np.float32, np.float64):
        found = found.astype(np.float64 if found.dtype.itemsize > 8 else np.float32)
    if not found.size:
        raise ScaDeployError(f"{group.name}/{name} of shape {found.shape} holds no values")
    if not np.isfinite(found).all():
        raise ScaDeployError(f"{group.name}/{name} holds NaN or infinite values", "train it again, or export it again")
    return found
