"""Networks that others trained and wrote, as ONNX, on real input; the files are not part of the project."""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import pytest

from sca_deploy.conventions import Asked, settled
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.exporters.onnx import OnnxExporter
from sca_deploy.exporters.onnx_running import OnnxRun, run
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph

pytest.importorskip("onnxruntime")

READINGS = [(Asked(preset="sinabs"), 0.95), (Asked(preset="norse", dt=1e-4), 0.85)]


def brought(path: Path, asked: Asked) -> tuple[nir.NIRGraph, Dynamics]:
    return settled(read_nir(path), asked, path.name)


def as_onnx(graph: nir.NIRGraph, dynamics: Dynamics, form: str, x: np.ndarray, folder: Path) -> OnnxRun:
    graph.metadata["T"] = x.shape[1]
    given = Deployable(graph, dynamics.dt, dynamics=dynamics)
    return run(OnnxExporter(form).export(given, folder / f"{form}.onnx").path, x)


@pytest.mark.parametrize("form", ["step", "scan"])
def test_a_neuron_that_norse_wrote_spikes_when_it_must(shared_data: Path, tmp_path: Path, form: str) -> None:
    current = np.loadtxt(shared_data / "nir" / "lif_exact.csv", delimiter=",")[None, :, :1]
    graph, dynamics = brought(shared_data / "nir" / "lif_norse.nir", Asked(preset="norse", dt=1e-4))
    result = as_onnx(graph, dynamics, form, current, tmp_path)
    [spikes] = result.spikes.values()
    assert np.flatnonzero(spikes).tolist() == [460, 510, 710, 760]


@pytest.mark.parametrize("form", ["step", "scan", "unroll"])
@pytest.mark.parametrize(("asked", "accuracy"), READINGS, ids=["sinabs", "norse"])
def test_a_network_that_sinabs_wrote_gives_the_float_networks_spikes_on_recordings(
    shared_data: Path, tmp_path: Path, form: str, asked: Asked, accuracy: float
) -> None:
    """As many spikes a step as the threshold fits, clamped from below, or a hard reset; 9 million of them."""
    with np.load(shared_data / "events" / "nmnist_small_T10.npz") as data:
        x, labels = data["test"].astype(np.float32), data["yte"]
    graph, dynamics = brought(shared_data / "nir" / "cnn_sinabs.nir", asked)
    expected = run_graph(graph, dynamics, x)
    result = as_onnx(graph, dynamics, form, x, tmp_path)
    neurons = sum(values.size for values in result.spikes.values())
    turned = sum(int(np.sum(values != expected[name])) for name, values in result.spikes.items())
    assert neurons == 8_970_000
    assert turned <= 1e-6 * neurons, "single precision turns no more than one spike in a million"
    assert np.mean(result.logits.argmax(axis=1) == labels) > accuracy
