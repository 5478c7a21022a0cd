"""Dense against pruned: a ratio for every figure, and everything a reader must know beside it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sca_deploy.compare import compare
from sca_deploy.errors import UsageError
from sca_deploy.evaluate import LABELS
from sca_deploy.report.tables import comparison_table

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
