"""Networks that were not made here: what a training begins with when its config names a file, and that config.

Recordings and binary codes go in as they are; images that are shown directly are scaled to 0..1 first, as other
frameworks scale them, by a Scale node behind the Input. The graph's metadata then say so, and it is not scaled again,
though the node may be folded into the weights by then.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nir
import numpy as np
import torch

from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.config import Config, DataConfig, NetworkConfig, PruneConfig, TrainConfig, anchored, load_config
from sca_deploy.data import Dataset
from sca_deploy.data.arrays import NAME as ARRAYS
from sca_deploy.data.arrays import recorded_steps
from sca_deploy.data.catalogue import CATALOGUE
from sca_deploy.errors import ScaDeployError, UsageError, unknown_name
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir import same_values, write_nir
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.hardware.dynamics import KEYS, Dynamics
from sca_deploy.inputs import Inputs, inputs_of
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.pruning.group import Network

SCALE_NODE = "input_scale"
"""The node that scales the input, and the key under which metadata say what integers are multiplied by."""

RATE = 2e-4
"""Fine-tuning begins where a training has ended: a tenth of a training's usual first rate."""


def data_config(
    name: str,
    *,
    folder: str | None = None,
    coding: str | None = None,
    size: int | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
) -> DataConfig:
    """The data a user means: a set by name, a .npz file of arrays, or the set of a .toml config.

    Args:
        name: which one.
        folder, coding, size, train_samples, test_samples: as `DataConfig`; None is what the config says, recordings
            as events, images as they are.

    Raises:
        UsageError: if there is no such set, or it takes no folder.
        ScaDeployError: if a file is missing or damaged.
    """
    if name.endswith(".npz"):
        if folder is not None:
            raise UsageError(f"--data {name} is a file", "leave --data-folder out")
        data = DataConfig(set=ARRAYS, folder=str(Path(name).resolve()))
    elif name.endswith(".toml"):
        data = load_config(name).data
    else:
        data = DataConfig(set=name)
    changes: dict[str, Any] = {"folder": folder, "coding": coding, "size": size}
    changes |= {"train_samples": train_samples, "test_samples": test_samples}
    data = replace(data, **{key: value for key, value in changes.items() if value is not None})
    return data if coding is not None else replace(data, coding=_usual_coding(data))


def recorded(data: DataConfig) -> int | None:
    """How many time steps the recordings of a file of arrays last; None where that is up to the network."""
    return recorded_steps(Path(data.folder)) if data.set == ARRAYS else None


def pruning_config(name: str, file: Path, data: DataConfig, steps: int, flags: Mapping[str, Any]) -> Config:
    """The config with which a network in a file is pruned, and fine-tuned.

    Args:
        name: of the run.
        file: of the network, .nir or .pt.
        data: what it is pruned on.
        steps: time steps a sample lasts.
        flags: "method", "score", "epochs" and "seed"; "keep", "budget", "allocation", "lr", "batch_size", "device",
            "floor", "l1_gamma" and "chip", where a missing one or None is the default.

    Raises:
        UsageError: naming the value that is out of range, or if both or neither of "keep" and "budget" are there, or
            an "allocation" without "budget".
    """
    if (flags.get("keep") is None) != bool(flags.get("budget")):
        both = "both --keep and --budget are given" if flags.get("budget") else "neither --keep nor --budget is given"
        raise UsageError(both, "say how much is to be left, a fraction or what it may take on the chip")
    if flags.get("allocation") and not flags.get("budget"):
        raise UsageError("--allocation is given without --budget, which it would share out", "leave it out")
    train = replace(TrainConfig(epochs=flags["epochs"], lr=RATE), **_given(flags, "lr", "batch_size", "device"))
    prune = PruneConfig(method=flags["method"], score=flags["score"])
    prune = replace(prune, **_given(flags, "keep", "budget", "allocation", "floor", "l1_gamma"))
    network = NetworkConfig(file=str(file), steps=steps)
    config = Config(name=name, seed=flags["seed"], data=data, network=network, train=train, prune=prune)
    return anchored(replace(config, **_given(flags, "chip")))


def brought(config: Config, dataset: Dataset) -> Network:
    """The network that the config's file holds, ready for the config's data.

    Raises:
        UsageError: if it does not fit the data.
        ScaDeployError: if the file is damaged.
    """
    path, inputs = Path(config.network.file), inputs_of(config, dataset)
    if path.suffix == ".pt":
        network = load_network(path)[0]
    else:
        graph = read_nir(path)
        network = GraphNetwork(graph, graph_dynamics(graph), inputs.steps)
    return fitted(network, dataset, inputs, path.name)


def fitted(network: Network, dataset: Dataset, inputs: Inputs, title: str) -> Network:
    """The network ready for a data set: itself, or one of a graph whose input is scaled.

    Args:
        title: what the network is called in an error.

    Raises:
        UsageError: if it does not fit the data.
    """
    if network.input_shape != dataset.shape:
        raise UsageError(
            f"{title} takes {network.input_shape}, samples of data set '{dataset.name}' are {dataset.shape}",
            "bring data of its shape",
        )
    classes = network.classes if isinstance(network, GraphNetwork) else network.spec.classes
    if classes < dataset.classes:
        raise UsageError(f"{title} tells {classes} classes apart, data set '{dataset.name}' has {dataset.classes}")
    if network.steps != inputs.steps:
        raise UsageError(f"{title} was made for {network.steps} steps, the config says {inputs.steps}")
    if not isinstance(network, GraphNetwork):
        if network.spec.input_scale != inputs.scale:
            raise UsageError(
                f"{title} was trained on input times {network.spec.input_scale:g}, that of '{dataset.name}' is times "
                f"{inputs.scale:g}",
                "bring data of the same range and coding",
            )
        return network
    already = network.graph.metadata.get(SCALE_NODE, 1.0)
    if not (isinstance(already, float | int) and 0 < already <= 1):
        raise ScaDeployError(f"{title} says its input is multiplied by {already!r}", f"remove '{SCALE_NODE}' from it")
    if already == inputs.scale:
        return network
    graph = _scaled(network.to_nir(), inputs.scale / already)
    graph.metadata[SCALE_NODE] = inputs.scale
    return GraphNetwork(graph, network.dynamics, network.steps, network.dtype)


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


def _scaled(graph: nir.NIRGraph, factor: float) -> nir.NIRGraph:
    """The graph with its input multiplied by a factor.

    Raises:
        ScaDeployError: if something else has the name of the node that does it.
    """
    graph = copy.deepcopy(graph)
    if SCALE_NODE in graph.nodes:
        node = graph.nodes[SCALE_NODE]
        if SCALE_NODE not in graph.metadata or not isinstance(node, nir.Scale):
            raise ScaDeployError(f"the graph has a node '{SCALE_NODE}' already", "rename it")
        node.scale = (node.scale * factor).astype(np.float32)
        return graph
    [name] = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    shape = np.ravel(graph.nodes[name].input_type["input"]).astype(int)
    graph.nodes[SCALE_NODE] = nir.Scale(np.full(shape, factor, np.float32))
    edges = [(SCALE_NODE if source == name else source, target) for source, target in graph.edges]
    graph.edges = [(name, SCALE_NODE), *edges]
    return graph


def _usual_coding(data: DataConfig) -> str:
    """Recordings are events; images are shown as their config says."""
    if data.set not in CATALOGUE:
        raise unknown_name("data set", data.set, CATALOGUE)
    return "events" if CATALOGUE[data.set].timed or recorded(data) is not None else data.coding


def _given(flags: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: flags[key] for key in keys if flags.get(key) is not None}


def keep_source(network: Network, folder: Path, title: str) -> Path:
    """Leave the network, as it was brought, in a run folder; the file that the run's config names.

    Raises:
        UsageError: if the folder holds a run of another network.
        ScaDeployError: if the file cannot be written.
    """
    path = folder / ("brought.nir" if isinstance(network, GraphNetwork) else "brought.pt")
    if path.exists() and any(folder.glob("*/train/checkpoint.pt")):
        with TemporaryDirectory() as place:
            new = Path(place) / path.name
            _write(network, new, title)
            if not _same(new, path):
                fix = "choose another --output, or delete the folder"
                raise UsageError(f"{folder} holds a run of another network", fix)
    _write(network, path, title)
    return path


def _write(network: Network, path: Path, title: str) -> None:
    if isinstance(network, GraphNetwork):
        dynamics = network.dynamics
        write_nir(Deployable(network.to_nir(), dynamics.dt, title=title, dynamics=dynamics), path)
    else:
        save_network(path, network)


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same network."""
    if one.suffix == ".nir":
        graphs = read_nir(one), read_nir(other)
        said = [{key: graph.metadata.get(key) for key in (*KEYS, "T", SCALE_NODE)} for graph in graphs]
        return said[0] == said[1] and same_values(*graphs)
    documents = [load_network(path)[1] for path in (one, other)]
    states = [document["state"] for document in documents]
    described = [document.get("spec") for document in documents]
    return described[0] == described[1] and all(torch.equal(value, states[1][key]) for key, value in states[0].items())
