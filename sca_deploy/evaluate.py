"""One network's figures: what it has, what it does on the test set, what it costs on a chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.data import Dataset
from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.counts import CoreCounts, Counts, busiest, by_core, count
from sca_deploy.hardware.energy import estimate, static
from sca_deploy.hardware.flattening import flattened
from sca_deploy.hardware.float_nodes import WEIGHTED
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.masked import warnings
from sca_deploy.hardware.placement import routes
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.simulate import Simulation, simulate
from sca_deploy.hardware.step_time import estimate as estimate_time
from sca_deploy.hardware.traffic import route
from sca_deploy.inputs import Inputs
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.spec import ConvSpec, LinearSpec
from sca_deploy.pruning.group import Network
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
    network: Network,
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
    run = classified(program, inputs.over_time(dataset.test_x), progress)
    counts, mapping = count(run), map_program(program, chip)
    traffic = route(counts, routes(program, mapping, chip))
    cores = by_core(counts, mapping, traffic.fanout)
    energy, time = estimate(counts, chip, traffic), estimate_time(counts, cores, chip)
    idle = static(chip, mapping.chips, time.sample)
    per_sample, sent = counts.per_sample, traffic.per_sample
    figures = {
        **float_figures(network, graph, dataset, inputs),
        "accuracy_chip": float((predictions(run) == dataset.test_y).mean()),
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


def float_figures(network: Network, graph: nir.NIRGraph, dataset: Dataset, inputs: Inputs) -> dict[str, Any]:
    """The figures that are known of a network which is not lowered."""
    return {
        "parameters": parameters(graph),
        "parameters_nonzero": parameters(graph, nonzero=True),
        "channels": channels(network),
        "accuracy_float": accuracy(network, inputs.fixed(dataset.test_x), dataset.test_y),
        "test_samples": len(dataset.test_x),
    }


def classified(
    program: Program, x: npt.NDArray[np.generic], progress: Callable[[int], None] | None = None
) -> Simulation:
    """A run of samples (samples, steps, *input_shape) that `predictions` can be read from."""
    wanted = () if program.readout else ("spikes",)
    return simulate(program, x, record=wanted, layers=[program.layers[-1].name], progress=progress)


def predictions(run: Simulation) -> npt.NDArray[np.int64]:
    """The class of each sample, (samples,): the largest read-out potential, or the most spikes of the last layer."""
    if run.readout is not None:
        answers: npt.NDArray[np.int64] = run.readout.argmax(1)
        return answers
    spikes = run.records[run.program.layers[-1].name]["spikes"]
    fired: npt.NDArray[np.int64] = spikes.reshape(*spikes.shape[:2], -1).sum(1, dtype=np.int64)
    return np.asarray(fired.argmax(1), np.int64)


def parameters(graph: nir.NIRGraph, nonzero: bool = False) -> int:
    """Weights and biases after folding batch-norm; with `nonzero` those that are not 0."""
    nodes = [node for node in flattened(graph)[0].values() if isinstance(node, WEIGHTED)]
    arrays = [np.asarray(getattr(node, key)) for node in nodes for key in ("weight", "bias") if hasattr(node, key)]
    return int(sum(np.count_nonzero(array) if nonzero else array.size for array in arrays))


def channels(network: Network) -> int:
    """Channels and features of all layers but the read-out; of a graph, of its spiking populations."""
    if isinstance(network, GraphNetwork):
        return sum(network.kept_channels.values())
    layers = network.spec.layers[:-1]
    sizes = zip(layers, network.spec.shapes, strict=False)
    return sum(shape[0] for layer, shape in sizes if isinstance(layer, ConvSpec | LinearSpec))
