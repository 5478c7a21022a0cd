"""Calibration of a trained network on real digits, and fine-tuning in integers where they lose too much."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from sca_deploy.calibrate import calibrate
from sca_deploy.config import Config, LowerConfig, NetworkConfig, PruneConfig, TrainConfig
from sca_deploy.data import configured
from sca_deploy.graph import DT, to_nir
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.simulate import simulate
from sca_deploy.inputs import inputs_of
from sca_deploy.train import accuracy, train
from tests.pruning.tiny import takes

LAYERS = (
    {"type": "conv", "channels": 8, "kernel": 3, "padding": 1},
    {"type": "lif"},
    {"type": "flatten"},
    {"type": "linear", "features": 10},
)


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """A network whose every layer has one huge weight onto a pixel that is always black: the others become coarse.

    The float network does not notice.
    """
    network = NetworkConfig(layers=LAYERS, steps=4)
    training = TrainConfig(epochs=4, batch_size=64, lr=5e-3)
    config = Config(network=network, train=training, prune=PruneConfig(method="dense"))
    dataset = configured(config.data, 4)
    trained = train(config, dataset, tmp_path_factory.mktemp("train"))
    convolution = trained.layers["conv1"]
    with torch.no_grad():
        # The corner tap of a channel of its own, which no later layer reads.
        trained.layers["linear1"].weight[:, :64] = 0.0
        convolution.weight[0, 0] = 0.0
        convolution.weight[0, 0, 0, 0] = 400 * convolution.weight.abs().max()
    return config, dataset, trained.eval()


def chip_accuracy(network, scales, config, dataset):
    inputs = inputs_of(config, dataset)
    program = lower(to_nir(network), dt=DT, steps=4, input_bits=inputs.bits, scales=scales)
    readout = simulate(program, inputs.over_time(dataset.test_x)).readout
    return float((readout.argmax(1) == dataset.test_y).mean())


def test_fine_tuning_in_integers_wins_back_what_coarse_weights_lose(coarse):
    config, dataset, network = coarse
    floats = accuracy(network, inputs_of(config, dataset).fixed(dataset.test_x), dataset.test_y)
    plain = calibrate(network, config, dataset)
    before = chip_accuracy(network, plain.scales, config, dataset)
    tuning = replace(config, lower=LowerConfig(finetune=6, max_drop=0.5))
    tuned = calibrate(network, tuning, dataset)
    after = chip_accuracy(tuned.network, tuned.scales, config, dataset)
    assert before < floats - 0.05
    assert after > before + (floats - before) / 2
    assert tuned.report["drop"] < tuned.report["drop_before"]
    assert tuned.scales == plain.scales


@pytest.mark.parametrize(("limit", "kept"), [(1e9, True), (500, False)])
def test_fine_tuning_that_takes_more_than_the_budget_is_not_chosen(coarse, limit, kept):
    """The weights it wins back make spikes that the network did not fire: ten times the synaptic operations."""
    config, dataset, network = coarse
    pruning = PruneConfig(method="sca", budget={"synops": limit})
    tuning = replace(config, prune=pruning, lower=LowerConfig(finetune=3, max_drop=0.5))
    tuned = calibrate(network, tuning, dataset)
    inputs = inputs_of(config, dataset)
    program = lower(to_nir(tuned.network), dt=DT, steps=4, input_bits=inputs.bits, scales=tuned.scales)
    assert takes(program, inputs.over_time(dataset.train_x))["synops"] < limit
    assert (tuned.report["drop"] < tuned.report["drop_before"]) == kept
    assert tuned.report["over_budget"] == (0 if kept else 3)
    assert (tuned.network is not network) == kept


def test_a_network_that_loses_little_enough_is_not_touched(coarse):
    config, dataset, network = coarse
    kept = calibrate(network, replace(config, lower=LowerConfig(finetune=3, max_drop=100.0)), dataset)
    assert kept.report["epochs"] == 0
    assert kept.network is network


def test_without_a_search_every_layer_takes_its_largest_scale(coarse):
    config, dataset, network = coarse
    assert calibrate(network, replace(config, lower=LowerConfig(search=False)), dataset).scales == {}


def test_the_search_looks_at_training_samples_only(coarse):
    config, dataset, network = coarse
    blind = replace(dataset, test_x=np.zeros_like(dataset.test_x))
    assert calibrate(network, config, blind).scales == calibrate(network, config, dataset).scales


def test_fine_tuning_that_makes_it_worse_leaves_the_network_as_it_was(coarse, monkeypatch):
    config, dataset, network = coarse
    with torch.no_grad():
        network = copy.deepcopy(network)
        network.layers["conv1"].weight[0, 0, 0, 0] /= 2

    def wreck(integer, *_):
        with torch.no_grad():
            for parameter in integer.network.parameters():
                parameter.neg_()

    monkeypatch.setattr("sca_deploy.calibrate._train_epoch", wreck)
    kept = calibrate(network, replace(config, lower=LowerConfig(finetune=2, max_drop=0.0)), dataset)
    assert kept.report["drop"] == kept.report["drop_before"] > 0
    assert kept.network is network
