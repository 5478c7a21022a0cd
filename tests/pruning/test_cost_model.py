"""What the model says of a network at the widths it has, against the network lowered, mapped and simulated."""

import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sca_deploy.budget import ACTIVE, RESOURCES, STRUCTURAL
from sca_deploy.hardware.costs import costs
from sca_deploy.hardware.counts import by_core, count
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.narrowing import Narrowing
from sca_deploy.hardware.simulate import simulate
from sca_deploy.hardware.storage import Layout, weight_bits
from sca_deploy.nn.zoo import layers_of
from sca_deploy.pruning.activity import Channels
from sca_deploy.pruning.compact import compact
from sca_deploy.pruning.cost_model import CostModel
from sca_deploy.pruning.groups import channel_groups
from tests.networks import random_layers
from tests.pruning.tiny import LOIHI2, MAP, chain, conv, masked, network_of, oracle_of

TOLERANCE = 0.01
"""What masked networks were measured to differ by at most, 0.4 % of 46, and twice that again."""
BITS = Layout.of(LOIHI2)
SYNOPS, STEP = RESOURCES.index("synops"), RESOURCES.index("step-us")
NS = LOIHI2.time


def model_of(network, oracle):
    """The model of a network, its channels that are on first; and its widths."""
    names = {id(module): name for name, module in network.neurons().items()}
    groups = []
    for group in channel_groups(network):
        on = group.mask.numpy() > 0
        layers = tuple(names[id(neuron)] for neuron in group.neurons)
        groups.append(Channels(layers, np.argsort(~on, kind="stable"), on))
    widths = tuple(int(group.on.sum()) for group in groups)
    return CostModel(oracle.program(network), LOIHI2, groups, oracle.x), widths


def said(model, widths):
    return dict(zip(RESOURCES, model.total(model.layers(widths)), strict=False))


def measured(program, oracle):
    return {name: cost.value for name, cost in costs(program, LOIHI2, oracle.x).items()}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make", [chain, lambda draw: layers_of("resnet8", 10, MAP)], ids=["chain", "residual"])
def test_of_a_whole_network_the_model_says_what_is_measured(make, seed):
    network, oracle = network_of(make(random.Random(seed)), seed=seed), oracle_of()
    model, widths = model_of(network, oracle)
    assert said(model, widths) == pytest.approx(measured(oracle.program(network), oracle), rel=1e-9)


def test_of_layers_over_several_cores_it_knows_how_far_the_busiest_is_above_their_mean():
    """A matrix in more cores than its lower bound, by the compiler's rule, and a convolution in several."""
    hidden = [{"type": "linear", "features": 128}, {"type": "batch_norm"}, {"type": "lif"}]
    network = network_of([*conv(8), *conv(64), {"type": "flatten"}, *hidden, {"type": "linear", "features": 10}])
    oracle = oracle_of(samples=8)
    mapping = map_program(oracle.program(network), LOIHI2)
    assert mapping["lif2"].cores > 1
    assert mapping["lif3"].compiler_like > mapping["lif3"].cores > 1
    model, widths = model_of(network, oracle)
    assert said(model, widths) == pytest.approx(measured(oracle.program(network), oracle), rel=1e-9)
    alone, run = model.layers(widths), count(simulate(oracle.program(network), oracle.x))
    busiest = {}
    for core in by_core(run, mapping):
        work = core.synops * NS["synaptic_operation"].typical + core.updates * NS["neuron_update_active"].typical
        busiest[core.layer] = max(busiest.get(core.layer, 0), work / run.samples / run.steps)
    for name, work in busiest.items():
        assert alone[name][STEP] == pytest.approx((work + NS["barrier"].typical) / 1000)


def test_a_convolution_of_single_channels_has_no_more_operations_for_more_outputs():
    """Each of its neurons reads one channel only, so those of max-pooling grow with the spikes that are left."""
    ends = [{"type": "max_pool", "kernel": 2}, {"type": "flatten"}, {"type": "linear", "features": 10}]
    network, oracle = network_of([*conv(6), *ends], seed=4), oracle_of()
    run = count(simulate(oracle.program(network), oracle.x))
    rates = run.layers[0].spikes_by_neuron.sum((1, 2)) / len(oracle.x)
    model, _ = model_of(network, oracle)
    pool = run.layers[1].name
    for width in range(1, 7):
        kept = model.groups[0].order[:width]
        assert model.layers([width])[pool][SYNOPS] == pytest.approx(rates[kept].sum()), "a spike meets one synapse"


@settings(max_examples=8)
@given(st.randoms(use_true_random=False))
def test_of_a_whole_network_with_any_branches_too(draw):
    shape = (2, 3, 3)
    network, oracle = network_of(random_layers(draw), shape), oracle_of(shape, samples=8)
    assume(channel_groups(network))
    model, widths = model_of(network, oracle)
    assert said(model, widths) == pytest.approx(measured(oracle.program(network), oracle), rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_of_a_masked_network_it_says_what_is_measured_once_it_is_cut(seed):
    draw, oracle = random.Random(seed), oracle_of()
    network = masked(network_of(chain(draw), seed=seed), draw)
    model, widths = model_of(network, oracle)
    found, real = said(model, widths), {name: cost.value for name, cost in oracle.costs(network, RESOURCES).items()}
    assert {name: found[name] for name in STRUCTURAL} == {name: real[name] for name in STRUCTURAL}
    assert {name: found[name] for name in ACTIVE} == pytest.approx({name: real[name] for name in ACTIVE}, rel=TOLERANCE)


@pytest.mark.parametrize("seed", range(2))
def test_in_a_residual_network_every_layer_whose_weights_keep_their_bits_is_exact(seed):
    """What a masked channel leaves in its readers may be their largest weight, which decides their bits."""
    draw, oracle = random.Random(seed), oracle_of()
    network = masked(network_of(layers_of("resnet8", 10, MAP), seed=seed), draw)
    model, widths = model_of(network, oracle)
    small, wide = oracle.program(compact(network)), oracle.program(network)
    vectors, mapping = model.layers(widths), map_program(small, LOIHI2)
    same = 0
    for layer in small.layers:
        bits = [[weight_bits(s.weight, BITS) for s in of.synapses] for of in (layer, wide[layer.name])]
        if bits[0] == bits[1]:
            made = mapping[layer.name]
            assert vectors[layer.name][:2].tolist() == [made.compiler_like, made.synapse_words_total]
            same += 1
    assert same >= 0.8 * len(small.layers)
    found, real = said(model, widths), measured(small, oracle)
    assert {name: found[name] for name in ACTIVE} == pytest.approx({name: real[name] for name in ACTIVE}, rel=0.03)


@pytest.fixture(scope="module")
def known():
    """A masked network's model, and the Program that it is of."""
    draw, oracle = random.Random(5), oracle_of()
    network = masked(network_of(chain(draw), seed=5), draw)
    return model_of(network, oracle)[0], oracle.program(network)


@settings(max_examples=60)
@given(st.data())
def test_wider_never_takes_fewer_operations_or_less_energy(known, data):
    model, _ = known
    widths = [data.draw(st.integers(1, group.size)) for group in model.groups]
    wider = [data.draw(st.integers(width, group.size)) for width, group in zip(widths, model.groups, strict=True)]
    less, more = said(model, widths), said(model, wider)
    assert less["synops"] <= more["synops"] * (1 + 1e-12)
    assert less["energy-nj"] <= more["energy-nj"] * (1 + 1e-12)


@settings(max_examples=30)
@given(st.data())
def test_cores_and_words_at_any_widths_are_those_of_the_narrowed_layers(known, data):
    model, program = known
    widths = [data.draw(st.integers(1, group.size)) for group in model.groups]
    fresh = Narrowing(program, LOIHI2)
    chosen = {name: width for group, width in zip(model.groups, widths, strict=True) for name in group.layers}
    channels = fresh.channels(chosen)
    cuts = [fresh.cut(layer.name, channels) for layer in program.layers]
    found = said(model, widths)
    assert (found["cores"], found["words"]) == (sum(c.compiler_like for c in cuts), sum(c.words for c in cuts))


@settings(max_examples=30)
@given(st.data())
def test_only_the_layers_a_group_touches_change_with_its_width(known, data):
    model, _ = known
    group = data.draw(st.integers(0, len(model.groups) - 1))
    widths = [data.draw(st.integers(1, of.size)) for of in model.groups]
    other = list(widths)
    other[group] = data.draw(st.integers(1, model.groups[group].size))
    before, after = model.layers(widths), model.layers(other)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed <= set(model.touched(group))
    some = model.some(model.touched(group), other)
    np.testing.assert_equal(before | some, after)


def test_a_narrower_network_is_taken_to_fire_as_its_remaining_channels_do_now():
    """By hand: kept channels as measured, the masked one that comes back as the mean of those that are on."""
    oracle, ends = oracle_of(), [{"type": "flatten"}, {"type": "linear", "features": 10}]
    network = network_of([*conv(5), *ends], seed=3)
    network.norms()["batch_norm1"].mask[0] = 0
    with torch.no_grad():
        network.layers["linear1"].weight.fill_(0.5)  # none is rounded to 0, which no operation would be counted for
    program = oracle.program(network)
    rates = count(simulate(program, oracle.x)).layers[0].spikes_by_neuron.sum((1, 2)) / len(oracle.x)
    assert rates[0] == 0
    assert len(set(rates[1:])) > 1
    model, now = model_of(network, oracle)
    order = list(model.groups[0].order)
    assert (now, order[-1]) == ((4,), 0)
    whole = model.layers(now)["linear1"][SYNOPS]
    assert whole == pytest.approx(10 * rates.sum()), "every spike meets the ten neurons of the read-out"
    for width in range(1, 6):
        kept = order[:width]
        fired = sum(rates[number] if number else rates[1:].mean() for number in kept)
        assert model.layers([width])["linear1"][SYNOPS] == pytest.approx(10 * fired)
        into = model.layers([width])["lif1"][SYNOPS]
        assert into == pytest.approx(model.layers(now)["lif1"][SYNOPS] * width / 4)


def test_without_samples_nothing_is_said_of_activity():
    network, oracle = network_of(chain(random.Random(1))), oracle_of()
    model, widths = model_of(network, oracle)
    quiet = CostModel(oracle.program(network), LOIHI2, model.groups, None)
    found, whole = said(quiet, widths), said(model, widths)
    assert [found[name] for name in ACTIVE] == [0, 0, 0]
    assert [found[name] for name in STRUCTURAL] == [whole[name] for name in STRUCTURAL]
