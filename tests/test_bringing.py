"""Networks that were not made here: what a training begins with, and what it leaves of it."""

import dataclasses

import nir
import numpy as np
import pytest
import torch

from sca_deploy.bringing import SCALE_NODE, brought, graph_dynamics, keep_source
from sca_deploy.checkpoint import load_network, load_trained, save_network
from sca_deploy.config import Config, DataConfig, NetworkConfig
from sca_deploy.data.dataset import Dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir import write_nir
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from tests.graphs import ARCHITECTURES, DT, PLAIN, STEPS, architecture, graph_of, spikes_in

LAYERS = [{"type": "flatten"}, {"type": "linear", "features": 6}, {"type": "batch_norm"},
          {"type": "if"}, {"type": "linear", "features": 3}]  # fmt: skip


def dataset(shape=(2, 6, 6), classes=3, timed=True, pixel_max=2):
    """Recordings of STEPS steps, or images, of noise."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, pixel_max + 1, (8, *((STEPS,) if timed else ()), *shape)).astype(np.uint8)
    return Dataset("made", x, np.arange(8) % classes, x, np.arange(8) % classes, classes, pixel_max, timed)


def config_of(path, coding="events", steps=STEPS):
    return Config(data=DataConfig(coding=coding), network=NetworkConfig(file=str(path), steps=steps))


def written(folder, name="feed-forward", dynamics=None):
    graph, own = architecture(name, dtype=np.float32)
    write_nir(Deployable(graph, DT, dynamics=dynamics or own), folder / "net.nir")
    return folder / "net.nir"


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n != "depthwise and grouped"])
def test_a_graph_is_brought_as_its_file_says(name, tmp_path):
    graph, dynamics = architecture(name, dtype=np.float32)
    data = dataset() if "recurrent" not in name else dataset((4,))
    network = brought(config_of(written(tmp_path, name)), data)
    assert network.dynamics == dynamics
    assert network.steps == STEPS
    with torch.no_grad():
        logits = network(torch.from_numpy(data.test_x), per_step=True).transpose(0, 1).numpy()
    np.testing.assert_allclose(logits, run_graph(graph, dynamics, data.test_x)["output"], atol=1e-4)


@pytest.mark.parametrize(
    "dynamics", [PLAIN, Dynamics(1e-3, "subtract", True, "threshold", "ge"), Dynamics(1e-4, clamp=-0.5)]
)
def test_the_metadata_say_the_dynamics(dynamics, tmp_path):
    graph = read_nir(written(tmp_path, dynamics=dynamics))
    assert graph_dynamics(graph) == dynamics


def test_a_graph_that_does_not_say_its_step_is_refused(tmp_path):
    nir.write(tmp_path / "net.nir", architecture("recurrent, flat")[0])
    with pytest.raises(ScaDeployError, match="does not say its time step") as error:
        brought(config_of(tmp_path / "net.nir"), dataset())
    assert "--dt" in error.value.fix


def test_images_are_scaled_to_1_by_a_node_behind_the_input(tmp_path):
    graph, dynamics = architecture("residual, identity", dtype=np.float32)
    data = dataset(timed=False, pixel_max=16)
    network = brought(config_of(written(tmp_path, "residual, identity"), coding="direct"), data)
    frames = np.repeat(data.test_x[:, None] / 16, STEPS, 1)
    with torch.no_grad():
        logits = network(torch.from_numpy(data.test_x)).numpy()
    np.testing.assert_allclose(logits, run_graph(graph, dynamics, frames)["output"].sum(1), atol=1e-3)
    assert network.walk.sources[SCALE_NODE] == ["input"]
    assert "input" not in network.walk.sources["stem"]


@pytest.mark.parametrize(("coding", "timed"), [("events", True), ("rate", False), ("latency", False)])
def test_recordings_and_spikes_go_in_as_they_are(coding, timed, tmp_path):
    network = brought(config_of(written(tmp_path), coding=coding), dataset(timed=timed, pixel_max=255))
    assert SCALE_NODE not in network.walk.nodes


def test_a_graph_with_a_node_of_that_name_is_not_scaled_twice(tmp_path):
    graph = graph_of((2, 6, 6), 72, {SCALE_NODE: nir.Scale(np.ones((2, 6, 6), np.float32)),
                                     "flat": nir.Flatten({"input": np.array([2, 6, 6])}, 0, -1)},
                     [f"input {SCALE_NODE} flat output"])  # fmt: skip
    write_nir(Deployable(graph, DT, dynamics=PLAIN), tmp_path / "net.nir")
    with pytest.raises(ScaDeployError, match=f"has a node '{SCALE_NODE}' already"):
        brought(config_of(tmp_path / "net.nir", coding="direct"), dataset(timed=False, pixel_max=16))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"shape": (2, 5, 5)}, r"net.nir takes \(2, 6, 6\), samples of data set 'made' are \(2, 5, 5\)"),
        ({"classes": 4}, "net.nir tells 3 classes apart, data set 'made' has 4"),
    ],
)
def test_data_of_another_shape_or_with_more_classes_is_refused(change, problem, tmp_path):
    with pytest.raises(UsageError, match=problem) as error:
        brought(config_of(written(tmp_path)), dataset(**change))
    assert "\n" not in error.value.problem


def test_more_outputs_than_classes_are_no_error(tmp_path):
    assert brought(config_of(written(tmp_path)), dataset(classes=2)).classes == 3


@pytest.mark.parametrize("kind", ["graph", "layers"])
def test_a_checkpoint_is_brought_as_it_is_and_lasts_its_own_steps(kind, tmp_path):
    if kind == "graph":
        network = GraphNetwork(*architecture("feed-forward", dtype=np.float32), STEPS)
    else:
        network = SpikingNetwork(NetworkSpec((2, 6, 6), parse_layers(LAYERS, {}), steps=STEPS))
    save_network(tmp_path / "net.pt", network)
    again = brought(config_of(tmp_path / "net.pt"), dataset())
    assert type(again) is type(network)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
    with pytest.raises(UsageError, match=f"net.pt was made for {STEPS} steps, the config says 9"):
        brought(config_of(tmp_path / "net.pt", steps=9), dataset())
    with pytest.raises(UsageError, match="net.pt tells 3 classes apart"):
        brought(config_of(tmp_path / "net.pt"), dataset(classes=5))


def test_where_layers_are_needed_a_brought_graph_is_refused(tmp_path):
    save_network(tmp_path / "net.pt", GraphNetwork(*architecture("feed-forward"), STEPS))
    with pytest.raises(ScaDeployError, match="holds a network that was brought as a graph"):
        load_trained(tmp_path / "net.pt")


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n != "depthwise and grouped"])
def test_what_was_brought_is_left_in_the_run_folder_as_it_was(name, tmp_path):
    graph, dynamics = architecture(name, dtype=np.float32)
    network = GraphNetwork(graph, dynamics, STEPS)
    path = keep_source(network, tmp_path, "mine")
    assert path == tmp_path / "brought.nir"
    x = spikes_in(graph)
    kept = read_nir(path)
    assert graph_dynamics(kept) == dynamics
    np.testing.assert_array_equal(run_graph(kept, dynamics, x)["output"], run_graph(graph, dynamics, x)["output"])


def test_a_network_of_layers_is_left_as_a_checkpoint(tmp_path):
    network = SpikingNetwork(NetworkSpec((2, 6, 6), parse_layers(LAYERS, {}), steps=STEPS))
    path = keep_source(network, tmp_path, "mine")
    assert path == tmp_path / "brought.pt"
    again = load_network(path)[0]
    assert dataclasses.asdict(again.spec) == dataclasses.asdict(network.spec)


@pytest.mark.parametrize("content", [b"", b"no network", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("suffix", [".pt", ".nir"])
def test_damaged_files_are_one_line(content, suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(ScaDeployError, match="net") as error:
        brought(config_of(path), dataset())
    assert "\n" not in error.value.problem


def test_a_checkpoint_whose_graph_is_none_is_damaged(tmp_path):
    network = GraphNetwork(*architecture("feed-forward"), STEPS)
    save_network(tmp_path / "net.pt", network)
    document = torch.load(tmp_path / "net.pt", weights_only=True)
    for change in ({"dtype": "float16"}, {"graph": {"nodes": {}, "edges": [], "metadata": {}}},
                   {"dynamics": {"dt": -1.0}}, {"steps": "many"}):  # fmt: skip
        torch.save(document | {"graph": document["graph"] | change}, tmp_path / "odd.pt")
        with pytest.raises(ScaDeployError) as error:
            load_network(tmp_path / "odd.pt")
        assert "\n" not in error.value.problem
    nodes = document["graph"]["graph"]["nodes"]
    nodes["n1"]["type"] = "Surprise"
    torch.save(document, tmp_path / "odd.pt")
    with pytest.raises(ScaDeployError, match="unknown type 'Surprise'"):
        load_network(tmp_path / "odd.pt")
