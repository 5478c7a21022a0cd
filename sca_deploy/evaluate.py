"""One network's figures: what it has, what it does on the test set, what it costs on a chip.

What is run on the test set is cut into parts, which may be run anywhere in any order: `cut`, `observe`, `merged`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.agreement import (
    COMPARED,
    Answers,
    Int64,
    agreement,
    chip_answers,
    float_answers,
    float_batch,
    over_steps,
    spike_differences,
    together,
)
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
from sca_deploy.hardware.simulate import Simulation
from sca_deploy.hardware.step_time import estimate as estimate_time
from sca_deploy.hardware.traffic import route
from sca_deploy.inputs import Inputs
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.spec import ConvSpec, LinearSpec
from sca_deploy.pruning.group import Network

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


@dataclass(frozen=True)
class Part:
    """What is run on the test samples from `start` to `stop`.

    "floats": the float network, for its answers. "chip": the simulated chip, for its answers and its messages.
    "spikes": both, for where their spikes differ.
    """

    what: Literal["floats", "chip", "spikes"]
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Observed:
    """What running a part gave: the chip's run or None, answers (samples, steps), how spikes differ in each layer."""

    run: Simulation | None = None
    answers: Int64 | None = None
    layers: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What a network does on the whole test set."""

    run: Simulation
    answers: Answers
    layers: list[dict[str, Any]]


def cut(network: Network, samples: int, size: int) -> list[Part]:
    """The parts of a test set, of `size` samples or, for floats, the whole batches that hold as many.

    The float network is run on the same batches however the set is cut, because torch may round another batch
    otherwise; the chip's integers are the same anyway.
    """
    batch = float_batch(network)
    floats = batch * -(-size // batch)
    return [
        Part("spikes", 0, min(COMPARED, samples)),
        *(Part("floats", start, min(start + floats, samples)) for start in range(0, samples, floats)),
        *(Part("chip", start, min(start + size, samples)) for start in range(0, samples, size)),
    ]


def observe(
    part: Part,
    network: Network,
    program: Program,
    test_x: npt.NDArray[np.uint8],
    inputs: Inputs,
    progress: Callable[[int], None] | None = None,
) -> Observed:
    """Run a part.

    Args:
        network, program: the same network in two forms.
        test_x: the whole test set, before it is encoded.
        progress: called with the number of samples that the chip finished.
    """
    x, here = test_x[: part.stop], slice(part.start, None)  # random spikes follow from a sample's place in the set
    if part.what == "floats":
        return Observed(answers=float_answers(network, inputs.fixed(x)[here]))
    if part.what == "spikes":
        return Observed(layers=tuple(spike_differences(network, program, inputs.over_time(x)[here])))
    run, answers = chip_answers(program, inputs.over_time(x)[here], progress)
    return Observed(run, answers)


def merged(parts: Sequence[Part], observed: Sequence[Observed]) -> Behaviour:
    """What was observed of the parts of one test set, as `cut` gave them, as a whole."""
    pairs = list(zip(parts, observed, strict=True))

    def answers(what: str) -> Int64:
        return np.concatenate(
            [found.answers for part, found in pairs if part.what == what and found.answers is not None]
        )

    return Behaviour(
        run=together([found.run for found in observed if found.run is not None]),
        answers=Answers(answers("floats"), answers("chip")),
        layers=[layer for found in observed for layer in found.layers],
    )


def evaluate(
    network: Network,
    graph: nir.NIRGraph,
    program: Program,
    dataset: Dataset,
    inputs: Inputs,
    chip: Chip,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The figures of a compacted network on the whole test set, all of it run in this process.

    Args:
        network, graph, program: the same network in its three forms.
        dataset, inputs: the test set, encoded, is classified in floats and on the simulated chip.
        chip: whose rules give cores, routes, energy and time.
        progress: called with the number of samples that the chip finished.

    Returns:
        As `document`.
    """
    samples = len(dataset.test_x)
    parts = cut(network, samples, samples)
    found = [observe(part, network, program, dataset.test_x, inputs, progress) for part in parts]
    return document(network, graph, program, dataset, chip, merged(parts, found))


def document(
    network: Network, graph: nir.NIRGraph, program: Program, dataset: Dataset, chip: Chip, behaviour: Behaviour
) -> dict[str, Any]:
    """The figures of a network whose behaviour on the test set is known.

    Returns:
        {"figures": one number or band a key of LABELS, "labels", "warnings": lines about a masked network,
        "busiest_core", "counts", "traffic", "map", "energy", "static_energy", "step_time", "over_steps": accuracy
        by the step the answer is taken after, "agreement": of chip and float network}.
    """
    taken = over_steps(behaviour.answers, dataset.test_y)
    counts, mapping = count(behaviour.run), map_program(program, chip)
    traffic = route(counts, routes(program, mapping, chip))
    cores = by_core(counts, mapping, traffic.fanout)
    energy, time = estimate(counts, chip, traffic), estimate_time(counts, cores, chip)
    idle = static(chip, mapping.chips, time.sample)
    per_sample, sent = counts.per_sample, traffic.per_sample
    figures = {
        **_sizes(network, graph, dataset),
        "accuracy_float": taken["accuracy_float"][-1],
        "accuracy_chip": taken["accuracy_chip"][-1],
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
        "over_steps": taken,
        "agreement": agreement(behaviour.answers, dataset.test_y, behaviour.layers),
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
    answers = float_answers(network, inputs.fixed(dataset.test_x))[:, -1]
    return {**_sizes(network, graph, dataset), "accuracy_float": float((answers == dataset.test_y).mean())}


def _sizes(network: Network, graph: nir.NIRGraph, dataset: Dataset) -> dict[str, Any]:
    return {
        "parameters": parameters(graph),
        "parameters_nonzero": parameters(graph, nonzero=True),
        "channels": channels(network),
        "test_samples": len(dataset.test_x),
    }


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
