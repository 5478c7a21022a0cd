"""Masks under a budget, held against the network cut, lowered, mapped and simulated again."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sca_deploy.budget import RESOURCES, STRUCTURAL
from sca_deploy.config import ALLOCATIONS, PruneConfig
from sca_deploy.errors import DoesNotFit, ScaDeployError
from sca_deploy.graph import populations_of
from sca_deploy.hardware.costs import Cost
from sca_deploy.hardware.lower import Rules, assemble
from sca_deploy.hardware.mapping import check_fits, map_program
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.nn.zoo import layers_of
from sca_deploy.oracle import Oracle
from sca_deploy.pruning.allocation import ALLOCATED, Problem
from sca_deploy.pruning.budgeted import Budgeted, Ranking
from sca_deploy.pruning.compact import compact
from sca_deploy.pruning.group import set_masks
from sca_deploy.pruning.groups import channel_groups
from sca_deploy.pruning.schedule import Schedule
from tests.networks import random_layers
from tests.pruning.tiny import LOIHI2, MAP, chain, conv, network_of, oracle_of, takes


def cut(network, oracle):
    """What a network takes of every resource once it is cut, on the whole input in one run."""
    shape, populations = populations_of(compact(network))
    return takes(assemble(shape, populations, oracle.rules), oracle.x)


def scores_of(groups, draw):
    rng = np.random.default_rng(draw.getrandbits(32))
    return [torch.from_numpy(rng.exponential(size=group.channels)).float() for group in groups]


def masks_of(groups):
    return [group.mask.clone() for group in groups]


def floors_of(groups, scores, floor):
    """The masks that keep only the floors, by score."""
    masks = []
    for group, score in zip(groups, scores, strict=True):
        mask = torch.zeros(group.channels)
        mask[score.argsort(descending=True)[: max(1, int(floor * group.channels))]] = 1
        masks.append(mask)
    return masks


def budgeted(network, budget, **options):
    return Budgeted(network, channel_groups(network), PruneConfig(budget=budget, **options))


def asked_for(draw, network, oracle, groups, scores, floor):
    """Limits of one to three resources, from a little less than the floors take to what the whole network takes."""
    whole = cut(network, oracle)
    set_masks(groups, floors_of(groups, scores, floor))
    least = cut(network, oracle)
    set_masks(groups, [torch.ones(group.channels) for group in groups])
    names = draw.sample(RESOURCES, draw.randint(1, 3))
    found = {name: least[name] + draw.uniform(-0.1, 1) * (whole[name] - least[name]) for name in names}
    return {name: max(1.0, limit) if name in STRUCTURAL else limit for name, limit in found.items()}, least


def held_to_its_budget(network, oracle, draw, **options):
    """What became of a network under a random budget: "inside", "floors" that take more, or "refused"."""
    groups, floor = channel_groups(network), draw.choice([0.0, 0.1, 0.3])
    scores = scores_of(groups, draw)
    budget, least = asked_for(draw, network, oracle, groups, scores, floor)
    held = budgeted(network, budget, floor=floor, **options)
    try:
        held.update(Ranking(scores), 0.0, oracle)
    except DoesNotFit:
        assert any(least[name] > budget[name] for name in STRUCTURAL if name in budget)
        return "refused"
    for group, score, mask in zip(groups, scores, masks_of(groups), strict=True):
        kept, gone = score[mask > 0], score[mask == 0]
        assert int(mask.sum()) >= max(1, int(floor * group.channels))
        assert not len(gone) or kept.min() >= gone.max()
    found = cut(network, oracle)
    if all(found[name] <= limit for name, limit in budget.items()) and held.keeps(oracle.costs(network, budget)):
        return "inside"
    # As small as it gets, and even that is outside, or so near that other samples would be.
    assert held.widths == tuple(max(1, int(floor * group.channels)) for group in groups)
    costs = oracle.costs(network, budget)
    assert any(costs[name].upper > limit for name, limit in budget.items())
    return "floors"


@settings(max_examples=6)
@given(st.randoms(use_true_random=False))
def test_settled_masks_keep_every_limit_or_are_the_floors(draw):
    network = network_of(chain(draw, most=8), seed=draw.getrandbits(16))
    held_to_its_budget(network, oracle_of(samples=8, seed=draw.getrandbits(16)), draw)


@settings(max_examples=6)
@given(st.randoms(use_true_random=False))
def test_those_of_networks_with_branches_too(draw):
    shape = (2, 3, 3)
    network = network_of(random_layers(draw), shape, seed=draw.getrandbits(16))
    assume(channel_groups(network))
    try:
        held_to_its_budget(network, oracle_of(shape, samples=8, seed=draw.getrandbits(16)), draw)
    except ScaDeployError as error:  # a select may leave none of the channels that a floor keeps
        assume("has no channel left" not in error.problem)
        raise


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_most_budgets_are_kept_in_whichever_way_they_are_shared_out(allocation):
    found = []
    for seed in range(4):
        draw = random.Random(seed)
        network = network_of(chain(draw, most=8), seed=seed)
        found.append(held_to_its_budget(network, oracle_of(samples=8), draw, allocation=allocation))
    assert found.count("inside") >= 2


@pytest.fixture
def small():
    """A chain of 6, 5 and 12 channels with its groups, scores and oracle."""
    hidden = {"type": "linear", "features": 12}
    ends = [{"type": "flatten"}, hidden, {"type": "batch_norm"}, {"type": "lif"}, {"type": "linear", "features": 10}]
    network = network_of([*conv(6), *conv(5), *ends])
    groups = channel_groups(network)
    return network, groups, scores_of(groups, random.Random(1)), oracle_of(samples=6)


def scripted(monkeypatch, *choices):
    """Lets the widths be chosen by a script; gives the limits under which each choice was asked for."""
    asked, left = [], list(choices)

    def choose(problem):
        asked.append(dict(problem.limits))
        return left.pop(0) if left else choices[-1]

    monkeypatch.setitem(ALLOCATED, "activity", choose)
    return asked


def answering(*words):
    """A measurement that says these words one after another."""
    left = list(words)

    def measure():
        value = left.pop(0)
        return {"words": Cost(value, value, "lif1", "that many", "estimated")}

    return measure


def test_a_channel_that_was_masked_never_comes_back_where_nothing_returns(small, monkeypatch):
    """Not even where a later choice gives a group more channels than the first one did."""
    network, groups, scores, oracle = small
    for group in groups:
        group.mask[0] = 0
    scripted(monkeypatch, (2, 4, 11), (4, 2, 8))
    budgeted(network, {"words": 1000}).settle(Ranking(scores, returns=False), oracle, answering(2000, 900))
    masks = masks_of(groups)
    assert [int(mask.sum()) for mask in masks] == [4, 2, 8]
    assert [float(mask[0]) for mask in masks] == [0, 0, 0]
    for score, mask in zip(scores, masks, strict=True):
        assert score[mask > 0].min() >= score[1:][mask[1:] == 0].max()


def test_where_channels_return_the_best_are_on_whether_they_were_masked_or_not(small, monkeypatch):
    network, groups, scores, oracle = small
    set_masks(groups, floors_of(groups, [-score for score in scores], 0.3))
    scripted(monkeypatch, (3, 2, 7))
    budgeted(network, {"words": 1000}).settle(Ranking(scores), oracle, answering(900))
    for score, mask, width in zip(scores, masks_of(groups), (3, 2, 7), strict=True):
        assert mask.nonzero().flatten().tolist() == sorted(score.argsort(descending=True)[:width].tolist())


def test_signals_choose_their_share_of_the_widths_but_never_of_the_floors(small, monkeypatch):
    network, groups, scores, oracle = small
    signals = [-score for score in scores]
    scripted(monkeypatch, (4, 5, 10))
    held = budgeted(network, {"words": 1000}, floor=0.5)
    regrown = held.settle(Ranking(scores, signals, regrow=0.5), oracle, answering(900))
    assert held.widths == (4, 5, 10)
    # Half of each, but three of six, two of five and six of twelve channels are the scores'.
    assert regrown == 1 + 2 + 4
    for score, mask, (by_score, by_signal) in zip(scores, masks_of(groups), ((3, 1), (3, 2), (6, 4)), strict=True):
        order = score.argsort(descending=True).tolist()
        expected = order[:by_score] + order[len(order) - by_signal :]
        assert mask.nonzero().flatten().tolist() == sorted(expected)


def test_masks_with_what_regrew_are_settled_inside_the_budget_too(small):
    network, groups, scores, oracle = small
    budget = {"words": 0.5 * cut(network, oracle)["words"], "synops": 0.4 * cut(network, oracle)["synops"]}
    held = budgeted(network, budget)
    regrown = held.update(Ranking(scores, [-score for score in scores], regrow=0.3), 0.0, oracle)
    assert regrown > 0
    found = cut(network, oracle)
    assert all(found[name] <= limit for name, limit in budget.items())
    assert any(
        score[mask > 0].min() < score[mask == 0].max() for score, mask in zip(scores, masks_of(groups), strict=True)
    )


def test_what_is_measured_above_its_limit_is_chosen_again_under_a_tighter_one(small, monkeypatch):
    network, _, scores, oracle = small
    asked = scripted(monkeypatch, (5, 5, 11), (4, 4, 10), (3, 3, 9), (2, 2, 8))
    held = budgeted(network, {"words": 1000})
    held.settle(Ranking(scores), oracle, answering(1250, 1004, 1000))
    assert [limits["words"] for limits in asked] == pytest.approx([1000, 800, 792])
    assert held.widths == (3, 3, 9)


def test_what_never_fits_ends_at_the_floors_and_is_refused_with_what_it_takes(small, monkeypatch):
    network, _, scores, oracle = small
    scripted(monkeypatch, (5, 5, 11))
    held = budgeted(network, {"words": 1000}, floor=0.4)
    held.settle(Ranking(scores), oracle, answering(*[1250] * 40))
    assert held.widths == (2, 2, 4)
    error = held.refuse({"words": Cost(1100.2, 1100.2, "lif3", "1,000 of them", "estimated")})
    assert error.exit_code == 3
    assert error.problem == (
        "the budget words=1000 cannot be kept: the smallest network that was reached, 8 channels with 0.4 of every "
        "layer's channels (prune.floor), takes 1,100 synapse words; layer 'lif3' takes most (1,000 of them)"
    )
    assert error.fix == "allow words=1101, lower prune.floor, or make 'lif3' smaller"


def test_the_dearest_of_several_limits_that_are_broken_is_named(small):
    held = budgeted(small[0], {"cores": 4, "words": 100})
    costs = {"cores": Cost(5, 5, "lif1", "2 of them", "estimated"), "words": Cost(300, 300, "lif3", "all", "estimated")}
    assert held.refuse(costs).problem.startswith("the budget words=100 cannot be kept")
    costs["words"] = Cost(90, 90, "lif3", "all", "estimated")
    assert held.refuse(costs).problem.startswith("the budget cores=4 cannot be kept")


def test_every_layer_narrows_on_the_cubic_towards_the_widths_that_the_budget_leaves_room_for(small, monkeypatch):
    network, _, scores, oracle = small
    schedule = Schedule(PruneConfig(budget={"words": 300}, start=0.0, end=0.8), 10)
    asked = scripted(monkeypatch, (3, 2, 5))
    held, seen = budgeted(network, {"words": 300}), []
    for update in range(1, schedule.updates):
        held.update(Ranking(scores), schedule.left(update), oracle)
        part = (1 - update / 8) ** 3
        assert held.widths == (3 + int(part * 3), 2 + int(part * 3), 5 + int(part * 7))
        assert asked[-1] == {"words": 300}
        seen.append(held.widths)
    assert schedule.left(schedule.updates) == 0
    assert seen[0] == (5, 4, 9)
    assert seen[-1] == (3, 2, 5)
    assert all(one >= other for before, after in pairwise(seen) for one, other in zip(before, after, strict=True))


def test_groups_of_a_residual_network_share_their_masks():
    network = network_of(layers_of("resnet8", 10, MAP))
    groups, oracle = channel_groups(network), oracle_of(samples=4)
    assert any(len(group.norms) > 1 for group in groups)
    words = 0.3 * cut(network, oracle)["words"]
    held = budgeted(network, {"words": words})
    held.update(Ranking(scores_of(groups, random.Random(0))), 0.0, oracle)
    assert 0.8 * words < cut(network, oracle)["words"] <= words
    for group in groups:
        assert all(torch.equal(norm.mask, group.mask) for norm in group.norms)


def test_an_impossible_number_of_cores_is_refused_at_the_first_update(small):
    network, groups, scores, oracle = small
    before = cut(network, oracle)
    with pytest.raises(DoesNotFit, match="the budget words=50 cannot be kept: the smallest network that was reached"):
        budgeted(network, {"words": 50}).update(Ranking(scores), 0.9, oracle)
    set_masks(groups, [torch.ones(group.channels) for group in groups])
    budgeted(network, {"words": before["words"], "cores": before["cores"]}).update(Ranking(scores), 0.0, oracle)
    assert cut(network, oracle) == before, "what fits loses nothing"


def test_looking_at_the_smallest_network_leaves_the_masks_as_they_were(small, monkeypatch):
    """A model that thinks too little of a network has it measured at its floors; the channels are still there after."""
    network, _, scores, oracle = small
    monkeypatch.setattr(Problem, "possible", lambda problem: False)
    on = []

    def choose(problem):
        on.append([bool(group.on.all()) for group in problem.model.groups])
        return problem.most

    monkeypatch.setitem(ALLOCATED, "activity", choose)
    budgeted(network, {"words": 1e6}).update(Ranking(scores), 0.0, oracle)
    assert on == [[True, True, True]]


def test_a_layer_that_no_core_can_hold_is_in_no_budget():
    """32 channels of 28 x 28 neurons, all read by one matrix: a single neuron of it overflows a core."""
    layers = [{"type": "conv", "channels": 32, "kernel": 3, "padding": 1}, {"type": "batch_norm"}, {"type": "lif"}]
    layers += [{"type": "flatten"}, {"type": "linear", "features": 10}]
    torch.manual_seed(0)
    network = SpikingNetwork(NetworkSpec((1, 28, 28), parse_layers(layers, {}), steps=1)).eval()
    groups, oracle = channel_groups(network), Oracle(LOIHI2, Rules(1, 0), np.zeros((2, 1, 1, 28, 28), np.int64))
    held = budgeted(network, {"words": 1e9})
    assert not held.keeps(oracle.costs(network, held.budget))
    held.update(Ranking(scores_of(groups, random.Random(0))), 0.0, oracle)
    assert held.keeps(oracle.costs(network, held.budget))
    check_fits(map_program(oracle.program(compact(network)), LOIHI2), LOIHI2)
