"""Networks that were not made here: what a training begins with when its config names a file.

Recordings and binary codes go in as they are; images that are shown directly are scaled to 0..1 first, as other
frameworks scale them, by a Scale node behind the Input.
"""

from __future__ import annotations

import copy
from pathlib import Path

import nir
import numpy as np

from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.config import Config
from sca_deploy.data import Dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir import write_nir
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.hardware.dynamics import KEYS, Dynamics
from sca_deploy.inputs import Inputs, inputs_of
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.pruning.group import Network

SCALE_NODE = "input_scale"


def brought(config: Config, dataset: Dataset) -> Network:
    """The network that the config's file holds, ready for the config's data.

    Raises:
        UsageError: if it does not fit the data.
        ScaDeployError: if the file is damaged.
    """
    path, inputs = Path(config.network.file), inputs_of(config, dataset)
    network = load_network(path)[0] if path.suffix == ".pt" else _of_graph(path, inputs)
    if network.input_shape != dataset.shape:
        raise UsageError(
            f"{path.name} takes {network.input_shape}, samples of data set '{dataset.name}' are {dataset.shape}",
            "bring data of its shape",
        )
    classes = network.classes if isinstance(network, GraphNetwork) else network.spec.classes
    if classes < dataset.classes:
        raise UsageError(f"{path.name} tells {classes} classes apart, data set '{dataset.name}' has {dataset.classes}")
    if network.steps != config.network.steps:
        raise UsageError(f"{path.name} was made for {network.steps} steps, the config says {config.network.steps}")
    return network


def graph_dynamics(graph: nir.NIRGraph) -> Dynamics:
    """What a graph's metadata says of its neurons.

    Raises:
        ScaDeployError: if it does not say its time step.
    """
    said = {key: value for key, value in graph.metadata.items() if key in KEYS}
    if "dt" not in said:
        raise ScaDeployError("the graph does not say its time step", "give --dt SECONDS, e.g. --dt 1e-4")
    said["multi_spike"] = bool(said.get("multi_spike", 0))
    return Dynamics(**said)


def _of_graph(path: Path, inputs: Inputs) -> GraphNetwork:
    graph = read_nir(path)
    scaled = _scaled(graph, inputs.scale) if inputs.scale != 1.0 else graph
    return GraphNetwork(scaled, graph_dynamics(graph), inputs.steps)


def _scaled(graph: nir.NIRGraph, factor: float) -> nir.NIRGraph:
    """The graph with its input multiplied by a factor."""
    graph = copy.deepcopy(graph)
    [name] = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    if SCALE_NODE in graph.nodes:
        raise ScaDeployError(f"the graph has a node '{SCALE_NODE}' already", "rename it")
    shape = np.ravel(graph.nodes[name].input_type["input"]).astype(int)
    graph.nodes[SCALE_NODE] = nir.Scale(np.full(shape, factor, np.float32))
    edges = [(SCALE_NODE if source == name else source, target) for source, target in graph.edges]
    graph.edges = [(name, SCALE_NODE), *edges]
    return graph


def keep_source(network: Network, folder: Path, title: str) -> Path:
    """Leave the network, as it was brought, in a run folder; the file that the run's config names."""
    if isinstance(network, GraphNetwork):
        path = folder / "brought.nir"
        graph = network.to_nir()
        write_nir(Deployable(graph, network.dynamics.dt, title=title, dynamics=network.dynamics), path)
    else:
        path = folder / "brought.pt"
        save_network(path, network)
    return path
