"""What is called silent never fires, whatever the input; what is unfed has only zero weights."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.hardware.masked import masked, warnings
from sca_deploy.hardware.program import NEVER, Conv, Dense, Layer, Program

LIMIT = 2**23


def neuron(weights: list[int], threshold: int, bias: int = 0, v_decay: int = 0, u_decay: int = 4096) -> Layer:
    synapse = Dense("input", np.array([weights], np.int32))
    return Layer("a", (1,), (synapse,), v_decay, threshold, np.array([bias], np.int32), u_decay)


def program(*layers: Layer, inputs: int, steps: int, bits: int = 0, readout: bool = False) -> Program:
    return Program((inputs,), bits, steps, layers, readout)


def fires(layer: Layer, inputs: tuple[tuple[int, ...], ...]) -> bool:
    """Whether a neuron fires, in Python's unbounded integers by Lava's equations."""
    u = v = 0
    weights = [int(weight) for weight in layer.synapses[0].weight[0]]
    for x in inputs:
        u = (abs(u) * (4096 - layer.u_decay) >> 12) * (1 if u >= 0 else -1)
        u += sum(w * spike for w, spike in zip(weights, x, strict=True)) << 6
        u = (u + LIMIT) % (2 * LIMIT) - LIMIT
        v = (abs(v) * (4096 - layer.v_decay) >> 12) * (1 if v >= 0 else -1)
        v = max(1 - LIMIT, min(LIMIT - 1, v + u + (int(layer.bias[0]) << 6)))
        if v > layer.threshold << 6:
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(
    weights=st.lists(st.integers(-128, 127).map(lambda half: 2 * half), min_size=1, max_size=2).filter(any),
    threshold=st.integers(0, 900),
    bias=st.integers(-300, 300),
    v_decay=st.sampled_from([0, 1, 128, 1024, 4095, 4096]),
    u_decay=st.sampled_from([0, 1024, 4096]),
    bits=st.sampled_from([0, 1, 2]),
)
def test_a_silent_neuron_fires_for_none_of_all_inputs(
    weights: list[int], threshold: int, bias: int, v_decay: int, u_decay: int, bits: int
) -> None:
    steps = 3
    layer = neuron(weights, threshold, bias, v_decay, u_decay)
    found = masked(program(layer, inputs=len(weights), steps=steps, bits=bits))[0]
    if found.silent:
        values = range(max(2, 1 << bits))
        frames = list(product(values, repeat=len(weights)))
        assert not any(fires(layer, inputs) for inputs in product(frames, repeat=steps))


def test_a_neuron_that_just_reaches_its_threshold_is_silent_and_one_above_is_not() -> None:
    for threshold, silent in ((30, 1), (29, 0)):
        layer = neuron([10], threshold)
        assert masked(program(layer, inputs=1, steps=3))[0].silent == silent
        assert fires(layer, ((1,), (1,), (1,))) != bool(silent)


def test_nothing_is_claimed_where_the_current_could_wrap() -> None:
    """-256 x 255 from three inputs leaves 24 bits at the bottom and comes back positive: the neuron fires."""
    layer = neuron([-256] * 3, threshold=0)
    assert fires(layer, ((255, 255, 255),))
    assert masked(program(layer, inputs=3, steps=1, bits=8))[0].silent == 0
    assert masked(program(layer, inputs=3, steps=1, bits=0))[0].silent == 1


def test_an_unfed_channel_has_only_zero_weights_in_all_its_synapses() -> None:
    first = np.zeros((3, 1, 1, 1), np.int32)
    second = np.zeros((3, 1, 1, 1), np.int32)
    first[0], second[1] = 2, 2
    synapses = (Conv("input", first), Conv("input", second))
    layer = Layer("a", (3, 2, 2), synapses, 0, 0, np.zeros(3, np.int32))
    found = masked(Program((1, 2, 2), 0, 4, (layer,), readout=False))[0]
    assert (found.channels, found.unfed, found.silent, found.weights, found.zeros) == (3, 1, 0, 6, 4)


def test_a_read_out_is_not_called_silent() -> None:
    layer = neuron([2], threshold=NEVER)
    assert masked(program(layer, inputs=1, steps=1, readout=True))[0].silent == 0


def test_an_injected_layer_without_synapses_stores_nothing() -> None:
    injected = Layer("a", (1,), (), 0, 0, np.zeros(1, np.int32), injected=True)
    reader = Layer("b", (1,), (Dense("a", np.array([[2]], np.int32)),), 0, 0, np.zeros(1, np.int32))
    assert [found.layer for found in masked(program(injected, reader, inputs=1, steps=1))] == ["b"]


def test_a_masked_network_is_warned_of_and_a_compacted_one_is_not() -> None:
    rng = np.random.default_rng(0)
    weight = 2 * rng.integers(1, 100, (8, 4), dtype=np.int32)
    bias = np.zeros(8, np.int32)
    whole = Layer("a", (8,), (Dense("input", weight),), 0, 10, bias)
    assert warnings(program(whole, inputs=4, steps=4)) == ()
    weight[2:7] = 0
    lines = warnings(program(Layer("a", (8,), (Dense("input", weight),), 0, 10, bias), inputs=4, steps=4))
    assert lines[0].startswith("5 of 8 output channels have only zero weights (a 5): compact first")
    assert "20 of 32 stored weights are 0 (62 %)" in lines[1]
    compacted = Layer("a", (3,), (Dense("input", weight[[0, 1, 7]]),), 0, 10, bias[:3])
    assert warnings(program(compacted, inputs=4, steps=4)) == ()


def test_channels_held_down_are_warned_of() -> None:
    layer = Layer("a", (2,), (Dense("input", np.array([[2], [-2]], np.int32)),), 0, 1, np.zeros(2, np.int32))
    (line,) = warnings(program(layer, inputs=1, steps=4))
    assert line.startswith("1 of 2 output channels can never fire (a 1)")
