"""What a sweep comes to: a row a cell, the cells that no other beats, and the files of both."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sca_deploy.budget import RESOURCES
from sca_deploy.config import Config
from sca_deploy.files import write_json, write_table
from sca_deploy.hardware.chip import load_chip
from sca_deploy.manifest import digest, versions
from sca_deploy.report.figures import counted, number
from sca_deploy.report.tables import table
from sca_deploy.study.cells import cell_folder, row_of, trained_as
from sca_deploy.study.plan import Cell
from sca_deploy.sweep.cell import OK, ending
from sca_deploy.sweep.pareto import front, plot_pareto
from sca_deploy.sweep.plan import Sweep, counts, value_at

Row = dict[str, Any]
COSTS = {
    "cores_compiler_like": "cores",
    "synops_per_sample": "synaptic operations",
    "energy_nj_per_sample_typical": "energy",
}
"""What accuracy is weighed against, and how a table calls it."""


def rows(sweep: Sweep, folder: Path) -> list[Row]:
    """One row for every cell that is done, all with the same keys; what a row does not have is None."""
    found = [_row(sweep, cell, folder, end) for cell in sweep.cells if (end := ending(cell, folder)) is not None]
    keys = dict.fromkeys(key for row in sorted(found, key=lambda row: row["status"] != OK) for key in row)
    return [{key: row.get(key) for key in keys} for row in found]


def _row(sweep: Sweep, cell: Cell, folder: Path, end: Mapping[str, Any]) -> Row:
    config = cell.config
    row: Row = {"cell": cell.arm, "seed": cell.seed, "status": end["status"], "reason": end.get("reason")}
    for key in sweep.axes:
        row[key] = _plain(value_at(config, key)) if counts(key, config) else None
    row |= {key: value for key, value in trained_as(cell).items() if key != "regrow_by"}
    row |= {f"budget_{name}": config.prune.budget.get(name) for name in _resources(sweep)}
    if end["status"] == OK:
        figures = row_of(cell, cell_folder(folder, cell))
        row |= {key: value for key, value in figures.items() if key not in ("arm", "regrow_by", *row)}
    return row


def _plain(value: Any) -> Any:
    """A value of an axis as one field of a table."""
    return json.dumps(value) if isinstance(value, list | Mapping) else value


def _resources(sweep: Sweep) -> list[str]:
    named = {name for cell in sweep.cells for name in cell.config.prune.budget}
    return [name for name in RESOURCES if name in named]


def best(found: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The cells on the front of accuracy on the chip against one cost at least, each as its mean over seeds.

    Returns:
        {"cell", "seeds", "accuracy_chip", a key for each of COSTS, "front": the costs at which no other beats it}, by
        rising accuracy.
    """
    means = _means(found)
    of: dict[int, list[str]] = {}
    for key, name in COSTS.items():
        for i in front([(mean[key], mean["accuracy_chip"]) for mean in means]):
            of.setdefault(i, []).append(name)
    ordered = sorted(of, key=lambda i: (means[i]["accuracy_chip"], *(means[i][key] for key in COSTS)))
    return [{**means[i], "front": of[i]} for i in ordered]


def _means(found: Sequence[Mapping[str, Any]]) -> list[Row]:
    means = []
    for name in dict.fromkeys(row["cell"] for row in found if row["status"] == OK):
        of_cell = [row for row in found if row["cell"] == name and row["status"] == OK]
        mean: Row = {"cell": name, "seeds": len(of_cell)}
        means.append(mean | {key: statistics.fmean(row[key] for row in of_cell) for key in ("accuracy_chip", *COSTS)})
    return means


def best_table(found: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """The front for a terminal, and how many cells do not fit; `width` as `report.tables.table`."""
    shown = [
        (
            row["cell"],
            f"{100 * row['accuracy_chip']:.2f} %",
            *(number(row[key]) for key in COSTS),
            str(row["seeds"]),
            ", ".join(row["front"]),
        )
        for row in best(found)
    ]
    costs = ("cores (estimated)", "synaptic operations a sample (simulated)", "dynamic energy a sample, nJ (estimated)")
    head = ("cell", "accuracy, chip integers (simulated)", *costs, "seeds", "no other is better at")
    unfit = sum(row["status"] != OK for row in found)
    verb = "does" if unfit == 1 else "do"
    title = counted(len(found), "cell") + (f", {unfit} of them {verb} not fit" if unfit else "")
    return table(head, shown, f"{title}; those that no other beats, means over seeds", width)


def write_results(sweep: Sweep, folder: Path) -> list[Row]:
    """Write results.csv, manifest.json and pareto.png of the cells that are done, and return their rows."""
    found = rows(sweep, folder / "cells")
    write_table(folder / "results.csv", found)
    plot_pareto(folder / "pareto.png", found, sweep.published)
    write_json(folder / "manifest.json", _manifest(sweep, folder / "cells"))
    return found


def _manifest(sweep: Sweep, cells: Path) -> dict[str, Any]:
    chips = {cell.config.chip: load_chip(cell.config.chip) for cell in sweep.cells}
    plain = replace(sweep, config=_placeless(sweep.config)).to_plain()
    threads = {end["threads"] for cell in sweep.cells if (end := ending(cell, cells)) is not None}
    return {
        "versions": versions(),
        "chips": {chip.name: chip.sha256 for chip in chips.values()},
        "threads": sorted(threads),
        "plan_sha256": digest(plain),
        "plan": plain,
    }


def _placeless(config: Config) -> Config:
    """Where the data lies says nothing about the results."""
    return replace(config, data=replace(config.data, folder=""))
