"""A trained network held to its budget: what the report says, and what has to go."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sca_deploy import fitting
from sca_deploy.calibrate import calibrate
from sca_deploy.config import Config, DataConfig, LowerConfig, NetworkConfig, PruneConfig
from sca_deploy.data import load_dataset
from sca_deploy.errors import ScaDeployError
from sca_deploy.fitting import fit
from sca_deploy.graph import populations_of
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.counts import count
from sca_deploy.hardware.lower import Rules, assemble
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.simulate import simulate
from sca_deploy.inputs import inputs_of
from sca_deploy.pruning.compact import compact
from sca_deploy.pruning.groups import channel_groups
from sca_deploy.report.budgets import budget_lines, fit_table
from sca_deploy.train import initial_network

LOIHI2 = load_chip("loihi2")
NORM, LIF = {"type": "batch_norm"}, {"type": "lif"}
LAYERS = [
    *({"type": "conv", "channels": 8, "kernel": 3, "padding": 1}, NORM, LIF),
    *({"type": "conv", "channels": 10, "kernel": 3, "padding": 1}, NORM, LIF),
    *({"type": "flatten"}, {"type": "linear", "features": 100}, NORM, LIF),
    {"type": "linear", "features": 10},
]


def config(**prune):
    return Config(
        data=DataConfig(train_samples=60, test_samples=20),
        network=NetworkConfig(steps=3, layers=LAYERS),
        prune=PruneConfig(**prune),
        lower=LowerConfig(samples=16),
    )


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits").first(60, 20)


@pytest.fixture
def trained(dataset):
    """A network as a training may leave it, one channel of each layer masked, and the scores of its channels."""
    torch.manual_seed(3)
    network = initial_network(config(), dataset)
    with torch.no_grad():
        for norm in network.norms().values():
            norm.bias.uniform_(0, 0.6)
            norm.running_var.fill_(0.3)
            norm.mask[2] = 0
    scores = [torch.rand(group.channels) for group in channel_groups(network)]
    for score in scores:
        score[2] = 5.0  # it would be the first to come back
    return network.eval(), scores


def takes(network, settings, dataset):
    """Cores, words and operations of a network as it is exported: cut, its scales searched, lowered."""
    small = compact(network)
    shape, populations = populations_of(small)
    inputs = inputs_of(settings, dataset)
    rules = Rules(settings.network.steps, inputs.bits)
    program = assemble(shape, populations, rules, calibrate(small, settings, dataset).scales)
    mapping, run = map_program(program, LOIHI2), count(simulate(program, inputs.over_time(dataset.train_x)))
    return {
        "cores": mapping.compiler_like,
        "words": sum(layer.synapse_words_total for layer in mapping.layers),
        "synops": run.per_sample["synops"],
    }


def widths(network):
    return [int(group.norms[0].mask.sum()) for group in channel_groups(network)]


def test_what_is_inside_already_stays_as_it_is_and_is_reported_as_it_will_be_exported(trained, dataset):
    network, scores = trained
    before = {key: value.clone() for key, value in network.state_dict().items()}
    whole = takes(network, config(), dataset)
    settings = config(budget={"words": whole["words"], "synops": 2 * whole["synops"], "cores": whole["cores"]})
    found = fit(network, scores, settings, dataset)
    assert found.failure is None
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    report = found.report
    assert (report["chip"], report["samples"], report["fits"], report["trimmed"]) == ("loihi2", 60, True, {})
    assert [entry["name"] for entry in report["resources"]] == ["words", "synops", "cores"]
    assert {entry["name"]: entry["value"] for entry in report["resources"]} == pytest.approx(whole)
    assert [entry["label"] for entry in report["resources"]] == ["estimated", "simulated", "estimated"]
    assert {entry["name"]: entry["limit"] for entry in report["resources"]} == settings.prune.budget
    assert all(set(entry) == {"name", "limit", "value", "upper", "layer", "why", "label"}
               for entry in report["resources"])  # fmt: skip


@pytest.mark.parametrize("resource", ["words", "synops"])
def test_a_network_above_its_budget_loses_channels_until_it_is_inside(trained, dataset, resource):
    network, scores = trained
    before, masked = widths(network), [group.norms[0].mask.clone() for group in channel_groups(network)]
    settings = config(budget={resource: 0.6 * takes(network, config(), dataset)[resource]})
    found = fit(network, scores, settings, dataset)
    assert found.failure is None
    assert takes(network, settings, dataset)[resource] <= settings.prune.budget[resource]
    [entry] = found.report["resources"]
    assert entry["value"] == pytest.approx(takes(network, settings, dataset)[resource])
    assert entry["upper"] <= entry["limit"]
    gone = {name: old - new for name, old, new in zip(("lif1", "lif2", "lif3"), before, widths(network), strict=True)}
    assert found.report["trimmed"] == {name: number for name, number in gone.items() if number}
    assert any(gone.values())
    for group, score, old in zip(channel_groups(network), scores, masked, strict=True):
        mask = group.norms[0].mask
        assert not (mask * (1 - old)).any(), "a masked channel came back"
        assert not (old * (1 - mask)).any() or score[mask > 0].min() >= score[(old > 0) & (mask == 0)].max()


def test_cores_do_not_depend_on_samples_so_none_are_counted(trained, dataset):
    network, scores = trained
    report = fit(network, scores, config(budget={"words": 1e9}), dataset).report
    assert report["samples"] == 0
    assert report["resources"][0]["upper"] == report["resources"][0]["value"]


def test_it_is_measured_at_the_scales_that_are_exported_and_not_fine_tuned_for_it(trained, dataset, monkeypatch):
    network, scores = trained
    asked = []

    def spied(small, settings, given):
        asked.append(settings.lower)
        return calibrate(small, settings, given)

    monkeypatch.setattr(fitting, "calibrate", spied)
    settings = replace(config(budget={"words": 1e9}), lower=LowerConfig(samples=7, finetune=3))
    fit(network, scores, settings, dataset)
    assert asked == [LowerConfig(samples=7, finetune=0)]


def test_what_cannot_be_kept_is_a_failure_that_names_the_smallest_network(trained, dataset):
    network, scores = trained
    found = fit(network, scores, config(budget={"words": 30}, floor=0.25), dataset)
    assert found.failure is not None
    assert found.failure.exit_code == 3
    assert widths(network) == [2, 2, 25]
    assert found.failure.problem.startswith(
        "the budget words=30 cannot be kept: the smallest network that was reached, 29 channels with 0.25 of every "
        "layer's channels (prune.floor), takes "
    )
    assert (found.report["fits"], found.report["trimmed"]) == (False, {"lif1": 5, "lif2": 7, "lif3": 74})


def test_edges_are_where_the_cores_of_the_network_change(trained, dataset):
    """Every neighbour is really masked so, cut and mapped."""
    network, scores = trained
    settings = config(budget={"cores": 1000})
    report = fit(network, scores, settings, dataset).report
    assert [(edge["name"], edge["channels"]) for edge in report["edges"]] == [("lif1", 7), ("lif2", 9), ("lif3", 99)]
    now = cores_at(network, scores, widths(network), settings, dataset)
    for number, edge in enumerate(report["edges"]):
        for side, step in (("fewer", -1), ("more", 1)):
            width, found = edge["channels"], None
            while 1 <= width + step <= (8, 10, 100)[number] and found is None:
                width += step
                if width < (1, 1, 10)[number]:
                    break
                there = list(widths(network))
                there[number] = width
                change = cores_at(network, scores, there, settings, dataset) - now
                found = {"channels": width, "cores": change} if change else None
            assert edge[side] == found
    assert sum(edge["fewer"] is not None for edge in report["edges"]) >= 2


def cores_at(network, scores, chosen, settings, dataset):
    """Compiler-like cores of the network with so many channels on, lowered at the largest scales."""
    groups = channel_groups(network)
    kept = [group.norms[0].mask.clone() for group in groups]
    for group, score, width in zip(groups, scores, chosen, strict=True):
        group.norms[0].mask.zero_()[score.argsort(descending=True)[:width]] = 1
    shape, populations = populations_of(compact(network))
    program = assemble(shape, populations, Rules(settings.network.steps, inputs_of(settings, dataset).bits))
    for group, mask in zip(groups, kept, strict=True):
        group.norms[0].mask.copy_(mask)
    return map_program(program, LOIHI2).compiler_like


def test_a_network_that_cannot_be_lowered_any_more_is_refused_by_the_layer_that_is_to_blame(trained, dataset):
    network, scores = trained
    with torch.no_grad():
        network.layers["linear2"].weight[0, 0] = float("nan")
    with pytest.raises(ScaDeployError, match="layer 'linear2' holds NaN or infinite weights"):
        fit(network, scores, config(budget={"words": 1000}), dataset)


REPORT = {
    "chip": "Loihi 2",
    "samples": 512,
    "fits": True,
    "resources": [
        {"name": "cores", "limit": 6, "value": 5, "upper": 5, "layer": "lif3", "why": "", "label": "estimated"},
        {"name": "synops", "limit": 2000, "value": 1500.5, "upper": 1600.0, "layer": "lif2", "why": "",
         "label": "simulated"},
    ],
    "trimmed": {"lif1": 2, "lif3": 1},
    "edges": [
        {"name": "lif1", "channels": 7, "fewer": {"channels": 4, "cores": -2}, "more": None},
        {"name": "lif2", "channels": 1, "fewer": None, "more": {"channels": 9, "cores": 1}},
        {"name": "lif3", "channels": 5, "fewer": None, "more": None},
    ],
}  # fmt: skip


def test_the_report_is_told_in_lines_and_in_a_table():
    assert budget_lines(REPORT) == [
        "measured above its budget once lowered, so channels went: 2 of lif1, 1 of lif3",
        "lif1 has 7 channels; 4 would save 2 cores",
        "lif2 has 1 channel; 9 would take 1 core more",
    ]
    assert budget_lines(REPORT | {"trimmed": {}, "edges": []}) == []
    text = " ".join(fit_table(REPORT, 200).split())
    for cell in ("budget on Loihi 2", "512 training samples", "6 cores 5 83.3 % lif3 estimated",
                 "2,000 synaptic operations a sample 1,500.5 80.0 % lif2 simulated"):  # fmt: skip
        assert cell in text
    assert "training samples" not in fit_table(REPORT | {"samples": 0}, 200)


def test_a_share_of_the_limit_counts_the_standard_errors():
    upper = np.array([found["upper"] / found["limit"] for found in REPORT["resources"]])
    assert all(f"{100 * share:.1f} %" in fit_table(REPORT, 200) for share in upper)
