"""A network as a readable table: what each layer is on the chip, and how much of each integer range it uses."""

from __future__ import annotations

from typing import Any

import numpy as np

from sca_deploy.artifact import Artifact
from sca_deploy.hardware.program import DECAY_ONE, Conv, Layer, Program, Synapse
from sca_deploy.report.tables import table


def inspection(artifact: Artifact) -> dict[str, Any]:
    """The Program's layers as plain data."""
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


def inspection_text(document: dict[str, Any]) -> str:
    """The same for people."""
    rows = [
        (
            layer["name"],
            layer["synapse"],
            "x".join(map(str, layer["shape"])),
            f"{layer['weights']:,}",
            f"{layer['zero_weights']:.0%}",
            f"{layer['weight_max']}",
            f"{layer['bias_max']}",
            "read-out" if layer["readout"] else f"{layer['threshold']}",
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
    return table(head, rows, title)


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
