import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sca_deploy.errors import UsageError
from sca_deploy.sweep.plan import load_sweep

PLAN = """
[network]
name = "conv2"
[prune]
regrow = 0.3
[sweep]
seeds = [3, 5]
[sweep.axes]
"prune.keep" = [0.2, 0.4]
"prune.method" = ["sca", "random"]
"network.steps" = [2, 4]
"""


@pytest.fixture
def load(tmp_path):
    def from_text(text, **flags):
        path = tmp_path / "plan.toml"
        path.write_text(text)
        return load_sweep(path, flags)

    return from_text


def names(sweep):
    return [cell.arm for cell in sweep.cells]


@pytest.mark.parametrize("name", ["digits", "fashion", "configs/sweeps/digits.toml"])
def test_packaged_sweeps_are_found_by_name(name):
    assert len(load_sweep(name, {}).cells) >= 24


def test_cells_are_every_combination_with_every_seed_seed_by_seed(load):
    cells = [cell for cell in load(PLAN).cells if cell.config.prune.method != "dense"]
    expected = [
        (seed, keep, method, steps)
        for seed in (3, 5)
        for keep, method, steps in itertools.product((0.2, 0.4), ("sca", "random"), (2, 4))
    ]
    configs = [cell.config for cell in cells]
    assert [(c.seed, c.prune.keep, c.prune.method, c.network.steps) for c in configs] == expected
    assert [cell.seed for cell in cells] == [seed for seed, *_ in expected]
    assert cells[1].arm == "keep-0.2-method-sca-steps-4"


def test_a_cell_is_the_shared_config_but_for_its_point(load):
    sweep = load(PLAN)
    assert {cell.config.prune.regrow for cell in sweep.cells if cell.config.prune.method != "dense"} == {0.3}
    assert {cell.config.network.name for cell in sweep.cells} == {"conv2"}


def test_the_network_that_is_not_pruned_is_a_cell_of_every_seed_and_every_other_axis(load):
    dense = [cell for cell in load(PLAN).cells if cell.config.prune.method == "dense"]
    assert [(cell.arm, cell.seed) for cell in dense] == [
        (f"dense-steps-{steps}", seed) for seed in (3, 5) for steps in (2, 4)
    ]
    assert not any("dense" in name for name in names(load(PLAN.replace("[sweep]", "[sweep]\ndense = false"))))


def test_methods_that_do_not_prune_know_nothing_of_other_keys_of_pruning(load):
    of_dense = [name for name in names(load(PLAN.replace('["sca", "random"]', '["sca", "dense"]'))) if "dense" in name]
    assert of_dense == ["dense-steps-2", "dense-steps-4"] * 2


def test_points_that_come_to_the_same_config_are_one_cell(load):
    text = PLAN + '"train.epochs" = [3, 4]\n"train" = [{ epochs = 5 }, { epochs = 6 }]\n'
    sweep = load(text)
    assert {cell.config.train.epochs for cell in sweep.cells} == {5, 6}
    assert len(sweep.cells) == len({(cell.seed, str(cell.config)) for cell in sweep.cells}) == 2 * (8 * 2 + 2 * 2)


def test_an_axis_may_be_a_table_of_a_section_or_a_budget(load):
    text = """
[network]
name = "conv2"
[sweep]
dense = false
[sweep.axes]
"prune" = [{ method = "sca" }, { method = "slimming", l1_gamma = 1e-4 }]
"prune.budget" = [{}, { cores = 4, energy-nj = 500 }]
"prune.keep" = [0.3]
"""
    cells = {cell.arm: cell.config.prune for cell in load(text).cells}
    assert list(cells) == [
        "prune-method-sca-budget-none-keep-0.3",
        "prune-method-sca-budget-cores-4-energy-nj-500",
        "prune-method-slimming-l1_gamma-0.0001-budget-none-keep-0.3",
        "prune-method-slimming-l1_gamma-0.0001-budget-cores-4-energy-nj-500",
    ]
    [*_, last] = cells.values()
    assert (last.method, last.l1_gamma, last.budget) == ("slimming", 1e-4, {"cores": 4, "energy-nj": 500})


def test_a_budget_takes_the_place_of_what_is_to_be_kept(load):
    """Points that differ in prune.keep alone would be the same training twice."""
    axes = '[sweep.axes]\n"prune.keep" = [0.3, 0.5]\n"prune.budget" = [{}, { cores = 4 }]\n'
    sweep = load(f'[network]\nname = "conv2"\n[sweep]\ndense = false\n{axes}')
    assert names(sweep) == ["keep-0.3-budget-none", "budget-cores-4", "keep-0.5-budget-none"]


def test_keys_may_be_written_without_quotes(load):
    bare = PLAN.replace('"prune.keep"', "prune.keep").replace('"network.steps"', "network.steps")
    assert sorted(map(str, (cell.config for cell in load(bare).cells))) == sorted(
        map(str, (cell.config for cell in load(PLAN).cells))
    )


@given(samples=st.integers(1, 8), seed=st.integers(0, 9))
def test_a_sample_is_part_of_the_grid_without_repetition_and_part_of_every_larger_one(samples, seed, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "sampled.toml"

    def pruned(count):
        path.write_text(PLAN.replace("[sweep]", f"[sweep]\ndense = false\nsamples = {count}\nseed = {seed}"))
        return [cell.arm for cell in load_sweep(path, {}).cells if cell.seed == 3]

    drawn, grid = pruned(samples), pruned(0)
    assert len(set(drawn)) == len(drawn) == samples
    assert [name for name in grid if name in set(drawn)] == drawn
    assert set(drawn) <= set(pruned(min(8, samples + 1)))


def test_a_name_does_not_depend_on_the_other_values(load):
    assert set(names(load(PLAN))) < set(names(load(PLAN.replace("[0.2, 0.4]", "[0.2, 0.3, 0.4]"))))


def test_values_that_no_folder_may_have_are_told_apart(load):
    text = PLAN + '"chip" = ["loihi2", "one/loihi2", "two/loihi2"]\n'
    cells = load(text).cells
    assert len({cell.arm for cell in cells if cell.seed == 3}) == 3 * (8 + 2)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", cell.arm) for cell in cells)


def test_flags_win_over_the_file_but_not_over_an_axis(load):
    cells = load(PLAN, **{"train.epochs": 7, "network.steps": 1}).cells
    assert {(cell.config.train.epochs, cell.config.network.steps) for cell in cells} == {(7, 2), (7, 4)}


def test_published_points_are_those_of_the_data_set_and_of_the_file(load):
    point = '[[sweep.published]]\nname = "ours"\naccuracy = 0.9\ncores = 3\nsource = "a paper"\n'
    assert load(PLAN + point).published[-1].name == "ours"
    with pytest.raises(UsageError, match="sweep.published"):
        load(PLAN + point.replace("cores = 3", "coers = 3"))


@pytest.mark.parametrize(
    ("old", "new", "problem", "fix"),
    [
        ('"prune.keep"', '"prune.kep"', "sweep.axes.prune.kep: unknown config key 'prune.kep'", "'prune.keep'"),
        ('"prune.keep"', '"prun.keep"', "sweep.axes.prun.keep: unknown config key 'prun'", "'prune'"),
        ("[0.2, 0.4]", "[0.2, 4]", "sweep.axes.prune.keep: config key 'prune.keep' is 4, outside", "choose"),
        ("[0.2, 0.4]", '["much"]', "sweep.axes.prune.keep: config key 'prune.keep' is 'much'", ""),
        ("[0.2, 0.4]", "[]", "sweep.axes.prune.keep is []", "a list"),
        ("[0.2, 0.4]", "0.2", "sweep.axes.prune.keep is 0.2", "a list"),
        ("[0.2, 0.4]", "[0.2, 0.2]", "sweep.axes.prune.keep is [0.2, 0.2], two of them alike", "once"),
        ('"prune.keep" = [0.2, 0.4]', '"prune.budget" = [{ coers = 4 }]', "sweep.axes.prune.budget: unknown", "cores"),
        ('"prune.keep"', '"seed.keep"', "sweep.axes.seed.keep: config key 'seed'", ""),
        ('"prune.keep" = [0.2, 0.4]', '"seed" = [1]', "sweep.axes.seed: 'seed' is no axis", "sweep.seeds"),
        ("seeds = [3, 5]", "seeds = [3, 3]", "sweep.seeds is [3, 3]", "different"),
        ("seeds = [3, 5]", "seeds = [-1]", "sweep.seeds is [-1]", "different"),
        ("seeds = [3, 5]", "samples = 9", "sweep.samples is 9, the grid has 8 points", "0 is all"),
        ("seeds = [3, 5]", "sample = 9", "unknown config key 'sweep.sample'", "'sweep.samples'"),
        ("[2, 4]", str(list(range(1, 4001))), "the sweep has 32,000 cells, more than 10,000", "sweep.samples"),
        ("[sweep.axes]", "[sweep.axis]", "unknown config key 'sweep.axis'", "'sweep.axes'"),
        ('"network.steps" = [2, 4]', '"prune.start" = [0.5]\n"prune.end" = [0.3]', "prune.end", "choose"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_key(load, old, new, problem, fix):
    assert old in PLAN
    with pytest.raises(UsageError) as refused:
        load(PLAN.replace(old, new))
    assert problem in refused.value.problem
    assert fix in refused.value.fix


def test_a_file_without_axes_or_without_a_sweep_is_refused(load):
    with pytest.raises(UsageError, match=re.escape("has no [sweep.axes]")):
        load(PLAN.partition("[sweep.axes]")[0])
    with pytest.raises(UsageError, match=re.escape("has no [sweep] table")):
        load('[network]\nname = "conv2"\n')


def test_keys_that_exclude_each_other_name_the_point(load):
    text = PLAN.replace('"network.steps" = [2, 4]', '"prune.start" = [0.1, 0.5]\n"prune.end" = [0.3, 0.6]')
    with pytest.raises(
        UsageError, match="sweep.axes, at keep-0.2-method-sca-start-0.5-end-0.3: config key 'prune.end'"
    ):
        load(text)
