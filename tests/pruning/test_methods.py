"""Every method on the real digits, from training to real Lava.

The comparison with Lava needs it in this interpreter, or in the one SCA_DEPLOY_LAVA_PYTHON names.
"""

import json
import os
import pkgutil
import re
import sys

import pytest

from sca_deploy.artifact import open_artifact
from sca_deploy.checkpoint import load_network
from sca_deploy.config import Config, DataConfig, NetworkConfig, PruneConfig, TrainConfig
from sca_deploy.console import Console
from sca_deploy.errors import UsageError
from sca_deploy.exporters.base import exporter
from sca_deploy.hardware.lava.compare import verify
from sca_deploy.pipeline import Job, deployable, make_arm, start
from sca_deploy.pruning import methods as package
from sca_deploy.pruning.method import Method, method, methods
from sca_deploy.pruning.methods.sca import SCA
from sca_deploy.train import read_log, train
from tests.conftest import needs_lava, run_python

CHANNELS, UNSTRUCTURED = (
    ["sca", "criticality-structured", "slimming", "random"],
    ["criticality-unstructured", "magnitude", "granet", "rigl"],
)
METHODS = ["dense", *CHANNELS, *UNSTRUCTURED]
OPTIONS = {
    "criticality-structured": {"regrow": 0.1, "l1_gamma": 1e-4},
    "slimming": {"l1_gamma": 1e-4},
    "criticality-unstructured": {"interval": 7},
}

NORM, LIF = {"type": "batch_norm"}, {"type": "lif"}
LAYERS = [
    *({"type": "conv", "channels": 12, "kernel": 3, "padding": 1}, NORM, LIF),
    *({"type": "conv", "channels": 16, "kernel": 3, "padding": 1}, NORM, LIF),
    *({"type": "avg_pool", "kernel": 2}, {"type": "flatten"}),
    *({"type": "linear", "features": 32, "bias": False}, NORM, LIF),
    {"type": "linear", "features": 10},
]
KEEP = 0.4
WIDTHS = 12 + 16 + 32
WEIGHTS = {"conv1": 12 * 9, "conv2": 16 * 12 * 9, "linear1": 32 * 16 * 4 * 4, "linear2": 10 * 32}
SAMPLES = 8


def config(**prune):
    return Config(
        data=DataConfig(train_samples=400, test_samples=100),
        network=NetworkConfig(steps=4, layers=LAYERS),
        train=TrainConfig(epochs=6, batch_size=40, lr=5e-3),
        prune=PruneConfig(keep=KEEP, floor=0.2, **prune),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A job whose arm went through the pipe up to its evaluation, made once for every method."""
    jobs = {}

    def job(name):
        if name not in jobs:
            settings = config(method=name, **OPTIONS.get(name, {}))
            jobs[name] = Job(settings, tmp_path_factory.mktemp(name), Console(quiet=True))
            start(jobs[name], ["pruned"])
            make_arm(jobs[name], "pruned")
        return jobs[name]

    return job


def written(job, name):
    return json.loads((job.folder / "pruned" / name).read_text())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_the_digits(made, name):
    figures = written(made(name), "evaluation.json")["figures"]
    assert figures["accuracy_float"] > 0.6
    assert figures["accuracy_chip"] > 0.6


@pytest.mark.parametrize("name", CHANNELS)
def test_a_structured_method_keeps_exactly_the_channels_asked_for(made, name):
    job = made(name)
    network, _ = load_network(job.folder / "pruned" / "network.pt")
    assert sum(network.kept_channels.values()) == round(KEEP * WIDTHS) == 24
    for channels, width in zip(network.kept_channels.values(), (12, 16, 32), strict=True):
        assert channels >= int(0.2 * width)
    assert written(job, "compaction.json")["after"] == network.kept_channels


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_an_unstructured_method_keeps_exactly_the_weights_asked_for(made, name):
    network, document = load_network(made(name).folder / "pruned" / "train" / "checkpoint.pt")
    masks = document["method"]["masks"]
    assert {layer: mask.numel() for layer, mask in masks.items()} == WEIGHTS
    on = sum(int(mask.sum()) for mask in masks.values())
    # RigL rounds the number of every layer.
    assert abs(on - round(KEEP * sum(WEIGHTS.values()))) <= (2 if name == "rigl" else 0)
    for layer, mask in masks.items():
        assert not network.layers[layer].weight[~mask].any()
    # A weight that came back where nothing ever fires has not moved from 0.
    assert sum(int(network.layers[layer].weight.count_nonzero()) for layer in masks) >= 0.98 * on


def test_dense_keeps_everything(made):
    network, _ = load_network(made("dense").folder / "pruned" / "network.pt")
    assert sum(network.kept_channels.values()) == WIDTHS
    assert all(network.layers[layer].weight.all() for layer in WEIGHTS)


@pytest.mark.parametrize("name", CHANNELS)
def test_a_structured_method_compacts_to_a_smaller_file_with_proof(made, name):
    proof = written(made(name), "compaction.json")
    assert proof["samples"] == 64
    assert proof["spikes_compared"] > 0
    assert proof["max_logit_difference"] <= 1e-5
    size, dense = ((made(arm).folder / "pruned" / "network.pt").stat().st_size for arm in (name, "dense"))
    assert size < 0.6 * dense


@needs_lava
@pytest.mark.parametrize("name", METHODS)
def test_lava_repeats_every_spike(made, name, tmp_path):
    job = made(name)
    artifact, loihi2 = open_artifact(job.folder / "pruned"), exporter("loihi2")
    loihi2.export(deployable(artifact, job.chip, loihi2), tmp_path)
    x = job.inputs.over_time(job.dataset.test_x[:SAMPLES])
    verification = verify(artifact.program, tmp_path / "network.net", x)
    assert verification.mismatches == 0
    assert [layer.name for layer in verification.layers] == ["lif1", "lif2", "lif3", "linear2"]
    assert all(layer.values > 0 for layer in verification.layers)
    assert all(layer.spikes > 0 for layer in verification.layers[:-1])


@pytest.mark.parametrize("signal", ["gamma_gradient", "weight_gradient", "criticality", "random", "none"])
def test_sca_regrows_by_any_signal(made, signal, tmp_path):
    train(config(method="sca", regrow_by=signal, regrow=0.3), made("dense").dataset, tmp_path)
    log = read_log(tmp_path)
    assert log[-1]["test_accuracy"] > 0.5
    assert sum(log[-1]["pruning"]["kept"].values()) == round(KEEP * WIDTHS)
    regrown = [entry["pruning"]["regrown"] for entry in log]
    assert any(regrown) == (signal != "none")
    assert regrown[-1] == 0


def test_there_are_the_methods_of_both_papers_and_what_they_are_compared_with():
    assert sorted(methods()) == sorted(METHODS)


def test_every_file_of_the_package_is_one_method():
    files = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    assert sorted(kind.__module__ for kind in methods().values()) == sorted(files)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_name_and_a_line_that_says_what_it_does(name):
    kind = method(name)
    assert issubclass(kind, Method)
    assert kind.name == name
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
    assert re.fullmatch(r".{5,80}", kind.summary)
    assert [other for other in methods().values() if other.summary == kind.summary] == [kind]


def test_a_method_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown prune\.method 'granett'") as error:
        method("granett")
    assert error.value.fix.startswith("did you mean 'granet'?")


DROPPED = '''
from sca_deploy.pruning.channels import ChannelMethod


class Busiest(ChannelMethod):
    """Keeps the channels that fire most."""

    name = "busiest"
    summary = "channels by firing rate"
    own_score = "rate"
'''
USE = """
import sys
from pathlib import Path
from sca_deploy.pruning import methods
methods.__path__.append(sys.argv[1])
from sca_deploy.config import Config, DataConfig, PruneConfig, TrainConfig, NetworkConfig
from sca_deploy.data import configured
from sca_deploy.train import read_log, train
data = DataConfig(train_samples=60, test_samples=20)
config = Config(data=data, network=NetworkConfig(name="conv2", steps=2), train=TrainConfig(epochs=2),
                prune=PruneConfig(method="busiest", keep=0.25))
train(config, configured(data, 2), Path(sys.argv[2]))
print(sum(read_log(Path(sys.argv[2]))[-1]["pruning"]["kept"].values()))
"""


def test_a_file_dropped_into_the_package_is_a_method(root, tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "busiest.py").write_text(DROPPED)
    environment = os.environ | {"PYTHONPATH": str(root)}
    arguments = ["-c", USE, str(tmp_path / "methods"), str(tmp_path / "train")]
    printed = run_python(sys.executable, arguments, tmp_path, environment)
    assert int(printed) == round(0.25 * (32 + 64 + 128))


def test_a_variant_without_a_name_of_its_own_takes_no_ones_place():
    class Variant(SCA):
        own_score = "rate"

    methods.cache_clear()
    assert Variant.name == "sca"
    assert method("sca") is SCA
