"""What lies in the folder of a budgeted arm, and which of its networks a command opens."""

import json
import shutil

import numpy as np
import pytest
import torch

from sca_deploy import pipeline
from sca_deploy.artifact import open_artifact
from sca_deploy.bringing import pruning_config
from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.config import Config, DataConfig, NetworkConfig, PruneConfig, TrainConfig
from sca_deploy.console import Console
from sca_deploy.errors import DoesNotFit, UsageError
from sca_deploy.files import sha256, write_json
from sca_deploy.fitting import Fit
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.allocation import Problem
from sca_deploy.study.cells import row_of
from sca_deploy.study.plan import Cell

LAYERS = [
    *({"type": "flatten"}, {"type": "linear", "features": 6}, {"type": "batch_norm"}, {"type": "lif"}),
    {"type": "linear", "features": 10},
]


def network(on):
    """A network of six hidden neurons, the first `on` of them unmasked."""
    torch.manual_seed(0)
    made = SpikingNetwork(NetworkSpec((1, 8, 8), parse_layers(LAYERS, {}), steps=2))
    [norm] = made.norms().values()
    norm.mask[on:] = 0
    return made.eval()


def opened(folder):
    [kept] = open_artifact(folder).network.kept_channels.values()
    return kept


@pytest.fixture
def arm(tmp_path):
    """The arm of a run whose checkpoint has six neurons on, of which its budget left four."""
    folder = tmp_path / "run" / "pruned"
    save_network(folder / "train" / "checkpoint.pt", network(6))
    save_network(folder / "fitted.pt", network(4), checkpoint=sha256(folder / "train" / "checkpoint.pt"))
    return folder


def test_what_was_held_to_a_budget_is_opened_and_not_what_was_trained(arm):
    assert opened(arm) == opened(arm.parent) == 4
    (arm / "fitted.pt").unlink()
    assert opened(arm) == 6


def test_a_checkpoint_that_was_trained_further_is_opened_before_what_was_held_to_the_budget(arm):
    save_network(arm / "train" / "checkpoint.pt", network(5))
    assert opened(arm) == 5


def test_the_compacted_network_is_opened_until_another_is_held_to_the_budget(arm):
    save_network(arm / "network.pt", network(3), checkpoint=sha256(arm / "fitted.pt"))
    assert opened(arm) == 3
    save_network(arm / "fitted.pt", network(2), checkpoint=sha256(arm / "train" / "checkpoint.pt"))
    assert opened(arm) == 2


def config(**prune):
    return Config(
        data=DataConfig(train_samples=40, test_samples=20),
        network=NetworkConfig(steps=2, layers=LAYERS),
        train=TrainConfig(epochs=1, batch_size=20),
        prune=PruneConfig(**prune),
    )


def test_what_is_compacted_remembers_the_network_that_was_held_to_the_budget(arm):
    job = pipeline.Job(config(budget={"words": 500}), arm.parent, Console(quiet=True))
    pipeline.compact_arm(job, "pruned")
    assert open_artifact(arm).network_path.name == "network.pt"
    assert opened(arm) == 4
    assert load_network(arm / "network.pt")[1]["checkpoint"] == sha256(arm / "fitted.pt")


def test_what_fits_no_more_leaves_no_network_that_once_did(arm, monkeypatch):
    report = {"trimmed": {}, "edges": [], "fits": False}
    monkeypatch.setattr(pipeline, "held", lambda *arguments: Fit(report, DoesNotFit("too large")))
    job = pipeline.Job(config(budget={"words": 500}), arm.parent, Console(quiet=True))
    with pytest.raises(DoesNotFit, match="too large"):
        pipeline.fit_arm(job, "pruned")
    assert not (arm / "fitted.pt").exists()
    assert json.loads((arm / "budget.json").read_text()) == report


@pytest.mark.parametrize(
    ("there", "asked", "difference"),
    [
        ({"words": 500}, {}, "prune.budget.words 500, not none"),
        ({}, {"words": 500}, "prune.budget.words none, not 500"),
        ({"words": 500, "cores": 4}, {"words": 500}, "prune.budget.cores 4, not none"),
        ({"words": 500}, {"words": 600}, "prune.budget.words 500, not 600"),
    ],
)
def test_a_folder_of_another_budget_is_refused_with_what_differs(arm, there, asked, difference):
    first, second = (pipeline.Job(config(budget=limits), arm.parent, Console(quiet=True)) for limits in (there, asked))
    shutil.rmtree(arm)
    pipeline.start(first, ["pruned"])
    save_network(arm / "train" / "checkpoint.pt", network(6))
    pipeline.start(first, ["pruned"])
    with pytest.raises(UsageError) as error:
        pipeline.start(second, ["pruned"])
    assert error.value.problem == f"{arm.parent} holds a run of another config ({difference})"


@pytest.mark.parametrize("asked", [{}, {"budget": {}}, {"keep": 0.5, "budget": {"cores": 4}}])
def test_how_much_is_left_is_said_once_and_an_empty_budget_says_nothing(tmp_path, asked):
    flags = {"method": "sca", "score": "", "epochs": 0, "seed": 0, **asked}
    with pytest.raises(UsageError, match="budget"):
        pruning_config("net", tmp_path / "net.nir", DataConfig(), 2, flags)


def test_a_fraction_beside_an_empty_budget_is_a_fraction(tmp_path):
    flags = {"method": "sca", "score": "", "epochs": 0, "seed": 0, "keep": 0.5, "budget": {}}
    made = pruning_config("net", tmp_path / "net.nir", DataConfig(), 2, flags)
    assert (made.prune.keep, made.prune.budget) == (0.5, {})


@pytest.mark.parametrize("scores", [[0.5, 0.1, -0.05, -0.3], [-0.04, -0.05, -0.05], [0.2, 0.1, -0.5]])
def test_more_channels_are_never_worth_less_even_where_scores_are_negative(scores):
    [worth] = Problem(None, [np.array(scores)], (1,), (len(scores),), {}).worth()
    assert (np.diff(worth) >= 0).all()
    assert worth[-1] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("prune", "keep"), [({"keep": 0.4}, 0.4), ({"budget": {"words": 500}}, None), ({"method": "dense"}, 1.0)]
)
def test_a_row_of_a_study_tells_no_fraction_where_a_budget_decides_it(tmp_path, prune, keep):
    write_json(tmp_path / "evaluation.json", {"figures": {"accuracy_chip": 0.5}})
    row = row_of(Cell("arm", 0, config(**prune)), tmp_path)
    assert (row["keep"], row["accuracy_chip"]) == (keep, 0.5)
