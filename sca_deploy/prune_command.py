"""`sca-deploy prune`: a network that somebody brings, made smaller on their data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sca_deploy.errors import UsageError
from sca_deploy.options import PATH, Options, common, neurons

if TYPE_CHECKING:
    from sca_deploy.config import Config, DataConfig


@click.command()
@click.argument("source", type=PATH)
@click.option("--data", "data", required=True, help="A data set's name, a .npz file, or a config that names one.")
@click.option("--data-folder", help="Where the files of a data set are.")
@click.option("--coding", help="direct, rate or latency for images; recordings are events.")
@click.option("--train-samples", type=click.IntRange(1), help="Use only the first so many training samples.")
@click.option("--test-samples", type=click.IntRange(1), help="Use only the first so many test samples.")
@click.option("--steps", type=click.IntRange(1), help="Time steps a sample lasts.")
@click.option("--keep", type=float, required=True, help="Fraction of all channels that is left.")
@click.option("--method", default="sca", show_default=True, help="sca, criticality-structured, slimming, random.")
@click.option("--score", default="", help="What channels are ranked by; default is the method's own.")
@click.option("--floor", type=float, help="Fraction of its channels that every layer keeps at least.")
@click.option("--l1-gamma", type=float, help="L1 penalty on the channels' scales, for slimming.")
@click.option("--epochs", type=click.IntRange(0), default=0, show_default=True, help="Fine-tuning; 0: prune once.")
@click.option("--lr", type=float, help="Learning rate of the fine-tuning.")
@click.option("--batch-size", type=click.IntRange(2), help="Samples of a batch.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", help="cpu, cuda or auto.")
@click.option("--chip", help="A chip's name or .toml file.")
@click.option("-o", "--output", type=PATH, help="Run folder; default runs/NAME.")
@neurons
@common
def prune(
    options: Options,
    source: Path,
    data: str,
    data_folder: str | None,
    coding: str | None,
    train_samples: int | None,
    test_samples: int | None,
    steps: int | None,
    output: Path | None,
    dt: float | None,
    preset: str | None,
    reset: str | None,
    multi_spike: bool | None,
    clamp: float | str | None,
    tie: str | None,
    **flags: Any,
) -> None:
    """Prune a network that was trained elsewhere, or before, on your data.

    SOURCE is a .nir graph, a .pt checkpoint or an arm of a run. Without --epochs channels are ranked once, by what the
    network does on training samples; with it, it is pruned while it is fine-tuned. Leaves a run folder with the network
    as it was brought (dense) and pruned, which export, verify, map and compare take. Repeat the command to continue.
    """
    from sca_deploy import pipeline
    from sca_deploy.artifact import Reading, open_artifact
    from sca_deploy.bringing import keep_source
    from sca_deploy.report.tables import comparison_table

    wanted = _data_of(data, data_folder, coding, train_samples, test_samples)
    lasts = steps or _recorded_steps(wanted)
    reading = Reading(dt=dt, steps=lasts, preset=preset, reset=reset, multi_spike=multi_spike, clamp=clamp, tie=tie)
    artifact = open_artifact(source, reading)
    folder = output or Path("runs") / artifact.title
    module = artifact.module
    file = keep_source(module, folder, artifact.title)
    config = _config(folder.resolve().name, file, wanted, module.steps, flags)
    job = pipeline.Job(config, folder, options.console())
    document = pipeline.prune(job)
    lowered = "cores" in document["ratio"]
    text = f"{comparison_table(document)}\n\nwritten: {folder}"
    options.result(document, text, f"sca-deploy export {folder} --target {'loihi2' if lowered else 'nir'}")


def _data_of(
    name: str, folder: str | None, coding: str | None, train_samples: int | None, test_samples: int | None
) -> DataConfig:
    """The data a user means: a set by name, a file of arrays, or the set of a config."""
    from dataclasses import replace

    from sca_deploy.config import DataConfig, load_config
    from sca_deploy.data.arrays import NAME

    if name.endswith(".npz"):
        if folder is not None:
            raise UsageError(f"--data {name} is a file", "leave --data-folder out")
        data = DataConfig(set=NAME, folder=str(Path(name).resolve()))
    elif name.endswith(".toml"):
        data = load_config(name).data
    else:
        data = DataConfig(set=name)
    changes: dict[str, Any] = {"folder": folder, "coding": coding, "train_samples": train_samples, "test_samples": test_samples}
    data = replace(data, **{key: value for key, value in changes.items() if value is not None})
    return data if coding is not None else replace(data, coding=_usual_coding(data))


def _usual_coding(data: DataConfig) -> str:
    """Recordings are events; images are shown as their config says."""
    from sca_deploy.data.catalogue import CATALOGUE
    from sca_deploy.errors import unknown_name

    if data.set not in CATALOGUE:
        raise unknown_name("data set", data.set, CATALOGUE)
    timed = CATALOGUE[data.set].timed or _recorded_steps(data) is not None
    return "events" if timed else data.coding


def _recorded_steps(data: DataConfig) -> int | None:
    from sca_deploy.data.arrays import NAME, recorded_steps

    return recorded_steps(Path(data.folder)) if data.set == NAME else None


def _config(name: str, file: Path, data: DataConfig, steps: int, flags: dict[str, Any]) -> Config:
    from dataclasses import replace

    from sca_deploy.config import Config, NetworkConfig, PruneConfig, TrainConfig, anchored

    train = replace(TrainConfig(epochs=flags["epochs"], lr=LR), **_given(flags, "lr", "batch_size", "device"))
    prune = PruneConfig(method=flags["method"], keep=flags["keep"], score=flags["score"])
    prune = replace(prune, **_given(flags, "floor", "l1_gamma"))
    network = NetworkConfig(file=str(file), steps=steps)
    config = Config(name=name, seed=flags["seed"], data=data, network=network, train=train, prune=prune)
    return anchored(replace(config, **_given(flags, "chip")))


LR = 2e-4
"""Fine-tuning begins where a training has ended: a tenth of a training's usual first rate."""


def _given(flags: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: flags[key] for key in keys if flags[key] is not None}
