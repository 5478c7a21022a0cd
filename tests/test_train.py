import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from sca_deploy.checkpoint import load_network
from sca_deploy.config import AugmentConfig, DataConfig, PruneConfig, load_config, override
from sca_deploy.data import load_dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.train import read_log, train
from tests.conftest import ROOT

DENSE = PruneConfig(method="dense")


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits").first(300, 100)


@pytest.fixture(scope="module")
def config():
    small = replace(load_config("digits"), data=DataConfig("digits", train_samples=300, test_samples=100))
    return override(small, {"train.epochs": 5, "train.checkpoint_seconds": 1e6})


@pytest.fixture(scope="module")
def dense(config):
    return replace(config, prune=DENSE)


class Stop(Exception):
    pass


def stop_after(batches):
    """A progress callback that interrupts the training once so many batches are done, checkpointed ones included."""
    seen = 0

    def on_batch(count):
        nonlocal seen
        seen += count
        if seen >= batches:
            raise Stop

    return on_batch


def weights(path):
    return load_network(path / "checkpoint.pt")[0].state_dict()


def assert_bit_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


METHODS = {
    "dense": DENSE,
    "sca": PruneConfig(keep=0.3, floor=0.2),
    "sca, taylor, weight gradient": PruneConfig(keep=0.3, score="taylor", regrow_by="weight_gradient"),
    "slimming": PruneConfig(method="slimming", l1_gamma=1e-3),
    "criticality-unstructured": PruneConfig(method="criticality-unstructured", interval=3),
    "rigl": PruneConfig(method="rigl", interval=3),
}


@pytest.mark.parametrize("prune", METHODS.values(), ids=METHODS)
def test_a_training_resumed_in_mid_epoch_ends_bit_for_bit_where_the_whole_one_does(dataset, config, tmp_path, prune):
    # Everything that is random takes part: dropout, augmentation, the order of samples, regrowth.
    layers = [*config.network.layers[:-1], {"type": "dropout", "p": 0.2}, config.network.layers[-1]]
    config = replace(
        config,
        prune=prune,
        network=replace(config.network, layers=layers),
        data=replace(config.data, augment=AugmentConfig(crop=1, rotation=5.0)),
    )
    every = replace(config, train=replace(config.train, checkpoint_seconds=0.0))
    train(config, dataset, tmp_path / "whole")
    for batches in (2, 8, 14):  # 5 batches an epoch
        with pytest.raises(Stop):
            train(every, dataset, tmp_path / "parts", on_batch=stop_after(batches))
    train(every, dataset, tmp_path / "parts")
    assert_bit_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    drop = {"seconds"}
    whole, parts = (
        [{k: v for k, v in e.items() if k not in drop} for e in read_log(tmp_path / f)] for f in ("whole", "parts")
    )
    assert whole == parts


def start_training(folder, *flags):
    config = folder.parent / "killed.toml"
    recipe = (ROOT / "configs" / "digits.toml").read_text()
    config.write_text(recipe.replace("[train]\n", "[train]\ncheckpoint_seconds = 0.0\n"))
    command = [sys.executable, "-m", "sca_deploy.cli", "train", config, "-o", folder, "--epochs", "3", *flags]
    command += ["--train-samples", "300", "--test-samples", "50"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    silent = subprocess.DEVNULL
    return subprocess.Popen(list(map(str, command)), env=environment, stdout=silent, stderr=silent)


def kill_when(process, ready):
    """kill -9 as soon as `ready()`; whether it came to that."""
    while process.poll() is None:
        if ready():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005)
    return False


def test_after_kill_9_in_mid_epoch_and_in_mid_checkpoint_resume_is_bit_identical(tmp_path):
    assert start_training(tmp_path / "whole").wait() == 0
    whole = weights(tmp_path / "whole" / "pruned" / "train")

    folder = tmp_path / "killed" / "pruned" / "train"
    checkpoint = folder / "checkpoint.pt"
    process = start_training(tmp_path / "killed")
    assert kill_when(process, lambda: checkpoint.exists() and load_position(checkpoint) >= (0, 3))  # mid-epoch
    assert load_position(checkpoint)[1] % 5 != 0

    for _ in range(20):  # a kill that meets a half-written file: its name ends in .part
        process = start_training(tmp_path / "killed", "--resume")
        killed = kill_when(process, lambda: any(folder.glob(".checkpoint.pt.*.part")))
        if killed and any(folder.glob(".checkpoint.pt.*.part")):
            break
    else:
        pytest.fail("no kill met a checkpoint being written")
    load_network(checkpoint)  # the one before is whole

    assert start_training(tmp_path / "killed", "--resume").wait() == 0
    assert_bit_equal(whole, weights(folder))


def load_position(path):
    position = torch.load(path, weights_only=True)["position"]
    return position["epoch"], position["batch"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(dataset, config, tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(replace(config, seed=seed), dataset, tmp_path / folder)
    a, b, c = (weights(tmp_path / folder) for folder in "abc")
    assert_bit_equal(a, b)
    assert not torch.equal(a["layers.conv1.weight"], c["layers.conv1.weight"])


def test_every_epoch_logs_masks_scores_and_kept_channels(dataset, config, tmp_path):
    train(config, dataset, tmp_path)
    log = read_log(tmp_path)
    assert [entry["epoch"] for entry in log] == [1, 2, 3, 4, 5]
    for entry in log:
        pruning = entry["pruning"]
        for name, bits in pruning["masks"].items():
            assert len(pruning["scores"][name]) == len(bits)
            assert bits.count("1") == pruning["kept"][name]
    assert log[-1]["pruning"]["masks"] == log[-2]["pruning"]["masks"]


def test_the_csv_holds_what_the_log_holds(dataset, config, tmp_path):
    train(config, dataset, tmp_path)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    for row, entry in zip(rows, read_log(tmp_path), strict=True):
        for key in ("epoch", "loss", "train_accuracy", "test_accuracy", "learning_rate"):
            assert float(row[key]) == entry[key]
        assert int(row["kept_batch_norm2"]) == entry["pruning"]["kept"]["batch_norm2"]


def test_a_checkpoint_of_another_config_is_not_continued(dataset, dense, tmp_path):
    train(dense, dataset, tmp_path)
    with pytest.raises(UsageError, match="trained with another config"):
        train(override(dense, {"train.lr": 0.1}), dataset, tmp_path)


def test_how_often_checkpoints_are_written_does_not_make_another_config(dataset, dense, tmp_path):
    train(dense, dataset, tmp_path)
    train(override(dense, {"train.checkpoint_seconds": 1.0}), dataset, tmp_path)


def test_a_diverging_training_stops_and_says_so(dataset, dense, tmp_path):
    # Every step multiplies the weights by 1 - lr * weight_decay = -999 and more.
    wild = replace(dense.train, lr=1e3, optimizer="sgd", momentum=0.0, weight_decay=1.0, epochs=60)
    with pytest.raises(ScaDeployError, match=r"the loss is (nan|inf) in epoch"):
        train(replace(dense, train=wild), dataset, tmp_path)


def test_a_read_out_of_the_wrong_width_is_named(dataset, dense, tmp_path):
    layers = [*dense.network.layers[:-1], {"type": "linear", "features": 7}]
    wrong = replace(dense, network=replace(dense.network, layers=layers))
    with pytest.raises(UsageError, match="'linear2' has 7 features, data set 'digits' has 10 classes"):
        train(wrong, dataset, tmp_path)


def test_a_network_is_given_by_name_or_by_layers(dataset, dense, tmp_path):
    with pytest.raises(UsageError, match=r"network\.name and network\.layers are alternatives"):
        train(replace(dense, network=replace(dense.network, name="conv2")), dataset, tmp_path)


@pytest.mark.parametrize("keep", [0.05, 0.1, 0.2])
def test_every_size_of_checkpoint_damage_is_one_clear_error(dataset, dense, tmp_path, keep):
    train(override(dense, {"train.epochs": 1}), dataset, tmp_path)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for size in np.linspace(0, len(whole) * (1 - keep), 10, dtype=int):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(ScaDeployError, match=r"cut\.pt is damaged"):
            load_network(tmp_path / "cut.pt")


@pytest.mark.parametrize("missing", ["optimizer", "method", "position", "log"])
def test_a_checkpoint_that_lacks_what_is_needed_to_continue_is_one_clear_error(dataset, dense, tmp_path, missing):
    train(override(dense, {"train.epochs": 1}), dataset, tmp_path)
    document = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del document[missing]
    torch.save(document, tmp_path / "checkpoint.pt")
    with pytest.raises(ScaDeployError, match="cannot be continued"):
        train(override(dense, {"train.epochs": 1}), dataset, tmp_path)


def test_nan_weights_are_named(dataset, dense, tmp_path):
    network = train(override(dense, {"train.epochs": 1}), dataset, tmp_path)
    document = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    document["state"]["layers.conv1.weight"][0] = float("nan")
    torch.save(document, tmp_path / "nan.pt")
    with pytest.raises(ScaDeployError, match="'layers.conv1.weight' holds NaN"):
        load_network(tmp_path / "nan.pt")
    assert network.spec.steps == 4


def test_a_device_that_is_not_there_is_a_usage_error(dataset, dense, tmp_path):
    with pytest.raises(UsageError, match=r"train\.device 'cuda:99' is not available"):
        train(override(dense, {"train.device": "cuda:99"}), dataset, tmp_path)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("train", "loss", "per_step"), ("train", "precision", "bfloat16"), ("train", "channels_last", False)]
    + [("data", "coding", coding) for coding in ("rate", "latency")],
)
def test_every_way_of_training_learns(dataset, dense, tmp_path, table, key, value):
    config = replace(dense, **{table: replace(getattr(dense, table), **{key: value})})
    train(config, dataset, tmp_path)
    log = read_log(tmp_path)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    # Not on test samples: 25 batches are few for the running statistics of batch-norm.
    assert log[-1]["train_accuracy"] > 0.9


def test_the_penalty_on_spikes_makes_fewer_of_them(dataset, dense, tmp_path):
    counts = []
    for name, l1 in (("free", 0.0), ("charged", 1.0)):
        network = train(replace(dense, prune=replace(DENSE, l1_spikes=l1)), dataset, tmp_path / name)
        with torch.no_grad(), network.recording() as spikes:
            network(torch.from_numpy(dataset.test_x))
        counts.append(sum(float(s.sum()) for s in spikes.values()))
    assert counts[1] < 0.9 * counts[0]


def test_two_gloo_processes_train_what_one_does(tmp_path):
    """In double precision, where no rounding can turn a spike within a few steps."""
    script = tmp_path / "train_double.py"
    script.write_text(
        "import sys, torch\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "torch.set_default_dtype(torch.float64)\n"
        "from sca_deploy.config import PruneConfig, load_config, override\n"
        "from sca_deploy.data import load_dataset\n"
        "from sca_deploy.train import train\n"
        "method, folder = sys.argv[1:]\n"
        "config = override(load_config('digits'), {'train.epochs': 3, 'train.lr': 1e-3})\n"
        "prune = PruneConfig(method=method, keep=0.5, l1_gamma=1e-4 if method == 'slimming' else 0.0)\n"
        "train(replace(config, prune=prune), load_dataset('digits').first(290, 50), Path(folder))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for method in ("sca", "criticality-unstructured"):
        for folder, launcher in (("one", []), ("two", torchrun)):
            command = [sys.executable, *launcher, str(script), method, str(tmp_path / method / folder)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
        one, two = (weights64(tmp_path / method / folder) for folder in ("one", "two"))
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-9)
        logs = [read_log(tmp_path / method / folder) for folder in ("one", "two")]
        assert [e["pruning"]["kept"] for e in logs[0]] == [e["pruning"]["kept"] for e in logs[1]]
        for a, b in zip(*logs, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-9)
            assert a["train_accuracy"] == b["train_accuracy"]


def weights64(path):
    return torch.load(path / "checkpoint.pt", weights_only=True)["state"]


def test_the_log_is_readable_json_lines(dataset, dense, tmp_path):
    train(dense, dataset, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5]
