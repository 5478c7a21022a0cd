"""A GraphNetwork as plain values and tensors, which a checkpoint can hold without pickled code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import nir
import numpy as np
import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_nodes import KNOWN
from sca_deploy.nn.graph_network import GraphNetwork

_KINDS = {kind.__name__: kind for kind in (*KNOWN, nir.Input, nir.Output)}


def graph_document(network: GraphNetwork) -> dict[str, Any]:
    """The network's graph, dynamics and steps; its weights are those of the graph it was made from."""
    return {
        "graph": _plain_graph(network.graph),
        "dynamics": asdict(network.dynamics),
        "steps": network.steps,
        "dtype": str(network.dtype).removeprefix("torch."),
    }


def network_of(document: Mapping[str, Any]) -> GraphNetwork:
    """The network that `graph_document` describes.

    Raises:
        ScaDeployError: if it describes none.
    """
    if document["dtype"] not in ("float32", "float64"):
        raise ScaDeployError(f"the network computes in {document['dtype']!r}, float32 or float64 are known")
    graph = _graph(document["graph"])
    dtype: torch.dtype = getattr(torch, document["dtype"])
    return GraphNetwork(graph, Dynamics(**document["dynamics"]), int(document["steps"]), dtype)


def _plain_graph(graph: nir.NIRGraph) -> dict[str, Any]:
    nodes = {
        name: {"type": type(node).__name__, **_plain_graph(node)}
        if isinstance(node, nir.NIRGraph)
        else {"type": type(node).__name__, **_plain_node(node)}
        for name, node in graph.nodes.items()
    }
    edges = [list(edge) for edge in graph.edges]
    return {"nodes": nodes, "edges": edges, "metadata": _plain(graph.metadata)}


def _plain_node(node: nir.NIRNode) -> dict[str, Any]:
    return {field.name: _plain(getattr(node, field.name)) for field in fields(node) if field.init}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value, order="C"))
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _graph(plain: Mapping[str, Any]) -> nir.NIRGraph:
    nodes = {name: _node(table) for name, table in plain["nodes"].items()}
    edges = [(str(source), str(target)) for source, target in plain["edges"]]
    return nir.NIRGraph(nodes, edges, metadata=_remarks(plain["metadata"]), type_check=False)


def _node(table: Mapping[str, Any]) -> nir.NIRNode:
    values = dict(table)
    kind = values.pop("type")
    if kind == "NIRGraph":
        return _graph(values)
    if kind not in _KINDS:
        raise ScaDeployError(f"a node has the unknown type {kind!r}")
    metadata = _remarks(values.pop("metadata", {}))
    return _KINDS[kind](**{key: _array(value) for key, value in values.items()}, metadata=metadata)


def _remarks(plain: Any) -> Any:
    """Metadata: arrays are arrays again, lists stay lists."""
    if isinstance(plain, dict):
        return {key: _remarks(value) for key, value in plain.items()}
    return plain.numpy() if isinstance(plain, torch.Tensor) else plain


def _array(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _array(inner) for key, inner in value.items()}
    return tuple(_array(inner) for inner in value) if isinstance(value, list) else value
