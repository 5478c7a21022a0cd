"""Files that other frameworks wrote, against what those frameworks make of them."""

from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from sca_deploy.conventions import Asked, settled
from sca_deploy.hardware.float_graph import run_graph
from tests.consumers.conftest import Play

SPIKES = [460, 510, 710, 760]
"""Rows of the file with the inputs, counted from 0."""


@pytest.fixture(scope="module")
def lif(shared_data: Path) -> Path:
    """One LIF neuron of tau = 2.5 ms that norse wrote."""
    return shared_data / "nir" / "lif_norse.nir"


@pytest.fixture(scope="module")
def current(shared_data: Path) -> np.ndarray:
    """What drives it: 1,000 steps of 0.1 ms, the first column of the file, as (1, 1000, 1)."""
    rows = np.loadtxt(shared_data / "nir" / "lif_exact.csv", delimiter=",")
    assert rows.shape == (1000, 3)
    return rows[None, :, :1].astype(np.float32)


@pytest.fixture(scope="module")
def cnn(shared_data: Path) -> Path:
    """A convolutional network of IF neurons that sinabs trained on N-MNIST and wrote."""
    return shared_data / "nir" / "cnn_sinabs.nir"


@pytest.fixture(scope="module")
def recordings(shared_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """100 real N-MNIST test recordings, (100, 10, 2, 34, 34) of events a bin, and their digits."""
    with np.load(shared_data / "events" / "nmnist_small_T10.npz") as data:
        return data["test"].astype(np.float32), data["yte"]


READINGS = [
    Asked(preset="norse", dt=1e-4),
    Asked(preset="snntorch"),
    Asked(preset="spikingjelly", dt=1e-4),
    Asked(preset="nir", dt=1e-4),
    Asked(dt=1e-4, reset="hard"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("asked", READINGS, ids=lambda asked: asked.preset or "flags")
def test_the_lif_neuron_spikes_where_it_must(asked: Asked, dtype: torch.dtype, lif: Path, current: np.ndarray) -> None:
    graph, dynamics = settled(nir.read(lif), asked, lif.name)
    spikes = run_graph(graph, dynamics, current, dtype)["1"]
    np.testing.assert_array_equal(np.flatnonzero(spikes), SPIKES)


@pytest.mark.parametrize("framework", ["norse", "snntorch", "spikingjelly"])
def test_the_lif_neuron_spikes_there_in_the_frameworks(
    framework: str, lif: Path, current: np.ndarray, play: Play
) -> None:
    np.testing.assert_array_equal(np.flatnonzero(play(framework, lif, current, 1e-4)["1"]), SPIKES)


CASES = [("sinabs", Asked(preset="sinabs"), 0.99), ("norse", Asked(preset="norse"), 0.90)]


@pytest.mark.parametrize(("framework", "asked", "accuracy"), CASES, ids=[name for name, *_ in CASES])
def test_the_cnn_is_its_framework_spike_for_spike(
    framework: str, asked: Asked, accuracy: float, cnn: Path, recordings: tuple[np.ndarray, np.ndarray], play: Play
) -> None:
    x, digits = recordings
    expected = play(framework, cnn, x)
    assert expected.keys() == {"1", "3", "6", "10", "12", "output"}
    graph, dynamics = settled(nir.read(cnn), asked, cnn.name)
    single = run_graph(graph, dynamics, x, torch.float32)
    double = run_graph(graph, dynamics, x, torch.float64)
    for name, spikes in expected.items():
        assert spikes.any()
        np.testing.assert_array_equal(single[name], spikes, err_msg=name)
    # They compute in single precision: of 8,970,000 values, rounding moves one of sinabs' and none of norse's.
    assert sum(np.count_nonzero(double[name] != spikes) for name, spikes in expected.items() if name != "output") <= 5
    for found in (single, double):
        assert np.mean(found["output"].sum(1).argmax(1) == digits) == pytest.approx(accuracy)
