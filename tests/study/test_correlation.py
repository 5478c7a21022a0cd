from itertools import combinations

import numpy as np
import pytest

from sca_deploy.errors import ScaDeployError
from sca_deploy.study.correlation import rank_correlations

RANDOM = np.random.default_rng(0)
VALUE = RANDOM.normal(size=30)
SCORE = VALUE + RANDOM.normal(size=30)
UNDEFINED = ("spearman", "spearman_low", "spearman_high", "spearman_p", "kendall", "kendall_p")


def one(value, score, **options):
    [row] = rank_correlations({"value": value}, {"score": score}, resamples=50, **options)
    return row


def test_spearman_is_the_formula_of_squared_rank_differences():
    ranks = [np.argsort(np.argsort(array)) for array in (VALUE, SCORE)]
    squares = float(((ranks[0] - ranks[1]) ** 2).sum())
    assert one(VALUE, SCORE)["spearman"] == pytest.approx(1 - 6 * squares / (30 * (30**2 - 1)))


def test_kendall_counts_pairs_and_leaves_out_ties():
    value, score = np.round(VALUE), np.round(SCORE)
    signs = [
        (np.sign(value[a] - value[b]), np.sign(score[a] - score[b])) for a, b in combinations(range(len(value)), 2)
    ]
    concordance = sum(a * b for a, b in signs)
    tau_b = concordance / np.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
    assert one(value, score)["kendall"] == pytest.approx(tau_b)


def test_the_interval_holds_the_true_correlation_about_as_often_as_it_says():
    """Of normal pairs with correlation r, Spearman's rho is 6 / pi asin(r / 2) (Pearson 1907)."""
    random, r, inside = np.random.default_rng(1), 0.6, 0
    truth = 6 / np.pi * np.arcsin(r / 2)
    for _ in range(100):
        a, b = random.normal(size=(2, 60))
        [row] = rank_correlations({"v": a}, {"s": r * a + np.sqrt(1 - r * r) * b}, resamples=200)
        inside += row["spearman_low"] <= truth <= row["spearman_high"]
    assert 86 <= inside <= 100  # of 95 expected, binomial deviation 2.2; 1.8 more for the 200 resamples


def test_layers_are_looked_at_alone_and_together():
    """Within both layers the score ranks backwards; between them forwards, which wins over all."""
    value, score = [3, 2, 1, 13, 12, 11], [1, 2, 3, 11, 12, 13]
    rows = rank_correlations({"v": value}, {"s": score}, ["a"] * 3 + ["b"] * 3, resamples=50)
    assert {row["layer"]: row["channels"] for row in rows} == {"all": 6, "a": 3, "b": 3}
    rho = {row["layer"]: row["spearman"] for row in rows}
    assert rho["a"] == pytest.approx(-1)
    assert rho["b"] == pytest.approx(-1)
    assert rho["all"] == pytest.approx(1 - 6 * 16 / (6 * 35))


def test_every_value_meets_every_score():
    rows = rank_correlations({"v": VALUE, "w": -VALUE}, {"s": SCORE, "t": SCORE**2}, resamples=50)
    assert [(row["target"], row["score"]) for row in rows] == [("v", "s"), ("v", "t"), ("w", "s"), ("w", "t")]
    assert rows[0]["spearman"] == pytest.approx(-rows[2]["spearman"])


@pytest.mark.parametrize(("value", "score"), [([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3], [5, 5, 5]), ([1, 2], [1, 2])])
def test_where_nothing_can_be_ranked_the_correlation_is_undefined(value, score):
    row = one(value, score)
    assert {key: row[key] for key in UNDEFINED} == dict.fromkeys(UNDEFINED)
    assert row["channels"] == len(value)


def test_resamples_without_ranks_do_not_break_the_interval():
    row = one([0, 0, 0, 1], [1, 2, 3, 4])
    assert -1 <= row["spearman_low"] <= row["spearman_high"] <= 1


def test_the_seed_decides_the_interval():
    assert one(VALUE, SCORE, seed=1) == one(VALUE, SCORE, seed=1)
    assert one(VALUE, SCORE, seed=1)["spearman_low"] != one(VALUE, SCORE, seed=2)["spearman_low"]


@pytest.mark.parametrize(
    ("value", "score", "layers", "message"),
    [
        ([1, 2, 3], [1, 2], None, "channels do not match: value 3, score 2"),
        ([1, 2, 3], [1, 2, 3], ["a"] * 4, "channels do not match: value 3, score 3, layers 4"),
        ([1, 2, float("nan")], [1, 2, 3], None, "value 'value' of shape (3,) is not one finite number a channel"),
        ([1, 2, 3], [[1], [2], [3]], None, "score 'score' of shape (3, 1) is not one finite number a channel"),
    ],
)
def test_what_cannot_be_compared_is_refused(value, score, layers, message):
    with pytest.raises(ScaDeployError) as caught:
        one(value, score, layers=layers)
    assert caught.value.problem == message
