"""A study from its plan to its files: cells, tables, pictures, analyses, manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sca_deploy.console import Console
from sca_deploy.errors import UsageError
from sca_deploy.files import read_json, write_json, write_table
from sca_deploy.hardware.chip import load_chip
from sca_deploy.manifest import digest, versions
from sca_deploy.study.analyses import run_analysis
from sca_deploy.study.cells import Row, rows, run_cells
from sca_deploy.study.pictures import plot_arms
from sca_deploy.study.plan import Study
from sca_deploy.study.results import summarised


def run_study(study: Study, folder: Path, results: Path, console: Console, jobs: int = 1) -> list[Row]:
    """Do what is left to do of a study, and write its results.

    Args:
        folder: for the networks of the cells.
        results: for cells.csv, summary.csv, arms.png, manifest.json and what the analyses write.
        jobs: cells worked on at once.

    Returns:
        The summary: a row for every arm and figure.

    Raises:
        UsageError: if the folder holds another study.
    """
    plan = folder / "study.json"
    if plan.exists() and read_json(plan).get("arms") != study.to_plain()["arms"]:
        raise UsageError(f"{folder} holds another study", "choose another --output, or delete the folder")
    write_json(plan, study.to_plain())
    run_cells(study, folder, console, jobs)
    cells = rows(study, folder)
    summary = summarised(cells)
    write_table(results / "cells.csv", cells)
    write_table(results / "summary.csv", summary)
    _plot(cells, results)
    for analysis in study.settings.analyses:
        run_analysis(analysis, study, folder, results, console, jobs)
    write_json(results / "manifest.json", _manifest(study))
    return summary


def _plot(cells: list[Row], results: Path) -> None:
    """arms.png: accuracy of every arm and seed, and against what the networks cost."""

    def by_arm(key: str, factor: float = 1.0) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for row in cells:
            found.setdefault(row["arm"], []).append(factor * row[key])
        return found

    costs = {
        "channels (measured)": by_arm("channels"),
        "thousand weights and biases not 0 (measured)": by_arm("parameters_nonzero", 1e-3),
        "thousand synaptic operations a sample (simulated)": by_arm("synops_per_sample", 1e-3),
    }
    plot_arms(results / "arms.png", by_arm("accuracy_float"), costs)


def _manifest(study: Study) -> dict[str, Any]:
    chip = load_chip(study.config.chip)
    plain = study.to_plain()
    for arm in plain["arms"].values():
        arm["data"]["folder"] = ""  # where the data lies says nothing about the results
    return {
        "versions": versions(),
        "chip": {"name": chip.name, "sha256": chip.sha256},
        "plan_sha256": digest(plain),
        "plan": plain,
    }
