"""The recipes of the papers: they hold what was published, and each trains, prunes and compacts at full width.

A recipe is cut short by `train.epochs`, `train.batch_size`, the numbers of samples and `prune.interval`, nothing else.
CIFAR-10 is the real one where it is present. Everything else is read from files of the published formats, written here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sca_deploy.config import Config, load_config, override, recipe_names
from sca_deploy.data import DATASETS, Dataset, configured
from sca_deploy.data.cifar import CIFAR10, CIFAR100, CifarSet, load_cifar
from sca_deploy.data.tiny_imagenet import TinyImageNet
from sca_deploy.inputs import inputs_of
from sca_deploy.nn.neuron import LIF
from sca_deploy.nn.surrogate import surrogate
from sca_deploy.optimization import rate
from sca_deploy.pruning.compact import compact, prove
from sca_deploy.pruning.schedule import Schedule
from sca_deploy.train import network_spec, read_log, train

RECIPES = [name for name in recipe_names() if name.startswith("paper/")]
OF = {
    prefix: [n for n in RECIPES if n.startswith(f"paper/{prefix}-")]
    for prefix in ("sca", "criticality-u", "criticality-s")
}
STRUCTURED = [*OF["sca"], *OF["criticality-s"]]

SOURCE = {"sca": "arXiv 2406.01072", "criticality-u": "arXiv 2311.16141", "criticality-s": "arXiv 2311.16141"}

# As published, or said here to be what published numbers amount to.
SGD = {"train.optimizer": "sgd", "train.momentum": 0.9}
SCA: dict[str, Any] = SGD | {
    "network.steps": 4,
    "network.neuron": {"beta": 1.0, "threshold": 1.0, "surrogate": "sigmoid", "alpha": 4.0},
    "train.epochs": 300,
    "train.batch_size": 64,
    "train.lr": 0.01,
    "train.weight_decay": 0.0,
    "train.loss": "mean_logits",
    "prune.method": "sca",
    "prune.keep": pytest.approx(0.1 + 0.2),  # a + b
    "prune.regrow": pytest.approx(0.2 / (0.1 + 0.2)),  # b / (a + b)
    "prune.ramp": "constant",
    "prune.fade": False,
    "prune.l1_weights": 3e-5,
}
CRITICALITY_U: dict[str, Any] = SGD | {
    "network.steps": 5,
    "network.neuron": {"beta": 0.25, "threshold": 0.5, "surrogate": "tanh", "alpha": 3.0},
    "train.epochs": 500,
    "train.batch_size": 128,
    "train.lr": pytest.approx(0.3 / 5),
    "train.weight_decay": pytest.approx(5 * 1e-4),
    "train.rate": "cosine",
    "train.loss": "mean_logits",
    "prune.method": "criticality-unstructured",
    "prune.keep": 0.05,
    "prune.regrow": 0.2,
    "prune.interval": 2000,
    "data.augment": {"crop": 4, "flip": True, "cutout": 16, "rotation": 0.0},
}
CRITICALITY_S: dict[str, Any] = SGD | {
    "network.steps": 5,
    "network.neuron": {
        "beta": 0.25,
        "threshold": pytest.approx(1 / 0.75),
        "surrogate": "atan",
        "alpha": pytest.approx(0.75 * 2),
    },
    "train.epochs": 160 + 160,
    "train.batch_size": 128,
    "train.lr": 0.3,
    "train.weight_decay": 0.0,
    "train.loss": "per_step",
    "prune.method": "criticality-structured",
    "prune.regrow": 0.05,
    "prune.l1_gamma": 1e-4,
    "data.augment": {"crop": 4, "flip": True, "cutout": 0, "rotation": 0.0},
}
CROP_FLIP = {"crop": 4, "flip": True, "cutout": 0, "rotation": 0.0}
OWN: dict[str, dict[str, Any]] = {
    "sca-vgg16-cifar10": SCA | {"network.name": "vgg16-bn", "data.set": "cifar-10", "data.augment": CROP_FLIP},
    "sca-vgg16-cifar100": SCA
    | {"network.name": "vgg16-bn", "data.set": "cifar-100", "data.augment": CROP_FLIP | {"rotation": 15.0}},
    "sca-preresnet18-cifar10": SCA | {"network.name": "preresnet18", "data.set": "cifar-10", "data.augment": CROP_FLIP},
    "sca-preresnet18-cifar100": SCA
    | {"network.name": "preresnet18", "data.set": "cifar-100", "data.augment": CROP_FLIP | {"rotation": 15.0}},
    "sca-tiny-imagenet": SCA | {"network.name": "vgg16-bn", "data.set": "tiny-imagenet"},
    "sca-dvs-cifar10": SCA | {"network.name": "dvs-cifar10", "data.set": "dvs-cifar10", "network.steps": 10},
    "criticality-u-vgg16-cifar10": CRITICALITY_U | {"network.name": "vgg16-avg", "data.set": "cifar-10"},
    "criticality-u-resnet19-cifar100": CRITICALITY_U | {"network.name": "resnet19", "data.set": "cifar-100"},
    "criticality-s-vgg16-cifar10": CRITICALITY_S
    | {"network.name": "vgg16-avg", "data.set": "cifar-10", "prune.keep": pytest.approx(1 - 0.6764)},
    "criticality-s-resnet19-cifar100": CRITICALITY_S
    | {"network.name": "resnet19", "data.set": "cifar-100", "prune.keep": pytest.approx(1 - 0.658)},
}


def test_the_recipes_are_those_of_the_table() -> None:
    assert {f"paper/{name}" for name in OWN} == set(RECIPES)


@pytest.mark.parametrize("name", OWN)
def test_a_recipe_holds_the_published_numbers(name: str) -> None:
    plain = load_config(f"paper/{name}").to_plain()
    found = {key: plain[key.split(".")[0]][key.split(".")[1]] for key in OWN[name]}
    assert found == OWN[name]


@pytest.mark.parametrize("method", SOURCE)
def test_a_recipe_says_where_its_numbers_come_from_and_what_is_ours(method: str) -> None:
    for name in OF[method]:
        text = resources.files("sca_deploy.configs").joinpath(f"{name}.toml").read_text(encoding="utf-8")
        comment = " ".join(line.removeprefix("#").strip() for line in text.split("\n\n")[0].splitlines())
        for words in (SOURCE[method], "Published", "ot published where we could read it", "Where we differ"):
            assert words in comment, name
        assert "on a GPU; not run to the end here." in comment, name


# Schedules


@pytest.mark.parametrize("name", OF["sca"])
def test_scas_learning_rate_falls_tenfold_every_100_of_300_epochs(name: str) -> None:
    train_config = load_config(name).train
    assert [rate(train_config, epoch) for epoch in range(300)] == pytest.approx(
        [0.01 * 0.1 ** (epoch // 100) for epoch in range(300)]
    )


@pytest.mark.parametrize("name", OF["sca"])
def test_scas_masks_are_chosen_after_every_epoch_from_the_first_at_one_ratio(name: str) -> None:
    schedule = Schedule(load_config(name).prune, 300)
    updates = [schedule.update(epoch) for epoch in range(300)]
    assert updates == [*range(1, 300), 0]  # one epoch is left to learn with the last masks
    assert {(schedule.keep(update), schedule.regrow(update)) for update in range(1, 300)} == {(0.3, 2 / 3)}


@pytest.mark.parametrize("name", OF["criticality-s"])
def test_either_phase_of_160_epochs_has_its_own_steps_of_the_learning_rate(name: str) -> None:
    config = load_config(name)
    pruned_after = Schedule(config.prune, config.train.epochs).last + 1
    assert pruned_after == 160
    phase = [0.3] * 80 + [0.03] * 40 + [0.003] * 40
    assert [rate(config.train, epoch, (0, pruned_after)) for epoch in range(320)] == pytest.approx(phase * 2)


@pytest.mark.parametrize("name", OF["criticality-u"])
def test_weights_are_chosen_every_2000_iterations_of_200_epochs_on_the_published_cubic(name: str) -> None:
    iterations = math.ceil(50_000 / 128)
    config = load_config(name)
    schedule = Schedule(config.prune, 500 * iterations, config.prune.interval)
    due = {step + 1: schedule.update(step) for step in range(500 * iterations) if schedule.update(step)}
    n = 200 * iterations // 2000
    assert due == {2000 * i: i for i in range(1, n + 1)}
    initial, final = 1.0, 0.05
    for i in range(1, n + 1):
        sparsity = (1 - initial) + (initial - final) * (1 - (1 - i / n) ** 3)
        assert schedule.keep(i) == pytest.approx(1 - sparsity)


# What is written another way than in the papers


@pytest.mark.parametrize("name", OF["criticality-u"])
def test_sgd_on_the_whole_loss_takes_the_steps_the_paper_takes_on_a_fifth_of_it(name: str) -> None:
    ours = load_config(name).train
    paths = []
    for part, lr, decay in ((5.0, 0.3, 1e-4), (1.0, ours.lr, ours.weight_decay)):
        torch.manual_seed(0)
        w, x = torch.randn(7, dtype=torch.float64, requires_grad=True), torch.randn(20, 7, dtype=torch.float64)
        optimizer = torch.optim.SGD([w], lr, 0.9, weight_decay=decay)
        path = []
        for row in x:
            optimizer.zero_grad()
            (torch.nn.functional.softplus(row @ w) / part).backward()
            optimizer.step()
            path.append(w.detach().clone())
        paths.append(torch.stack(path))
    torch.testing.assert_close(paths[1], paths[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OF["criticality-s"])
def test_the_neuron_is_the_papers_with_decayed_input_in_spikes_gradients_and_order_of_criticality(name: str) -> None:
    table = load_config(name).network.neuron
    ours = LIF(table["beta"], table["threshold"], surrogate(table["surrogate"], table["alpha"]))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 4, 50, generator=generator, dtype=torch.float64) * 1.5
    weights = torch.randn(5, 4, 50, generator=generator, dtype=torch.float64)

    def atan(v: torch.Tensor) -> torch.Tensor:
        """The derivative of the ATan surrogate of sharpness 2 at a potential."""
        return 1 / (1 + (math.pi * (v - 1)) ** 2)

    # By hand: tau = 4/3, so v += (x - v) / tau; the reset takes no part in the gradient.
    potentials, spikes, v = [], [], torch.zeros(4, 50, dtype=torch.float64)
    for current in x:
        v = v + (current - v) / (4 / 3)
        potentials.append(v)
        spikes.append((v > 1).to(v.dtype))
        v = v * (1 - spikes[-1])
    gradient, later = torch.zeros_like(x), torch.zeros(4, 50, dtype=torch.float64)
    for t in reversed(range(5)):
        at_v = weights[t] * atan(potentials[t]) + later
        gradient[t] = 0.75 * at_v
        later = 0.25 * at_v * (1 - spikes[t - 1]) if t else later

    x.requires_grad_()
    found: list[torch.Tensor] = []
    ours.observers.append(lambda v, s: found.append(v.detach()))
    fired = ours(x)
    (fired * weights).sum().backward()
    assert fired.sum() > 50
    assert torch.equal(fired.detach(), torch.stack(spikes))
    torch.testing.assert_close(x.grad, gradient)
    criticality = ours.surrogate.derivative(found[0] - ours.threshold)
    torch.testing.assert_close(criticality, 0.75 * atan(torch.stack(potentials)))


@pytest.mark.parametrize("name", OF["criticality-s"])
def test_as_many_channels_are_kept_and_revived_as_the_paper_counts_but_one(name: str) -> None:
    config = load_config(name)
    channels = {"vgg16-avg": 4224, "resnet19": 4416}[config.network.name]
    percent = {"vgg16-avg": 0.6764, "resnet19": 0.658}[config.network.name]
    least = int(channels * percent)
    revived = int((channels - least) * 0.05)
    by_gamma = channels - (least + revived) - 1  # those above the value at this place, counted from 0
    ours = round(config.prune.keep * channels)
    assert abs(ours - (by_gamma + revived)) <= 1
    assert abs(round(config.prune.regrow * ours) - revived) <= 1


# Training


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Config], Dataset]:
    """Loads the set of a recipe: real CIFAR-10 if it is there, else files of the format that are written here."""

    def load(config: Config) -> Dataset:
        name = config.data.set
        if name != "cifar-10" or CIFAR10.find(None) is None:
            monkeypatch.setenv("SCA_DEPLOY_DATA", str(tmp_path))
            WRITERS[name](tmp_path / name, monkeypatch)
        return configured(config.data, config.network.steps)

    return load


def write_cifar(published: CifarSet) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """The binary files of a set, each with one image of every class; the published MD5s cannot be theirs."""
    train, test = (dict.fromkeys(files, published.classes) for files in (published.train, published.test))
    small = replace(published, train=train, test=test, md5={})

    def write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        rng = np.random.default_rng(0)
        for file in (*small.train, *small.test):
            records = rng.integers(0, 256, (small.classes, small.record), np.uint8)
            records[:, 0] = rng.integers(0, small.coarse or 1, small.classes)
            records[:, small.record - 3073] = rng.permutation(small.classes)
            (folder / file).write_bytes(records.tobytes())
        monkeypatch.setitem(DATASETS, small.name, lambda folder, steps, size: load_cifar(small, folder))

    return write


def write_tiny_imagenet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 200 classes, with one image to train and one to test each instead of 500 and 50."""
    rng = np.random.default_rng(0)
    classes = [f"n{number:08d}" for number in range(200)]
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(classes) + "\n")
    lines = []
    for number, wnid in enumerate(classes):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for path in (images / f"{wnid}_0.JPEG", folder / "val" / "images" / f"val_{number}.JPEG"):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    monkeypatch.setattr("sca_deploy.data.catalogue.TINY_IMAGENET", TinyImageNet(train=1, val=1))


def write_dvs_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recordings of every class in AEDAT 2: big-endian pairs of address and microseconds after the header."""
    pytest.importorskip("tonic", reason="recordings are binned by tonic, which is not installed")
    rng = np.random.default_rng(0)
    for name in ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]:
        (folder / name).mkdir(parents=True)
        for number in range(2):
            events = np.empty((20_000, 2), ">u4")
            events[:, 0] = rng.integers(0, 1 << 15, len(events))  # 7 bits of row, 7 of column, 1 of polarity
            events[:, 1] = np.sort(rng.integers(0, 1_300_000, len(events)))
            header = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n"
            (folder / name / f"cifar10_{name}_{number}.aedat").write_bytes(header + events.tobytes())


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "cifar-10": write_cifar(CIFAR10),
    "cifar-100": write_cifar(CIFAR100),
    "tiny-imagenet": write_tiny_imagenet,
    "dvs-cifar10": write_dvs_cifar10,
}

EPOCHS, BATCHES, BATCH = 4, 5, 2
UPDATED = {
    "sca": [True, True, True, False],
    "criticality-structured": [False, True, False, False],
    "criticality-unstructured": [True, True, False, False],  # after batches 1, 4 and 7 of 20
}


def short(name: str) -> Config:
    """A recipe, with 20 steps left of it."""
    config = load_config(name)
    return override(
        config,
        {
            "train.epochs": EPOCHS,
            "train.batch_size": BATCH,
            "data.train_samples": BATCHES * BATCH,
            "data.test_samples": 2,
            "prune.interval": 3 if config.prune.interval else None,
        },
    )


@pytest.mark.parametrize("name", RECIPES)
def test_twenty_steps_of_a_recipe_train_prune_and_compact(name: str, data: Callable[[Config], Dataset]) -> None:
    config = short(name)
    dataset = data(config)
    batches: list[int] = []
    with TemporaryDirectory() as folder:  # a checkpoint is 120 MB, which pytest would keep
        network = train(config, dataset, Path(folder), on_batch=batches.append)
        log = read_log(Path(folder))
    assert sum(batches) == EPOCHS * BATCHES
    assert network.spec == network_spec(config, dataset)
    assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())
    assert all(math.isfinite(entry["loss"]) for entry in log)
    pruning = [entry["pruning"] for entry in log]
    assert [entry["updated"] for entry in pruning] == UPDATED[config.prune.method]

    if name in STRUCTURED:
        total = sum(norm.num_features for norm in network.norms().values())
        on = round(config.prune.keep * total)
        assert sum(network.kept_channels.values()) == sum(pruning[-1]["kept"].values()) == on
        assert min(network.kept_channels.values()) >= 1
        chosen = round(config.prune.regrow * on)
        assert [entry["regrown"] for entry in pruning] == [chosen * updated for updated in UPDATED[config.prune.method]]
        x = torch.from_numpy(inputs_of(config, dataset).fixed(dataset.test_x))
        small = compact(network)
        proof = prove(network, small, x)
        assert proof.samples == 2
        assert proof.spikes_compared > 0
        assert small.kept_channels == network.kept_channels
        assert all(norm.num_features == small.kept_channels[norm_name] for norm_name, norm in small.norms().items())
    else:
        weights = {key: value for key, value in network.named_parameters() if value.dim() > 1}
        on = round(config.prune.keep * sum(value.numel() for value in weights.values()))
        assert sum(pruning[-1]["kept"].values()) == on
        assert sum(entry["regrown"] for entry in pruning) > 0
        # A weight that came back is 0 until a gradient has moved it.
        last_regrown = int(on * config.prune.regrow)
        assert on - last_regrown <= sum(int(value.count_nonzero()) for value in weights.values()) <= on
