"""What a narrower network takes, against the network that is really built so narrow and mapped.

Every weight of a synapse is the same number, so that it takes the same bits however many of them are left.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from sca_deploy.errors import ScaDeployError
from sca_deploy.graph import populations_of
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.lower import Rules, assemble
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.narrowing import Narrowing
from sca_deploy.hardware.program import INPUT, Conv, Dense, Layer, Program
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.compact import compact
from sca_deploy.pruning.groups import channel_groups
from tests.hardware.programs import programs
from tests.networks import random_layers

LOIHI2 = load_chip("loihi2")
WEIGHTS = (-256, -100, -30, -2, 2, 6, 14, 62, 126, 254)


def small_chip(draw):
    """Loihi 2 with so little memory that even small layers are cut."""
    limits = {"neurons": 40, "axon_in": 60, "synapse_words": 60, "axon_map": 120, "total": 260}
    factor = draw(st.sampled_from([0.5, 1, 3, 100]))
    budgets = LOIHI2.budgets | {
        name: replace(LOIHI2.budgets[name], value=int(limit * factor)) for name, limit in limits.items()
    }
    return replace(LOIHI2, budgets=budgets)


def layer(name, shape, *synapses):
    return Layer(name, shape, synapses, v_decay=1024, threshold=100, bias=np.zeros(shape[:1], np.int32))


def even(program, draw):
    """The Program with one weight a synapse."""

    def one(synapse):
        return replace(synapse, weight=np.full_like(synapse.weight, draw(st.sampled_from(WEIGHTS))))

    layers = [replace(kept, synapses=tuple(map(one, kept.synapses))) for kept in program.layers]
    return replace(program, layers=tuple(layers))


def built(program, chosen):
    """The Program whose layers have the channels that are chosen; depthwise convolutions follow what they read.

    Raises:
        ScaDeployError: where no such Program can be.
    """
    shapes = {INPUT: program.input_shape}
    layers = []
    for old in program.layers:
        channels = chosen.get(old.name, old.shape[0])
        for synapse in old.synapses:
            if isinstance(synapse, Conv) and synapse.groups > 1:
                if synapse.weight.shape[1] == 1:
                    channels = shapes[synapse.source][0] * (old.shape[0] // synapse.groups)
                while channels % synapse.groups and synapse.weight.shape[1] > 1:
                    channels += 1
        shapes[old.name] = (channels, *old.shape[1:])
        synapses = tuple(rebuilt(synapse, shapes[synapse.source], channels) for synapse in old.synapses)
        bias = np.zeros(channels, np.int32)
        layers.append(replace(old, shape=shapes[old.name], synapses=synapses, bias=bias))
    return replace(program, layers=tuple(layers))


def rebuilt(synapse, source, channels):
    value = synapse.weight.flat[0]
    if isinstance(synapse, Dense):
        longest = synapse.delay_range[1]
        return Dense(synapse.source, np.full((channels, int(np.prod(source))), value), longest)
    groups = source[0] if synapse.groups > 1 and synapse.weight.shape[1] == 1 else synapse.groups
    weight = np.full((channels, source[0] // groups, *synapse.weight.shape[2:]), value)
    return replace(synapse, weight=weight, groups=groups)


def takes_what_is_built(whole, chosen, chip):
    try:
        small = built(whole, chosen)
    except ScaDeployError:  # what is summed or grouped has no longer numbers of channels that go together
        assume(False)
    narrowing, mapping = Narrowing(whole, chip), map_program(small, chip)
    channels = narrowing.channels(chosen)
    assert channels == {INPUT: small.input_shape[0]} | {made.name: made.shape[0] for made in small.layers}
    for made in mapping.layers:
        found = narrowing.cut(made.name, channels)
        assert (found.cores, found.compiler_like) == (made.cores, made.compiler_like)
        assert found.words == made.synapse_words_total
        assert found == made.cut
    assert narrowing.hidden == tuple(
        kept.name
        for kept in whole.layers
        if not kept.injected
        and any(s.source == kept.name for other in whole.layers if other is not kept for s in other.synapses)
    )


@settings(max_examples=80)
@given(programs(), st.data())
def test_a_narrower_program_takes_what_the_really_smaller_one_does(drawn, data):
    whole = even(drawn[0], data.draw)
    chip = small_chip(data.draw)
    hidden = Narrowing(whole, chip).hidden
    chosen = {name: data.draw(st.integers(1, whole[name].shape[0])) for name in hidden}
    takes_what_is_built(whole, chosen, chip)


def wide(draw):
    """Maps with a relayed sum, a depthwise, a doubling and a grouped convolution, and layers that hear themselves."""
    a, b, c, groups = (draw(st.integers(2, most)) for most in (70, 40, 200, 4))
    side, kernel = draw(st.integers(1, 20)), draw(st.sampled_from([1, 3]))
    kept = {"padding": (kernel // 2,) * 2}
    d = groups * draw(st.integers(1, 12))

    def conv(source, outputs, inputs, count=1):
        return Conv(source, np.zeros((outputs, inputs // count, kernel, kernel), np.int32), groups=count, **kept)

    shape = (side, side)
    layers = (
        layer("a", (a, *shape), conv(INPUT, a, 2)),
        layer("a_relay", (a, *shape), Conv("a", np.zeros((a, 1, 1, 1), np.int32), groups=a)),
        layer("b", (b, *shape), conv("a", b, a)),
        layer("twice", (2 * b, *shape), conv("b", 2 * b, b, b)),
        layer("d", (d, *shape), conv("twice", d, 2 * b)),
        layer("grouped", (2 * groups, *shape), conv("d", 2 * groups, d, groups)),
        layer("sum", (5, *shape), conv("b", 5, b), conv("a_relay", 5, a)),
        layer(
            "c",
            (c,),
            Dense("sum", np.zeros((c, 5 * side * side), np.int32)),
            Dense("grouped", np.zeros((c, 2 * groups * side * side), np.int32)),
            Dense("c", np.zeros((c, c), np.int32), 1),
        ),
        layer("out", (10,), Dense("c", np.zeros((10, c), np.int32))),
    )
    return even(Program((2, *shape), 0, 2, layers, readout=False), draw), groups


@settings(max_examples=40)
@given(st.data())
def test_wide_layers_with_depthwise_grouped_and_relayed_convolutions_too(data):
    whole, groups = wide(data.draw)
    free = ("a", "b", "sum", "c", "grouped")
    chosen = {name: data.draw(st.integers(1, whole[name].shape[0])) for name in free}
    # A grouped convolution reads as many channels of one group as of another.
    chosen["d"] = groups * data.draw(st.integers(1, whole["d"].shape[0] // groups))
    takes_what_is_built(whole, chosen, data.draw(st.sampled_from([LOIHI2, small_chip(data.draw)])))


@settings(max_examples=25)
@given(st.randoms(use_true_random=False), st.data())
def test_a_network_with_branches_takes_what_it_does_compacted_and_lowered(draw, data):
    """Random networks: sums, relays, pooling, selects; masks at random, one a group."""
    spec = NetworkSpec((2, 3, 3), parse_layers(random_layers(draw), {}), steps=1)
    network = plain(SpikingNetwork(spec))
    groups = channel_groups(network)
    assume(groups)
    whole = lowered(network)
    names = {id(module): name for name, module in network.neurons().items()}
    chosen = {}
    for group in groups:
        width = data.draw(st.integers(1, group.channels))
        on = torch.zeros(group.channels)
        on[data.draw(st.permutations(range(group.channels)))[:width]] = 1
        group.set_mask(on)
        chosen |= {names[id(neuron)]: width for neuron in group.neurons}
    try:
        small = lowered(compact(network))
    except ScaDeployError:  # masks that select different channels of one stream leave nothing of it
        assume(False)
    narrowing, mapping = Narrowing(whole, LOIHI2), map_program(small, LOIHI2)
    channels = narrowing.channels(chosen)
    if any(kept.shape[0] != channels[kept.name] for kept in small.layers):
        assume(False)  # a channel that nothing reads any more went as well
    for made in mapping.layers:
        found = narrowing.cut(made.name, channels)
        assert (found.cores, found.tile) == (made.cores, made.cut.tile)
        assert found.words == made.synapse_words_total


def plain(network):
    """The network with weights of one magnitude, which take the same bits in any company."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.fill_(0.1)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, MaskedBatchNorm):
                module.running_mean.zero_()
                module.running_var.fill_(1)
    return network.eval()


def lowered(network):
    shape, populations = populations_of(network)
    return assemble(shape, populations, Rules(1, 0))


def test_groups_keep_their_number_so_channels_are_rounded_up_to_it():
    layers = (
        layer("a", (12, 4, 4), Conv(INPUT, np.full((12, 2, 1, 1), 2, np.int32))),
        layer("g", (12, 4, 4), Conv("a", np.full((12, 3, 1, 1), 2, np.int32), groups=4)),
        layer("out", (3,), Dense("g", np.full((3, 12 * 16), 2, np.int32))),
    )
    narrowing = Narrowing(Program((2, 4, 4), 0, 1, layers, readout=False), LOIHI2)
    assert [narrowing.channels({"a": 8, "g": k})["g"] for k in (1, 4, 5, 8, 9, 12)] == [4, 4, 8, 8, 12, 12]


@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_relay_is_as_wide_as_what_it_repeats(width):
    layers = (
        layer("a", (7, 4, 4), Conv(INPUT, np.full((7, 2, 1, 1), 2, np.int32))),
        layer("a_relay1", (7, 4, 4), Conv("a", np.full((7, 1, 1, 1), 2, np.int32), groups=7)),
        layer("out", (3,), Dense("a_relay1", np.full((3, 7 * 16), 2, np.int32))),
    )
    narrowing = Narrowing(Program((2, 4, 4), 0, 1, layers, readout=False), LOIHI2)
    assert narrowing.channels({"a": width})["a_relay1"] == width
    assert narrowing.channels({"a": width, "a_relay1": 7})["a_relay1"] == width
