import math

import numpy as np
import pytest
import torch

from sca_deploy.errors import UsageError
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.nn.neuron import LIF
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.nn.surrogate import Atan, Sigmoid, Tanh
from sca_deploy.pruning.groups import ChannelGroup, channel_groups
from sca_deploy.pruning.scores import OBSERVED, SCORES, STATIC, Meter
from tests.pruning.plain import LAYERS, RESIDUAL, Plain, batch, loss, network

BETA = 0.5
SHAPES = [(3, 5, 4, 2, 3), (3, 5, 4)]


def currents(shape, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.2, shape)


def lif(a, theta=1.0):
    """Potentials before the reset, and spikes, of LIF neurons written out."""
    v, s = np.zeros_like(a), np.zeros_like(a)
    for t in range(len(a)):
        v[t] = a[t] + (BETA * v[t - 1] * (1 - s[t - 1]) if t else 0.0)
        s[t] = v[t] > theta
    return v, s


def population(surrogate=None, theta=1.0):
    return LIF(BETA, theta, surrogate or Sigmoid())


def group(*neurons, channels=4):
    return ChannelGroup("group", (MaskedBatchNorm(channels).double(),), neurons, ())


def metered(name, neuron, *batches):
    """The score of one population after batches of summed inputs."""
    meter = Meter(name, [group(neuron)])
    for a in batches:
        meter.attach()
        neuron(torch.from_numpy(a))
        meter.detach()
    [values] = meter.values()
    return values.tolist()


def mean_by_hand(v, s, term):
    """The average of term(v, s) over every neuron, step and sample of each channel."""
    totals, count = [0.0] * v.shape[2], v.size // v.shape[2]
    for index in np.ndindex(v.shape):
        totals[index[2]] += term(v[index], s[index]) / count
    return totals


def critical_by_hand(v, term):
    """Of term(v): mean over time, then maximum over space, then mean over samples, for each channel."""
    steps, samples, channels, *space = v.shape
    scores = []
    for c in range(channels):
        of_samples = []
        for n in range(samples):
            places = [
                sum(term(v[(t, n, c, *place)]) for t in range(steps)) / steps for place in np.ndindex(tuple(space))
            ]
            of_samples.append(max(places))
        scores.append(sum(of_samples) / samples)
    return scores


def test_the_reference_of_these_tests_computes_what_the_network_computes():
    for layers in (LAYERS, RESIDUAL):
        made, (x, y) = network(layers), batch()
        made.norms()["batch_norm1"].mask[[0, 3]] = 0
        plain = Plain(made)
        torch.testing.assert_close(plain.loss(x, y), loss(made, x, y))
        assert all(0 < spikes.mean() < 1 for spikes in plain.spikes.values())


def test_every_documented_score_is_there():
    observed = ("potential", "relu_potential", "activity", "rate", "criticality", "criticality_primitive")
    assert set(SCORES) == {*observed, "gamma", "weight_l1", "taylor", "random"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("potential", lambda v, s: abs(v)),
        ("relu_potential", lambda v, s: max(v, 0.0)),
        ("activity", lambda v, s: s + abs(v * (1 - s))),  # S + |V after the reset|
        ("rate", lambda v, s: s),
    ],
)
def test_a_score_is_the_mean_over_time_samples_and_space(shape, name, term):
    a = currents(shape)
    v, s = lif(a)
    assert 0 < s.mean() < 1
    assert metered(name, population(), a) == pytest.approx(mean_by_hand(v, s, term))


SURROGATES = {
    # with alpha 2, threshold 1: 1 / (1 + (pi (v - 1))^2) in Chen et al., arXiv 2311.16141
    "atan": (Atan(2.0), 1.0, lambda v: 1 / (1 + (math.pi * (v - 1)) ** 2)),
    # those of its released code for the threshold 1/2
    "tanh": (Tanh(3.0), 0.5, lambda v: 3 / (2 * math.tanh(1.5) * math.cosh(3 * (v - 0.5)) ** 2)),
    "sigmoid": (Sigmoid(4.0), 0.5, lambda v: 4 * math.exp(-4 * (v - 0.5)) / (1 + math.exp(-4 * (v - 0.5))) ** 2),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_criticality_is_the_surrogate_derivative_at_the_potential(shape, surrogate):
    kind, theta, term = SURROGATES[surrogate]
    a = currents(shape)
    v, _ = lif(a, theta)
    assert metered("criticality", population(kind, theta), a) == pytest.approx(critical_by_hand(v, term))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_criticality_primitive_is_that_of_the_released_code(shape):
    a = currents(shape)
    v, _ = lif(a, 0.5)

    def term(v):
        return (math.tanh(3 * (v - 0.5)) + math.tanh(1.5)) / (2 * math.tanh(1.5))

    found = metered("criticality_primitive", population(Tanh(3.0), 0.5), a)
    assert found == pytest.approx(critical_by_hand(v, term))


@pytest.mark.parametrize("name", OBSERVED)
def test_every_sample_weighs_the_same_whatever_the_size_of_its_batch(name):
    a = currents((3, 7, 4, 2, 2))
    parts = metered(name, population(), a[:, :1], a[:, 1:3], a[:, 3:])
    each = [metered(name, population(), a[:, n : n + 1]) for n in range(7)]
    assert parts == pytest.approx(np.mean(each, axis=0))


@pytest.mark.parametrize("name", OBSERVED)
def test_the_populations_of_a_group_are_averaged(name):
    first, second = population(), population(theta=0.7)
    meter = Meter(name, [group(first, second)])
    meter.attach()
    for neuron, seed in ((first, 0), (second, 1)):
        neuron(torch.from_numpy(currents(SHAPES[0], seed)))
    alone = [metered(name, population(theta=theta), currents(SHAPES[0], seed)) for theta, seed in ((1.0, 0), (0.7, 1))]
    assert meter.values()[0].tolist() == pytest.approx(np.mean(alone, axis=0))


@pytest.mark.parametrize(
    ("name", "term"),
    [("potential", lambda v, s: abs(v)), ("rate", lambda v, s: s), ("activity", lambda v, s: s or abs(v))],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_autocast_does_not_round_scores(name, term, layout):
    a = torch.from_numpy(currents((4, 50, 4, 5, 5))).to(torch.bfloat16)
    v, s = lif(a.double().numpy())
    neuron = population()
    meter = Meter(name, [ChannelGroup("group", (MaskedBatchNorm(4),), (neuron,), ())])
    meter.attach()
    with torch.autocast("cpu", torch.bfloat16):
        spikes = neuron(a.flatten(0, 1).contiguous(memory_format=layout).unflatten(0, a.shape[:2]))
    assert spikes.dtype == torch.bfloat16
    assert meter.values()[0].tolist() == pytest.approx(mean_by_hand(v, s, term), rel=1e-5)


@pytest.mark.parametrize("name", OBSERVED)
def test_forwards_after_detach_are_not_seen_and_reset_forgets(name):
    neuron, a = population(), currents(SHAPES[0])
    meter = Meter(name, [group(neuron)])
    for times in range(2):
        meter.attach()
        neuron(torch.from_numpy(a))
        meter.detach()
        neuron(torch.from_numpy(currents(SHAPES[0], seed=9)))
        assert neuron.observers == []
        assert meter.values()[0].tolist() == pytest.approx(metered(name, population(), a)), times
        meter.reset()
        assert meter.values()[0].tolist() == [0.0] * 4


@pytest.mark.parametrize("name", [*OBSERVED, "taylor"])
def test_a_meter_continues_from_its_saved_state(name, tmp_path):
    def see(meter, seed):
        made.zero_grad()
        meter.attach()
        loss(made, *batch(samples=3 + seed, seed=seed)).backward()
        meter.detach()
        meter.after_backward()

    made = network()
    whole = Meter(name, channel_groups(made))
    see(whole, 0)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    see(whole, 1)
    parts = Meter(name, channel_groups(made))
    parts.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    see(parts, 1)
    assert all(map(torch.equal, whole.values(), parts.values()))


@pytest.mark.parametrize("name", ["gamma", "weight_l1", "random"])
def test_a_score_of_what_is_known_anyway_watches_nothing(name):
    made = network()
    Meter(name, channel_groups(made)).attach()
    assert all(neuron.observers == [] for neuron in made.neurons().values())


def test_gamma_is_its_magnitude():
    made = network()
    made.norms()["batch_norm1"].weight.data *= -1
    found = Meter("gamma", channel_groups(made)).values()
    for values, norm in zip(found, made.norms().values(), strict=True):
        assert values.tolist() == [abs(w) for w in norm.weight.tolist()]


def test_weight_l1_is_the_mean_magnitude_of_a_filter():
    made = network()
    found = Meter("weight_l1", channel_groups(made)).values()
    for values, layer in zip(found, ("conv1", "conv2", "linear1"), strict=True):
        filters = made.layers[layer].weight.detach().numpy()
        assert values.tolist() == pytest.approx([np.abs(f).sum() / f.size for f in filters])


@pytest.mark.parametrize("name", ["gamma", "weight_l1"])
def test_batch_norms_that_share_a_mask_are_averaged(name):
    made = network(RESIDUAL)
    [values] = Meter(name, channel_groups(made)).values()
    if name == "gamma":
        members = [made.layers[f"batch_norm{n}"].weight.detach().abs() for n in (1, 2)]
    else:
        members = [made.layers[f"conv{n}"].weight.detach().abs().mean((1, 2, 3)) for n in (1, 2)]
    torch.testing.assert_close(values, sum(members) / 2)


def gate_gradients(made, x, y, norms):
    """DL/dm of one gate a channel, m (gamma x_hat + beta) with m = 1, which several batch-norms may share."""
    plain = Plain(made)
    gate = torch.ones(len(plain.parameters[f"{norms[0]}.weight"]), dtype=torch.float64, requires_grad=True)
    for norm in norms:
        for part in ("weight", "bias"):
            plain.parameters[f"{norm}.{part}"] = plain.parameters[f"{norm}.{part}"].detach() * gate
    return torch.autograd.grad(plain.loss(x, y), gate)[0]


def test_taylor_is_the_gradient_of_a_gate_on_the_channel():
    made, batches = network(), [batch(seed=1), batch(samples=4, seed=2)]
    meter = Meter("taylor", channel_groups(made))
    for x, y in batches:
        made.zero_grad()
        loss(made, x, y).backward()
        meter.after_backward()
    for values, name in zip(meter.values(), made.norms(), strict=True):
        expected = sum(gate_gradients(made, x, y, [name]).abs() for x, y in batches) / 2
        torch.testing.assert_close(values, expected)
        assert (values > 0).all()


def test_taylor_of_batch_norms_that_share_a_mask_is_of_one_gate():
    made, (x, y) = network(RESIDUAL), batch()
    meter = Meter("taylor", channel_groups(made))
    loss(made, x, y).backward()
    meter.after_backward()
    expected = gate_gradients(made, x, y, ["batch_norm1", "batch_norm2"]).abs() / 2
    torch.testing.assert_close(meter.values()[0], expected)


def test_random_is_fixed_by_the_seed():
    made = network()
    first, again, other = (Meter("random", channel_groups(made), seed) for seed in (3, 3, 4))
    before = torch.cat(first.values())
    first.reset()
    assert torch.equal(torch.cat(first.values()), before)
    assert torch.equal(torch.cat(again.values()), before)
    assert not torch.equal(torch.cat(other.values()), before)
    assert len(before.unique()) == len(before)


def test_an_unknown_score_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="unknown score 'potentail'") as error:
        Meter("potentail", [])
    assert error.value.fix.startswith("did you mean 'potential'?")


def test_a_score_of_weights_is_refused_where_spikes_are_normalised():
    norm, fire = {"type": "batch_norm"}, {"type": "lif"}
    conv = {"type": "conv", "channels": 2, "kernel": 1}
    tables = [conv, norm, fire, conv, norm, fire, {"type": "sum", "of": ["lif1", "lif2"]}, norm, fire]
    tables += [{"type": "flatten"}, {"type": "linear", "features": 2}]
    groups = channel_groups(SpikingNetwork(NetworkSpec((1, 2, 2), parse_layers(tables, {}), steps=2)))
    with pytest.raises(UsageError, match="'weight_l1' needs weights, batch-norm 'batch_norm3' normalises none"):
        Meter("weight_l1", groups)


SEEN_APART = (*OBSERVED, "taylor")


def meters_after(a, gradients):
    """Every score that is seen, of one population given a, with these gradients of its batch-norm."""
    found = {}
    for name in SEEN_APART:
        neuron = population()
        meter = Meter(name, [group(neuron)])
        [norm] = meter._groups[0].norms
        norm.weight.data.fill_(0.5)
        norm.gamma_gradient, norm.bias.grad = gradients
        meter.attach()
        neuron(a)
        meter.detach()
        meter.after_backward()
        [found[name]] = meter.values()
    return found


def of_one_process(rank, folder, a, gamma, beta):
    # Samples are shared out; DistributedDataParallel has averaged the gradient of beta, but not gamma's.
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        torch.save(meters_after(a[:, rank::2], (2 * gamma[rank], beta)), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_that_share_a_batch_find_the_scores_of_one(tmp_path):
    assert set(SEEN_APART) == set(SCORES) - set(STATIC) - {"random"}
    a = torch.from_numpy(currents(SHAPES[0]))
    gamma, beta = torch.randn(2, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    torch.multiprocessing.spawn(of_one_process, (str(tmp_path), a, gamma, beta), nprocs=2)
    whole = meters_after(a, (gamma.sum(0), beta))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, values in whole.items():
            torch.testing.assert_close(found[name], values)
