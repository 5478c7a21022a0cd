"""`sca-deploy study`: arms times seeds, and what is looked at afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sca_deploy.console import columns
from sca_deploy.errors import UsageError
from sca_deploy.options import PATH, Options, common


@click.command()
@click.argument("config")
@click.option("-o", "--output", type=PATH, help="Folder of the networks; default runs/studies/NAME.")
@click.option("--results", type=PATH, help="Folder of tables and pictures; default OUTPUT/results.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Cells trained at once.")
@click.option("--data-folder", "data__folder", help="Overrides data.folder of every arm.")
@click.option("--epochs", "train__epochs", type=int, help="Overrides train.epochs, but not that of an arm.")
@click.option("--train-samples", "data__train_samples", type=int, help="Overrides data.train_samples.")
@click.option("--test-samples", "data__test_samples", type=int, help="Overrides data.test_samples.")
@common
def study(
    options: Options, config: str, output: Path | None, results: Path | None, jobs: int, **flags: str | int | None
) -> None:
    """Train every arm of a study with every seed, and compare them.

    CONFIG is a .toml file with a [study] table or the name of a packaged study (digits, fashion). Repeat the command to
    continue after an interruption; finished cells are not trained again.
    """
    from sca_deploy.report.tables import study_table
    from sca_deploy.study.plan import load_study
    from sca_deploy.study.study import run_study

    if jobs > (os.cpu_count() or 1):
        raise UsageError(f"--jobs {jobs} is more than the {os.cpu_count()} cores of this machine")
    plan = load_study(config, {key.replace("__", "."): value for key, value in flags.items()})
    folder = output or Path("runs") / "studies" / plan.name
    place = results or folder / "results"
    summary = run_study(plan, folder, place, options.console(), jobs)
    options.result(summary, f"{study_table(summary, columns())}\n\nwritten: {place}")
