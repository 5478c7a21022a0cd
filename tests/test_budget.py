"""Budgets as people write them, in flags and in configs, and how they are held against figures."""

import pytest

from sca_deploy.budget import ACTIVE, RESOURCES, STRUCTURAL, WORDS, amount, check_budget, kept, read_budget
from sca_deploy.config import Config, PruneConfig
from sca_deploy.errors import UsageError
from tests.conftest import sca_deploy


@pytest.mark.parametrize(
    ("flags", "limits"),
    [
        (["cores=32"], {"cores": 32}),
        (["cores=32", "energy-nj=500.5"], {"cores": 32, "energy-nj": 500.5}),
        (["cores=32,energy-nj=500"], {"cores": 32, "energy-nj": 500}),
        (["cores=32, words=1e4", "step-us=.5"], {"cores": 32, "words": 10_000, "step-us": 0.5}),
        (["synops=1e6"], {"synops": 1_000_000}),
    ],
)
def test_limits_are_read_from_flags_in_any_grouping(flags, limits):
    found = read_budget(flags)
    assert found == limits
    assert list(found) == list(limits)


def test_a_whole_number_is_one_as_in_a_config_file():
    """So that a run begun with a flag is the one that a file asks for."""
    found = read_budget(["cores=32", "synops=1e6", "step-us=2.5"])
    assert [type(limit) for limit in found.values()] == [int, int, float]
    config = Config(prune=PruneConfig(budget=found))
    assert Config.from_plain(config.to_plain()) == config


WRONG = {
    "cores": "--budget 'cores' names no limit",
    "": "--budget '' names no limit",
    "cores=1,": "--budget '' names no limit",
    "cores=1,cores=2": "--budget names cores twice",
    "cores=many": "--budget cores=many: 'many' is no number",
    "cores=": "--budget cores=: '' is no number",
    "cores=8 words=9": "'8 words=9' is no number",
    "core=8": "unknown resource of --budget 'core'",
    "=8": "unknown resource of --budget ''",
    "energy=8": "unknown resource of --budget 'energy'",
    "cores=0": "--budget: cores is 0, it must be a positive number",
    "cores=-3": "--budget: cores is -3, it must be a positive number",
    "cores=0.5": "--budget: cores is 0.5, a network takes 1 at least",
    "words=0.9": "--budget: words is 0.9, a network takes 1 at least",
    "synops=0": "--budget: synops is 0, it must be a positive number",
    "energy-nj=nan": "it must be a positive number",
    "energy-nj=inf": "it must be a positive number",
    "energy-nj=1e999": "it must be a positive number",
}


@pytest.mark.parametrize("flag", WRONG)
def test_a_flag_that_cannot_be_meant_is_refused_in_one_line_with_what_to_write(flag):
    with pytest.raises(UsageError) as error:
        read_budget([flag])
    assert WRONG[flag] in error.value.problem
    assert error.value.fix
    assert "\n" not in error.value.problem + error.value.fix


def test_a_resource_that_is_misspelt_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as error:
        read_budget(["energy_nj=8"])
    assert error.value.fix == "did you mean 'energy-nj'? known: cores, energy-nj, step-us, synops, words"


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"neurons": 5}, "unknown resource of prune.budget 'neurons'"),
        ({"cores": "8"}, "prune.budget: cores is '8', it must be a positive number"),
        ({"cores": True}, "prune.budget: cores is True, it must be a positive number"),
        ({"cores": None}, "prune.budget: cores is None, it must be a positive number"),
        ({"cores": [8]}, "prune.budget: cores is [8], it must be a positive number"),
        ({"cores": float("nan")}, "prune.budget: cores is nan, it must be a positive number"),
        ({"synops": -1.0}, "prune.budget: synops is -1.0, it must be a positive number"),
        ({"cores": 0.99}, "prune.budget: cores is 0.99, a network takes 1 at least"),
        ({"cores": 8, "words": 0}, "prune.budget: words is 0, it must be a positive number"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused_too(limits, problem):
    with pytest.raises(UsageError, match=problem.replace("[", r"\[")):
        check_budget(limits, "prune.budget")
    with pytest.raises(UsageError) as error:
        Config.from_plain({"prune": {"budget": limits}})
    assert error.value.problem == problem


def test_a_budget_that_is_no_table_is_refused():
    with pytest.raises(UsageError, match="config key 'prune.budget' is 8, it must be of type dict"):
        Config.from_plain({"prune": {"budget": 8}})


def test_allocations_are_named():
    with pytest.raises(UsageError, match=r"unknown prune\.allocation 'globl'") as error:
        Config.from_plain({"prune": {"allocation": "globl"}})
    assert error.value.fix.startswith("did you mean 'global'?")


def test_every_resource_is_structural_or_active_and_has_its_words():
    assert set(STRUCTURAL) & set(ACTIVE) == set()
    assert (*STRUCTURAL, *ACTIVE) == RESOURCES
    assert set(WORDS) == set(RESOURCES)


EVALUATION = {
    "figures": {
        "cores": 4,
        "cores_compiler_like": 5,
        "synops_per_sample": 1000.5,
        "energy_nj_per_sample": {"low": 10.0, "typical": 20.0, "high": 30.0},
        "step_time_ns": {"low": 1000.0, "typical": 2500.0, "high": 4000.0},
    },
    "labels": {
        "cores": "estimated",
        "cores_compiler_like": "estimated",
        "synops_per_sample": "simulated",
        "energy_nj_per_sample": "estimated",
        "step_time_ns": "estimated",
    },
    "map": {"layers": [{"synapse_words_total": 30}, {"synapse_words_total": 12}]},
}
TAKES = {"cores": 5, "words": 42, "synops": 1000.5, "energy-nj": 20.0, "step-us": 2.5}


@pytest.mark.parametrize("name", RESOURCES)
def test_a_limit_is_kept_up_to_its_very_value_of_the_compilers_cores_and_the_typical_prices(name):
    for limit, inside in ((TAKES[name], True), (TAKES[name] * 1.01, True), (TAKES[name] * 0.99, False)):
        label = "simulated" if name == "synops" else "estimated"
        assert kept(EVALUATION, {name: limit}) == [
            {"name": name, "limit": limit, "value": pytest.approx(TAKES[name]), "kept": inside, "label": label}
        ]


def test_limits_are_answered_in_the_order_in_which_they_were_given():
    limits = {"step-us": 1.0, "cores": 5, "synops": 2000}
    assert [(found["name"], found["kept"]) for found in kept(EVALUATION, limits)] == [
        ("step-us", False),
        ("cores", True),
        ("synops", True),
    ]
    assert kept(EVALUATION, {}) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("cores", 32, "32 cores"),
        ("words", 12345.0, "12,345 synapse words"),
        ("synops", 1234567.8, "1,234,568 synaptic operations a sample"),
        ("energy-nj", 500.25, "500.2 nJ of dynamic energy a sample"),
        ("step-us", 0.01234, "0.01234 us a step"),
    ],
)
def test_amounts_are_for_people(name, value, words):
    assert amount(name, value) == words


def test_the_command_line_says_what_is_wrong_before_it_begins(tmp_path):
    done = sca_deploy("train", "digits", "--budget", "corse=8", "-o", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: unknown resource of --budget 'corse'",
        "fix: did you mean 'cores'? known: cores, energy-nj, step-us, synops, words",
    ]
    assert not (tmp_path / "run").exists()


def test_a_kept_fraction_beside_a_budget_is_refused_and_not_ignored(tmp_path):
    done = sca_deploy("train", "digits", "--keep", 0.5, "--budget", "cores=6", "-o", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: both --keep and --budget are given"
    assert not (tmp_path / "run").exists()
