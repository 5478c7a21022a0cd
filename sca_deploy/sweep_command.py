"""`sca-deploy sweep`: every combination of some keys of a config, and which networks no other beats."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sca_deploy.console import columns
from sca_deploy.errors import UsageError
from sca_deploy.options import PATH, Options, common


@click.command()
@click.argument("config")
@click.option("-o", "--output", type=PATH, help="Folder of networks, table and picture; default runs/sweeps/NAME.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="Cells at once on this machine, without Ray; default 1.")
@click.option("--address", help="Cluster of Ray that does the cells: HOST:PORT, auto, or local to start one here.")
@click.option("--workers", type=click.IntRange(1), help="Cores of the cluster to use, at most; default all.")
@click.option("--cpus-per-cell", type=click.IntRange(1), help="Cores a cell takes of the cluster; default --threads.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of every cell, wherever it runs."
)
@click.option("--data-folder", "data__folder", help="Overrides data.folder.")
@click.option("--epochs", "train__epochs", type=int, help="Overrides train.epochs, but not an axis.")
@click.option("--train-samples", "data__train_samples", type=int, help="Overrides data.train_samples.")
@click.option("--test-samples", "data__test_samples", type=int, help="Overrides data.test_samples.")
@common
def sweep(
    options: Options,
    config: str,
    output: Path | None,
    jobs: int | None,
    address: str | None,
    workers: int | None,
    cpus_per_cell: int | None,
    threads: int,
    **flags: str | int | None,
) -> None:
    """Train every point of a grid, and draw accuracy against what the networks cost on the chip.

    CONFIG is a .toml file with a [sweep] table or the name of a packaged sweep (digits, fashion). Repeat the command to
    continue after an interruption; finished cells are not done again.
    """
    from sca_deploy.sweep.plan import load_sweep
    from sca_deploy.sweep.results import best_table
    from sca_deploy.sweep.running import Place, run_sweep

    _check(jobs, address, workers, cpus_per_cell, threads)
    plan = load_sweep(config, {key.replace("__", "."): value for key, value in flags.items()})
    folder = output or Path("runs") / "sweeps" / plan.name
    place = Place(jobs or 1, address or "", workers, cpus_per_cell or threads, threads)
    rows = run_sweep(plan, folder, options.console(), place)
    written = f"written: {folder}/results.csv, {folder}/pareto.png and {folder}/manifest.json"
    options.result(rows, f"{best_table(rows, columns())}\n\n{written}")


def _check(jobs: int | None, address: str | None, workers: int | None, cpus: int | None, threads: int) -> None:
    cores = os.cpu_count() or 1
    if address and jobs:
        raise UsageError("--jobs and --address are alternatives", "give one of them")
    if (workers or cpus) and not address:
        option = "--workers" if workers else "--cpus-per-cell"
        raise UsageError(f"{option} is for a cluster", "add --address, or use --jobs on this machine")
    if not address and (jobs or 1) * threads > cores:
        asked = f"--jobs {jobs or 1} of --threads {threads}"
        raise UsageError(f"{asked} are more than the {cores} cores of this machine", "lower one of them")
