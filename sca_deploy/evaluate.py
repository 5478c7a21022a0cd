"""One network's figures: what it has, what it does on the test set, what it costs on a chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import nir
import numpy as np

from sca_deploy.data import Dataset
from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.counts import CoreCounts, Counts, busiest, by_core, count
from sca_deploy.hardware.energy import estimate, static
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.masked import warnings
from sca_deploy.hardware.placement import routes
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.simulate import Simulation, simulate
from sca_deploy.hardware.step_time import estimate as estimate_time
from sca_deploy.hardware.traffic import route
from sca_deploy.inputs import Inputs
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import ConvSpec, LinearSpec
from sca_deploy.train import accuracy

LABELS = {
    "parameters": "measured",
    "parameters_nonzero": "measured",
    "channels": "measured",
    "accuracy_float": "measured",
    "accuracy_chip": "simulated",
    "test_samples": "measured",
    "spikes_per_sample": "simulated",
    "synops_per_sample": "simulated",
    "synops_stored_per_sample": "simulated",
    "neuron_updates_per_sample": "simulated",
    "cores": "estimated",
    "cores_compiler_like": "estimated",
    "synops_busiest_core_per_sample": "estimated",
    "messages_per_sample": "estimated",
    "hops_per_sample": "estimated",
    "step_time_ns": "estimated",
    "energy_nj_per_sample": "estimated",
    "static_energy_nj_per_sample": "estimated",
}
"""Where each figure comes from: counted or run, simulated bit for bit, or estimated from rules.

Spikes and operations are simulated; which core they fall to and how far they go follows from an estimated mapping.
"""

BANDS = ("low", "typical", "high")


def evaluate(
    network: SpikingNetwork,
    graph: nir.NIRGraph,
    program: Program,
    dataset: Dataset,
    inputs: Inputs,
    chip: Chip,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The figures of a compacted network on the whole test set.

    Args:
        network, graph, program: the same network in its three forms.
        dataset, inputs: the test set, encoded, is classified in floats and on the simulated chip.
        chip: whose rules give cores, routes, energy and time.

    Returns:
        {"figures": one number or band a key of LABELS, "labels", "warnings": lines about a masked network,
        "busiest_core", "counts", "traffic", "map", "energy", "static_energy", "step_time"}.
    """
    run = simulate(program, inputs.over_time(dataset.test_x), progress=progress)
    counts, mapping = count(run), map_program(program, chip)
    traffic = route(counts, routes(program, mapping, chip))
    cores = by_core(counts, mapping, traffic.fanout)
    energy, time = estimate(counts, chip, traffic), estimate_time(counts, cores, chip)
    idle = static(chip, mapping.chips, time.sample)
    per_sample, sent = counts.per_sample, traffic.per_sample
    figures = {
        "parameters": parameters(graph),
        "parameters_nonzero": parameters(graph, nonzero=True),
        "channels": channels(network),
        "accuracy_float": accuracy(network, inputs.fixed(dataset.test_x), dataset.test_y),
        "accuracy_chip": chip_accuracy(run, dataset),
        "test_samples": len(dataset.test_x),
        "spikes_per_sample": per_sample["spikes"],
        "synops_per_sample": per_sample["synops"],
        "synops_stored_per_sample": per_sample["synops_stored"],
        "neuron_updates_per_sample": per_sample["updates"],
        "cores": mapping.cores,
        "cores_compiler_like": mapping.compiler_like,
        "synops_busiest_core_per_sample": busiest(cores, "synops").synops / counts.samples,
        "messages_per_sample": sent["messages"],
        "hops_per_sample": sent["hops"],
        "step_time_ns": {band: getattr(time.step, band) for band in BANDS},
        "energy_nj_per_sample": {band: getattr(energy, band) for band in BANDS},
        "static_energy_nj_per_sample": {band: getattr(idle, band) for band in BANDS},
    }
    return {
        "figures": figures,
        "labels": LABELS,
        "warnings": list(warnings(program)),
        "busiest_core": _busiest(counts, cores),
        "counts": counts.as_dict(),
        "traffic": traffic.as_dict(),
        "map": mapping.as_dict(),
        "energy": energy.as_dict(),
        "static_energy": {**asdict(idle), "evidence": [idle.evidence]},
        "step_time": time.as_dict(),
    }


def _busiest(counts: Counts, cores: tuple[CoreCounts, ...]) -> dict[str, dict[str, Any]]:
    """The core that does most of each kind of work, which sets the time of a step; a sum hides it."""
    most = {what: busiest(cores, what) for what in ("synops", "updates", "spikes", "messages")}
    return {
        what: {"layer": core.layer, "core": core.core, "per_sample": getattr(core, what) / counts.samples}
        for what, core in most.items()
    }


def chip_accuracy(run: Simulation, dataset: Dataset) -> float:
    """Fraction of test samples whose largest read-out potential is the label's.

    Raises:
        ScaDeployError: if the Program has no read-out.
    """
    if run.readout is None:
        raise ScaDeployError("the Program ends in spiking neurons, not in a read-out", "end it in a linear layer")
    return float((run.readout.argmax(1) == dataset.test_y).mean())


def parameters(graph: nir.NIRGraph, nonzero: bool = False) -> int:
    """Weights and biases after folding batch-norm; with `nonzero` those that are not 0."""
    nodes = [n for n in graph.nodes.values() if isinstance(n, nir.Conv2d | nir.Affine)]
    arrays = [array for node in nodes for array in (node.weight, node.bias)]
    return int(sum(np.count_nonzero(array) if nonzero else array.size for array in arrays))


def channels(network: SpikingNetwork) -> int:
    """Channels and features of all layers but the read-out."""
    layers = network.spec.layers[:-1]
    sizes = zip(layers, network.spec.shapes, strict=False)
    return sum(shape[0] for layer, shape in sizes if isinstance(layer, ConvSpec | LinearSpec))
