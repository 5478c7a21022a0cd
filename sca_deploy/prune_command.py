"""`sca-deploy prune`: a network that somebody brings, made smaller on their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sca_deploy.options import PATH, Options, budget_option, common, neurons


@click.command()
@click.argument("source", type=PATH)
@click.option("--data", "data", required=True, help="A data set's name, a .npz file, or a config that names one.")
@click.option("--data-folder", help="Where the files of a data set are.")
@click.option("--coding", help="direct, rate or latency for images; recordings are events.")
@click.option("--train-samples", type=click.IntRange(1), help="Use only the first so many training samples.")
@click.option("--test-samples", type=click.IntRange(1), help="Use only the first so many test samples.")
@click.option("--steps", type=click.IntRange(1), help="Time steps a sample lasts.")
@click.option("--keep", type=float, help="Fraction left of the channels that can be pruned.")
@budget_option
@click.option("--allocation", help="How layers share a budget: activity (default), global or uniform.")
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
    network does on training samples; with it, it is pruned while it is fine-tuned. With --budget as much is kept as the
    chip's limits leave room for; exit code 3 if nothing does. Leaves a run folder with the network
    as it was brought (dense) and pruned, which export, verify, map and compare take. Repeat the command to continue.
    """
    from sca_deploy import pipeline
    from sca_deploy.artifact import Reading, open_artifact
    from sca_deploy.bringing import data_config, keep_source, pruning_config, recorded
    from sca_deploy.console import columns
    from sca_deploy.report.tables import comparison_table

    amounts = {"train_samples": train_samples, "test_samples": test_samples}
    wanted = data_config(data, folder=data_folder, coding=coding, **amounts)
    lasts = steps or recorded(wanted)
    reading = Reading(dt=dt, steps=lasts, preset=preset, reset=reset, multi_spike=multi_spike, clamp=clamp, tie=tie)
    artifact = open_artifact(source, reading)
    folder = output or Path("runs") / artifact.title
    module = artifact.module
    file = keep_source(module, folder, artifact.title)
    config = pruning_config(folder.resolve().name, file, wanted, module.steps, flags)
    job = pipeline.Job(config, folder, options.console())
    document = pipeline.prune(job)
    lowered = "cores" in document["ratio"]
    text = f"{comparison_table(document, columns())}\n\nreport: {folder}/report.html\nwritten: {folder}"
    broken = pipeline.broken_budget(document)
    hint = f"sca-deploy export {folder} --target {'loihi2' if lowered else 'nir'}"
    options.result(document, text, "" if broken else hint)
    if broken is not None:
        raise broken
