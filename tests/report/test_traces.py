"""Traces show what the simulator and the float network do, at one moment and on one axis."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sca_deploy.artifact import Artifact, open_artifact
from sca_deploy.config import AugmentConfig
from sca_deploy.data import Dataset, load_dataset
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.simulate import simulate
from sca_deploy.inputs import Inputs, inputs_of
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.report.traces import chosen_samples, traces
from tests.graphs import DT, STEPS, architecture, spikes_in

SAMPLES = [0, 7, 11]


@pytest.fixture(scope="module")
def pruned(digits_run: Path) -> Artifact:
    return open_artifact(digits_run / "pruned")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def network(pruned: Artifact) -> SpikingNetwork:
    assert isinstance(pruned.network, SpikingNetwork)
    return pruned.network


@pytest.fixture(scope="module")
def document(pruned: Artifact, network: SpikingNetwork, digits: Dataset) -> dict[str, Any]:
    assert pruned.config is not None
    return traces(network, pruned.program, digits, inputs_of(pruned.config, digits), SAMPLES)


@pytest.fixture(scope="module")
def x(digits: Dataset, pruned: Artifact) -> np.ndarray[Any, Any]:
    return np.repeat(digits.test_x[SAMPLES][:, None], pruned.program.steps, axis=1)


def test_a_sample_is_the_one_of_the_test_set(
    document: dict[str, Any], digits: Dataset, network: SpikingNetwork, pruned: Artifact, x: np.ndarray[Any, Any]
) -> None:
    readout = simulate(pruned.program, x).readout
    assert readout is not None
    with torch.inference_mode():
        logits = network(torch.from_numpy(x))
    assert (document["steps"], document["classes"]) == (4, 10)
    for row, (index, sample) in enumerate(zip(SAMPLES, document["samples"], strict=True)):
        assert (sample["index"], sample["label"]) == (index, int(digits.test_y[index]))
        image = np.array(sample["image"]["values"]).reshape(sample["image"]["shape"])
        np.testing.assert_array_equal(image, digits.test_x[index])
        assert sample["answer_chip"] == int(readout[row].argmax())
        assert sample["answer_float"] == int(logits[row].argmax())


def test_spikes_are_the_simulators(document: dict[str, Any], pruned: Artifact, x: np.ndarray[Any, Any]) -> None:
    records = simulate(pruned.program, x, record=("spikes",)).records
    for row, sample in enumerate(document["samples"]):
        assert [layer["name"] for layer in sample["layers"]] == ["lif1", "lif2", "lif3"]
        for layer in sample["layers"]:
            fired = records[layer["name"]]["spikes"][row].reshape(4, -1)
            assert layer["neurons"] == fired.shape[1]
            assert layer["spikes_total"] == int(fired.sum())
            expected = {(place, t) for place, n in enumerate(layer["shown"]) for t in range(4) if fired[t, n]}
            assert {(place, step) for place, step in layer["spikes"]} == expected
            assert len(layer["spikes"]) == len(expected)


def test_neurons_of_all_rates_are_drawn_evenly_and_those_that_are_watched(
    document: dict[str, Any], pruned: Artifact, x: np.ndarray[Any, Any]
) -> None:
    records = simulate(pruned.program, x, record=("spikes",)).records
    for row, sample in enumerate(document["samples"]):
        for layer in sample["layers"]:
            fired = records[layer["name"]]["spikes"][row].reshape(4, -1).sum(0)
            shown, watched = layer["shown"], {trace["neuron"] for trace in layer["membrane"]}
            assert shown == sorted(set(shown))
            assert len(shown) == min(64, layer["neurons"])
            assert watched <= set(shown)
            assert len(watched) == 4
            others = [n for n in range(layer["neurons"]) if n not in watched]
            firing = sorted((fired[n] for n in others if fired[n]), reverse=True)
            drawn = sorted((fired[n] for n in shown if n not in watched), reverse=True)
            if len(firing) <= len(drawn):
                assert drawn[: len(firing)] == firing, "all that fire"
            else:
                assert (drawn[0], drawn[-1]) == (firing[0], firing[-1])
                middle = firing[round((len(firing) - 1) * 20 / (len(drawn) - 1))]
                assert drawn[20] == middle, "the 21st drawn is as far down the ranking as it is among those drawn"


def test_potentials_are_those_after_the_reset_in_the_float_models_units(
    document: dict[str, Any], pruned: Artifact, network: SpikingNetwork, x: np.ndarray[Any, Any]
) -> None:
    records = simulate(pruned.program, x, record=("spikes", "v")).records
    potentials: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def observe(v: torch.Tensor, spikes: torch.Tensor) -> None:
            potentials[name] = v * (1 - spikes)  # v as the threshold sees it, and what the reset leaves

        return observe

    observers = {name: keep(name) for name in network.neurons()}
    for name, neuron in network.neurons().items():
        neuron.observers.append(observers[name])
    with torch.inference_mode():
        network(torch.from_numpy(x))
    for name, neuron in network.neurons().items():
        neuron.observers.remove(observers[name])

    for row, sample in enumerate(document["samples"]):
        for layer in sample["layers"]:
            integers = pruned.program[layer["name"]]
            for trace in layer["membrane"]:
                n = trace["neuron"]
                v = records[layer["name"]]["v"][row].reshape(4, -1)[:, n]
                assert trace["threshold"] == pytest.approx(integers.threshold / integers.scale)
                assert 1 - 1 / integers.scale < trace["threshold"] <= 1 + 1e-6  # the chip's; the float one is 1
                assert trace["chip"] == pytest.approx((v / (64 * integers.scale)).tolist(), rel=1e-5)
                floats = potentials[layer["name"]][:, row].flatten(1)[:, n]
                assert trace["float"] == pytest.approx(floats.tolist(), rel=1e-4, abs=1e-5)
                for kind, threshold in (("chip", trace["threshold"]), ("float", 1.0)):
                    assert all(trace[kind][t] == 0 for t in trace["fires"][kind])
                    assert max(trace[kind]) <= threshold * (1 + 1e-5)  # what is above it has fired


def test_both_lie_on_one_axis(document: dict[str, Any]) -> None:
    """While a neuron of the first layer fires as in floats, rounding is all that parts them."""
    compared = 0
    for sample in document["samples"]:
        for trace in sample["layers"][0]["membrane"]:
            if trace["fires"]["chip"] == trace["fires"]["float"]:
                compared += 1
                assert trace["chip"] == pytest.approx(trace["float"], abs=0.05)
    assert compared >= 3


def test_the_read_out_after_a_step_is_that_of_a_sample_that_ends_there(
    document: dict[str, Any], pruned: Artifact, network: SpikingNetwork, x: np.ndarray[Any, Any]
) -> None:
    scale = pruned.program.layers[-1].scale
    for t in range(4):
        readout = simulate(pruned.program, x[:, : t + 1]).readout
        assert readout is not None
        with torch.inference_mode():
            logits = network(torch.from_numpy(x[:, : t + 1]))
        for row, sample in enumerate(document["samples"]):
            assert sample["readout"]["chip"][t] == pytest.approx((readout[row] / (64 * scale)).tolist(), rel=1e-5)
            assert sample["readout"]["float"][t] == pytest.approx(logits[row].tolist(), rel=1e-4, abs=1e-4)


def test_a_neuron_that_fires_otherwise_than_in_floats_is_watched(
    pruned: Artifact, network: SpikingNetwork, digits: Dataset
) -> None:
    """With every threshold of the first layer raised there are many: they are not all that is watched."""
    assert pruned.config is not None
    first, *rest = pruned.program.layers
    program = replace(pruned.program, layers=(replace(first, threshold=first.threshold * 9 // 8), *rest))
    found = traces(network, program, digits, inputs_of(pruned.config, digits), [0])
    watched = found["samples"][0]["layers"][0]["membrane"]
    assert [trace["fires"]["chip"] != trace["fires"]["float"] for trace in watched].count(True) == 1


def recordings() -> tuple[GraphNetwork, Dataset]:
    """A brought residual network, and recordings for it."""
    graph, dynamics = architecture("residual, projection", dtype=np.float32)
    x, y = spikes_in(graph, samples=8), np.arange(8) % 3
    return GraphNetwork(graph, dynamics, STEPS).eval(), Dataset("mine", x[:4], y[:4], x[4:], y[4:], 3, 2, timed=True)


def test_a_recording_is_shown_summed_over_time_and_relays_are_left_out() -> None:
    network, dataset = recordings()
    program = lower(network.to_nir(), dt=DT, steps=STEPS, input_bits=2)
    assert any("relay" in layer.name for layer in program.layers)
    found = traces(network, program, dataset, Inputs("events", STEPS, 2, True, AugmentConfig()), [1, 3])
    for index, sample in zip([1, 3], found["samples"], strict=True):
        assert [layer["name"] for layer in sample["layers"]] == ["n0", "n1", "n2"]
        total = [sum(int(step) for step in pixel) for pixel in dataset.test_x[index].reshape(STEPS, -1).T]
        assert sample["image"] == {"shape": [2, 6, 6], "values": total}


def test_random_spikes_are_those_the_sample_has_in_the_whole_set(
    pruned: Artifact, network: SpikingNetwork, digits: Dataset
) -> None:
    inputs = Inputs("rate", 4, digits.pixel_max, False, AugmentConfig())
    whole = inputs.over_time(digits.test_x)
    records = simulate(pruned.program, whole[[5, 9]], record=("spikes",)).records
    found = traces(network, pruned.program, digits, inputs, [5, 9])
    for row, sample in enumerate(found["samples"]):
        for layer in sample["layers"]:
            assert layer["spikes_total"] == int(records[layer["name"]]["spikes"][row].sum())


LABELS = np.array([3, 3, 1, 4, 1, 0, 2, 5, 9, 6])


def test_the_first_of_six_classes_are_chosen() -> None:
    assert chosen_samples(LABELS) == [0, 2, 3, 5, 6, 7]


def test_what_went_wrong_is_always_among_them() -> None:
    """The first that is answered otherwise, for each network; else the first that is answered wrong."""
    assert chosen_samples(LABELS, [{"disagreeing": [9], "wrong": [1]}, {"disagreeing": [], "wrong": [8]}]) == [
        0, 2, 3, 5, 8, 9
    ]  # fmt: skip
    assert chosen_samples(LABELS, [{"disagreeing": [], "wrong": []}]) == chosen_samples(LABELS)


def test_a_set_of_few_classes_shows_few_samples_and_none_twice() -> None:
    labels = np.array([0, 0, 1, 1])
    assert chosen_samples(labels) == [0, 2]
    assert chosen_samples(labels, [{"disagreeing": [1]}, {"disagreeing": [1]}]) == [1, 2]
    chosen = chosen_samples(labels, [{"disagreeing": [400], "wrong": []}])  # of another, larger test set
    assert chosen == [0, 2]
    assert all(a < b for a, b in pairwise(chosen))
