import json
from itertools import combinations
from math import factorial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sca_deploy.errors import UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.study.shapley import ablation, sampled_shapley

LAYERS = [
    {"type": "conv", "channels": 3, "kernel": 3},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "flatten"},
    {"type": "linear", "features": 3, "bias": False},
    {"type": "batch_norm"},
    {"type": "if"},
    {"type": "linear", "features": 3},
]
RESIDUAL = [
    {"type": "conv", "channels": 2, "kernel": 3, "padding": 1},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "conv", "channels": 2, "kernel": 3, "padding": 1},
    {"type": "batch_norm"},
    {"type": "sum", "of": ["batch_norm1", "batch_norm2"]},
    {"type": "lif"},
    {"type": "flatten"},
    {"type": "linear", "features": 3},
]
PLAYERS = [(name, channel) for name in ("batch_norm1", "batch_norm2") for channel in range(3)]


def build(layers):
    torch.manual_seed(1)
    network = SpikingNetwork(NetworkSpec((1, 4, 4), parse_layers(layers, {}), steps=3, input_scale=1 / 16))
    network.train()
    for _ in range(20):  # so that the running statistics are those of the samples
        network(torch.from_numpy(samples()[0]))
    for norm in network.norms().values():  # so that every channel fires, and says something
        torch.nn.init.uniform_(norm.bias, 0.3, 0.9)
    *_, readout = network.layers.values()
    torch.nn.init.normal_(readout.weight)
    torch.nn.init.zeros_(readout.bias)
    return network.eval()


def samples():
    x = np.random.default_rng(2).integers(0, 17, (40, 1, 4, 4), dtype=np.uint8)
    return x, np.arange(40, dtype=np.int64) % 3


@pytest.fixture
def network():
    return build(LAYERS)


@pytest.fixture
def x():
    return samples()[0]


@pytest.fixture
def y(network, x):
    """What the whole network answers, so that every channel can matter."""
    return network(torch.from_numpy(x)).argmax(1).numpy()


def worth(network, x, y, on):
    """(accuracy, -loss) with only these channels on, by a forward of another network with the same weights."""
    twin = SpikingNetwork(network.spec).eval()
    twin.load_state_dict(network.state_dict())
    for name, norm in twin.norms().items():
        norm.mask.copy_(torch.tensor([float((name, channel) in on) for channel in range(len(norm.mask))]))
    with torch.no_grad():
        logits = twin(torch.from_numpy(x))
    loss = float(F.cross_entropy(logits / 3, torch.from_numpy(y)))
    return {"accuracy": float((logits.argmax(1).numpy() == y).mean()), "loss": -loss}


def exact_shapley(network, x, y, value):
    """Shapley's formula: the sum over all coalitions S without c of |S|! (n - |S| - 1)! / n! (v(S + c) - v(S))."""
    n = len(PLAYERS)
    v = {
        frozenset(chosen): worth(network, x, y, chosen)[value]
        for size in range(n + 1)
        for chosen in combinations(PLAYERS, size)
    }
    return [
        sum(
            factorial(len(s)) * factorial(n - len(s) - 1) / factorial(n) * (v[s | {player}] - v[s])
            for s in v
            if player not in s
        )
        for player in PLAYERS
    ]


def test_ablation_is_the_loss_of_one_channel(network, x, y):
    whole = worth(network, x, y, PLAYERS)
    rows = ablation(network, x, y)
    assert [(row["layer"], row["channel"]) for row in rows] == PLAYERS
    for row, player in zip(rows, PLAYERS, strict=True):
        without = worth(network, x, y, [p for p in PLAYERS if p != player])
        assert row["accuracy_drop"] == whole["accuracy"] - without["accuracy"]
        assert row["loss_increase"] == pytest.approx(whole["loss"] - without["loss"], abs=1e-6)
    assert any(row["accuracy_drop"] > 0 for row in rows)


@pytest.mark.parametrize("value", ["accuracy", "loss"])
def test_the_estimate_is_shapleys_formula_within_its_error(network, x, y, value):
    exact = exact_shapley(network, x, y, value)
    rows = sampled_shapley(network, x, y, 100, seed=0, value=value)
    for row, expected in zip(rows, exact, strict=True):
        assert abs(row["shapley"] - expected) < 4 * row["standard_error"]
    assert max(row["standard_error"] for row in rows) < np.ptp(exact) / 10


@pytest.mark.parametrize("value", ["accuracy", "loss"])
def test_values_sum_to_what_all_channels_are_worth_over_none(network, x, y, value):
    gain = worth(network, x, y, PLAYERS)[value] - worth(network, x, y, [])[value]
    rows = sampled_shapley(network, x, y, 2, seed=3, value=value)
    assert sum(row["shapley"] for row in rows) == pytest.approx(gain, abs=1e-6)


def test_a_channel_that_changes_nothing_is_worth_nothing(network, x, y):
    with torch.no_grad():
        network.norms()["batch_norm2"].weight[1] = 0.0
        network.norms()["batch_norm2"].bias[1] = 0.0
    y = network(torch.from_numpy(x)).argmax(1).numpy()
    worths = {(r["layer"], r["channel"]): r["shapley"] for r in sampled_shapley(network, x, y, 10, seed=0)}
    assert worths.pop(("batch_norm2", 1)) == 0.0
    assert all(worths.values())


def test_every_second_order_is_the_one_before_backwards(network, x, y):
    """The marginals of an order and of its reverse: whoever goes first in one leaves an empty network in the other."""
    states = []
    sampled_shapley(network, x, y, 20, seed=0, value="loss", progress=states.append)
    alone = {i: worth(network, x, y, [p])["loss"] - worth(network, x, y, [])["loss"] for i, p in enumerate(PLAYERS)}
    first = {
        i: worth(network, x, y, PLAYERS)["loss"] - worth(network, x, y, [q for q in PLAYERS if q != p])["loss"]
        for i, p in enumerate(PLAYERS)
    }
    marginals = states[-1]["marginals"]
    for forth, back in zip(marginals[::2], marginals[1::2], strict=True):
        assert any(
            forth[i] == pytest.approx(first[i], abs=1e-6) and back[i] == pytest.approx(alone[i], abs=1e-6)
            for i in range(len(PLAYERS))
        )


def test_a_walk_ends_where_the_truncation_is_reached(network, x, y):
    states = []
    sampled_shapley(network, x, y, 8, seed=0, truncation=10.0, value="loss", progress=states.append)
    assert [np.count_nonzero(marginals) for marginals in states[-1]["marginals"]] == [1] * 8


def test_an_interrupted_estimate_continues_to_the_same_values(network, x, y):
    states = []

    def stop_after_three(state):
        states.append(json.loads(json.dumps(state)))
        if len(states) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampled_shapley(network, x, y, 6, seed=5, progress=stop_after_three)
    resumed = sampled_shapley(network, x, y, 6, seed=5, state=states[-1])
    assert resumed == sampled_shapley(network, x, y, 6, seed=5)


def test_the_seed_decides_the_orders(network, x, y):
    first, second = (sampled_shapley(network, x, y, 4, seed=seed, value="loss") for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("change", ["weights", "samples", "seed", "truncation", "value"])
def test_the_state_of_another_estimate_is_refused(network, x, y, change):
    states = []
    sampled_shapley(network, x, y, 2, seed=0, progress=states.append)
    options = {"seed": 0, "truncation": 0.0, "value": "accuracy"}
    options |= {"seed": {"seed": 1}, "truncation": {"truncation": 0.1}, "value": {"value": "loss"}}.get(change, {})
    if change == "weights":
        network.layers["linear2"].weight.data += 1
    with pytest.raises(UsageError, match="another network, samples, seed, truncation or value"):
        sampled_shapley(network, x + (change == "samples"), y, 2, state=states[-1], **options)


def test_masked_channels_do_not_play(network, x, y):
    network.norms()["batch_norm1"].mask[1] = 0.0
    left = [p for p in PLAYERS if p != ("batch_norm1", 1)]
    rows = sampled_shapley(network, x, y, 2, seed=0, value="loss")
    assert [(row["layer"], row["channel"]) for row in rows] == left
    gain = worth(network, x, y, left)["loss"] - worth(network, x, y, [])["loss"]
    assert sum(row["shapley"] for row in rows) == pytest.approx(gain, abs=1e-6)


def test_channels_that_meet_in_a_sum_are_one_player(x):
    network = build(RESIDUAL)
    y = network(torch.from_numpy(x)).argmax(1).numpy()
    everything = [(f"batch_norm{n}", channel) for n in (1, 2) for channel in (0, 1)]
    whole = worth(network, x, y, everything)["loss"]
    rows = ablation(network, x, y)
    assert [row["channel"] for row in rows] == [0, 1]
    for row in rows:
        without = worth(network, x, y, [p for p in everything if p[1] != row["channel"]])["loss"]
        assert row["loss_increase"] == pytest.approx(whole - without, abs=1e-6)
        assert row["loss_increase"] != 0


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_network_comes_back_as_it_was(network, x, y, interrupted):
    network.norms()["batch_norm2"].mask[0] = 0.0
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def stop(state):
        if interrupted:
            raise KeyboardInterrupt

    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            sampled_shapley(network, x, y, 2, seed=0, progress=stop)
    else:
        sampled_shapley(network, x, y, 2, seed=0, progress=stop)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert not any("forward" in vars(module) for module in network.layers.values())


def test_one_pair_has_no_error(network, x, y):
    assert {row["standard_error"] for row in sampled_shapley(network, x, y, 2, seed=0)} == {None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"permutations": 3}, "permutations is 3"),
        ({"permutations": 0}, "permutations is 0"),
        ({"permutations": 2, "truncation": -0.1}, "truncation is -0.1"),
        ({"permutations": 2, "value": "accurracy"}, "unknown value of a coalition 'accurracy'"),
    ],
)
def test_what_cannot_be_meant_is_refused(network, x, y, options, message):
    with pytest.raises(UsageError, match=message):
        sampled_shapley(network, x, y, seed=0, **options)
