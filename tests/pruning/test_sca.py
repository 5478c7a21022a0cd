import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sca_deploy.config import PruneConfig
from sca_deploy.errors import UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.sca import SCA, Schedule, select


@st.composite
def rankings(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    values = st.lists(st.floats(0, 10, width=32), min_size=sum(sizes), max_size=sum(sizes))
    floor = draw(st.floats(0, 0.5))
    least = sum(max(1, int(floor * n)) for n in sizes)
    keep = draw(st.integers(least, sum(sizes)))
    scores, gradients = (list(torch.tensor(draw(values)).split(sizes)) for _ in range(2))
    return scores, gradients, keep, draw(st.integers(0, sum(sizes))), floor


@given(rankings())
def test_exactly_the_asked_number_of_channels_is_on(case):
    masks, _ = select(*case)
    assert sum(int(mask.sum()) for mask in masks) == case[2]


@given(rankings())
def test_every_layer_keeps_its_floor_and_its_best_channel(case):
    scores, _, _, _, floor = case
    for mask, layer in zip(select(*case)[0], scores, strict=True):
        assert mask.sum() >= max(1, int(floor * len(layer)))
        assert mask[layer.argmax()] or (layer == layer.max()).sum() > 1


@given(rankings())
def test_without_regrowth_no_channel_off_outscores_one_that_is_on_above_the_floor(case):
    scores, gradients, keep, _, _ = case
    masks, regrown = select(scores, gradients, keep, 0, 0.0)
    flat, mask = torch.cat(scores), torch.cat(masks)
    best_of_layer = torch.cat([layer == layer.max() for layer in scores])
    chosen = flat[mask & ~best_of_layer]
    assert regrown == 0
    if len(chosen) and (~mask).any():
        assert flat[~mask].max() <= chosen.min()


def test_regrowth_takes_the_largest_gradients_among_the_rest():
    scores = [torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 3.0])]
    gradients = [torch.tensor([0.0, 0.0, 0.0, 5.0, 1.0, 4.0])]
    masks, regrown = select(scores, gradients, keep=4, regrow=2, floor=0.0)
    assert masks[0].tolist() == [True, True, False, True, False, True]
    assert regrown == 2


def test_ranking_is_global():
    masks, _ = select(
        [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0, 7.0])], [torch.zeros(2), torch.zeros(3)], 3, 0, 0
    )
    assert [m.tolist() for m in masks] == [[False, True], [False, True, True]]


def test_a_floor_above_the_kept_fraction_is_refused():
    with pytest.raises(UsageError, match="keeping 2 of 10 channels is less than the 5"):
        select([torch.rand(10)], [torch.zeros(10)], keep=2, regrow=0, floor=0.5)


@given(st.integers(2, 200), st.floats(0.05, 1), st.floats(0, 0.4), st.floats(0.4, 1))
def test_the_schedule_falls_to_the_kept_fraction_and_leaves_fixed_epochs(epochs, keep, start, end):
    schedule = Schedule(PruneConfig(keep=keep, start=start, end=end), epochs)
    updates = [epoch for epoch in range(epochs) if schedule.updates(epoch)]
    fractions = [schedule.keep(epoch) for epoch in updates]
    assert fractions[-1] == pytest.approx(keep)
    assert schedule.regrow(updates[-1]) == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(fractions))
    assert updates[-1] < epochs - 1


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [
        {"type": "conv", "channels": 8, "kernel": 3},
        {"type": "batch_norm"},
        {"type": "lif"},
        {"type": "flatten"},
        {"type": "linear", "features": 12, "bias": False},
        {"type": "batch_norm"},
        {"type": "lif"},
        {"type": "linear", "features": 3},
    ]
    return SpikingNetwork(NetworkSpec((1, 6, 6), parse_layers(layers, {}), steps=2))


def train_a_little(network, sca, batches=3):
    generator = torch.Generator().manual_seed(1)
    network.train()
    for _ in range(batches):
        network.zero_grad()
        network(torch.rand(8, 1, 6, 6, generator=generator)).square().sum().backward()
        sca.after_backward()


def test_an_update_masks_what_the_log_says(network):
    sca = SCA(network, PruneConfig(keep=0.5, start=0.0, end=0.5), epochs=4)
    for epoch in range(4):
        train_a_little(network, sca)
        log = sca.after_epoch(epoch)
    assert sum(network.kept_channels.values()) == 10
    assert log["kept"] == network.kept_channels
    assert {name: bits.count("1") for name, bits in log["masks"].items()} == log["kept"]
    assert not log["updated"]


def test_a_masked_channel_can_come_back_because_its_gradient_lives(network):
    sca = SCA(network, PruneConfig(keep=0.5), epochs=4)
    network.norms()["batch_norm1"].mask[:4] = 0
    train_a_little(network, sca)
    assert (sca._gradients["batch_norm1"][:4] > 0).all()


def test_l1_adds_its_sign_to_the_gradient_of_convolutions(network):
    plain, lasso = SCA(network, PruneConfig(l1=0.0), 4), SCA(network, PruneConfig(l1=0.25), 4)
    train_a_little(network, plain, batches=1)
    weight = network.layers["conv1"].weight
    before = weight.grad.clone()
    lasso.after_backward()
    torch.testing.assert_close(weight.grad - before, 0.25 * weight.sign())


def test_a_network_without_batch_norm_cannot_be_pruned():
    layers = parse_layers([{"type": "linear", "features": 4}, {"type": "lif"}, {"type": "linear", "features": 2}], {})
    with pytest.raises(UsageError, match="no batch-norm before neurons"):
        SCA(SpikingNetwork(NetworkSpec((3,), layers, 2)), PruneConfig(), 4)
