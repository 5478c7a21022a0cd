"""Random small Programs, and a brute-force integer loop that runs them one neuron at a time."""

import numpy as np
from hypothesis import strategies as st

from sca_deploy.hardware.program import INPUT, Conv, Dense, Layer, Program

LIMIT = 2**23


def decay(x, rate):
    left = abs(x) * (4096 - rate) >> 12
    return left if x >= 0 else -left


def neuron_step(u, v, a, layer, bias):
    """One step of one neuron, in Python's unbounded integers."""
    u = decay(u, layer.u_decay) + (a << 6)
    if u > LIMIT:
        u -= 2 * LIMIT
    elif u <= -LIMIT:
        u += 2 * LIMIT
    v = max(1 - LIMIT, min(LIMIT - 1, decay(v, layer.v_decay) + u + (bias << 6)))
    spike = v > layer.threshold << 6
    return u, 0 if spike else v, int(spike)


def synaptic_sums(synapse, source):
    """{neuron index: sum} of one synapse for one step's source values, by looping over every weight."""
    if isinstance(synapse, Dense):
        flat = source.reshape(-1)
        rows = enumerate(synapse.weight)
        return {(o,): sum(int(w) * int(x) for w, x in zip(row, flat, strict=True)) for o, row in rows}
    out, per_group, kh, kw = synapse.weight.shape
    sums = {}
    shape = synapse.output_shape(source.shape)
    for o, y, x in np.ndindex(shape):
        group = o // (out // synapse.groups)
        total = 0
        for c, i, j in np.ndindex(per_group, kh, kw):
            row = y * synapse.stride[0] - synapse.padding[0] + i * synapse.dilation[0]
            column = x * synapse.stride[1] - synapse.padding[1] + j * synapse.dilation[1]
            if 0 <= row < source.shape[1] and 0 <= column < source.shape[2]:
                total += int(synapse.weight[o, c, i, j]) * int(source[group * per_group + c, row, column])
        sums[(o, y, x)] = (total + LIMIT) % (2 * LIMIT) - LIMIT
    return sums


def brute_force(program, x):
    """Records as the simulator gives them: layer -> what -> (samples, steps, *shape)."""
    samples, steps = x.shape[:2]
    records = {
        layer.name: {what: np.zeros((samples, steps, *layer.shape), np.int64) for what in ("spikes", "u", "v")}
        for layer in program.layers
    }
    for n in range(samples):
        state = {layer.name: dict.fromkeys(np.ndindex(layer.shape), (0, 0)) for layer in program.layers}
        for t in range(steps):
            values = {INPUT: x[n, t]}
            for layer in program.layers:
                sums = [synaptic_sums(s, values[s.source]) for s in layer.synapses]
                bias, record = layer.full_bias(), records[layer.name]
                for index in np.ndindex(layer.shape):
                    a = sum(s[index] for s in sums)
                    u, v = state[layer.name][index]
                    u, v, spike = neuron_step(u, v, a, layer, int(bias[index]))
                    state[layer.name][index] = (u, v)
                    record["u"][n, t][index], record["v"][n, t][index] = u, v
                    record["spikes"][n, t][index] = spike
                values[layer.name] = record["spikes"][n, t]
    return records


@st.composite
def programs(draw):
    """A chain of one to three layers with every feature a layer can have, and an input for it."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = draw(st.sampled_from([0, 0, 4, 8]))
    shape = (int(random.integers(1, 5)), int(random.integers(3, 7)), int(random.integers(3, 7)))
    input_shape, source, layers = shape, INPUT, []
    for number in range(draw(st.integers(1, 3))):
        dense = len(shape) == 1 or draw(st.booleans())
        synapses = tuple(_synapse(random, source, shape, dense) for _ in range(1))
        layer_shape = synapses[0].output_shape(shape)
        if min(layer_shape) < 1:
            break
        layers.append(_layer(random, f"layer{number}", layer_shape, synapses))
        shape, source = layer_shape, layers[-1].name
    if not layers:
        synapse = _synapse(random, INPUT, input_shape, True)
        layers.append(_layer(random, "layer0", synapse.output_shape(input_shape), (synapse,)))
    program = Program(input_shape, bits, steps=4, layers=tuple(layers), readout=False)
    high = program.input_max
    return program, random.integers(0, high + 1, (2, 4, *input_shape))


def _synapse(random, source, shape, dense):
    def weights(*size):
        signs = random.choice([(-128, 128), (0, 128), (-128, 1), (0, 1)])
        return (2 * random.integers(*signs, size)).astype(np.int32)

    if dense:
        return Dense(source, weights(int(random.integers(1, 6)), int(np.prod(shape))))
    groups = shape[0] if random.random() < 0.3 else 1
    kernel = random.integers(1, 4, 2)
    return Conv(
        source,
        weights(groups * int(random.integers(1, 4)), shape[0] // groups, *map(int, kernel)),
        stride=tuple(map(int, random.integers(1, 3, 2))),
        padding=tuple(map(int, random.integers(0, 3, 2))),
        dilation=tuple(map(int, random.integers(1, 3, 2))),
        groups=groups,
    )


def _layer(random, name, shape, synapses):
    size = shape if random.random() < 0.3 else shape[:1]
    return Layer(
        name=name,
        shape=shape,
        synapses=synapses,
        v_decay=int(random.choice([0, 1, 2048, 4095, 4096, random.integers(0, 4097)])),
        u_decay=int(random.choice([4096, 4096, 0, 100, random.integers(0, 4097)])),
        threshold=int(random.choice([0, 50, 300, 5000, 131071])),
        bias=random.integers(-4096, 4096, size).astype(np.int32) // int(random.choice([1, 64])),
    )
