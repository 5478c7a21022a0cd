"""Budgets on real digits: what is exported is read, lowered, mapped and simulated again, and is inside."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import sca_deploy as sd
from sca_deploy.artifact import Reading, open_artifact
from sca_deploy.budget import WORDS
from sca_deploy.checkpoint import load_network
from sca_deploy.data import load_dataset
from sca_deploy.errors import DoesNotFit, UsageError
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.program import Program
from sca_deploy.pipeline import broken_budget
from sca_deploy.train import read_log
from tests import graphs
from tests.conftest import ROOT
from tests.pruning.tiny import takes
from tests.test_prune_command import brought

LOIHI2 = load_chip("loihi2")
TEST, STEPS, EPOCHS = 100, 3, 4
CONFIG = f"""
name = "small"
[data]
train_samples = 240
test_samples = {TEST}
[network]
steps = {STEPS}
layers = [
  {{ type = "conv", channels = 12, kernel = 3, padding = 1 }}, {{ type = "batch_norm" }}, {{ type = "lif" }},
  {{ type = "conv", channels = 16, kernel = 3, padding = 1 }}, {{ type = "batch_norm" }}, {{ type = "lif" }},
  {{ type = "avg_pool", kernel = 2 }}, {{ type = "flatten" }},
  {{ type = "linear", features = 64 }}, {{ type = "batch_norm" }}, {{ type = "lif" }},
  {{ type = "linear", features = 10 }},
]
[train]
epochs = {EPOCHS}
batch_size = 40
lr = 5e-3
[lower]
samples = 32
"""
BUDGETS = {
    "cores": {"cores": 4},
    "words": {"words": 3000},
    "synops": {"synops": 60_000},
    "energy-nj": {"energy-nj": 2000},
    "step-us": {"step-us": 15},
    "two at once": {"words": 5000, "energy-nj": 1500},
}


def flags(budget):
    return [part for name, limit in budget.items() for part in ("--budget", f"{name}={limit}")]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def made(config, tmp_path_factory):
    """The folder of a run under each budget: its pruned arm trained, fitted, lowered, evaluated and exported."""
    from sca_deploy.config import load_config, override
    from sca_deploy.console import Console
    from sca_deploy.pipeline import Job, export_arm, make_arm, start

    folders = {}

    def run(name):
        if name not in folders:
            settings = override(load_config(config), {"prune.budget": BUDGETS[name]})
            job = Job(settings, tmp_path_factory.mktemp("run") / "small", Console(quiet=True))
            start(job, ["pruned"])
            make_arm(job, "pruned")
            export_arm(job, "pruned")
            folders[name] = job.folder / "pruned"
        return folders[name]

    return run


def state(path):
    return load_network(path)[0].state_dict()


def same(one, other):
    return list(one) == list(other) and all(torch.equal(value, other[key]) for key, value in one.items())


def samples():
    x = load_dataset("digits").test_x[:TEST]
    return np.repeat(x[:, None], STEPS, axis=1)


@pytest.mark.parametrize("name", BUDGETS)
def test_what_is_exported_is_inside_the_budget_when_it_is_read_and_run_again(made, name):
    arm = made(name)
    programs = {
        "loihi2": Program.load(arm / "loihi2" / "program.npz"),
        "net": open_artifact(arm / "loihi2" / "network.net", Reading(steps=STEPS, input_bits=5)).program,
        "nir": open_artifact(arm / "network.nir", Reading(input_bits=5)).program,
    }
    for program in programs.values():
        found = takes(program, samples())
        for resource, limit in BUDGETS[name].items():
            assert found[resource] <= limit


@pytest.mark.parametrize("name", BUDGETS)
def test_the_files_of_a_run_say_what_it_takes_of_its_budget(made, name):
    arm, budget = made(name), BUDGETS[name]
    evaluation, report = (json.loads((arm / file).read_text()) for file in ("evaluation.json", "budget.json"))
    found = takes(Program.load(arm / "program.npz"), samples())
    for entry, (resource, limit) in zip(evaluation["budget"], budget.items(), strict=True):
        assert (entry["name"], entry["limit"], entry["kept"]) == (resource, limit, True)
        assert entry["value"] == pytest.approx(found[resource])
    assert report["fits"]
    assert [(entry["name"], entry["limit"]) for entry in report["resources"]] == list(budget.items())
    assert all(entry["value"] <= entry["upper"] <= entry["limit"] for entry in report["resources"])
    assert (report["samples"] > 0) == any(resource not in ("cores", "words") for resource in budget)


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_is_not_left_unused(made, name):
    """The dearest resource is used by more than half, however coarse the steps are, and something was pruned."""
    report = json.loads((made(name) / "budget.json").read_text())
    assert max(entry["upper"] / entry["limit"] for entry in report["resources"]) > 0.5
    network = load_network(made(name) / "network.pt")[0]
    assert sum(network.kept_channels.values()) < 92


@pytest.mark.parametrize("name", BUDGETS)
def test_the_masks_of_every_epoch_after_the_last_update_are_inside(made, name):
    log = read_log(made(name) / "train")
    assert len(log) == EPOCHS
    for entry in log[2:]:  # updates end at 0.6 of four epochs
        for resource, limit in BUDGETS[name].items():
            assert entry["pruning"]["takes"][resource] <= limit
    assert all(entry["pruning"]["takes"].keys() == BUDGETS[name].keys() for entry in log)


LEAST = {"words": 20, "synops": 10, "energy-nj": 1, "step-us": 0.01}


@pytest.mark.parametrize("resource", LEAST)
def test_what_cannot_be_kept_ends_with_the_smallest_that_was_reached_and_what_is_in_the_way(
    in_process, config, tmp_path, resource
):
    budget = ("--budget", f"{resource}={LEAST[resource]}")
    code, out, err = in_process("train", config, "--epochs", 2, *budget, "-q", "-o", tmp_path / "run")
    assert (code, out) == (3, "")
    [problem, fix] = err.splitlines()
    assert problem.startswith(f"error: the budget {resource}={LEAST[resource]:g} cannot be kept: the smallest network")
    assert f" {WORDS[resource]}; layer '" in problem
    assert any(f"layer '{name}' takes most (" in problem for name in ("lif1", "lif2", "lif3", "linear2"))
    assert fix.startswith(f"fix: allow {resource}=")
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "pruned" / "fitted.pt").exists()
    assert not (tmp_path / "run" / "pruned" / "network.pt").exists()
    assert not list((tmp_path / "run").rglob("*.part"))


def test_fewer_cores_than_layers_are_refused_before_anything_is_trained(in_process, config, tmp_path):
    code, out, err = in_process("train", config, "--budget", "cores=3", "-q", "-o", tmp_path / "run")
    assert (code, out) == (3, "")
    assert err.splitlines() == [
        "error: the budget cores=3 cannot be kept: the network has 4 layers (lif1, lif2, lif3, linear2), each takes a "
        "core at least",
        "fix: allow cores=4, or take a network of fewer layers",
    ]
    assert not (tmp_path / "run").exists()


def test_what_it_is_told_to_allow_can_be_kept(in_process, config, tmp_path):
    arguments = ("train", config, "--epochs", 2, "-q")
    _, _, err = in_process(*arguments, "--budget", "words=20", "-o", tmp_path / "no")
    allowed = err.split("fix: allow ")[1].split(",")[0]
    assert allowed.startswith("words=")
    assert in_process(*arguments, "--budget", allowed, "-o", tmp_path / "yes")[0] == 0


KILL = """
import os, signal, sys
sys.argv = ["sca-deploy", *sys.argv[3:]]
import importlib
module, name = {place!r}
owner = importlib.import_module(module)
for part in name.split(".")[:-1]:
    owner = getattr(owner, part)
name = name.split(".")[-1]
original, calls = getattr(owner, name), []
def killed(*args, **kwargs):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(owner, name, killed)
from sca_deploy.cli import main
main()
"""
PLACES = {
    "in training, between two updates": ("sca_deploy.train", "_Training._train_batch", 8),
    "in training, while masks are set": ("sca_deploy.pruning.budgeted", "Budgeted.update", 2),
    "while it is fitted": ("sca_deploy.fitting", "calibrate", 1),
    "before what was fitted is written": ("sca_deploy.pipeline", "save_network", 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_killed_and_repeated_it_gives_the_same_network_bit_for_bit(in_process, config, made, tmp_path, place):
    module, name, call = PLACES[place]
    folder, script = tmp_path / "small", tmp_path / "killed.py"
    script.write_text(KILL.format(place=(module, name), call=call))
    arguments = ["train", str(config), *flags(BUDGETS["two at once"]), "-q", "-o", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, "-", "-", *arguments], env=environment, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert not (folder / "pruned" / "fitted.pt").exists()
    assert in_process(*arguments)[0] == 0
    whole = made("two at once")
    assert same(*(state(arm / "fitted.pt") for arm in (whole, folder / "pruned")))
    reports = [json.loads((arm / "budget.json").read_text()) for arm in (whole, folder / "pruned")]
    assert reports[0] == reports[1]
    plain = [[{k: v for k, v in entry.items() if k != "seconds"} for entry in read_log(arm / "train")]
             for arm in (whole, folder / "pruned")]  # fmt: skip
    assert plain[0] == plain[1]


@pytest.mark.parametrize("gone", ["fitted.pt", "budget.json"])
def test_what_was_fitted_is_fitted_again_when_a_file_of_it_is_gone_and_only_then(
    in_process, config, made, tmp_path, gone
):
    folder = tmp_path / "small"
    shutil.copytree(made("words").parent, folder)
    arguments = ["train", config, *flags(BUDGETS["words"]), "-o", folder]
    code, out, err = in_process(*arguments)
    assert code == 0, err
    assert "pruned: fit is already done" in err
    assert "3,000 synapse words" in out
    before, report = state(folder / "pruned" / "fitted.pt"), (folder / "pruned" / "budget.json").read_text()
    (folder / "pruned" / gone).unlink()
    code, _, err = in_process(*arguments)
    assert code == 0
    assert "pruned: train is already done" in err
    assert "pruned: fit is already done" not in err
    assert same(state(folder / "pruned" / "fitted.pt"), before)
    assert (folder / "pruned" / "budget.json").read_text() == report


def test_a_run_of_another_budget_is_not_continued(in_process, config, made, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(made("words").parent, folder)
    code, _, err = in_process("train", config, "--budget", "words=3001", "-o", folder)
    assert code == 2
    assert "holds a run of another config (prune.budget.words 3000, not 3001)" in err


@pytest.mark.parametrize("method", ["magnitude", "granet", "rigl", "criticality-unstructured", "dense"])
def test_a_method_that_cuts_no_channels_out_is_refused(in_process, config, tmp_path, method):
    code, out, err = in_process("train", config, "--method", method, "--budget", "cores=4", "-o", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"error: method '{method}' cuts no channels out, which is what frees a chip's resources",
        "fix: leave the budget out, or choose a method that prunes channels, such as sca",
    ]
    assert not (tmp_path / "run" / "pruned").exists()


@pytest.mark.parametrize("method", ["criticality-structured", "slimming", "random"])
def test_every_method_that_prunes_channels_keeps_a_budget(in_process, config, tmp_path, method):
    code, out, err = in_process(
        "train", config, "--method", method, "--budget", "words=3000", "--json", "-q", "-o", tmp_path / "run"
    )
    assert code == 0, err
    [resource] = json.loads(out)["budget"]["resources"]
    assert 0 < resource["value"] <= 3000


@pytest.mark.timeout(300)
def test_two_processes_keep_the_budget_and_one_of_them_speaks(config, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                "-m", "sca_deploy.cli"]  # fmt: skip
    arguments = ["train", str(config), "--epochs", "2", *flags(BUDGETS["two at once"]), "--json", "-q"]
    done = subprocess.run([*torchrun, *arguments, "-o", str(tmp_path / "run")], env=environment,
                          capture_output=True, text=True, timeout=280)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["budget"]
    assert report["fits"]
    fitted = load_network(tmp_path / "run" / "pruned" / "fitted.pt")[0]
    trained = load_network(tmp_path / "run" / "pruned" / "train" / "checkpoint.pt")[0]
    assert sum(fitted.kept_channels.values()) <= sum(trained.kept_channels.values()) < 92


STUDY = """
[study]
seeds = [0]
[[study.arms]]
name = "words"
prune = { budget = { words = 3000 } }
[[study.arms]]
name = "evenly"
prune = { budget = { words = 3000 }, allocation = "uniform" }
"""


def test_the_cells_of_a_study_keep_budgets_of_their_own(in_process, config, tmp_path):
    plan = tmp_path / "study.toml"
    plan.write_text(f"{CONFIG.replace('epochs = 4', 'epochs = 2')}\n{STUDY}")
    code, _, err = in_process("study", plan, "-q", "-o", tmp_path / "study")
    assert code == 0, err
    widths = {}
    for arm in ("words", "evenly"):
        cell = tmp_path / "study" / arm / "seed0" / "pruned"
        found = takes(Program.load(cell / "program.npz"), samples())
        assert found["words"] <= 3000
        widths[arm] = load_network(cell / "network.pt")[0].kept_channels
    shares = [kept / whole for kept, whole in zip(widths["evenly"].values(), (12, 16, 64), strict=True)]
    assert max(shares) - min(shares) <= 0.08
    assert widths["words"] != widths["evenly"]


def read_again(path, x):
    """What a graph takes when it is read, lowered at the scales it remembers, and run."""
    return takes(open_artifact(path, Reading(steps=graphs.STEPS, input_bits=2)).program, x)


@pytest.mark.parametrize(
    ("resource", "part", "epochs"),
    [("words", 0.5, 2), ("synops", 0.5, 0), ("energy-nj", 0.7, 2), ("step-us", 0.8, 0)],
)
def test_a_brought_network_is_pruned_to_a_budget(in_process, tmp_path, resource, part, epochs):
    brought(tmp_path)
    x, run = np.load(tmp_path / "mine.npz")["x_test"], tmp_path / "run"
    limit = part * read_again(tmp_path / "net.nir", x)[resource]
    given = ("prune", tmp_path / "net.nir", "--data", tmp_path / "mine.npz", "--score", "rate", "--floor", 0.1)
    training = ("--epochs", epochs, "--batch-size", 10)
    code, out, err = in_process(*given, *training, "--budget", f"{resource}={limit}", "--json", "-o", run)
    assert code == 0, err
    [entry] = json.loads(out)["budget"]
    assert (entry["name"], entry["limit"], entry["kept"]) == (resource, pytest.approx(limit), True)
    found = read_again(run / "pruned" / "network.nir", x)[resource]
    assert found <= limit < read_again(run / "dense" / "network.nir", x)[resource]
    assert entry["value"] == pytest.approx(found)
    assert json.loads((run / "compare.json").read_text())["budget"] == [entry]


def test_a_brought_network_keeps_a_fraction_or_a_budget_but_not_both(in_process, tmp_path):
    brought(tmp_path)
    both = ("--keep", 0.5, "--budget", "words=100")
    given = ("prune", tmp_path / "net.nir", "--data", tmp_path / "mine.npz", "-o", tmp_path / "run")
    code, out, err = in_process(*given, *both)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) <= 2
    assert "keep" in err
    assert "budget" in err
    neither = in_process(*given)
    assert neither[0] == 2
    assert "--budget" in neither[2]
    assert in_process(*given, "--keep", 0.5, "--allocation", "uniform")[0] == 2


def test_the_dense_arm_has_no_budget_to_keep(in_process, config, tmp_path):
    code, out, err = in_process("train", config, "--arm", "dense", "--budget", "words=3000", "-o", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.startswith("error: --budget is kept by the pruned arm")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "budget", "exit_code", "said", "advised"),
    [
        (
            "feed-forward",
            "words=10",
            3,
            "the budget words=10 cannot be kept: the smallest network that was reached",
            "allow words=",
        ),
        ("subtract", "words=1000", 2, "a budget needs a network that the chip can carry: ", ""),
    ],
    ids=["too-small", "on-no-chip"],
)
def test_a_brought_network_that_can_keep_no_such_budget(in_process, tmp_path, name, budget, exit_code, said, advised):
    brought(tmp_path, name)
    arguments = ("prune", tmp_path / "net.nir", "--data", tmp_path / "mine.npz", "--score", "rate", "-q")
    code, out, err = in_process(*arguments, "--budget", budget, "-o", tmp_path / "run")
    assert (code, out) == (exit_code, "")
    [problem, fix] = err.splitlines()
    assert problem.startswith(f"error: {said}")
    assert fix.startswith(f"fix: {advised}")
    assert not (tmp_path / "run" / "pruned" / "fitted.pt").exists()


def test_from_python_a_network_is_pruned_to_a_budget(digits_run):
    """The dense digits network, 30 cores as the compiler would split it, brought to 8 at once without training."""
    net, digits = sd.load(digits_run / "dense"), sd.dataset("digits", train_samples=300, test_samples=60)
    assert sd.map(net).compiler_like == 30
    small = sd.prune(net, digits, budget={"cores": 8, "words": 60_000})
    mapping = sd.map(small)
    assert mapping.compiler_like <= 8
    assert sum(layer.synapse_words_total for layer in mapping.layers) <= 60_000
    assert sd.map(net).compiler_like == 30, "what was given stays as it was"
    with pytest.raises(DoesNotFit) as error:
        sd.prune(net, digits, budget={"words": 100})
    assert error.value.problem.startswith("the budget words=100 cannot be kept")
    with pytest.raises(UsageError, match="unknown resource"):
        sd.prune(net, digits, budget={"core": 8})
    with pytest.raises(UsageError, match="keep"):
        sd.prune(net, digits, keep=0.5, budget={"cores": 8})


def test_a_budget_that_test_samples_exceed_is_told_with_what_they_take():
    inside = {"name": "cores", "limit": 8, "value": 7, "kept": True, "label": "estimated"}
    outside = {"name": "synops", "limit": 1000, "value": 1234.5, "kept": False, "label": "simulated"}
    assert broken_budget({"budget": [inside]}) is None
    assert broken_budget({}) is None
    error = broken_budget({"budget": [inside, outside]})
    assert (error.exit_code, error.problem) == (
        3,
        "pruned: the budget synops=1000 is exceeded: on test samples the network takes 1,234 synaptic operations a "
        "sample",
    )
