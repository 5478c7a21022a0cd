import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sca_deploy.checkpoint import load_network
from sca_deploy.config import DataConfig, load_config, override
from sca_deploy.data import load_dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.train import train


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits").first(300, 100)


@pytest.fixture(scope="module")
def config():
    return override(replace(load_config("digits"), data=DataConfig("digits", "", 300, 100)), {"train.epochs": 5})


class Stop(Exception):
    pass


def stop_after(epochs):
    def progress(entry):
        if entry["epoch"] == epochs:
            raise Stop

    return progress


def weights(path):
    return load_network(path / "checkpoint.pt")[0].state_dict()


@pytest.mark.parametrize("prune", [False, True])
def test_a_resumed_training_ends_bit_for_bit_where_the_whole_one_does(dataset, config, tmp_path, prune):
    train(config, dataset, tmp_path / "whole", prune=prune)
    for epoch in (2, 4):
        with pytest.raises(Stop):
            train(config, dataset, tmp_path / "parts", prune=prune, progress=stop_after(epoch))
    train(config, dataset, tmp_path / "parts", prune=prune)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(dataset, config, tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(replace(config, seed=seed), dataset, tmp_path / folder, prune=True)
    a, b, c = (weights(tmp_path / folder) for folder in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["layers.conv1.weight"], c["layers.conv1.weight"])


def test_every_epoch_logs_masks_scores_and_kept_channels(dataset, config, tmp_path):
    train(config, dataset, tmp_path, prune=True)
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2, 3, 4, 5]
    for entry in log:
        sca = entry["sca"]
        for name, bits in sca["masks"].items():
            assert len(sca["scores"][name]) == len(bits)
            assert bits.count("1") == sca["kept"][name]
    assert log[-1]["sca"]["masks"] == log[-2]["sca"]["masks"]


def test_a_checkpoint_of_another_config_is_not_continued(dataset, config, tmp_path):
    train(config, dataset, tmp_path, prune=False)
    with pytest.raises(UsageError, match="trained with another config"):
        train(override(config, {"train.lr": 0.1}), dataset, tmp_path, prune=False)


def test_a_diverging_training_stops_and_says_so(dataset, config, tmp_path):
    # Every step multiplies the weights by 1 - lr * weight_decay = -999 and more.
    wild = replace(config.train, lr=1e3, optimizer="sgd", momentum=0.0, weight_decay=1.0, epochs=60)
    with pytest.raises(ScaDeployError, match=r"the loss is (nan|inf) in epoch"):
        train(replace(config, train=wild), dataset, tmp_path, prune=False)


def test_a_read_out_of_the_wrong_width_is_named(dataset, config, tmp_path):
    layers = [*config.network.layers[:-1], {"type": "linear", "features": 7}]
    wrong = replace(config, network=replace(config.network, layers=layers))
    with pytest.raises(UsageError, match="'linear2' has 7 features, data set 'digits' has 10 classes"):
        train(wrong, dataset, tmp_path, prune=False)


@pytest.mark.parametrize("keep", [0.05, 0.1, 0.2])
def test_every_size_of_checkpoint_damage_is_one_clear_error(dataset, config, tmp_path, keep):
    train(override(config, {"train.epochs": 1}), dataset, tmp_path, prune=False)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for size in np.linspace(0, len(whole) * (1 - keep), 10, dtype=int):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(ScaDeployError, match=r"cut\.pt is damaged"):
            load_network(tmp_path / "cut.pt")


def test_nan_weights_are_named(dataset, config, tmp_path):
    network = train(override(config, {"train.epochs": 1}), dataset, tmp_path, prune=False)
    document = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    document["state"]["layers.conv1.weight"][0] = float("nan")
    torch.save(document, tmp_path / "nan.pt")
    with pytest.raises(ScaDeployError, match="'layers.conv1.weight' holds NaN"):
        load_network(tmp_path / "nan.pt")
    assert network.spec.steps == 4


def test_a_device_that_is_not_there_is_a_usage_error(dataset, config, tmp_path):
    with pytest.raises(UsageError, match=r"train\.device 'cuda:99' is not available"):
        train(override(config, {"train.device": "cuda:99"}), dataset, tmp_path, prune=False)
