"""Lava as the reference: what it computes, from .net files and from exported processes, and that all sides agree.

The tests that run Lava need it in this interpreter, or in the one SCA_DEPLOY_LAVA_PYTHON names.
"""

import ast
import subprocess
import venv
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from sca_deploy.errors import Mismatch, MissingExtra, ScaDeployError, UsageError
from sca_deploy.exporters.lava import write_processes
from sca_deploy.exporters.netx import write_net
from sca_deploy.hardware.lava import client
from sca_deploy.hardware.lava.client import PYTHON_VARIABLE, lava_versions, run_lava
from sca_deploy.hardware.lava.compare import verify
from sca_deploy.hardware.program import BIAS_MAX, BIAS_MIN, INPUT, THRESHOLD_MAX, WAIT_MAX, Conv, Dense, Layer, Program
from tests.conftest import needs_lava
from tests.hardware.programs import programs

# The equations of Lava's neurons and synapses, layers aligned, in plain 64-bit integers.


def decayed(x, decay):
    return np.sign(x) * ((np.abs(x) * (4096 - decay)) >> 12)


def summed(synapse, frame):
    weight = synapse.weight.astype(np.int64)
    if isinstance(synapse, Dense):
        return weight @ frame.reshape(-1)
    (top, left), (down, right), (dy, dx) = synapse.padding, synapse.stride, synapse.dilation
    out_c, in_c, kernel_h, kernel_w = weight.shape
    padded = np.pad(frame, ((0, 0), (top, top), (left, left)))
    height = (padded.shape[1] - dy * (kernel_h - 1) - 1) // down + 1
    width = (padded.shape[2] - dx * (kernel_w - 1) - 1) // right + 1
    out = np.zeros((out_c, height, width), np.int64)
    for o in range(out_c):
        group = o // (out_c // synapse.groups)
        for i in range(in_c):
            for y in range(kernel_h):
                for x in range(kernel_w):
                    rows = slice(y * dy, y * dy + down * (height - 1) + 1, down)
                    columns = slice(x * dx, x * dx + right * (width - 1) + 1, right)
                    out[o] += weight[o, i, y, x] * padded[group * in_c + i, rows, columns]
    return (out + (1 << 23)) % (1 << 24) - (1 << 23)


def arrived(synapse, past):
    """What a synapse delivers at a step; past(d) is what its source sent d steps before."""
    if isinstance(synapse, Conv):
        return summed(synapse, past(0))
    delay = np.broadcast_to(synapse.delay, synapse.weight.shape)
    return sum(
        np.where(delay == d, synapse.weight, 0).astype(np.int64) @ past(int(d)).reshape(-1) for d in np.unique(delay)
    )


def expected(program, x):
    """layer -> (spikes, u, v), each (samples, steps, *shape), every sample from rest."""
    samples, steps = x.shape[:2]
    x = x.astype(np.int64)
    trace = {layer.name: np.zeros((3, samples, steps, *layer.shape), np.int64) for layer in program.layers}

    def sent(source, n, t, delay):
        values = x if source == INPUT else trace[source][0]
        return values[n, t - delay] if t >= delay else np.zeros_like(values[0, 0])

    for n in range(samples):
        state = {layer.name: np.zeros((2, *layer.shape), np.int64) for layer in program.layers}
        for t in range(steps):
            for layer in program.layers:
                a = np.zeros(layer.shape, np.int64)
                for synapse in layer.synapses:
                    a += arrived(synapse, partial(sent, synapse.source, n, t))
                bias = layer.bias.astype(np.int64)
                if bias.shape != layer.shape:
                    bias = bias.reshape(-1, 1, 1)
                u, v = state[layer.name]
                u = decayed(u, layer.u_decay) + (a << 6)
                u = u - (u > 1 << 23) * (1 << 24) + (u <= -(1 << 23)) * (1 << 24)
                v = decayed(v, layer.v_decay) + u + ((bias + (x[n, t] if layer.injected else 0)) << 6)
                v = np.clip(v, 1 - (1 << 23), (1 << 23) - 1)
                spikes = (v > layer.threshold << 6).astype(np.int64)
                v = v * (1 - spikes)
                state[layer.name] = u, v
                trace[layer.name][:, n, t] = spikes, u, v
    return trace


# A catalogue of networks that a .net file holds.


def even(rng, *shape, low=-60, high=70):
    return (rng.integers(low // 2, high // 2, shape) * 2).astype(np.int32)


def binary(rng, *shape, rate=0.4):
    return (rng.random(shape) < rate).astype(np.uint8)


def chain(input_shape, layers, steps=4, input_bits=0, readout=False):
    return Program(input_shape, input_bits, steps, tuple(layers), readout)


def layer(name, input_shape, synapse, v_decay=500, threshold=120, bias=None, **more):
    shape = synapse.output_shape(input_shape)
    return Layer(
        name, shape, (synapse,), v_decay, threshold, np.zeros(shape[:1], np.int32) if bias is None else bias, **more
    )


def conv_geometry(rng):
    first = layer("a", (2, 9, 7), Conv(INPUT, even(rng, 4, 2, 3, 2), (2, 1), (1, 2), (1, 2)))
    second = layer("b", first.shape, Conv("a", even(rng, 6, 2, 2, 3), (1, 2), (0, 1), (2, 1), groups=2))
    return chain((2, 9, 7), [first, second]), binary(rng, 3, 4, 2, 9, 7)


def dense_after_conv(rng):
    first = layer("a", (1, 5, 4), Conv(INPUT, even(rng, 3, 1, 2, 2)))
    second = layer("b", first.shape, Dense("a", even(rng, 7, 36)))
    third = layer("c", (7,), Dense("b", even(rng, 3, 7)), 0, THRESHOLD_MAX)
    return chain((1, 5, 4), [first, second, third], readout=True), binary(rng, 4, 4, 1, 5, 4)


def dense_on_a_map(rng):
    return chain((2, 3, 4), [layer("a", (2, 3, 4), Dense(INPUT, even(rng, 5, 24)))]), binary(rng, 3, 4, 2, 3, 4)


def graded_into_conv(rng):
    first = layer("a", (2, 5, 5), Conv(INPUT, even(rng, 3, 2, 3, 3)), threshold=20_000)
    return chain((2, 5, 5), [first], input_bits=8), rng.integers(0, 256, (3, 4, 2, 5, 5)).astype(np.uint8)


def graded_into_dense(rng):
    first = layer("a", (9,), Dense(INPUT, even(rng, 6, 9)), threshold=20_000)
    return chain((9,), [first], input_bits=8), rng.integers(0, 256, (3, 4, 9)).astype(np.uint8)


def biases(rng):
    by_channel = layer("a", (1, 4, 3), Conv(INPUT, even(rng, 2, 1, 2, 2)), bias=np.array([-4096, 4095], np.int32))
    by_neuron = rng.integers(-200, 200, (2, 2, 1)).astype(np.int32)
    second = layer("b", by_channel.shape, Conv("a", even(rng, 2, 2, 2, 2)), bias=by_neuron)
    third = layer("c", second.shape, Dense("b", even(rng, 4, 4)), bias=rng.integers(-99, 99, 4).astype(np.int32))
    return chain((1, 4, 3), [by_channel, second, third]), binary(rng, 4, 4, 1, 4, 3)


def decays(rng):
    layers, previous = [], (6,)
    for index, (u_decay, v_decay) in enumerate([(0, 0), (4096, 4096), (1, 4095), (2048, 1234)]):
        source = layers[-1].name if layers else INPUT
        layers.append(layer(f"l{index}", previous, Dense(source, even(rng, 6, 6)), v_decay, 90, u_decay=u_decay))
        previous = (6,)
    return chain((6,), layers, steps=6), binary(rng, 3, 6, 6)


def all_zero(rng):
    first = layer("a", (1, 2, 3), Conv(INPUT, even(rng, 2, 1, 1, 1)))
    zero = layer("b", first.shape, Dense("a", np.zeros((6, 12), np.int32)), bias=np.arange(6, dtype=np.int32) * 30)
    last = layer("c", (6,), Dense("b", even(rng, 3, 6)))
    return chain((1, 2, 3), [first, zero, last]), binary(rng, 3, 4, 1, 2, 3)


def never_positive(rng, low):
    """The most negative weight is a power of two, after a dense layer and before another."""
    weight = even(rng, 4, 5, low=low, high=1)
    weight[1, 2] = low
    bias = np.full(4, 1500, np.int32)
    layers = [
        layer("a", (6,), Dense(INPUT, even(rng, 5, 6))),
        layer("b", (5,), Dense("a", weight), bias=bias),
        layer("c", (4,), Dense("b", even(rng, 3, 4))),
    ]
    return chain((6,), layers), binary(rng, 4, 4, 6, rate=0.8)


def strictly_negative(rng):
    weight = even(rng, 4, 6, low=-254, high=-2)
    return chain((6,), [layer("a", (6,), Dense(INPUT, weight), bias=np.full(4, 900, np.int32))]), binary(rng, 4, 4, 6)


def never_negative(rng):
    weight = even(rng, 4, 6, low=0, high=256)
    weight[0, 0] = 254
    return chain((6,), [layer("a", (6,), Dense(INPUT, weight), threshold=900)]), binary(rng, 4, 4, 6)


def more_groups_than_8_bits(rng):
    first = layer("a", (144, 2, 1), Conv(INPUT, even(rng, 144, 1, 2, 1), groups=144), threshold=10)
    return chain((144, 2, 1), [first]), binary(rng, 2, 2, 144, 2, 1)


def more_pixels_and_channels_than_8_bits(rng):
    first = layer("a", (1, 130, 3), Conv(INPUT, even(rng, 130, 1, 2, 2), padding=(2, 0)))
    return chain((1, 130, 3), [first], steps=2), binary(rng, 1, 2, 1, 130, 3)


def one_step_a_sample(rng):
    layers = [
        layer("a", (5,), Dense(INPUT, even(rng, 6, 5)), threshold=40, bias=np.full(6, 30, np.int32)),
        layer("b", (6,), Dense("a", even(rng, 4, 6)), threshold=10, bias=np.full(4, -20, np.int32)),
    ]
    return chain((5,), layers, steps=1), binary(rng, 6, 1, 5)


def wrapping_and_saturating(rng):
    """16-bit messages: the convolution's sums wrap at 24 bits, u wraps, v saturates."""
    first = layer("a", (1, 3, 3), Conv(INPUT, even(rng, 2, 1, 1, 1, low=-256, high=254)), 0, u_decay=100)
    return chain((1, 3, 3), [first], input_bits=16), rng.integers(0, 1 << 16, (3, 4, 1, 3, 3)).astype(np.uint16)


CATALOGUE = {
    build.__name__: build
    for build in (
        conv_geometry,
        dense_after_conv,
        dense_on_a_map,
        graded_into_conv,
        graded_into_dense,
        biases,
        decays,
        all_zero,
        strictly_negative,
        never_negative,
        more_groups_than_8_bits,
        more_pixels_and_channels_than_8_bits,
        one_step_a_sample,
        wrapping_and_saturating,
    )
} | {f"never_positive_{low}": lambda rng, low=low: never_positive(rng, low) for low in (-256, -128, -2)}


# A catalogue of networks that only processes hold.


def repeat(source, shape):
    """A convolution that makes each neuron of a relay fire where its source fired."""
    return Conv(source, np.full((shape[0], 1, 1, 1), 64, np.int32), groups=shape[0])


def relay(name, source, shape):
    """Neurons without memory that repeat what they are sent one step later."""
    return layer(name, shape, repeat(source, shape), 4096, 32)


def summing(name, shape, *synapses, v_decay=500, threshold=120, bias=None, **more):
    """A layer that sums several synapses."""
    bias = np.zeros(shape[:1], np.int32) if bias is None else bias
    return Layer(name, shape, synapses, v_decay, threshold, bias, **more)


def residual_stages(rng):
    """A ResNet in small: an identity shortcut, then a strided one with a 1 x 1 convolution, relays beside both."""

    def normal(inside, out, size=3):
        return even(rng, out, inside, size, size)

    same, half = (4, 6, 5), (6, 3, 3)
    layers = [
        layer("stem", (2, 6, 5), Conv(INPUT, normal(2, 4), padding=(1, 1)), threshold=120),
        layer("one_a", same, Conv("stem", normal(4, 4), padding=(1, 1)), threshold=30),
        relay("one_skip", "stem", same),
        summing("one_b", same, Conv("one_a", normal(4, 4), padding=(1, 1)), repeat("one_skip", same), threshold=60),
        layer("two_a", same, Conv("one_b", normal(4, 6), (2, 2), (1, 1)), threshold=30),
        relay("two_skip", "one_b", same),
        summing(
            "two_b",
            half,
            Conv("two_a", normal(6, 6), padding=(1, 1)),
            Conv("two_skip", normal(4, 6, 1), (2, 2)),
            threshold=60,
            bias=even(rng, 6),
        ),
        layer("classes", half, Dense("two_b", even(rng, 5, 54)), 0, THRESHOLD_MAX),
    ]
    return chain((2, 6, 5), layers, readout=True), binary(rng, 3, 4, 2, 6, 5)


def waits(rng):
    """Paths of other lengths: dense synapses hold spikes back, and the host sends the input again."""
    first = layer("a", (2, 4, 3), Conv(INPUT, even(rng, 3, 2, 2, 2)), threshold=400)
    second = layer("b", first.shape, Conv("a", even(rng, 3, 3, 2, 2)), threshold=100)
    again = summing(
        "c", (4, 2, 1), Conv("b", even(rng, 4, 3, 1, 1)), Conv(INPUT, even(rng, 4, 2, 2, 2), (2, 1), dilation=(1, 2))
    )
    last = summing(
        "d",
        (5,),
        Dense("c", even(rng, 5, 8)),
        Dense("a", even(rng, 5, 18)),
        Dense("b", even(rng, 5, 6)),
        Dense(INPUT, even(rng, 5, 24)),
    )
    return chain((2, 4, 3), [first, second, again, last], input_bits=3), rng.integers(0, 8, (3, 4, 2, 4, 3))


def twice_from_one_source(rng):
    shape = Conv(INPUT, even(rng, 3, 2, 3, 3)).output_shape((2, 5, 5))
    both = (Conv(INPUT, even(rng, 3, 2, 3, 3)), Conv(INPUT, even(rng, 3, 2, 2, 2), dilation=(2, 2)))
    return chain((2, 5, 5), [summing("a", shape, *both)]), binary(rng, 3, 4, 2, 5, 5)


def delays(rng):
    """Of all synapses, of every source, of every neuron, of each synapse; after a convolution, with a current."""
    shape = (2, 2, 2)
    layers = [
        layer("a", (1, 3, 3), Conv(INPUT, even(rng, 2, 1, 2, 2)), threshold=30),
        layer("b", shape, Dense("a", even(rng, 6, 8), 3), threshold=50, bias=np.full(6, 40, np.int32)),
        layer(
            "c",
            (6,),
            Dense("b", even(rng, 6, 6), rng.integers(0, 5, (1, 6)).astype(np.int32)),
            u_decay=2000,
            threshold=40,
        ),
        layer("d", (6,), Dense("c", even(rng, 5, 6), rng.integers(0, 5, (5, 1)).astype(np.int32)), threshold=20),
        layer("e", (5,), Dense("d", even(rng, 4, 5), rng.integers(0, 5, (4, 5)).astype(np.int32)), threshold=20),
    ]
    return chain((1, 3, 3), layers, steps=12), binary(rng, 3, 12, 1, 3, 3, rate=0.6)


def the_longest_hold(rng):
    """62 steps: 61 of the synapse's own, one for a longer path."""
    late = Dense("a", even(rng, 4, 5), WAIT_MAX - 1)
    layers = [
        layer("a", (3,), Dense(INPUT, even(rng, 5, 3)), threshold=40),
        layer("b", (5,), Dense("a", even(rng, 4, 5)), threshold=40),
        summing("c", (4,), Dense("b", even(rng, 4, 4)), late),
    ]
    return chain((3,), layers, steps=66), binary(rng, 2, 66, 3)


def recurrent(rng):
    """Layers that read themselves, the second with biases that fire it at once, beside the input once more."""
    layers = [
        summing("a", (6,), Dense(INPUT, even(rng, 6, 4)), Dense("a", even(rng, 6, 6), 1), threshold=60),
        summing(
            "b",
            (5,),
            Dense("a", even(rng, 5, 6)),
            Dense("b", even(rng, 5, 5, low=-200), rng.integers(1, 5, (5, 5)).astype(np.int32)),
            Dense(INPUT, even(rng, 5, 4), 2),
            bias=rng.integers(100, 300, 5).astype(np.int32),
        ),
        layer("c", (5,), Dense("b", even(rng, 3, 5)), 0, THRESHOLD_MAX, bias=np.array([5, -7, 90], np.int32)),
    ]
    return chain((4,), layers, steps=9, readout=True), binary(rng, 4, 9, 4)


def recurrent_with_a_current(rng):
    own = Dense("a", even(rng, 6, 6), rng.integers(1, 4, (1, 6)).astype(np.int32))
    only = summing("a", (6,), Dense(INPUT, even(rng, 6, 4), 1), own, u_decay=1500, threshold=200)
    return chain((4,), [only], steps=9), binary(rng, 3, 9, 4)


def injected(rng):
    """Input neurons, as maps: a value of either sign at every step adds to a bias for each neuron."""
    first = Layer("pixels", (2, 4, 3), (), 300, 900, rng.integers(-90, 90, (2, 4, 3)).astype(np.int32), injected=True)
    second = layer("a", first.shape, Conv("pixels", even(rng, 3, 2, 2, 2)), threshold=40)
    third = summing("b", (4,), Dense("a", even(rng, 4, 18)), Dense("pixels", even(rng, 4, 24)))
    return chain((2, 4, 3), [first, second, third]), rng.integers(-900, 1800, (4, 4, 2, 4, 3))


def injected_to_the_ends(rng):
    """The smallest and largest mantissas, neurons that keep everything, and a recurrence."""
    first = Layer("a", (3,), (), 0, 5000, np.zeros(3, np.int32), injected=True)
    second = summing("b", (4,), Dense("a", even(rng, 4, 3)), Dense("b", even(rng, 4, 4), 1), bias=even(rng, 4, high=90))
    return chain((3,), [first, second], steps=7), rng.choice([BIAS_MIN, 0, BIAS_MAX], (3, 7, 3), p=[0.2, 0.2, 0.6])


def injected_behind_synapses(rng):
    """An autoencoder's loop: the last layer has the size of the input, and takes it as well."""
    layers = [
        Layer("a", (3,), (), 500, 600, np.zeros(3, np.int32), injected=True),
        layer("b", (3,), Dense("a", even(rng, 4, 3)), threshold=40),
        summing("c", (3,), Dense("b", even(rng, 3, 4)), threshold=500, injected=True),
    ]
    return chain((3,), layers), rng.integers(-400, 900, (3, 4, 3))


def depthwise_and_groups(rng):
    first = layer("a", (4, 7, 6), Conv(INPUT, even(rng, 8, 1, 3, 2), (1, 2), (2, 0), (2, 1), groups=4), threshold=90)
    shape = Conv("a", even(rng, 8, 1, 3, 3), padding=(1, 1), groups=8).output_shape(first.shape)
    pair = Conv("a", even(rng, 8, 4, 1, 1), groups=2)
    second = summing("b", shape, Conv("a", even(rng, 8, 1, 3, 3), padding=(1, 1), groups=8), pair)
    return chain((4, 7, 6), [first, second]), binary(rng, 3, 4, 4, 7, 6)


def one_dimension(rng):
    """Maps of one row: 1-D convolutions."""
    first = layer("a", (3, 1, 11), Conv(INPUT, even(rng, 4, 3, 1, 3), (1, 2), (0, 2), (1, 2)))
    second = layer("b", first.shape, Conv("a", even(rng, 5, 4, 1, 2), padding=(0, 1)), threshold=40)
    third = layer("c", second.shape, Dense("b", even(rng, 4, second.neurons)), threshold=20)
    return chain((3, 1, 11), [first, second, third]), binary(rng, 3, 4, 3, 1, 11)


def all_zero_and_all_negative(rng):
    """What netx refuses or changes is plain for the processes."""
    zero = layer("a", (2, 3, 3), Conv(INPUT, np.zeros((2, 2, 2, 2), np.int32)), bias=np.array([70, -70], np.int32))
    blank = layer("b", zero.shape, Dense("a", np.zeros((6, 8), np.int32)), bias=np.arange(6, dtype=np.int32) * 40)
    low = layer("c", (6,), Dense("b", np.full((4, 6), -256, np.int32)), bias=np.full(4, 1500, np.int32))
    late = Dense("a", np.full((3, 8), -256, np.int32))
    last = summing("d", (3,), Dense("c", even(rng, 3, 4, low=-256, high=0)), late, bias=np.full(3, 900, np.int32))
    return chain((2, 3, 3), [zero, blank, low, last]), binary(rng, 3, 4, 2, 3, 3)


def wraps_and_saturates_in_sums(rng):
    """16-bit messages: each convolution wraps at 24 bits, then u wraps on their sum, and v saturates."""
    pair = (Conv(INPUT, even(rng, 3, 2, 2, 2, low=-256, high=256)) for _ in range(2))
    first = summing("a", (3, 2, 2), *pair, v_decay=0, threshold=THRESHOLD_MAX, u_decay=100)
    second = layer("b", first.shape, Dense("a", even(rng, 2, 12)))
    return chain((2, 3, 3), [first, second], input_bits=16), rng.integers(0, 1 << 16, (3, 4, 2, 3, 3))


def names_of_all_kinds(rng):
    """Keywords, digits, names of Lava's classes and what is no name at all."""
    layers = [
        layer("class", (4,), Dense(INPUT, even(rng, 5, 4)), threshold=10),
        layer("1", (5,), Dense("class", even(rng, 5, 5)), threshold=10),
        layer("Dense", (5,), Dense("1", even(rng, 5, 5)), threshold=10),
        layer('a-"b"', (5,), Dense("Dense", even(rng, 5, 5)), threshold=10),
        layer("a__b_", (5,), Dense('a-"b"', even(rng, 5, 5)), threshold=10),
    ]
    return chain((4,), layers), binary(rng, 3, 4, 4)


PROCESSES = {
    build.__name__: build
    for build in (
        residual_stages,
        waits,
        twice_from_one_source,
        delays,
        the_longest_hold,
        recurrent,
        recurrent_with_a_current,
        injected,
        injected_to_the_ends,
        injected_behind_synapses,
        depthwise_and_groups,
        one_dimension,
        all_zero_and_all_negative,
        wraps_and_saturates_in_sums,
        names_of_all_kinds,
        biases,
        decays,
        more_groups_than_8_bits,
        one_step_a_sample,
    )
}


def assert_computed(run, program, x):
    """Every spike, u and v that Lava recorded is that of the equations, and something fired; returns them."""
    trace = expected(program, x)
    for name, values in trace.items():
        for what, value in zip(("spikes", "u", "v"), values, strict=True):
            np.testing.assert_array_equal(run.records[name][what], value, err_msg=f"{name} {what}")
    assert any(values[0].any() for values in trace.values())
    return trace


@needs_lava
@pytest.mark.parametrize("name", CATALOGUE)
def test_lava_computes_the_equations_from_a_net_file(name, tmp_path):
    program, x = CATALOGUE[name](np.random.default_rng(5))
    write_net(program, tmp_path / "a.net")
    run = run_lava(tmp_path / "a.net", program, x, states=True)
    assert_computed(run, program, x)


def exported(program, folder):
    """The network.py of a Program, with its weights beside it."""
    write_processes(program, folder, "test network")
    return folder / "network.py"


@needs_lava
@pytest.mark.parametrize("name", PROCESSES)
def test_lava_computes_the_equations_from_exported_processes(name, tmp_path):
    program, x = PROCESSES[name](np.random.default_rng(5))
    trace = assert_computed(run_lava(exported(program, tmp_path), program, x, states=True), program, x)
    assert [layer.name for layer in program.layers if layer.threshold < 5000 and not trace[layer.name][0].any()] == []


@needs_lava
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16])
def test_processes_take_graded_input_of_every_width(bits, tmp_path):
    rng = np.random.default_rng(bits)
    threshold = min(25 << bits, THRESHOLD_MAX)
    first = layer("a", (2, 3, 3), Conv(INPUT, even(rng, 3, 2, 2, 2)), threshold=threshold)
    late = Dense(INPUT, even(rng, 4, 18), rng.integers(0, 3, (4, 18)).astype(np.int32))
    second = summing("b", (4,), Dense("a", even(rng, 4, 12)), Dense(INPUT, even(rng, 4, 18)), late, threshold=threshold)
    program = chain((2, 3, 3), [first, second], steps=5, input_bits=bits)
    x = rng.integers(0, 1 << bits, (2, 5, 2, 3, 3))
    x[0, 0, 0] = (1 << bits) - 1
    assert_computed(run_lava(exported(program, tmp_path), program, x, states=True), program, x)


@needs_lava
@settings(
    max_examples=15, derandomize=True, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(programs())
def test_the_simulator_agrees_with_lava_on_drawn_networks(tmp_path_factory, case):
    program, x = case
    verify(program, exported(program, tmp_path_factory.mktemp("drawn")), x, states=True).raise_on_mismatch()


@needs_lava
@pytest.mark.parametrize("build", [waits, recurrent_with_a_current])
@pytest.mark.parametrize("steps", [5, 12])
def test_processes_run_for_other_numbers_of_steps_than_they_were_exported_with(build, steps, tmp_path):
    program, x = build(np.random.default_rng(6))
    x = np.concatenate([x, x[:, ::-1], x], axis=1)[:, :steps]
    assert_computed(run_lava(exported(program, tmp_path), program, x, states=True), program, x)


ON_THEIR_OWN = (
    "import runpy, sys; sys.path.insert(0, sys.argv[1]); import shim; shim.apply('sca-lava-test-', 'error: ')\n"
    "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@needs_lava
@pytest.mark.parametrize("build", [waits, residual_stages, recurrent, injected, injected_to_the_ends])
def test_an_exported_network_runs_on_its_own(build, tmp_path):
    """As a user starts it, whose Python may be one that needs the shim; where spikes outlive a sample, sample 1."""
    program, x = build(np.random.default_rng(5))
    np.save(tmp_path / "x.npy", x)
    paths = [exported(program, tmp_path), tmp_path / "x.npy", tmp_path / "y.npz", *([1] if program.carries else [])]
    command = [client.lava_python(), "-W", "ignore", "-c", ON_THEIR_OWN, str(client.WORKER.parent), *map(str, paths)]
    printed = subprocess.run(command, check=True, timeout=90, capture_output=True, text=True).stdout
    spikes, _, v = expected(program, x)[program.layers[-1].name]
    name, values = ("v", v[:, -1]) if program.readout else (program.layers[-1].name, spikes)
    values = values[1:2] if program.carries else values
    with np.load(tmp_path / "y.npz") as saved:
        assert list(saved) == [name]
        np.testing.assert_array_equal(saved[name], values)
    assert printed == f"{name}: {values.shape}, sum {values.sum()}\n"
    assert values.any()


@needs_lava
def test_a_net_file_holds_delays_and_recurrence_with_every_sample_from_rest(tmp_path):
    rng = np.random.default_rng(8)
    layers = [
        summing("a", (6,), Dense(INPUT, even(rng, 6, 4)), Dense("a", even(rng, 6, 6), 1), threshold=60),
        layer("b", (6,), Dense("a", even(rng, 5, 6), 3), threshold=30, bias=np.full(5, 200, np.int32)),
    ]
    program, x = chain((4,), layers, steps=8), binary(rng, 4, 8, 4)
    write_net(program, tmp_path / "a.net")
    assert_computed(run_lava(tmp_path / "a.net", program, x, states=True), program, x)


@needs_lava
def test_a_net_file_holds_input_neurons(tmp_path):
    rng = np.random.default_rng(9)
    first = Layer("a", (2, 4, 3), (), 300, 900, np.zeros(2, np.int32), injected=True)
    program = chain((2, 4, 3), [first, layer("b", first.shape, Conv("a", even(rng, 3, 2, 2, 2)), threshold=40)])
    x = rng.integers(-900, 1800, (4, 4, 2, 4, 3))
    write_net(program, tmp_path / "a.net")
    assert_computed(run_lava(tmp_path / "a.net", program, x, states=True), program, x)


@needs_lava
def test_the_simulator_agrees_with_lava_in_every_value(tmp_path):
    program, x = conv_geometry(np.random.default_rng(1))
    write_net(program, tmp_path / "a.net")
    verification = verify(program, tmp_path / "a.net", x, states=True)
    verification.raise_on_mismatch()
    report = verification.as_dict()
    assert list(report) == ["samples", "steps", "layers", "mismatches", "simulator_seconds", "lava_seconds"]
    assert (report["samples"], report["steps"], report["mismatches"]) == (3, 4, 0)
    trace = expected(program, x)
    for row in report["layers"]:
        spikes = trace[row["name"]][0]
        assert row == {"name": row["name"], "values": 3 * spikes.size, "spikes": spikes.sum(), "mismatches": 0}


@needs_lava
def test_the_readout_is_recorded_without_asking_for_states(tmp_path):
    program, x = dense_after_conv(np.random.default_rng(2))
    write_net(program, tmp_path / "a.net")
    run = run_lava(tmp_path / "a.net", program, x)
    v = expected(program, x)["c"][2]
    assert {name: set(kinds) for name, kinds in run.records.items()} == {
        "a": {"spikes"},
        "b": {"spikes"},
        "c": {"spikes", "v"},
    }
    np.testing.assert_array_equal(run.records["c"]["v"], v)
    np.testing.assert_array_equal(run.readout, v[:, -1])
    assert 0 < run.seconds < run.total_seconds


@needs_lava
def test_a_frame_repeated_by_broadcasting_is_repeated_in_lava(tmp_path):
    program, x = graded_into_dense(np.random.default_rng(3))
    repeated = np.broadcast_to(x[:, :1], x.shape)
    write_net(program, tmp_path / "a.net")
    run = run_lava(tmp_path / "a.net", program, repeated)
    np.testing.assert_array_equal(run.records["a"]["spikes"], expected(program, repeated)["a"][0])


@needs_lava
def test_a_mismatch_names_the_first_layer_sample_step_and_neuron(tmp_path):
    program, x = dense_after_conv(np.random.default_rng(4))
    weight = program["b"].synapses[0].weight.copy()
    weight[5] += 40
    other = chain((1, 5, 4), [program["a"], layer("b", (3, 4, 3), Dense("a", weight)), program["c"]], readout=True)
    write_net(other, tmp_path / "other.net")
    ours, theirs = expected(program, x)["b"][0], expected(other, x)["b"][0]
    sample, step, neuron = np.argwhere(ours != theirs)[0]
    verification = verify(program, tmp_path / "other.net", x)
    assert [check.mismatches > 0 for check in verification.layers][:2] == [False, True]
    assert verification.layers[1].mismatches == np.count_nonzero(ours != theirs)
    with pytest.raises(Mismatch) as raised:
        verification.raise_on_mismatch()
    place = f"layer 'b', sample {sample}, step {step}, neuron ({neuron},): spikes"
    assert raised.value.problem.startswith(place)
    assert raised.value.exit_code == 4


@needs_lava
def test_a_file_of_another_network_is_refused(tmp_path):
    program, x = dense_on_a_map(np.random.default_rng(0))
    write_net(one_step_a_sample(np.random.default_rng(0))[0], tmp_path / "other.net")
    with pytest.raises(ScaDeployError, match=r"layers of \[6, 4\] neurons, the network has \[5\]"):
        run_lava(tmp_path / "other.net", program, x)


def test_an_input_outside_the_range_is_refused_before_lava_starts(tmp_path):
    program, x = dense_on_a_map(np.random.default_rng(0))
    write_net(program, tmp_path / "a.net")
    with pytest.raises(ScaDeployError, match="input holds 2"):
        run_lava(tmp_path / "a.net", program, x * 2, python="/no/such/python")


# Interpreters.


@needs_lava
def test_the_callers_python_settings_do_not_reach_lava(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert lava_versions()["lava-nc"] == "0.10.0"


@needs_lava
def test_versions_are_those_of_the_last_lava_releases():
    versions = lava_versions()
    assert (versions["lava-nc"], versions["lava-dl"]) == ("0.10.0", "0.6.0")
    assert {"python", "numpy", "scipy", "h5py"} < set(versions)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """An interpreter without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def test_an_interpreter_without_lava_is_a_missing_extra_with_the_install_line(bare_python, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    program, x = dense_on_a_map(np.random.default_rng(0))
    write_net(program, tmp_path / "a.net")
    for call in (
        lambda: run_lava(tmp_path / "a.net", program, x, python=bare_python),
        lambda: lava_versions(bare_python),
    ):
        with pytest.raises(MissingExtra, match="no module 'lava'") as raised:
            call()
        assert "pip install --no-deps --ignore-requires-python lava-nc==0.10.0 lava-dl==0.6.0" in raised.value.fix
        assert raised.value.exit_code == 5


def test_the_environment_variable_names_the_interpreter_and_the_argument_wins(monkeypatch):
    monkeypatch.setenv(PYTHON_VARIABLE, "/no/such/python")
    with pytest.raises(UsageError, match="/no/such/python"):
        lava_versions()
    with pytest.raises(UsageError, match="/not/this/either"):
        lava_versions("/not/this/either")


# The scripts.


def test_the_scripts_of_the_worker_import_nothing_of_this_package():
    for script in client.WORKER.parent.glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("sca_deploy")], script.name


@needs_lava
def test_numpy_2_4_dropped_the_keyword_that_the_shim_avoids():
    script = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1])\n"
        "import shim; shim.apply('sca-lava-test-', 'error: ')\n"
        "from lava.magma.core.process.ports.ports import ReshapePort\n"
        "port = ReshapePort((6,), (2, 3))\n"
        "forward, back = port.get_transform_func_fwd(), port.get_transform_func_bwd()\n"
        "assert 'newshape' not in (forward.keywords | back.keywords)\n"
        "assert forward(np.zeros((2, 3))).shape == (6,) and back(np.zeros(6)).shape == (2, 3)\n"
    )
    subprocess.run([client.lava_python(), "-c", script, str(client.WORKER.parent)], check=True, timeout=60)
