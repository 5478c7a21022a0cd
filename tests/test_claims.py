"""What the README claims of the recipes."""

import importlib.util
import shutil
import sys

import pytest

from sca_deploy.config import load_config
from sca_deploy.graph import DT, to_nir
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.mapping import check_fits, map_program
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers

SHAPES = {"digits": ((1, 8, 8), 5), "fashion": ((1, 28, 28), 8)}


@pytest.mark.parametrize("name", SHAPES)
def test_the_dense_network_of_a_recipe_can_be_lowered_and_fits_the_chip(name):
    config, (shape, bits) = load_config(name), SHAPES[name]
    layers = parse_layers(config.network.layers, config.network.neuron)
    network = SpikingNetwork(NetworkSpec(shape, layers, config.network.steps, 1 / (2**bits - 1))).eval()
    program = lower(to_nir(network), dt=DT, steps=config.network.steps, input_bits=bits)
    chip = load_chip("loihi2")
    check_fits(map_program(program, chip), chip)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seeds", [[0], pytest.param([0, 1, 2], marks=pytest.mark.long)], ids=["seed 0", "three seeds"])
def test_accuracy_and_channels_of_the_digits_recipe(root, tmp_path, first_run, seeds):
    shutil.copytree(first_run[0], tmp_path / "seed0")  # a run that is finished is not repeated
    spec = importlib.util.spec_from_file_location("digits_seeds", root / "benchmarks" / "digits_seeds.py")
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules["digits_seeds"] = benchmark
    spec.loader.exec_module(benchmark)
    result = benchmark.measure(seeds, tmp_path, quiet=True)
    mean, runs = result["mean"], result["seeds"].values()
    assert mean["dense"]["float"] >= 97.0
    assert mean["dense"]["float"] - mean["pruned"]["float"] <= 1.5
    for arm in ("dense", "pruned"):
        assert abs(mean[arm]["chip"] - mean[arm]["float"]) <= 0.5
    assert all(run["ratio"]["channels"] <= 0.35 for run in runs)
