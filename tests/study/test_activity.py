import numpy as np
import pytest
import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.study import activity
from sca_deploy.study.activity import (
    ClassActivity,
    Similarity,
    channel_rows,
    channel_similarity,
    per_class_activity,
    selectivity,
)

LAYERS = [
    {"type": "conv", "channels": 6, "kernel": 3},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "flatten"},
    {"type": "linear", "features": 5},
    {"type": "if"},
    {"type": "linear", "features": 3},
]


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = SpikingNetwork(NetworkSpec((1, 6, 6), parse_layers(LAYERS, {}), steps=4, input_scale=1 / 16))
    for _ in range(20):  # so that the running statistics are not the initial ones
        network(torch.randint(0, 17, (32, 1, 6, 6)))
    torch.nn.init.uniform_(network.norms()["batch_norm1"].bias, 0.3, 0.9)
    torch.nn.init.uniform_(network.layers["linear1"].bias, 0.1, 0.5)
    return network.train()  # so that a forward in training mode would move the running statistics


@pytest.fixture
def x():
    return np.random.default_rng(0).integers(0, 17, (30, 1, 6, 6), dtype=np.uint8)


@pytest.fixture
def y():
    return np.random.default_rng(1).permutation(np.arange(30) % 3)


def spikes_of(network, x):
    """Spikes (N, T, C, places) by population, from a recording of all samples together."""
    twin = SpikingNetwork(network.spec).eval()
    twin.load_state_dict(network.state_dict())
    with torch.no_grad(), twin.recording() as recorded:
        twin(torch.from_numpy(x))
    return {name: s.numpy().reshape(*s.shape[:3], -1) for name, s in recorded.items()}


def test_the_rate_is_the_mean_over_a_classs_samples(network, x, y):
    seen = per_class_activity(network, x, y)
    for name, spikes in spikes_of(network, x).items():
        by_hand = np.stack([spikes[y == k].mean((0, 1, 3)) for k in range(3)])
        np.testing.assert_allclose(seen[name].rate, by_hand, atol=1e-7)
        assert by_hand.any()


def test_the_potential_is_the_one_before_the_reset_without_its_sign():
    layers = [{"type": "linear", "features": 2, "bias": False}, {"type": "lif"}, {"type": "linear", "features": 2}]
    network = SpikingNetwork(NetworkSpec((1,), parse_layers(layers, {"beta": 0.5}), steps=4))
    network.layers["linear1"].weight.data = torch.tensor([[0.75], [-0.5]])
    seen = per_class_activity(network, np.array([[1], [2]], dtype=np.uint8), np.array([0, 1]))["lif1"]
    # Input 1: v = .75, 1.125 (fires), .75, 1.125 (fires); and -.5, -.75, -.875, -.9375.
    # Input 2: a = 1.5 fires at every step; and -1, -1.5, -1.75, -1.875.
    np.testing.assert_allclose(seen.potential, [[0.9375, 0.765625], [1.5, 1.53125]])
    np.testing.assert_allclose(seen.rate, [[0.5, 0.0], [1.0, 0.0]])


def test_batches_change_nothing(network, x, y, monkeypatch):
    rate, cosine = per_class_activity(network, x, y)["lif1"].rate, channel_similarity(network, x)["lif1"].cosine
    monkeypatch.setattr(activity, "BATCH", 7)
    np.testing.assert_allclose(per_class_activity(network, x, y)["lif1"].rate, rate, atol=1e-12)
    np.testing.assert_allclose(channel_similarity(network, x)["lif1"].cosine, cosine, atol=1e-12)


def test_a_class_without_samples_is_refused(network, x, y):
    with pytest.raises(ScaDeployError, match="class 2 has none of the 30 samples"):
        per_class_activity(network, x, np.minimum(y, 1))


@pytest.mark.parametrize(
    ("rates", "index"),
    [
        ([0.3, 0.3, 0.3], 0.0),
        ([0.0, 0.2, 0.0], 1.0),
        ([0.6, 0.2, 0.2], 0.5),  # (.6 - .2) / (.6 + .2)
        ([0.1, 0.0, 0.5], 0.45 / 0.55),  # the others' mean is .05
        ([0.0, 0.0, 0.0], 0.0),
    ],
)
def test_selectivity_compares_the_best_class_with_the_mean_of_the_others(rates, index):
    assert selectivity(np.array([rates]).T) == pytest.approx([index])


def test_similarity_is_the_cosine_of_the_flattened_spike_trains(network, x):
    found = channel_similarity(network, x)
    for name, spikes in spikes_of(network, x).items():
        trains = np.moveaxis(spikes, 2, 0).reshape(spikes.shape[2], -1).astype(float)
        assert not found[name].silent.any()
        for a, first in enumerate(trains):
            for b, second in enumerate(trains):
                by_hand = first @ second / np.sqrt((first @ first) * (second @ second))
                assert found[name].cosine[a, b] == pytest.approx(by_hand, abs=1e-12)


def test_channels_with_the_same_weights_are_identical(network, x):
    with torch.no_grad():
        network.layers["conv1"].weight[4] = network.layers["conv1"].weight[1]
        norm = network.norms()["batch_norm1"]
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values[4] = values[1]
    assert channel_similarity(network, x)["lif1"].cosine[1, 4] == pytest.approx(1.0)


def test_a_silent_channel_is_flagged_and_similar_to_nothing(network, x):
    network.norms()["batch_norm1"].mask[2] = 0.0
    found = channel_similarity(network, x)["lif1"]
    assert found.silent.tolist() == [False, False, True, False, False, False]
    assert not found.cosine[2].any()
    assert not found.cosine[:, 2].any()
    assert np.isfinite(found.cosine).all()


def test_a_row_tells_a_rare_specific_channel_from_a_copy():
    rate = np.array([[0.4, 0.4, 0.0, 0.0], [0.2, 0.2, 0.02, 0.0]])
    cosine = np.array([[1, 0.99, 0.1, 0], [0.99, 1, 0.2, 0], [0.1, 0.2, 1, 0], [0, 0, 0, 0]])
    silent = np.array([False, False, False, True])
    rows = channel_rows({"lif1": ClassActivity(rate, rate * 2)}, {"lif1": Similarity(cosine, silent)})
    copy, rare, mute = rows[0], rows[2], rows[3]
    assert (copy["nearest"], copy["similarity"], copy["preferred_class"]) == (1, 0.99, 0)
    assert copy["rate"] == pytest.approx(0.3)
    assert copy["potential"] == pytest.approx(0.6)
    assert copy["selectivity"] == pytest.approx(1 / 3)
    assert (rare["nearest"], rare["similarity"], rare["selectivity"], rare["preferred_class"]) == (1, 0.2, 1.0, 1)
    assert (mute["silent"], mute["similarity"], mute["selectivity"]) == (True, 0.0, 0.0)


def test_the_only_channel_of_a_population_has_no_neighbour():
    seen, alone = ClassActivity(np.ones((2, 1)), np.ones((2, 1))), Similarity(np.ones((1, 1)), np.zeros(1, dtype=bool))
    [row] = channel_rows({"lif1": seen}, {"lif1": alone})
    assert row["nearest"] is None
    assert row["similarity"] is None


def test_the_network_is_left_as_it_was(network, x, y):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    per_class_activity(network, x, y)
    channel_similarity(network, x)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(neuron.observers for neuron in network.neurons().values())
