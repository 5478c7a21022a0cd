"""Sharing a budget out, against every choice of widths there is, and against plain loops."""

import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from sca_deploy.budget import RESOURCES
from sca_deploy.config import ALLOCATIONS
from sca_deploy.pruning.allocation import ALLOCATED, NOTHING, Problem, by_cost, by_score, edges, evenly
from sca_deploy.pruning.cost_model import FRACTION
from tests.pruning.problems import Tables, all_widths, cost, inside, objective, problem

PROBLEMS = 150
WORST, MEAN = 0.12, 0.002
"""How far a search may stay above the least objective, as shares of it: more than was seen in 5,400 problems, where the
worst was 0.112 and the mean, over problems of this kind, 0.0002 to 0.0005."""


def problems(number=PROBLEMS, **kinds):
    return [problem(random.Random(seed), **kinds) for seed in range(number)]


@pytest.mark.parametrize("dips", [False, True], ids=["rising costs", "costs with dips"])
def test_the_search_keeps_every_limit_and_nearly_all_that_the_best_widths_keep(dips):
    gaps, impossible = [], 0
    for asked in problems(dips=dips):
        fitting = [widths for widths in all_widths(asked) if inside(asked, widths)]
        found = by_cost(asked)
        if found is None:
            impossible += 1
            assert not fitting
            continue
        assert found in fitting
        best = max(objective(asked, widths) for widths in fitting)
        gaps.append(objective(asked, found) / best - 1)
    assert impossible > PROBLEMS / 20
    assert max(gaps) <= WORST
    assert np.mean(gaps) <= MEAN
    assert np.mean(np.array(gaps) < 1e-9) > 0.9, "most of the time they are the best"


def test_the_search_keeps_more_than_the_usual_ways():
    kept = {name: [] for name in ALLOCATED}
    for asked in problems():
        found = {name: way(asked) for name, way in ALLOCATED.items()}
        if all(found.values()):
            for name, widths in found.items():
                kept[name].append(objective(asked, widths))
    assert len(kept["activity"]) > PROBLEMS / 2
    for other in ("global", "uniform"):
        pairs = list(zip(kept["activity"], kept[other], strict=True))
        assert sum(ours < theirs - 1e-9 for ours, theirs in pairs) <= 0.02 * len(pairs)
        assert np.mean(kept["activity"]) > np.mean(kept[other])


def test_the_best_channels_of_the_whole_network_are_the_longest_ranking_that_fits():
    tried = 0
    for asked in problems():
        ranked = [(-score, group, place) for group, of in enumerate(asked.scores) for place, score in enumerate(of)]
        ranked.sort()
        expected = None
        for size in range(len(ranked), -1, -1):
            # Floors are kept whatever the ranking says.
            widths = [
                max(least, sum(1 for _, of, _ in ranked[:size] if of == group))
                for group, least in enumerate(asked.least)
            ]
            if inside(asked, widths):
                expected = tuple(widths)
                break
        tied = any(not of.any() for of in asked.scores)
        found = by_score(asked)
        if expected is None or tied:  # among equal scores another one may be the last
            assert (found is None) == (expected is None)
        else:
            assert found == expected
            tried += found != asked.most
    assert tried > PROBLEMS / 3


def test_the_same_fraction_of_every_layer_is_the_largest_that_fits():
    tried = 0
    for asked in problems():
        fractions = {1.0, 0.0}
        for size in asked.most:
            fractions |= {(2 * kept - 1) / (2 * size) for kept in range(1, size + 1)}  # from here on, so many are kept
        expected = None
        for fraction in sorted(fractions, reverse=True):
            widths = tuple(
                max(least, math.floor(fraction * size + 0.5 + 1e-9))
                for least, size in zip(asked.least, asked.most, strict=True)
            )
            if inside(asked, widths):
                expected = widths
                break
        assert evenly(asked) == expected
        tried += expected not in (None, asked.most)
    assert tried > PROBLEMS / 3


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_where_everything_fits_everything_is_kept_and_where_nothing_does_nothing_is_found(name):
    for asked in problems(20):
        whole = cost(asked, asked.most)
        assert ALLOCATED[name](replace(asked, limits=whole)) == asked.most
        least = cost(asked, asked.least)
        assert ALLOCATED[name](replace(asked, limits={"synops": 0.999 * least["synops"]})) is None
        assert ALLOCATED[name](replace(asked, limits=least)) is not None


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_every_limit_is_kept_whatever_there_are(name):
    for seed, resource in enumerate(RESOURCES):
        asked = problem(random.Random(seed))
        low, high = (cost(asked, widths)[resource] for widths in (asked.least, asked.most))
        for part in (0.1, 0.5, 0.9):
            limited = replace(asked, limits={resource: low + part * (high - low)})
            found = ALLOCATED[name](limited)
            assert found is not None
            assert inside(limited, found)
            assert all(low <= w <= high for low, w, high in zip(asked.least, found, asked.most, strict=True))


def test_possible_is_what_some_widths_are():
    for asked in problems(80):
        assert asked.possible() == any(inside(asked, widths) for widths in all_widths(asked))


def test_edges_are_the_nearest_widths_at_which_the_cores_change():
    seen = [0, 0, 0]
    for asked in problems(60):
        widths = tuple(random.Random(1).randint(*pair) for pair in zip(asked.least, asked.most, strict=True))
        now = cost(asked, widths)["cores"]
        for group, (fewer, more) in enumerate(edges(asked, widths)):
            others = {
                width: cost(asked, [*widths[:group], width, *widths[group + 1 :]])["cores"] - now
                for width in range(asked.least[group], asked.most[group] + 1)
            }
            below = [width for width in others if width < widths[group] and others[width]]
            above = [width for width in others if width > widths[group] and others[width]]
            assert (fewer is None) == (not below)
            assert (more is None) == (not above)
            if fewer is not None:
                assert (fewer.width, fewer.cores) == (max(below), others[max(below)])
            if more is not None:
                assert (more.width, more.cores) == (min(above), others[min(above)])
            seen[0] += fewer is not None
            seen[1] += more is not None
            seen[2] += fewer is None and more is None
    assert min(seen) > 10


def one_layer(cores_at, size, limit):
    """One group whose cores are a function of its width, and a read-out that takes nothing."""
    table = np.zeros((size + 1, 2, FRACTION + 1))
    table[:, :, RESOURCES.index("cores")] = [[cores_at(width)] * 2 for width in range(size + 1)]
    table[:, :, FRACTION] = np.arange(size + 1)[:, None] / size
    nothing = np.zeros((2, size + 1, FRACTION + 1))
    scores = [np.linspace(2, 1, size)]
    return Problem(Tables([table, nothing]), scores, (1,), (size,), {"cores": limit})


@pytest.mark.parametrize("size", [20, 50, 100, 200])
def test_a_core_that_would_hold_less_than_a_quarter_of_the_mean_is_given_back(size):
    for over in range(1, size // 2):
        # Two cores from `edge` on: the second would hold what is above it.
        edge = size - over
        [found] = by_cost(one_layer(lambda width, edge=edge: 1 + (width > edge), size, 2))
        assert found == (size if over > NOTHING * size / 2 else edge)


def test_a_larger_budget_keeps_more():
    """Not a theorem for a search; how often it is not so, and by how much, was looked at for this bound."""
    worse, steps = [], 0
    for asked in problems(60):
        low, high = (cost(asked, widths) for widths in (asked.least, asked.most))
        kept = []
        for part in np.linspace(0, 1, 9):
            limits = {name: low[name] + part * (high[name] - low[name]) for name in asked.limits}
            kept.append(objective(asked, by_cost(replace(asked, limits=limits))))
        steps += 8
        worse += [1 - b / a for a, b in pairwise(kept) if b < a - 1e-9]
    assert len(worse) <= 0.02 * steps
    assert max((-w for w in worse), default=0) <= WORST


def test_layers_whose_scores_are_all_0_are_kept_by_number():
    asked = problem(random.Random(2))
    silent = replace(asked, scores=[np.zeros(size) for size in asked.most])
    ones = replace(asked, scores=[np.ones(size) for size in asked.most])
    assert by_cost(silent) == by_cost(ones)
