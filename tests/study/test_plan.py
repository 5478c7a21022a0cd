import re

import pytest

from sca_deploy.errors import UsageError
from sca_deploy.study.plan import load_study

PLAN = """
[network]
name = "conv2"
[prune]
keep = 0.3
[study]
seeds = [3, 5]
[[study.arms]]
name = "dense"
prune = { method = "dense" }
[[study.arms]]
name = "long"
train = { epochs = 9 }
"""


def load(tmp_path, text, **flags):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return load_study(path, flags)


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_packaged_studies_are_found_by_name(name):
    assert load_study(name, {}).arms.keys() >= {"dense", "sca", "random"}


def test_cells_are_arms_times_seeds_seed_by_seed(tmp_path):
    cells = load(tmp_path, PLAN).cells
    assert [(cell.arm, cell.seed) for cell in cells] == [("dense", 3), ("long", 3), ("dense", 5), ("long", 5)]
    assert [cell.config.seed for cell in cells] == [3, 3, 5, 5]


def test_an_arm_is_the_shared_config_with_its_own_keys_over_it(tmp_path):
    arms = load(tmp_path, PLAN).arms
    assert (arms["dense"].prune.method, arms["long"].prune.method) == ("dense", "sca")
    assert arms["dense"].prune.keep == arms["long"].prune.keep == 0.3
    assert (arms["dense"].train.epochs, arms["long"].train.epochs) == (20, 9)


def test_flags_win_over_the_file_but_not_over_an_arm(tmp_path):
    arms = load(tmp_path, PLAN, **{"train.epochs": 2}).arms
    assert (arms["dense"].train.epochs, arms["long"].train.epochs) == (2, 9)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[study]\n", "[studies]\n", "studies"),
        ("seeds = [3, 5]", "seeds = [3, 3]", "study.seeds is [3, 3]"),
        ("seeds = [3, 5]", "seeds = []", "study.seeds is []"),
        ("seeds = [3, 5]", "seed = 1", "unknown config key 'study.seed'"),
        ('name = "long"', 'name = "dense"', "two of them alike"),
        ('name = "long"\n', "", "study.arms are named"),
        ("epochs = 9", "epoch = 9", "unknown config key 'train.epoch'"),
        ("seeds = [3, 5]", 'analyses = ["noises"]', "unknown analysis 'noises'"),
        ("seeds = [3, 5]", 'analyses = ["shapley"]\nshapley = { arm = "sca" }', "unknown study.shapley.arm 'sca'"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused_by_name(tmp_path, old, new, problem):
    assert old in PLAN
    with pytest.raises(UsageError, match=re.escape(problem)):
        load(tmp_path, PLAN.replace(old, new))


def test_a_config_without_a_study_is_not_one(tmp_path):
    with pytest.raises(UsageError, match=r"has no \[study\] table"):
        load(tmp_path, PLAN[: PLAN.index("[study]")])
