"""What the flags of the command line add to files that do not say everything."""

import json

import nir
import numpy as np
import pytest

from sca_deploy.artifact import Reading, open_artifact
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.nir_reading import read_nir as read_graph
from sca_deploy.hardware.frontend import read_populations
from sca_deploy.hardware.lower import Rules, largest_scale
from sca_deploy.hardware.program import Dense, Layer, Program
from sca_deploy.pipeline import encoded_test
from tests.conftest import sca_deploy
from tests.hardware.test_frontend import DT, GRAPHS


@pytest.fixture
def foreign(digits_run, tmp_path):
    """The graph of a run without what only our graphs remember."""
    graph = read_graph(digits_run / "dense" / "network.nir")
    graph.metadata = {}
    nir.write(tmp_path / "foreign.nir", graph)
    return tmp_path / "foreign.nir"


def test_real_input_finds_the_scales_of_a_foreign_graph(foreign, digits_run, tmp_path):
    x = encoded_test(open_artifact(digits_run / "dense").config, 64)
    np.save(tmp_path / "x.npy", x)
    flags = ["--dt", DT, "--steps", 4, "--input-bits", 5]
    for name, more in (("plain", []), ("searched", ["--calibrate", tmp_path / "x.npy"])):
        done = sca_deploy("export", foreign, "--target", "loihi2", *flags, *more, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
    plain, searched = (Program.load(tmp_path / name / "program.npz") for name in ("plain", "searched"))
    _, populations = read_populations(read_graph(foreign), DT)
    largest = [largest_scale(population, Rules(4, 5))[0] for population in populations]
    assert [layer.scale for layer in plain.layers] == pytest.approx(largest, rel=0.01)
    assert [layer.scale for layer in searched.layers] != [layer.scale for layer in plain.layers]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 1, 9, 9), np.uint8), r"input has shape \(2, 4, 1, 9, 9\)"),
        (np.full((2, 4, 1, 8, 8), 77, np.uint8), "input holds 77, outside 0 to 31"),
        (np.zeros((2, 4, 1, 8, 8)), "the chip takes integers"),
    ],
)
def test_calibration_input_that_does_not_fit_is_refused(foreign, tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    reading = Reading(dt=DT, steps=4, input_bits=5, calibrate=tmp_path / "x.npy")
    with pytest.raises(ScaDeployError, match=message):
        _ = open_artifact(foreign, reading).program


@pytest.mark.parametrize("scales", ["[1]", "{", '{"lif1": "big"}', '{"lif1": -1.0}', '{"lif1": Infinity}'])
def test_scales_that_a_graph_cannot_mean_are_refused(foreign, scales):
    graph = read_graph(foreign)
    graph.metadata = {"scales": scales}
    nir.write(foreign, graph)
    with pytest.raises(ScaDeployError, match="the graph says scales"):
        _ = open_artifact(foreign, Reading(dt=DT, steps=4, input_bits=5)).program


def test_the_number_of_layers_is_for_net_files(foreign):
    with pytest.raises(UsageError, match="is not a .net file"):
        _ = open_artifact(foreign, Reading(dt=DT, steps=4, input_bits=5, num_layers=2)).program


def test_one_dimensional_input_is_taken_with_and_without_its_axis_of_one(tmp_path):
    shape, graph = GRAPHS["one-dimensional"]()
    graph.nodes["n0"].input_shape, graph.nodes["n2"].input_shape = 12, 6
    nir.write(tmp_path / "net.nir", graph)
    x = (np.random.default_rng(0).random((3, 5, *shape)) < 0.4).astype(np.uint8)
    results = []
    for number, given in enumerate((x, x[:, :, :, None])):
        np.save(tmp_path / "x.npy", given)
        flags = ["--dt", DT, "--steps", 5, "--input-bits", 0, "--input", tmp_path / "x.npy"]
        done = sca_deploy("simulate", tmp_path / "net.nir", *flags, "-o", tmp_path / f"{number}.npz", "--json")
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout)["layers"])
    assert results[0] == results[1]
    assert any(layer["spikes"] for layer in results[0])


def test_inspect_shows_injected_inputs_loops_and_delays(tmp_path):
    own = Dense("hidden", np.full((3, 3), 2, np.int32), delay=1)
    late = Dense("pixels", np.full((3, 4), 6, np.int32), delay=np.arange(12, dtype=np.int32).reshape(3, 4))
    layers = (
        Layer("pixels", (4,), (), 1024, 80, np.zeros(4, np.int32), injected=True),
        Layer("hidden", (3,), (late, own), 1024, 80, np.zeros(3, np.int32), u_decay=2048),
    )
    Program((4,), 0, 8, layers, readout=False).save(tmp_path / "p.npz")
    done = sca_deploy("inspect", tmp_path / "p.npz")
    assert done.returncode == 0, done.stderr
    assert "none, the input is injected" in done.stdout
    assert "dense from pixels, up to 11 steps late + dense from hidden " in done.stdout
    assert "written into a bias" in done.stdout


@pytest.mark.parametrize("said", [{"dt": 1e-3}, {"reset": "subtract"}, {"clamp": "bogus"}, {"preset": "sinabs"}])
def test_how_neurons_step_is_not_asked_of_a_checkpoint(digits_run, said):
    with pytest.raises(UsageError, match="says how its neurons step"):
        _ = open_artifact(digits_run / "dense", Reading(**said)).network
