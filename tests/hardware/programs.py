"""Random small Programs, and a brute-force integer loop that runs them one neuron at a time."""

import numpy as np
from hypothesis import strategies as st

from sca_deploy.hardware.program import BIAS_MAX, BIAS_MIN, INPUT, NEVER, Conv, Dense, Layer, Program

LIMIT = 2**23
STEPS = 5


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


def wires(synapse, source_shape):
    """[(weight, source neuron, delay)] of every neuron in (C, H, W) order, by looping over every weight."""
    if isinstance(synapse, Dense):
        delay = np.broadcast_to(synapse.delay, synapse.weight.shape)
        return [
            [(int(w), i, int(d)) for i, (w, d) in enumerate(zip(*row, strict=True))]
            for row in zip(synapse.weight, delay, strict=True)
        ]
    out, per_group, kh, kw = synapse.weight.shape
    _, height, width = source_shape
    neurons = []
    for o, y, x in np.ndindex(synapse.output_shape(source_shape)):
        first = o // (out // synapse.groups) * per_group
        neurons.append([])
        for c, i, j in np.ndindex(per_group, kh, kw):
            row = y * synapse.stride[0] - synapse.padding[0] + i * synapse.dilation[0]
            column = x * synapse.stride[1] - synapse.padding[1] + j * synapse.dilation[1]
            if 0 <= row < height and 0 <= column < width:
                place = ((first + c) * height + row) * width + column
                neurons[-1].append((int(synapse.weight[o, c, i, j]), place, 0))
    return neurons


def stages(program):
    """The length of the longest path from the input to every layer, in layers; 0 for one that takes it as a bias."""
    found = {INPUT: 0}
    for layer in program.layers:
        found[layer.name] = max((found[s.source] + 1 for s in layer.synapses if s.source != layer.name), default=0)
    return found


def brute_force(program, x, free_run=False, reset_interval=None):
    """Records as the simulator gives them: layer -> what -> (samples, steps, *shape)."""
    samples, steps = x.shape[:2]
    stage = stages(program)
    plans = []
    for layer in program.layers:
        inputs = []
        for synapse in layer.synapses:
            late = stage[layer.name] - stage[synapse.source] if free_run else 0
            inputs.append((synapse.source, wires(synapse, program.shape_of(synapse.source)), late, type(synapse)))
        plans.append((layer, inputs, [int(b) for b in layer.full_bias().reshape(-1)]))
    records = {
        layer.name: {what: np.zeros((samples, steps, layer.neurons), np.int64) for what in ("spikes", "u", "v")}
        for layer in program.layers
    }
    for n in range(samples):
        sent = {INPUT: [[int(value) for value in x[n, t].reshape(-1)] for t in range(steps)]}
        sent |= {layer.name: [[0] * layer.neurons for _ in range(steps)] for layer in program.layers}
        state = {layer.name: [(0, 0)] * layer.neurons for layer in program.layers}
        for t in range(steps):
            for layer, inputs, bias in plans:
                if reset_interval and (t - stage[layer.name]) % reset_interval == 0:
                    state[layer.name] = [(0, 0)] * layer.neurons
                for neuron in range(layer.neurons):
                    a = 0
                    for source, neurons, late, kind in inputs:
                        past = sent[source]
                        total = sum(w * past[t - late - d][i] for w, i, d in neurons[neuron] if t >= late + d)
                        # Lava's convolutions compute in 24 bits.
                        a += (total + LIMIT) % (2 * LIMIT) - LIMIT if kind is Conv else total
                    b = bias[neuron] + (sent[INPUT][t][neuron] if layer.injected else 0)
                    u, v, spike = neuron_step(*state[layer.name][neuron], a, layer, b)
                    state[layer.name][neuron] = (u, v)
                    sent[layer.name][t][neuron] = spike
                    for what, value in (("u", u), ("v", v), ("spikes", spike)):
                        records[layer.name][what][n, t, neuron] = value
    return {
        layer.name: {what: values.reshape(samples, steps, *layer.shape) for what, values in records[layer.name].items()}
        for layer in program.layers
    }


@st.composite
def programs(draw):
    """One to four layers with every feature a layer can have, branches that join again, and an input for them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height = int(random.choice([1, 3, 4, 5]))
    shape = (int(random.integers(1, 4)), height, int(random.integers(3, 6)))
    if random.random() < 0.2:
        shape = (int(random.integers(1, 12)),)
    injected = random.random() < 0.2
    bits = 0 if injected else int(random.choice([0, 0, 0, 1, 4, 8]))
    layers, known = [], {INPUT: (shape, 0)}
    if injected:
        layers.append(_layer(random, "layer0", shape, (), injected=True))
        known = {"layer0": (shape, 0)}
    for number in range(len(layers), draw(st.integers(1 + injected, 4))):
        name = f"layer{number}"
        synapses, layer_shape, stage = _convs(random, known) or _denses(random, known, name)
        layers.append(_layer(random, name, layer_shape, synapses))
        known[name] = (layer_shape, stage)
    program = Program(shape, bits, steps=STEPS, layers=tuple(layers), readout=False)
    if injected:
        bias = layers[0].full_bias()
        low, high = np.maximum(BIAS_MIN, BIAS_MIN - bias), np.minimum(BIAS_MAX, BIAS_MAX - bias)
        return program, random.integers(low, high + 1, (2, STEPS, *shape))
    x = random.integers(0, program.input_max + 1, (2, STEPS, *shape))
    if random.random() < 0.2:
        x = np.broadcast_to(x[:, :1], x.shape)
    return program, x * (random.random(x.shape) < random.choice([0.1, 0.5, 1.0])) if x.strides[1] else x


def _convs(random, known):
    """Convolutions that can be summed: their sources run at the same stage, or are the input, on maps of one size."""
    maps = [name for name, (shape, _) in known.items() if len(shape) == 3]
    if not maps or random.random() < 0.4:
        return None
    source = str(random.choice(maps))
    (channels, height, width), stage = known[source]
    kernel = [int(random.integers(1, 1 + min(3, side))) for side in (height, width)]
    stride, dilation = random.integers(1, 3, 2), random.integers(1, 3, 2)
    padding = random.integers(0, 3, 2) * (height > 1, 1)
    if random.random() < 0.4:
        # A map of the same size, so that what reads the input and what reads this layer can be summed.
        kernel = [int(random.choice([1, 3])) if side > 1 else 1 for side in (height, width)]
        stride, padding = np.ones(2, int), dilation * (np.array(kernel) // 2)
    sides = {"stride": stride, "padding": padding, "dilation": dilation}
    geometry = {what: (int(size[0]), int(size[1])) for what, size in sides.items()}
    out = int(random.integers(1, 4)) * (channels if random.random() < 0.3 else 1)

    def conv(name):
        inputs = known[name][0][0]
        groups = int(random.choice([g for g in range(1, inputs + 1) if inputs % g == out % g == 0]))
        return Conv(name, _weights(random, out, inputs // groups, *kernel), groups=groups, **geometry)

    first = conv(source)
    shape = first.output_shape(known[source][0])
    if min(shape) < 1 or np.prod(shape) > 150:
        return None
    others = [n for n in maps if known[n][0][1:] == (height, width) and (known[n][1] == stage or n == INPUT)]
    more = [conv(str(random.choice(others))) for _ in range(int(random.choice([0, 0, 1, 2])))]
    return (first, *more), shape, stage + 1


def _denses(random, known, name):
    """Fully connected synapses from any layers, perhaps from this one itself, with any delays."""
    out = int(random.integers(1, 6))
    sources = [str(s) for s in random.choice(list(known), int(random.choice([1, 1, 1, 2, 3])))]
    synapses = [_dense(random, s, int(np.prod(known[s][0])), out, 0) for s in sources]
    if random.random() < 0.25:
        synapses.append(_dense(random, name, out, out, 1))
    return tuple(synapses), (out,), max(known[s][1] for s in sources) + 1


def _dense(random, source, inputs, out, shortest):
    shapes = [(), (inputs,), (1, inputs), (out, 1), (out, inputs)]
    delay_shape = None if random.random() < 0.6 else shapes[int(random.integers(0, 5))]
    delay = shortest if delay_shape is None else random.integers(shortest, shortest + 4, delay_shape).astype(np.int32)
    return Dense(source, _weights(random, out, inputs), delay if np.ndim(delay) else int(delay))


def _weights(random, *size):
    low, high = [(-128, 128), (0, 128), (-128, 1), (-5, 10), (0, 1)][int(random.choice(5, p=[0.4, 0.2, 0.1, 0.2, 0.1]))]
    return (2 * random.integers(low, high, size) * (random.random(size) < random.choice([0.3, 1.0]))).astype(np.int32)


def _layer(random, name, shape, synapses, injected=False):
    size = shape if random.random() < 0.3 else shape[:1]
    bias = random.integers(BIAS_MIN, BIAS_MAX + 1, size).astype(np.int32) // int(random.choice([1, 64, 5000]))
    return Layer(
        name=name,
        shape=shape,
        synapses=synapses,
        v_decay=int(random.choice([0, 1, 410, 2048, 3072, 4095, 4096, random.integers(0, 4097)])),
        u_decay=int(random.choice([4096, 4096, 4096, 0, 100, 2048, random.integers(0, 4097)])),
        threshold=int(random.choice([0, 0, 50, 300, 300, 5000, 131070, 131071, NEVER])),
        bias=bias,
        injected=injected,
    )
