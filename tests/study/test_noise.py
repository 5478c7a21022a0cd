import numpy as np
import pytest
import torch

from sca_deploy.errors import UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.compact import compact
from sca_deploy.study.noise import input_noise, parameter_noise

LAYERS = [
    {"type": "conv", "channels": 8, "kernel": 3, "bias": True},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "flatten"},
    {"type": "linear", "features": 24, "bias": False},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "linear", "features": 3},
]
WEIGHTS = ("layers.conv1.weight", "layers.linear1.weight", "layers.linear2.weight")


@pytest.fixture
def network():
    torch.manual_seed(0)
    spec = NetworkSpec((1, 8, 8), parse_layers(LAYERS, {}), steps=3, input_scale=1 / 255)
    network = SpikingNetwork(spec).train()
    for _ in range(20):
        network(torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8))
    return network.eval()


@pytest.fixture
def x():
    return np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def y(network, x):
    """What the undisturbed network answers, but for the first six samples."""
    labels = network(torch.from_numpy(x)).argmax(1).numpy()
    labels[:6] = (labels[:6] + 1) % 3
    return labels


def share_right(network, x, y):
    with torch.no_grad():
        return float((network(torch.from_numpy(x)).argmax(1).numpy() == y).mean())


class Watched:
    """Keeps what passes through, and what the network's state is in every forward."""

    def __init__(self, network):
        self.pixels, self.states = [], []
        network.register_forward_pre_hook(self._keep)

    def _keep(self, network, _):
        self.states.append({name: value.clone() for name, value in network.state_dict().items()})

    def encode(self, pixels):
        self.pixels.append(pixels)
        return pixels


def test_without_noise_the_accuracy_is_the_clean_one(network, x, y):
    assert [row["accuracy"] for row in input_noise(network, x, y, [0.0], [0, 1], 255)] == [0.9, 0.9]
    assert [row["accuracy"] for row in parameter_noise(network, x, y, [0.0], [0, 1])] == [0.9, 0.9]


def test_every_sigma_and_seed_has_a_row(network, x, y):
    rows = parameter_noise(network, x, y, [0.0, 0.5], [7, 3])
    assert [(r["kind"], r["sigma"], r["seed"]) for r in rows] == [
        ("parameter", 0.0, 7),
        ("parameter", 0.0, 3),
        ("parameter", 0.5, 7),
        ("parameter", 0.5, 3),
    ]
    assert {row["kind"] for row in input_noise(network, x, y, [0.1], [0], 255)} == {"input"}


def test_noisy_pixels_are_integers_of_the_range_with_the_deviation_asked_for(network, y):
    grey, watched = np.full((60, 1, 8, 8), 128, dtype=np.uint8), Watched(network)
    input_noise(network, grey, y, [0.1, 3.0], [0], 255, encode=watched.encode)
    mild, wild = watched.pixels
    assert mild.dtype == np.uint8
    assert mild.astype(float).mean() == pytest.approx(128, abs=2)
    assert mild.astype(float).std() == pytest.approx(25.5, rel=0.03)  # 60 x 64 draws know it to 1.1 %
    assert wild.min() == 0
    assert wild.max() == 255


def test_noise_never_leaves_a_range_that_uint8_is_wider_than(network, x, y):
    watched = Watched(network)
    input_noise(network, x % 17, y, [0.5], [0], 16, encode=watched.encode)
    assert watched.pixels[0].max() == 16


def test_a_larger_sigma_scales_the_same_noise(network, y):
    grey, watched = np.full((60, 1, 8, 8), 128, dtype=np.uint8), Watched(network)
    input_noise(network, grey, y, [0.04, 0.08], [0], 255, encode=watched.encode)
    once, twice = (pixels.astype(int) - 128 for pixels in watched.pixels)
    assert np.abs(twice - 2 * once).max() <= 1  # one rounding of 1/2, doubled, and another


def test_the_accuracy_is_that_of_the_noisy_samples(network, x, y):
    watched = Watched(network)
    rows = input_noise(network, x, y, [0.2, 0.4], [0, 1], 255, encode=watched.encode)
    found = {(row["seed"], row["sigma"]): row["accuracy"] for row in rows}
    by_hand = [share_right(network, pixels, y) for pixels in watched.pixels]
    assert list(by_hand) == [found[key] for key in [(0, 0.2), (0, 0.4), (1, 0.2), (1, 0.4)]]
    assert min(by_hand) < 0.9


def test_weights_get_noise_in_proportion_to_their_rms_and_nothing_else_does(network, x, y):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    watched = Watched(network)
    parameter_noise(network, x, y, [0.3], [0])
    [during] = watched.states
    for name in WEIGHTS:
        relative = (during[name] - before[name]).square().mean().sqrt() / before[name].square().mean().sqrt()
        assert float(relative) == pytest.approx(0.3, rel=0.3)  # 72 draws know a deviation to 8 %
    assert all(torch.equal(during[name], before[name]) for name in before if name not in WEIGHTS)


def test_the_accuracy_is_that_of_the_noisy_weights(network, x, y):
    watched = Watched(network)
    rows = parameter_noise(network, x, y, [0.2, 0.6], [0])
    for row, state in zip(rows, watched.states, strict=True):
        twin = SpikingNetwork(network.spec).eval()
        twin.load_state_dict(state)
        assert row["accuracy"] == share_right(twin, x, y)
    assert rows[-1]["accuracy"] < 0.9


def test_synapses_that_were_pruned_stay_away(network, x, y):
    weight = network.layers["linear1"].weight
    with torch.no_grad():
        weight[:, 10:] = 0.0
        weight[:, :10] = 1.0
    watched = Watched(network)
    parameter_noise(network, x, y, [0.5], [0])
    noisy = watched.states[0]["layers.linear1.weight"]
    assert not noisy[:, 10:].any()
    assert float((noisy[:, :10] - 1).std()) == pytest.approx(0.5, rel=0.2)  # the zeros do not lower the rms


def test_a_masked_network_is_disturbed_like_its_compacted_one(network, x, y):
    network.norms()["batch_norm1"].mask[[1, 2, 5]] = 0.0
    network.norms()["batch_norm2"].mask[::2] = 0.0
    rows = parameter_noise(network, x, y, [0.0, 0.4], [0, 1])
    assert rows == parameter_noise(compact(network), x, y, [0.0, 0.4], [0, 1])


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_bit_equal_afterwards(network, x, y, fails):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    if fails:
        with pytest.raises(IndexError):
            parameter_noise(network, x, y[0], [0.5], [0])
    else:
        parameter_noise(network, x, y, [0.0, 0.5], [0])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_a_sigma_that_is_no_deviation_is_refused(network, x, y, sigma):
    with pytest.raises(UsageError, match="noise sigma is"):
        parameter_noise(network, x, y, [sigma], [0])
    with pytest.raises(UsageError, match="noise sigma is"):
        input_noise(network, x, y, [sigma], [0], 255)
