"""A network with residual sums, from a config to a comparison with real Lava."""

import json

import pytest

from sca_deploy.artifact import open_artifact
from tests.conftest import sca_deploy

pytestmark = pytest.mark.timeout(300)

CONFIG = """
[network]
name = "resnet8"
steps = 3
neuron = { beta = 0.5, threshold = 1.0, surrogate = "sigmoid" }

[data]
train_samples = 300
test_samples = 60

[train]
epochs = 2
batch_size = 60

[prune]
keep = 0.4

[verify]
samples = 8
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("residual")
    (folder / "net.toml").write_text(CONFIG)
    done = sca_deploy("run", folder / "net.toml", "-o", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize("arm", ["dense", "pruned"])
def test_real_lava_fires_every_spike_of_both_networks(run, arm):
    verification = json.loads((run / arm / "verify.json").read_text())
    assert verification["mismatches"] == 0
    assert {layer["name"]: layer["spikes"] for layer in verification["layers"]}["block1_lif2"] > 0
    assert sum(layer["values"] for layer in verification["layers"]) > 30_000


def test_the_shortcuts_wait_in_relays_that_count_as_neurons_and_cores(run):
    program = open_artifact(run / "pruned").program
    relays = [layer.name for layer in program.layers if "_relay" in layer.name]
    assert relays == ["stem_lif_relay1", "block1_lif2_relay1", "block2_lif2_relay1"]
    mapping = json.loads(sca_deploy("map", run / "pruned", "--json").stdout)
    assert set(relays) < {layer["name"] for layer in mapping["layers"]}


def test_the_exported_folder_holds_python_that_lava_runs_where_no_net_file_can_hold_the_sums(run):
    names = {path.name for path in (run / "pruned" / "loihi2").iterdir()}
    assert {"network.py", "weights.npz", "program.npz", "README.md"} <= names
    assert "network.net" not in names
    done = sca_deploy("verify", run / "pruned", "--samples", 4, "--states", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mismatches"] == 0


def test_a_lava_folder_can_be_exported_and_verified_by_itself(run, tmp_path):
    done = sca_deploy("export", run / "dense", "--target", "lava", "-o", tmp_path / "lava")
    assert done.returncode == 0, done.stderr
    arms = [json.loads(sca_deploy("verify", place, "--input", saved(tmp_path), "--json").stdout)
            for place in (tmp_path / "lava", run / "dense")]  # fmt: skip
    assert [document["mismatches"] for document in arms] == [0, 0]
    assert [layer["spikes"] for layer in arms[0]["layers"]] == [layer["spikes"] for layer in arms[1]["layers"]]


def saved(folder):
    import numpy as np

    x = np.random.default_rng(0).integers(0, 32, (2, 3, 1, 8, 8)).astype(np.uint8)
    np.save(folder / "x.npy", x)
    return folder / "x.npy"
