"""Dense against pruned: a ratio for every figure, and everything a reader must know beside it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from sca_deploy.compare import compare
from sca_deploy.errors import UsageError
from sca_deploy.evaluate import LABELS
from sca_deploy.report.tables import comparison_table, study_table, table, verification_table

BANDS = {"step_time_ns", "energy_nj_per_sample", "static_energy_nj_per_sample"}
MASKED = "5 of 8 output channels have only zero weights (a 5): compact first, stored counts still charge them"


def evaluation(scale: float, chip: str = "loihi2", warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Figures that are `scale` times 1000, 1001, ..., and bands around them."""
    figures: dict[str, Any] = {key: scale * (1000 + i) for i, key in enumerate(LABELS)}
    for key in BANDS:
        figures[key] = {"low": figures[key] / 2, "typical": figures[key], "high": figures[key] * 4}
    figures["test_samples"] = 360
    priced = {"chip": chip, "evidence": ["inferred"]}
    parts = {"energy": priced, "static_energy": priced, "step_time": priced, "map": {"lower_bound": scale == 1.0}}
    return {"figures": figures, "warnings": list(warnings), **parts}


def test_every_figure_but_the_test_set_has_a_ratio() -> None:
    document = compare(evaluation(1.0), evaluation(0.25))
    assert set(document["ratio"]) == set(LABELS) - {"test_samples"}
    for key, ratio in document["ratio"].items():
        expected = dict.fromkeys(("low", "typical", "high"), 0.25) if key in BANDS else 0.25
        assert ratio == pytest.approx(expected), key


def test_cores_that_are_a_lower_bound_are_marked() -> None:
    document = compare(evaluation(1.0), evaluation(0.5))
    assert document["lower_bound"] == {"dense": True, "pruned": False}
    (row,) = (line for line in comparison_table(document).splitlines() if "neurocores" in line)
    assert row.split()[1:4] == [">=", "1,010", "505"]


@pytest.mark.parametrize(
    ("dense", "pruned", "said"),
    [
        (True, False, "<= 0.211"),  # 4 of 19 or more
        (False, True, ">= 0.211"),
        (True, True, "of the bounds: 0.211"),
        (False, False, "0.211"),
    ],
)
def test_a_ratio_of_bounds_says_what_is_known(dense: bool, pruned: bool, said: str) -> None:
    document = compare(evaluation(1.0), evaluation(0.5))
    document["lower_bound"] = {"dense": dense, "pruned": pruned}
    document["dense"]["cores"], document["pruned"]["cores"], document["ratio"]["cores"] = 19, 4, 4 / 19
    (row,) = (line for line in comparison_table(document).splitlines() if "neurocores" in line)
    assert row.split("4  ", 1)[1].split("  ")[-2].strip() == said
    assert comparison_table(document).count("of the bounds") == (dense and pruned)


def test_a_ratio_to_nothing_is_none_and_not_infinite() -> None:
    dense, pruned = evaluation(1.0), evaluation(0.5)
    dense["figures"]["hops_per_sample"] = 0
    document = compare(dense, pruned)
    assert document["ratio"]["hops_per_sample"] is None
    (row,) = (line for line in comparison_table(document).splitlines() if "hops" in line)
    assert row.split()[-2:] == ["-", "estimated"]


def test_energy_and_time_say_that_their_prices_are_inferred() -> None:
    document = compare(evaluation(1.0), evaluation(0.5))
    assert document["evidence"] == {key: ["inferred"] for key in sorted(BANDS)}
    rows = [line for line in comparison_table(document).splitlines() if "prices" in line]
    assert len(rows) == 3
    assert all(row.endswith("estimated, prices inferred") for row in rows)


def test_a_masked_network_is_warned_of_below_the_table() -> None:
    document = compare(evaluation(1.0), evaluation(1.0, warnings=(MASKED,)))
    assert document["warnings"] == {"dense": [], "pruned": [MASKED]}
    assert comparison_table(document).splitlines()[-1] == f"warning: pruned: {MASKED}"
    assert "warning" not in comparison_table(compare(evaluation(1.0), evaluation(0.5)))


def test_a_band_is_shown_with_its_ends() -> None:
    dense = evaluation(1.0)
    dense["figures"]["step_time_ns"] = {"low": 1200.0, "typical": 45600.0, "high": 789000.0}
    assert "45.6 us (1.2 to 789)" in comparison_table(compare(dense, evaluation(0.5)))


def damaged(**changes: Any) -> dict[str, Any]:
    document = copy.deepcopy(evaluation(0.5))
    document["figures"].update(changes)
    return document


def test_networks_of_other_test_sets_are_not_compared() -> None:
    with pytest.raises(UsageError, match="one network was tested on 360 samples, the other on 100"):
        compare(evaluation(1.0), damaged(test_samples=100))


def test_networks_on_other_chips_are_not_compared() -> None:
    with pytest.raises(UsageError, match="one network was costed on loihi2, the other on loihi1"):
        compare(evaluation(1.0), evaluation(0.5, chip="loihi1"))


def test_an_evaluation_of_another_version_is_named() -> None:
    old = evaluation(1.0)
    del old["figures"]["hops_per_sample"]
    with pytest.raises(UsageError, match="the evaluation of the dense network has no 'hops_per_sample'"):
        compare(old, evaluation(0.5))


def test_other_arms_than_those_of_a_run_are_named_above_the_table() -> None:
    document = compare(evaluation(1.0), evaluation(0.5))
    assert comparison_table(document).splitlines()[0] == "360 test samples"
    swapped = {"dense": Path("runs/a/pruned"), "pruned": Path("runs/b/dense")}
    title = comparison_table(document, compared=swapped).splitlines()[0]
    assert title == "360 test samples: dense is runs/a/pruned, pruned is runs/b/dense"


def test_a_title_is_one_line_however_narrow_its_table_is() -> None:
    layer = {"name": "l", "values": 1, "spikes": 1, "mismatches": 0}
    document = {"samples": 100_000, "steps": 4_000, "layers": [layer]}
    assert verification_table(document).splitlines()[0] == "100,000 samples, 4,000 steps, simulator against Lava"
    assert verification_table(document, 40).splitlines()[:2] == [
        "100,000 samples, 4,000 steps, simulator",
        "  against Lava",
    ]


def test_cells_that_a_terminal_has_no_room_for_come_indented_on_the_next_line() -> None:
    rows = [("first", "1", "22", "red"), ("second", "333", "", "")]
    assert table(("name", "a", "b", "colour"), rows, "t", 16).splitlines() == [
        "t",
        "name      a   b",
        "    colour",
        "first     1  22",
        "    red",
        "second  333",
    ]
    whole = ["t", "name      a   b  colour", "first     1  22  red", "second  333"]
    assert table(("name", "a", "b", "colour"), rows, "t", 23).splitlines() == whole
    assert table(("name", "a", "b", "colour"), rows, "t").splitlines() == whole


def test_wide_characters_take_two_columns_and_brackets_are_no_markup() -> None:
    assert table(("", "n"), [("層", "1"), ("[b]", "2")], "").splitlines() == ["     n", "層   1", "[b]  2"]


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_comparison_loses_nothing_on_a_narrow_terminal(width: int) -> None:
    document = compare(evaluation(1.0), evaluation(0.25, warnings=(MASKED,)))
    narrow, wide = comparison_table(document, width), comparison_table(document)
    assert max(map(len, wide.splitlines())) > 120
    assert max(map(len, narrow.splitlines())) <= width
    ours, theirs = sorted(narrow.split()), sorted(wide.split())
    assert ours == sorted(theirs + 3 * ["low", "to", "high"])
    assert comparison_table(document, 1000) == wide


def test_a_study_is_turned_where_the_terminal_is_narrow() -> None:
    figures = ("accuracy_float", "accuracy_chip", "channels", "parameters_nonzero", "synops_per_sample", "cores")
    summary = [
        {"arm": arm, "figure": figure, "mean": mean, "std": 0.5, "seeds": 3}
        for arm, mean in (("dense", 1000.0), ("sca", 500.0))
        for figure in figures
    ]
    lines = study_table(summary, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["dense", "sca"]
    (row,) = (line for line in lines if line.startswith("neurocores"))
    assert row.split() == ["neurocores", "1,000", "(0)", "500", "(0)", "estimated"]
    assert lines[-1].split() == ["seeds", "3", "3"]
    assert study_table(summary).splitlines()[2].startswith("dense")
