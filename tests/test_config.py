import re

import pytest

from sca_deploy.config import Config, load_config, override, recipe_names
from sca_deploy.errors import ScaDeployError, UsageError


def write(folder, text):
    path = folder / "c.toml"
    path.write_text(text)
    return path


def test_recipes_are_found_by_name_and_hold_a_network():
    assert {"digits", "fashion"} <= set(recipe_names())
    for name in recipe_names():
        network = load_config(name).network
        assert bool(network.layers) != bool(network.name)


def test_a_file_overrides_defaults_and_flags_override_the_file(tmp_path):
    path = write(tmp_path, "seed = 3\n[train]\nepochs = 7\nlr = 1\n")
    config = override(load_config(path), {"train.epochs": 2, "seed": None})
    assert (config.seed, config.train.epochs, config.train.lr) == (3, 2, 1.0)
    assert config.train.batch_size == Config().train.batch_size
    assert config.name == "c"


def test_a_config_survives_its_plain_form():
    config = load_config("digits")
    assert Config.from_plain(config.to_plain()) == config


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("sed = 1", "unknown config key 'sed'", "did you mean 'seed'"),
        ("[train]\nepoch = 1", "unknown config key 'train.epoch'", "did you mean 'train.epochs'"),
        ("train = 3", "'train' is 3, it must be a table", ""),
        ("[train]\nepochs = 'many'", "'train.epochs' is 'many', it must be of type int", ""),
        ("[train]\nepochs = 0", "'train.epochs' is 0, outside 1", "choose a number from 1 to 1,000,000"),
        ("[prune]\nkeep = 0.0", "'prune.keep' is 0, outside", "choose a number from 1e-06 to 1"),
        ("[prune]\nstart = 0.5\nend = 0.2", "'prune.end' is 0.2, outside", "choose a number from 0.5 to 1"),
        ("[prune]\nkeep = 1.5", "'prune.keep' is 1.5, outside", ""),
        ("[prune]\nkeep = nan", "'prune.keep' is nan, outside", ""),
        ("[network]\nsteps = 0", "'network.steps' is 0, outside 1", ""),
        ("[train]\noptimizer = 'adm'", "unknown train.optimizer 'adm'", "did you mean 'adam'"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, text, problem, fix):
    with pytest.raises(UsageError) as caught:
        load_config(write(tmp_path, text))
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_a_file_that_is_not_toml_is_named_with_the_place(tmp_path):
    with pytest.raises(ScaDeployError, match=r"c\.toml is not valid TOML: .*line 2"):
        load_config(write(tmp_path, "seed = 1\nseed seed"))


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        load_config("digit")
    assert "did you mean 'digits'" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[train]\nmilestones = [0.5, 1.5]", "milestones"),
        ("[train]\nrate = 'cosin'", "unknown train.rate 'cosin'"),
        ("[train]\nprecision = 'float16'", "unknown train.precision 'float16'"),
        ("[data.augment]\ncrop = -1", "'data.augment.crop' is -1, outside 0"),
        ("[prune]\nramp = 'linear'", "unknown prune.ramp 'linear'"),
    ],
)
def test_a_training_that_cannot_be_meant_is_refused(tmp_path, text, problem):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(problem)):
        load_config(path)


@pytest.mark.parametrize(("name", "near"), [("digit.toml", "did you mean 'digits'?"), ("zzz/my.toml", "known: ")])
def test_a_file_that_is_not_there_is_called_a_file(name, near):
    with pytest.raises(UsageError, match=f"^no such file: {name}$") as caught:
        load_config(name)
    assert caught.value.fix.startswith(near)


@pytest.mark.parametrize(("kind", "folder"), [("study", "studies"), ("sweep", "sweeps")])
def test_a_study_or_a_sweep_is_not_a_run(kind, folder):
    with pytest.raises(UsageError, match=f"is a {kind}") as caught:
        load_config(f"configs/{folder}/digits.toml")
    assert caught.value.fix == f"sca-deploy {kind} configs/{folder}/digits.toml"
