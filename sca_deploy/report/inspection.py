"""A network as readable tables: its nodes in floats, then what each layer is on the chip and how much it uses of it."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import torch

from sca_deploy.artifact import Artifact
from sca_deploy.checkpoint import load_network
from sca_deploy.conventions import Asked
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.euler import NEURONS
from sca_deploy.hardware.float_graph import Walk, plan
from sca_deploy.hardware.float_nodes import WEIGHTED, coefficients
from sca_deploy.hardware.frontend import read_populations
from sca_deploy.hardware.program import DECAY_ONE, Conv, Layer, Program, Synapse
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.pruning.group import Network
from sca_deploy.pruning.groups import channel_groups
from sca_deploy.report.tables import table

PARAMETERS = ("tau", "tau_mem", "tau_syn", "r", "w_in", "v_leak", "v_threshold", "v_reset")
"""What a neuron node of NIR holds, in continuous time."""

REST = ("drift", "reset", "v_leak", "v_reset")
"""Potentials that are 0 where nothing else is said, and then left out of the table."""


def inspection(artifact: Artifact) -> dict[str, Any]:
    """The Program's layers as plain data.

    Raises:
        ScaDeployError: if the network cannot become integers, or nothing says what is needed for it.
    """
    program = artifact.program
    return {
        "title": artifact.title,
        "input_shape": list(program.input_shape),
        "input_bits": program.input_bits,
        "injected": program.injected,
        "steps": program.steps,
        "neurons": sum(layer.neurons for layer in program.layers),
        "parameters": program.parameters,
        "layers": [_layer(program, layer) for layer in program.layers],
    }


def described(artifact: Artifact) -> dict[str, Any]:
    """All that can be said of a network: `inspection`, and its nodes in floats under "floats".

    Where there are no integers, "layers" is empty and "why_not" says why. Where nothing says how the neurons of a
    graph step, its nodes are shown as they are, and "floats" says why under "why_not".

    Raises:
        ScaDeployError: if there is nothing to show: a damaged file, or what the flags ask for cannot be had.
    """
    floats = _floats(artifact)
    try:
        integers = inspection(artifact)
    except ScaDeployError as error:
        reading = artifact.reading
        asked = (reading.steps, reading.input_bits, reading.num_layers, reading.calibrate) != (None,) * 4
        if floats is None or asked:
            raise
        reason = _obstacle(artifact, floats) or error
        integers = {"title": artifact.title, "layers": [], "why_not": [reason.problem, reason.fix]}
    return integers | {"floats": floats}


def described_text(document: dict[str, Any], width: int | None = None) -> str:
    """The same for people, on a terminal of so many columns; None is a file."""
    parts = [] if document["floats"] is None else [_floats_text(document["title"], document["floats"], width)]
    if document["layers"]:
        parts.append(inspection_text(document, width))
    # Where even the floats are open, the integers are for the same reason.
    elif "why_not" not in document["floats"]:
        problem, fix = document["why_not"]
        parts.append(f"no integers: {problem}" + (f"\nfix: {fix}" if fix else ""))
    return "\n\n".join(parts)


def inspection_text(document: dict[str, Any], width: int | None = None) -> str:
    """The integers for people, on a terminal of so many columns; None is a file."""
    rows = [
        (
            layer["name"],
            layer["synapse"],
            "x".join(map(str, layer["shape"])),
            f"{layer['weights']:,}",
            f"{layer['zero_weights']:.0%}",
            f"{layer['weight_max']}",
            f"{layer['bias_max']:,}",
            "read-out" if layer["readout"] else f"{layer['threshold']:,}",
            f"{layer['beta']:.4g}",
            f"{layer['alpha']:.4g}",
        )
        for layer in document["layers"]
    ]
    shape = "x".join(map(str, document["input_shape"]))
    kind = f"{document['input_bits']}-bit graded spikes" if document["input_bits"] else "binary spikes"
    kind = "written into a bias" if document["injected"] else kind
    title = (
        f"{document['title']}: input {shape} ({kind}), {document['steps']} steps, "
        f"{document['neurons']:,} neurons, {document['parameters']:,} integers"
    )
    head = ("layer", "synapse", "neurons", "weights", "zero", "max |w|", "max |bias|", "threshold", "beta", "alpha")
    return table(head, rows, title, width)


def _layer(program: Program, layer: Layer) -> dict[str, Any]:
    weights = [synapse.weight for synapse in layer.synapses]
    size = sum(w.size for w in weights)
    return {
        "name": layer.name,
        "synapse": " + ".join(_describe(layer, synapse) for synapse in layer.synapses) or "none, the input is injected",
        "shape": list(layer.shape),
        "weights": size,
        "zero_weights": sum(int((w == 0).sum()) for w in weights) / max(size, 1),
        "weight_max": max((int(np.abs(w).max(initial=0)) for w in weights), default=0),
        "bias_max": int(np.abs(layer.bias).max(initial=0)),
        "threshold": layer.threshold,
        "beta": 1 - layer.v_decay / DECAY_ONE,
        "alpha": 1 - layer.u_decay / DECAY_ONE,
        "scale": layer.scale,
        "readout": program.readout and layer is program.layers[-1],
    }


def _describe(layer: Layer, synapse: Synapse) -> str:
    if not isinstance(synapse, Conv):
        longest = synapse.delay_range[1]
        # A layer hears itself one step later anyway.
        late = f", up to {longest} steps late" if longest > (synapse.source == layer.name) else ""
        return f"dense from {synapse.source}{late}"
    height, width = synapse.weight.shape[2:]
    down, right = synapse.stride
    stride = "" if (down, right) == (1, 1) else f"/{down}" if down == right else f"/{down}x{right}"
    groups = f" in {synapse.groups} groups" if synapse.groups > 1 else ""
    return f"conv {height}x{width}{stride}{groups} from {synapse.source}"


def _floats(artifact: Artifact) -> dict[str, Any] | None:
    """The nodes of a network's graph; None where it was integers from the beginning."""
    if artifact.net_path is not None or (artifact.network_path is None and artifact.graph_path is None):
        return None
    try:
        graph, dynamics = artifact.graph, artifact.dynamics
    except UsageError as error:
        if artifact.graph_path is None or artifact.reading.asked != Asked():
            raise
        raw = plan(read_nir(artifact.graph_path))
        return {**_nodes(raw, None, {}), "why_not": [error.problem, error.fix]}
    if graph is None:
        return None
    return _nodes(plan(graph), dynamics, _channels(artifact, graph, dynamics))


def _obstacle(artifact: Artifact, floats: dict[str, Any]) -> ScaDeployError | None:
    """What no flag that is missing would mend."""
    if artifact.graph_path is None or floats["dynamics"] is None or artifact.graph is None:
        return None
    try:
        read_populations(artifact.graph, artifact.dt)
    except ScaDeployError as error:
        return error
    return None


def _nodes(walk: Walk, dynamics: Dynamics | None, channels: dict[str, dict[str, int]]) -> dict[str, Any]:
    names = [name for part in walk.parts for name in part if name != walk.output]
    nodes = []
    for name in names:
        node = walk.nodes[name]
        nodes.append(
            {
                "name": name,
                "kind": _kind(node),
                "reads": walk.sources[name],
                "shape": list(walk.shapes[name]),
                "parameters": _size(node),
                "constants": _constants(name, node, dynamics) if isinstance(node, NEURONS) else {},
                "channels": channels.get(name),
            }
        )
    return {
        "input_shape": list(walk.shapes[walk.input]),
        "parameters": sum(node["parameters"] for node in nodes),
        "dynamics": None if dynamics is None else dynamics.metadata(),
        "nodes": nodes,
    }


def _kind(node: nir.NIRNode) -> str:
    kind = type(node).__name__
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        groups = f" in {node.groups} groups" if int(node.groups) > 1 else ""
        return f"{kind} {_size_of(node.weight.shape[2:], node.stride)}{groups}"
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        return f"{kind} {_size_of(node.kernel_size, node.stride)}"
    return kind


def _size_of(kernel: Any, stride: Any) -> str:
    """3x3, or 3x3/2 with a stride of 2."""
    strides = sorted({int(step) for step in np.atleast_1d(stride)})
    return "x".join(str(int(side)) for side in kernel) + ("" if strides == [1] else f"/{'x'.join(map(str, strides))}")


def _size(node: nir.NIRNode) -> int:
    """Weights and biases; a scale counts as its factors."""
    if isinstance(node, WEIGHTED):
        return sum(int(np.size(value)) for value in (node.weight, getattr(node, "bias", None)) if value is not None)
    return int(np.size(node.scale)) if isinstance(node, nir.Scale) else 0


def _constants(name: str, node: nir.NIRNode, dynamics: Dynamics | None) -> dict[str, list[float]]:
    """Constant -> its least and its largest value over the population: of a step, or in NIR's continuous time."""
    if dynamics is None:
        held = {key: getattr(node, key) for key in PARAMETERS if getattr(node, key, None) is not None}
        return {key: _range(np.asarray(value)) for key, value in held.items()}
    step = coefficients(name, node, dynamics, torch.float64)
    values = {"beta": step.beta, "alpha": step.alpha, "gain": step.gain, "drift": step.drift}
    if step.firing is not None:
        values |= {"threshold": step.firing.threshold, "reset": step.firing.reset, "clamp": step.firing.clamp}
    return {key: _range(value.numpy()) for key, value in values.items() if value is not None}


def _range(values: Any) -> list[float]:
    return [float(np.min(values)), float(np.max(values))]


def _channels(artifact: Artifact, graph: nir.NIRGraph, dynamics: Dynamics) -> dict[str, dict[str, int]]:
    """Population -> how many of how many channels are kept, of those that can be pruned."""
    network: Network = GraphNetwork(graph, dynamics, steps=1)
    if artifact.network_path is not None:
        # A compacted network has lost its masks; what it was trained as lies beside it.
        trained = artifact.network_path.parent / "train" / "checkpoint.pt"
        network = load_network(trained if trained.exists() else artifact.network_path)[0]
    names = {neurons: name for name, neurons in network.neurons().items()}
    return {
        names[neurons]: {"kept": int(group.mask.sum()), "all": group.channels}
        for group in channel_groups(network)
        for neurons in group.neurons
    }


def _floats_text(title: str, floats: dict[str, Any], width: int | None) -> str:
    rows = [
        (
            node["name"],
            node["kind"],
            " + ".join(node["reads"]),
            "x".join(map(str, node["shape"])),
            f"{node['parameters']:,}" if node["parameters"] else "",
            "" if node["channels"] is None else "{kept} of {all}".format(**node["channels"]),
            ", ".join(_constant(key, *ends) for key, ends in node["constants"].items() if key not in REST or any(ends)),
        )
        for node in floats["nodes"]
    ]
    head = ("node", "kind", "reads", "shape", "floats", "kept", "neuron")
    said = f"{title}: {len(rows)} nodes, {floats['parameters']:,} weights and biases in floats"
    if floats["dynamics"] is None:
        problem, fix = floats["why_not"]
        return f"{table(head, rows, said, width)}\n\nno steps: {problem}\nfix: {fix}"
    steps = floats["dynamics"]
    several = ", several spikes a step" if steps.get("multi_spike") else ""
    return table(head, rows, f"{said}; {steps['reset']} reset{several}, dt {steps['dt']:g} s", width)


def _constant(key: str, least: float, most: float) -> str:
    return f"{key} {least:.4g}" if least == most else f"{key} {least:.4g} to {most:.4g}"
