"""An evaluation holds together: its figures are those of its parts, and each part says how it is known."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import pytest
import torch

from sca_deploy.agreement import Answers, agreement, chip_answers, float_answers, spike_differences
from sca_deploy.checkpoint import load_network
from sca_deploy.data import load_dataset
from sca_deploy.evaluate import LABELS
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.simulate import simulate
from sca_deploy.nn.graph_network import GraphNetwork
from tests.graphs import DT, PLAIN, STEPS, Made, architecture, graph_of, spikes_in


@pytest.fixture(scope="module", params=["dense", "pruned"])
def arm(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def evaluation(arm: str, digits_run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((digits_run / arm / "evaluation.json").read_text())
    return document


def test_every_figure_has_a_label(evaluation: dict[str, Any]) -> None:
    assert evaluation["labels"] == LABELS
    assert set(evaluation["figures"]) == set(LABELS)


def test_messages_leave_every_layer_that_another_reads(evaluation: dict[str, Any]) -> None:
    """A chain of layers: every spike goes to one core of the next layer at least, and to all of them at most."""
    layers = evaluation["map"]["layers"]
    spikes = {layer["name"]: layer["spikes"] for layer in evaluation["counts"]["layers"]}
    edges = evaluation["traffic"]["edges"]
    assert [(edge["source"], edge["reader"]) for edge in edges] == [(a["name"], b["name"]) for a, b in pairwise(layers)]
    for edge, reader in zip(edges, layers[1:], strict=True):
        assert spikes[edge["source"]] <= edge["messages"] <= spikes[edge["source"]] * reader["cores"]
    total = sum(edge["messages"] for edge in edges)
    assert evaluation["figures"]["messages_per_sample"] == pytest.approx(total / evaluation["counts"]["samples"])


def test_the_busiest_core_does_its_share_of_its_layer_at_least(evaluation: dict[str, Any]) -> None:
    found = evaluation["busiest_core"]["synops"]
    assert evaluation["figures"]["synops_busiest_core_per_sample"] == found["per_sample"]
    samples = evaluation["counts"]["samples"]
    synops = {layer["name"]: layer["synops"] / samples for layer in evaluation["counts"]["layers"]}
    cores = {layer["name"]: layer["cores"] for layer in evaluation["map"]["layers"]}
    assert max(synops[name] / cores[name] for name in synops) <= found["per_sample"] <= synops[found["layer"]]


def test_the_time_of_a_step_is_at_least_that_of_the_busiest_core_for_synaptic_operations(
    evaluation: dict[str, Any],
) -> None:
    time = load_chip("loihi2").time
    steps = evaluation["counts"]["steps"]
    for end, nanoseconds in evaluation["figures"]["step_time_ns"].items():
        work = evaluation["busiest_core"]["synops"]["per_sample"] / steps * getattr(time["synaptic_operation"], end)
        assert nanoseconds >= work + getattr(time["barrier"], end)


def test_costs_on_loihi_2_are_called_estimated_and_inferred(evaluation: dict[str, Any]) -> None:
    for part in ("energy", "step_time"):
        assert (evaluation[part]["label"], evaluation[part]["evidence"]) == ("estimated", ["inferred"])
    assert evaluation["static_energy"]["evidence"] == ["inferred"]


def test_a_compacted_network_has_no_masked_channels(evaluation: dict[str, Any]) -> None:
    assert not [line for line in evaluation["warnings"] if "only zero weights" in line]


def test_the_accuracy_after_a_step_is_that_of_a_sample_that_ends_there(
    digits_run: Path, arm: str, evaluation: dict[str, Any]
) -> None:
    """Shown t steps only, the float network and the chip answer what they answer after step t of a longer sample."""
    network, program = load_network(digits_run / arm / "network.pt")[0], Program.load(digits_run / arm / "program.npz")
    digits = load_dataset("digits")
    x = np.repeat(digits.test_x[:, None], program.steps, axis=1)
    for t in range(program.steps):
        shown = x[:, : t + 1]
        with torch.inference_mode():
            floats = network(torch.from_numpy(shown)).argmax(1).numpy()
        readout = simulate(program, shown).readout
        assert readout is not None
        for key, answers in (("accuracy_float", floats), ("accuracy_chip", readout.argmax(1))):
            right = sum(int(answer) == int(label) for answer, label in zip(answers, digits.test_y, strict=True))
            assert evaluation["over_steps"][key][t] == pytest.approx(right / len(x)), (key, t)
    for key, shares in evaluation["over_steps"].items():
        assert len(shares) == program.steps
        assert shares[-1] == evaluation["figures"][key]


def test_differing_spikes_are_those_of_two_recordings(digits_run: Path, arm: str, evaluation: dict[str, Any]) -> None:
    found = evaluation["agreement"]
    assert found["compared"] == 64
    graph = read_nir(digits_run / arm / "network.nir")
    program = Program.load(digits_run / arm / "program.npz")
    x = np.repeat(load_dataset("digits").test_x[:64, None], program.steps, axis=1)
    floats, chip = run_graph(graph, Dynamics(graph.metadata["dt"]), x), simulate(program, x, record=("spikes",)).records
    assert [layer["name"] for layer in found["layers"]] == ["lif1", "lif2", "lif3"]
    for layer in found["layers"]:
        ours, theirs = floats[layer["name"]] > 0, chip[layer["name"]]["spikes"] > 0
        assert (layer["spikes_float"], layer["spikes_chip"]) == (np.count_nonzero(ours), np.count_nonzero(theirs))
        differing = sum(bool(a) is not bool(b) for a, b in zip(ours.flat, theirs.flat, strict=True))
        assert layer["differ"] == differing / ours.size


def test_samples_answered_otherwise_or_wrong_are_named() -> None:
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    floats, chip = labels.copy(), labels.copy()
    floats[[2, 5]], chip[[5, 7]] = 0, 1  # 2: only the float network errs; 5: both, differently; 7: only the chip
    before = np.zeros(10, np.int64)  # what was answered earlier does not count
    answers = Answers(np.stack([before, floats], 1), np.stack([before + 1, chip], 1))
    found = agreement(answers, labels, [])
    assert (found["samples"], found["compared"]) == (10, 10)
    assert found["same_answer"] == pytest.approx(7 / 10)
    assert found["disagreeing"] == [2, 5, 7]
    assert found["wrong"] == [5, 7]


def ending(graph_ends: str) -> tuple[GraphNetwork, Program, npt.NDArray[np.uint8]]:
    """A small graph that ends in neurons that fire, or in integrators that leak."""
    made = Made(5, np.float32)
    full, tau = made.full((6,), 4 * DT), 4.0
    last = made.lif(6) if graph_ends == "spikes" else nir.LI(full, made.full((6,), tau), made.full((6,), 0))
    nodes = {"fc1": made.affine(9, 4), "n1": made.lif(9), "fc2": made.linear(6, 9), "last": last}
    graph = graph_of((4,), 6, nodes, ["input fc1 n1 fc2 last output"])
    network = GraphNetwork(graph, PLAIN, STEPS).eval()
    x = np.random.default_rng(0).integers(0, 2, (40, STEPS, 4), np.uint8)
    return network, lower(network.to_nir(), dt=DT, steps=STEPS, input_bits=0), x


@pytest.mark.parametrize("ends", ["spikes", "potentials"])
def test_graphs_answer_by_counted_spikes_or_by_the_potential_they_end_in(ends: str) -> None:
    network, program, x = ending(ends)
    assert program.readout is (ends == "potentials")
    fired = run_graph(network.to_nir(), PLAIN, x)["last"]
    run = simulate(program, x, record=("spikes", "v"))
    states = run.records["last"]["spikes" if ends == "spikes" else "v"]
    _, chip = chip_answers(program, x)
    floats = float_answers(network, x)
    assert floats.shape == chip.shape == (40, STEPS)
    for sample, t in product(range(40), range(STEPS)):
        for found, values in ((floats, fired), (chip, states)):
            score = values[sample, : t + 1].sum(0, dtype=np.float64) if ends == "spikes" else values[sample, t]
            assert found[sample, t] == max(range(6), key=lambda c: (score[c], -c))
    assert len({tuple(row) for row in chip.tolist()}) > 5  # not always the same


def test_a_test_set_in_parts_is_counted_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    network, program, x = ending("potentials")
    run, whole = chip_answers(program, x)
    assert run.records == {}
    floats = float_answers(network, x)
    finished: list[int] = []
    monkeypatch.setattr("sca_deploy.agreement.VALUES", 7 * STEPS * 6)
    parted, answers = chip_answers(program, x, finished.append)
    assert sum(finished) == 40
    assert len(finished) == 6  # 7 samples at once
    np.testing.assert_array_equal(answers, whole)
    np.testing.assert_array_equal(float_answers(network, x), floats)
    straight = simulate(program, x)
    assert parted.samples == straight.samples
    assert parted.readout is not None
    assert straight.readout is not None
    np.testing.assert_array_equal(parted.readout, straight.readout)
    for name in straight.messages:
        np.testing.assert_array_equal(parted.messages[name], straight.messages[name])
        np.testing.assert_array_equal(parted.payload[name], straight.payload[name])


def test_relays_are_not_compared_with_a_float_network_that_has_none() -> None:
    graph, dynamics = architecture("residual, projection", dtype=np.float32)
    network = GraphNetwork(graph, dynamics, STEPS).eval()
    program, x = lower(network.to_nir(), dt=DT, steps=STEPS, input_bits=2), spikes_in(graph)
    relays = [layer.name for layer in program.layers if "relay" in layer.name]
    assert relays
    assert [layer["name"] for layer in spike_differences(network, program, x)] == ["n0", "n1", "n2"]
