"""A few test samples, neuron by neuron: what the chip and the float network do with them step by step.

Potentials are those that a neuron is left with after a step, so after the reset where it fired. The chip's are divided
by the layer's scale (and by 2^6, in whose units it keeps them), so that both lie on one axis. The threshold given is
the chip's: a whole number divided by the scale, so at or a little below the theta at which the float neuron fires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sca_deploy.agreement import chip_answers, ends_in_potentials, float_answers
from sca_deploy.bringing import graph_dynamics
from sca_deploy.data import Dataset
from sca_deploy.graph import to_nir
from sca_deploy.hardware.float_graph import plan, run_graph
from sca_deploy.hardware.program import ALIGNMENT_BITS, Layer, Program
from sca_deploy.hardware.simulate import Records, simulate
from sca_deploy.inputs import Inputs
from sca_deploy.pruning.group import Network

SAMPLES = 6
"""Samples that are shown."""
SHOWN = 64
"""Neurons of a layer whose spikes are drawn."""
WATCHED = 4
"""Neurons of a layer whose potential is drawn."""
READOUT_VALUES = 1 << 14
"""Values (steps x classes) of a read-out that is shown; a larger one is left out."""

Floats = npt.NDArray[np.float64]
Spikes = npt.NDArray[np.bool_]


def chosen_samples(labels: npt.NDArray[np.int64], agreements: Sequence[Mapping[str, Any]] = ()) -> list[int]:
    """At most `SAMPLES` test samples that are worth a look, in order: the first of each class, and what went wrong.

    Args:
        labels: of the test set.
        agreements: of the networks that are shown. The first sample that chip and float network answer differently
            is among those chosen, for each; where there is none, the first that the chip answers wrong.
    """
    chosen: dict[int, None] = {}
    for agreement in agreements:
        remarkable = [*agreement.get("disagreeing", ()), *agreement.get("wrong", ())]
        chosen |= dict.fromkeys([index for index in remarkable if index < len(labels)][:1])
    seen = {int(labels[index]) for index in chosen}
    for index, label in enumerate(labels.tolist()):
        if len(chosen) == SAMPLES:
            break
        if label not in seen:
            seen.add(label)
            chosen[index] = None
    return sorted(chosen)


def traces(
    network: Network, program: Program, dataset: Dataset, inputs: Inputs, samples: Sequence[int]
) -> dict[str, Any]:
    """What the chip and the float network do with some test samples.

    Args:
        network, program: the same network in two forms; the float one is run in double precision.
        dataset, inputs: whose test samples they are, and how they become input over time.
        samples: which, counted in the test set.

    Returns:
        {"samples": one entry each, "steps": T, "classes"}. An entry holds "index", "label", "answer_float",
        "answer_chip", "image" (the input summed over time where it changes), "readout" and "layers", those that
        fire, the chip's relays apart; see `_layer`.
    """
    asked = list(samples)
    until = dataset.test_x[: max(asked, default=0) + 1]  # random spikes follow from a sample's place in the set
    x = inputs.over_time(until)[asked]
    float_says = float_answers(network, inputs.fixed(until)[asked])[:, -1]
    chip_says = chip_answers(program, x)[1][:, -1]
    chip, floats = simulate(program, x, record=("spikes", "v")).records, _FloatRun(network, x)
    return {
        "samples": [
            {
                "index": index,
                "label": int(dataset.test_y[index]),
                "answer_float": int(float_says[row]),
                "answer_chip": int(chip_says[row]),
                "image": _image(dataset, index),
                "readout": _readout(program, chip, floats, row),
                "layers": [
                    _layer(layer, _Sample.of(layer, chip, floats, row))
                    for layer in program.layers
                    if layer.name in floats.potentials
                ],
            }
            for row, index in enumerate(asked)
        ],
        "steps": x.shape[1],
        "classes": program.layers[-1].neurons,
    }


class _FloatRun:
    """The graph of a network, run in double precision.

    Attributes:
        outputs: of every node, (samples, steps, *shape); spikes of those that fire.
        potentials: of those, after the reset.
        readout: logits summed over the steps so far, or potentials, (samples, steps, classes).
    """

    def __init__(self, network: Network, x: npt.NDArray[np.generic]) -> None:
        graph = to_nir(network)
        self.potentials: dict[str, npt.NDArray[np.floating]] = {}
        self.outputs = run_graph(graph, graph_dynamics(graph), x, potentials=self.potentials)
        logits = self.outputs[plan(graph).output].reshape(*x.shape[:2], -1)
        self.readout = logits if ends_in_potentials(network) else logits.cumsum(1)


@dataclass(frozen=True, eq=False)
class _Sample:
    """A layer's spikes and potentials in one sample, (steps, neurons), the potentials in units of the float model."""

    spikes: Spikes
    float_spikes: Spikes
    v: Floats
    float_v: Floats

    @classmethod
    def of(cls, layer: Layer, chip: Records, floats: _FloatRun, row: int) -> _Sample:
        records, name = chip[layer.name], layer.name
        return cls(
            _flat(records["spikes"][row]) > 0,
            _flat(floats.outputs[name][row]) > 0,
            _flat(records["v"][row]) / _unit(layer),
            _flat(floats.potentials[name][row]),
        )


def _layer(layer: Layer, sample: _Sample) -> dict[str, Any]:
    """A layer in one sample.

    Returns:
        {"name", "neurons": how many it has, "shown": those whose spikes are listed, see `_spread`, and those
        whose potential is, "spikes": the chip's, as [place in shown, step], "spikes_total": of all
        neurons, "membrane": see `_membrane`}.
    """
    watched = _watched(sample)
    shown = sorted([*watched, *_spread(sample, watched, min(SHOWN, layer.neurons) - len(watched))])
    return {
        "name": layer.name,
        "neurons": layer.neurons,
        "shown": shown,
        "spikes": np.argwhere(sample.spikes[:, shown].T).tolist(),
        "spikes_total": int(sample.spikes.sum()),
        "membrane": [_membrane(layer, sample, neuron) for neuron in watched],
    }


def _spread(sample: _Sample, watched: Sequence[int], count: int) -> list[int]:
    """So many neurons from the busiest to the least busy that fires, evenly; silent ones where these are too few.

    The busiest alone would be a block: in a layer of thousands, the first hundred fire at every step.
    """
    fired = sample.spikes.sum(0)
    ranked = [neuron for neuron in np.argsort(-fired, kind="stable").tolist() if neuron not in watched]
    firing = sum(1 for neuron in ranked if fired[neuron])
    places = np.linspace(0, max(firing, count) - 1, count).round().astype(int)
    return [ranked[place] for place in places]


def _watched(sample: _Sample) -> list[int]:
    """Neurons that charge up most and let go: one that fires otherwise than in floats, if there is one, and others.

    Those that differ are the exception; taken as they come, they would fill the list, as both kinds come near the
    threshold.
    """
    differs = (sample.spikes != sample.float_spikes).any(0)
    swing = np.ptp(np.maximum(sample.v, 0), axis=0)
    differing, alike = (np.flatnonzero(which) for which in (differs, ~differs))
    most = [which[np.argsort(-swing[which], kind="stable")].tolist() for which in (differing, alike)]
    return sorted([*most[0][:1], *most[1], *most[0][1:]][:WATCHED])


def _membrane(layer: Layer, sample: _Sample, neuron: int) -> dict[str, Any]:
    """One neuron's potential after every step, and the steps at which it fires, on the chip and in floats.

    "threshold" is the chip's, the whole part of theta * scale divided by the scale; the float neuron fires at theta.
    """
    return {
        "neuron": neuron,
        "chip": _plain(sample.v[:, neuron]),
        "float": _plain(sample.float_v[:, neuron]),
        "threshold": layer.threshold / layer.scale,
        "fires": {
            "chip": np.flatnonzero(sample.spikes[:, neuron]).tolist(),
            "float": np.flatnonzero(sample.float_spikes[:, neuron]).tolist(),
        },
    }


def _readout(program: Program, chip: Records, floats: _FloatRun, row: int) -> dict[str, Any] | None:
    """The read-out's potential after every step, (steps, classes); None without one, or if it is too large to show."""
    last = program.layers[-1]
    if not program.readout or floats.readout[row].size > READOUT_VALUES:
        return None
    v = _flat(chip[last.name]["v"][row]) / _unit(last)
    return {"chip": [_plain(step) for step in v], "float": [_plain(step) for step in floats.readout[row]]}


def _image(dataset: Dataset, index: int) -> dict[str, Any]:
    """A sample at rest as (channels, height, width): its values, summed over time if it is a recording."""
    image = dataset.test_x[index]
    if dataset.timed:
        image = image.sum(0, dtype=np.int64)
    height = (1,) * (3 - image.ndim)
    shape = (*image.shape[:-1], *height, image.shape[-1])
    return {"shape": list(shape), "values": image.ravel().tolist()}


def _unit(layer: Layer) -> float:
    """What the chip holds for a potential of 1 of the float model."""
    return layer.scale * (1 << ALIGNMENT_BITS)


def _flat(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(steps, *shape) as (steps, neurons)."""
    return values.reshape(len(values), -1)


def _plain(values: npt.NDArray[Any]) -> list[float]:
    """Six digits of each: more is not seen, and a page holds many."""
    return [float(f"{value:.6g}") for value in values.tolist()]
