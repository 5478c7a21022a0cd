"""How far the chip and the float network agree on the same samples: what they answer, and where they fire.

Both answer after every step. The float network's answer after step t is the class of its largest logit, summed over
the steps so far, or of the largest potential where a graph ends in integrators. The chip's is the class of its
largest read-out potential v after step t, or of the most spikes so far where the last layer fires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.hardware.program import Program
from sca_deploy.hardware.simulate import Simulation, simulate
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.probe import probe
from sca_deploy.pruning.group import Network
from sca_deploy.train import EVALUATION_BATCH

COMPARED = 64
"""Test samples, at most, whose spikes are compared."""
EXAMPLES = 6
"""Samples, at most, that are named for being answered wrong or otherwise."""
VALUES = 1 << 24
"""Read-out values (samples x steps x classes) that are held at once."""
SPIKES_BATCH = 8
"""Samples whose spikes are held at once, those of all layers."""

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Answers:
    """What the float network and the chip answer after every step; classes, (samples, steps) each."""

    floats: Int64
    chip: Int64


def ends_in_potentials(network: Network) -> bool:
    """Whether the logits of a step are potentials, which need not be summed over time."""
    return isinstance(network, GraphNetwork) and network.integrates


def float_batch(network: Network) -> int:
    """Samples that `float_answers` takes at once; parts that begin at multiples of it are rounded as the whole."""
    classes = network.classes if isinstance(network, GraphNetwork) else network.spec.classes
    return max(1, min(EVALUATION_BATCH, VALUES // (network.steps * classes)))


def float_answers(network: Network, x: npt.NDArray[np.uint8]) -> Int64:
    """What the float network answers after every step, (samples, steps).

    Args:
        x: encoded (`Inputs.fixed`), (N, *input_shape) or (N, T, *input_shape).
    """
    device = next(network.parameters()).device
    was_training, kept = network.training, ends_in_potentials(network)
    answers, size = [], float_batch(network)
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(x), size):
            logits = network(torch.from_numpy(x[start : start + size]).to(device), per_step=True).cpu()
            answers.append((logits if kept else logits.double().cumsum(0)).argmax(2).T.numpy())
    network.train(was_training)
    return np.concatenate(answers)


def chip_answers(
    program: Program, x: npt.NDArray[np.generic], progress: Callable[[int], None] | None = None
) -> tuple[Simulation, Int64]:
    """A run of samples without records, and what the chip answers after every step, (samples, steps).

    Args:
        x: (samples, steps, *input_shape), as `simulate` takes it.
        progress: called with the number of samples finished.
    """
    last, what = program.layers[-1], "v" if program.readout else "spikes"
    size = max(1, VALUES // (x.shape[1] * last.neurons))
    runs, answers = [], []
    for start in range(0, max(1, len(x)), size):
        run = simulate(program, x[start : start + size], record=(what,), layers=[last.name], progress=progress)
        record = run.records[last.name][what]
        values = record.reshape(*record.shape[:2], -1)
        answers.append((values if program.readout else values.cumsum(1, dtype=np.int32)).argmax(2))
        runs.append(replace(run, records={}))
    return together(runs), np.concatenate(answers)


def together(runs: Sequence[Simulation]) -> Simulation:
    """Runs of one Program, on samples that follow one another, as one run; what they recorded is left out."""
    first = runs[0]

    def total(parts: Sequence[Mapping[str, Int64]]) -> dict[str, Int64]:
        return {name: np.sum([part[name] for part in parts], axis=0) for name in first.messages}

    readouts = [run.readout for run in runs if run.readout is not None]
    return replace(
        first,
        records={},
        samples=sum(run.samples for run in runs),
        messages=total([run.messages for run in runs]),
        payload=total([run.payload for run in runs]),
        readout=np.concatenate(readouts) if readouts else None,
    )


def over_steps(answers: Answers, labels: Int64) -> dict[str, list[float]]:
    """The accuracy if the answer were taken after each step, 0 to 1: floats measured, the chip simulated."""
    right = {"accuracy_float": answers.floats, "accuracy_chip": answers.chip}
    return {key: [float(share) for share in (found == labels[:, None]).mean(0)] for key, found in right.items()}


def agreement(answers: Answers, labels: Int64, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the chip and the float network agree.

    Args:
        answers: what both make of the test set.
        labels: (samples,).
        layers: the `spike_differences` of its first samples, `COMPARED` at most.

    Returns:
        {"samples", "same_answer": the share of all samples that both answer alike, "layers", "compared": on how many
        of the first samples, "disagreeing" and "wrong": the first samples that they answer differently, and that the
        chip answers wrong}.
    """
    floats, chip = answers.floats[:, -1], answers.chip[:, -1]
    return {
        "samples": len(labels),
        "same_answer": float((floats == chip).mean()),
        "layers": layers,
        "compared": min(COMPARED, len(labels)),
        "disagreeing": np.flatnonzero(floats != chip)[:EXAMPLES].tolist(),
        "wrong": np.flatnonzero(chip != labels)[:EXAMPLES].tolist(),
    }


def spike_differences(network: Network, program: Program, x: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Where the spikes of the chip differ from those of the float network, run in double precision.

    The chip's relays, which only repeat, and layers that never fire are left out.

    Returns:
        For every layer {"name", "spikes_float", "spikes_chip": over all samples, "differ": the share of
        (sample, step, neuron) values that differ}.
    """
    found: dict[str, Int64] = {}
    values: dict[str, int] = {}
    for start in range(0, len(x), SPIKES_BATCH):
        part = x[start : start + SPIKES_BATCH]
        floats = probe(network, part).spikes
        names = [layer.name for layer in program.layers if layer.name in floats]
        records = simulate(program, part, record=("spikes",), layers=names).records
        for name in names:
            ours, theirs = floats[name].reshape(len(part), -1), records[name]["spikes"].reshape(len(part), -1) != 0
            tally = np.array([ours.sum(), theirs.sum(), (ours != theirs).sum()], np.int64)
            found[name] = found.get(name, 0) + tally
            values[name] = values.get(name, 0) + ours.size
    return [
        {"name": name, "spikes_float": int(a), "spikes_chip": int(b), "differ": int(differing) / values[name]}
        for name, (a, b, differing) in found.items()
    ]
