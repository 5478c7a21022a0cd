import csv
import json
import statistics

import pytest

from sca_deploy.budget import RESOURCES
from sca_deploy.study.cells import cell_folder
from sca_deploy.sweep.plan import load_sweep
from sca_deploy.sweep.results import COSTS, best, best_table


def table(folder):
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def plan(grid):
    return load_sweep(grid, {})


def test_a_row_is_a_cell_in_the_order_of_the_plan(plan, in_turn):
    assert [(row["cell"], int(row["seed"])) for row in table(in_turn)] == [(cell.arm, cell.seed) for cell in plan.cells]


def test_figures_of_a_row_are_those_of_its_evaluation(plan, in_turn):
    for cell, row in zip(plan.cells, table(in_turn), strict=True):
        figures = json.loads((cell_folder(in_turn / "cells", cell) / "evaluation.json").read_text())["figures"]
        flat = {key: value for key, value in figures.items() if not isinstance(value, dict)}
        for key, value in figures.items():
            flat |= {f"{key}_{band}": number for band, number in value.items()} if isinstance(value, dict) else {}
        assert {key: float(row[key]) for key in flat} == flat
        assert row["status"] == "ok"


def test_every_axis_is_a_column_and_empty_where_a_network_is_not_pruned(plan, in_turn):
    for cell, row in zip(plan.cells, table(in_turn), strict=True):
        config = cell.config
        dense = config.prune.method == "dense"
        assert row["network.steps"] == row["steps"] == str(config.network.steps)
        assert row["prune.keep"] == ("" if dense else str(config.prune.keep))
        assert row["prune.method"] == ("" if dense else config.prune.method)
        assert (row["method"], row["keep"]) == (config.prune.method, "1.0" if dense else str(config.prune.keep))
        assert row["epochs"] == "2"


def test_columns_of_budgets_are_those_that_were_asked_for(in_turn):
    assert not {f"budget_{name}" for name in RESOURCES} & table(in_turn)[0].keys()


def test_the_manifest_names_versions_plan_chip_and_threads_but_no_place(in_turn):
    text = (in_turn / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest.keys() == {"versions", "chips", "threads", "plan_sha256", "plan"}
    assert manifest["chips"].keys() == {"loihi2"}
    assert manifest["threads"] == [1]
    assert len(manifest["plan"]["cells"]) == 28
    assert str(in_turn.parents[1]) not in text


def test_the_picture_is_a_png_file(in_turn):
    assert (in_turn / "pareto.png").read_bytes().startswith(b"\x89PNG")


def made(cell, accuracy, cores, synops, energy, seed=0):
    costs = dict(zip(COSTS, (cores, synops, energy), strict=True))
    return {"cell": cell, "seed": seed, "status": "ok", "accuracy_chip": accuracy, **costs}


def test_the_best_are_those_that_no_other_beats_at_one_cost_at_least():
    rows = [
        made("few-cores", 0.8, 1, 90, 9.0),
        made("few-operations", 0.8, 2, 10, 8.0),
        made("accurate", 0.9, 3, 99, 9.5),
        made("beaten", 0.79, 3, 50, 9.9),
        made("costly", 0.9, 4, 100, 9.6),
    ]
    found = {row["cell"]: row["front"] for row in best(rows)}
    assert found == {
        "few-cores": ["cores"],
        "few-operations": ["synaptic operations", "energy"],
        "accurate": ["cores", "synaptic operations", "energy"],
    }


def test_seeds_of_a_cell_count_as_their_mean():
    rows = [made("two", 0.6, 1, 10, 1.0), made("two", 0.9, 3, 30, 3.0, seed=1), made("one", 0.7, 2, 20, 2.0)]
    [two] = best(rows)
    assert (two["cell"], two["seeds"]) == ("two", 2)
    assert two["accuracy_chip"] == pytest.approx(statistics.fmean((0.6, 0.9)))
    assert [two[key] for key in COSTS] == [2, 20, 2]


def test_cells_that_do_not_fit_are_counted_and_beat_nobody():
    unfit = {"cell": "large", "seed": 0, "status": "does not fit", "accuracy_chip": None} | dict.fromkeys(COSTS)
    rows = [made("small", 0.5, 1, 1, 1.0), unfit]
    assert [row["cell"] for row in best(rows)] == ["small"]
    assert best_table(rows).startswith("2 cells, 1 of them does not fit; ")
    assert best([unfit]) == []


def test_a_narrow_terminal_has_no_line_that_is_wider(in_turn):
    rows = [{key: value if key == "cell" else _number(value) for key, value in row.items()} for row in table(in_turn)]
    assert max(map(len, best_table(rows, 60).splitlines())) <= 60


def _number(value):
    try:
        return float(value)
    except ValueError:
        return value
