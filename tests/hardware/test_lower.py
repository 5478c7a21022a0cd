import nir
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.simulate import simulate
from tests.hardware.nir_reference import run_graph
from tests.hardware.test_frontend import DT, GRAPHS, RNG, chain, cuba, lif, linear, net, pool, residual


def graph(weight, bias, beta=0.5, threshold=1.0, readout=None):
    """input -> Affine -> LIF [-> Affine]; weights are per unit of v, so the LIF's input gain is undone."""
    gain = 1 / (1 - beta)
    nodes = [nir.Affine(np.float32(weight * gain), np.float32(bias * gain)), lif((len(weight),), beta, threshold)]
    if readout is not None:
        nodes.append(nir.Affine(np.float32(readout), np.zeros(len(readout), np.float32)))
    return chain((weight.shape[1],), *nodes)


@st.composite
def layers(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.floats(1e-3, 1e3))
    weight = rng.normal(draw(st.floats(-1, 1)), 1, (draw(st.integers(1, 8)), draw(st.integers(1, 200)))) * size
    bias = rng.normal(size=len(weight)) * size * draw(st.floats(0, 2))
    return weight, bias, draw(st.floats(0, 0.99)), size * draw(st.floats(0.1, 20)), draw(st.sampled_from([0, 4, 8]))


def lowered(case):
    """The Program of a layer; layers that are refused for keeping too few steps are not what these rules are about."""
    weight, bias, beta, threshold, bits = case
    try:
        return lower(graph(weight, bias, beta, threshold), dt=DT, steps=4, input_bits=bits)
    except ScaDeployError as error:
        assume("at least 2 are needed" not in error.problem)
        raise


@settings(max_examples=300)
@given(layers())
def test_no_input_can_wrap_the_current(case):
    program = lowered(case)
    [layer] = program.layers
    integers = layer.synapses[0].weight.astype(np.int64)
    for swing in (integers.clip(min=0), integers.clip(max=0)):
        assert np.abs(swing.sum(axis=1)).max() * program.input_max * 64 < 2**23


@settings(max_examples=300)
@given(layers())
def test_every_number_is_the_float_times_one_scale(case):
    weight, bias, beta, threshold, _ = case
    [layer] = lowered(case).layers
    assert np.abs(layer.synapses[0].weight - weight * layer.scale).max() <= 1.001
    assert np.abs(layer.bias - bias * layer.scale).max() <= 0.51 + 1e-6 * np.abs(layer.bias).max()
    assert layer.threshold == pytest.approx(threshold * layer.scale, abs=0.51, rel=1e-6)
    assert layer.v_decay == pytest.approx((1 - beta) * 4096, abs=0.51)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 64), st.integers(1, 40))
def test_the_read_out_can_neither_fire_nor_saturate(seed, steps, features):
    rng = np.random.default_rng(seed)
    readout = rng.normal(0.5, 1, (3, features)) * 10 ** rng.uniform(-3, 3)
    net = chain((features,), nir.Affine(np.float32(readout), np.float32(rng.normal(size=3) * np.abs(readout).max())))
    program = lower(net, dt=DT, steps=steps, input_bits=0)
    weight, bias = program.layers[0].synapses[0].weight, program.layers[0].bias.astype(int)
    worst = [steps * 64 * (weight.clip(min=0).sum(1) + bias), steps * 64 * (weight.clip(max=0).sum(1) + bias)]
    assert program.readout
    assert np.abs(worst).max() <= 131071 << 6
    everything = np.ones((1, steps, features), int)
    exact = (weight.astype(int).sum(1) + bias) * 64 * steps
    assert simulate(program, everything).readout[0].tolist() == exact.tolist()


def test_max_pooling_as_or_neurons_is_exact():
    net = chain((3, 6, 6), pool(2), lif((3, 3, 3), beta=0.0, threshold=0.5))
    program = lower(net, dt=DT, steps=5, input_bits=0)
    x = np.random.default_rng(0).random((4, 5, 3, 6, 6)) < 0.3
    spikes = simulate(program, x.astype(int), record=["spikes"]).records["n1"]["spikes"]
    expected = torch.nn.functional.max_pool2d(torch.from_numpy(x).float().flatten(0, 1), 2).unflatten(0, (4, 5))
    np.testing.assert_array_equal(spikes, expected.numpy())


@pytest.mark.parametrize("bias", [0.0, 0.4])
def test_a_layer_without_weights_is_driven_by_its_bias_alone(bias):
    program = lower(graph(np.zeros((2, 3)), np.full(2, bias)), dt=DT, steps=6, input_bits=0)
    run = simulate(program, np.ones((1, 6, 3), int), record=["spikes"])
    # v tends to 2 bias = 0.8 with beta 0.5, below the threshold of 1.
    assert not run.records["n1"]["spikes"].any()
    program = lower(graph(np.zeros((2, 3)), np.full(2, 0.8)), dt=DT, steps=6, input_bits=0)
    fired = simulate(program, np.ones((1, 6, 3), int), record=["spikes"]).records["n1"]["spikes"][0, :, 0]
    assert fired.tolist() == [0, 1, 0, 1, 0, 1]


def test_integers_beside_floats_give_nearly_the_same_spikes():
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(0, 0.4, (50, 40)), rng.normal(0, 0.1, 50)
    x = (rng.random((20, 30, 40)) < 0.3).astype(int)
    program = lower(graph(weight, bias), dt=DT, steps=30, input_bits=0)
    v, differ = np.zeros((20, 50)), 0
    spikes = simulate(program, x, record=["spikes"]).records["n1"]["spikes"]
    for t in range(30):
        v = 0.5 * v + x[:, t] @ weight.T + bias
        differ += int(((v > 1) != spikes[:, t]).sum())
        v[v > 1] = 0
    assert spikes.mean() > 0.1
    assert differ / spikes.size < 0.01


def test_biases_that_leave_no_room_for_the_weights_are_refused():
    with pytest.raises(ScaDeployError, match="layer 'n1': its biases fill the chip's integers"):
        lower(graph(np.full((1, 2), 1e-4), np.array([1.0])), dt=DT, steps=4, input_bits=0)


def test_a_threshold_that_rounds_to_nearly_nothing_is_refused():
    with pytest.raises(ScaDeployError, match="while its threshold keeps 0.025 steps"):
        lower(graph(np.full((1, 2), 1.0), np.zeros(1), threshold=1e-4), dt=DT, steps=4, input_bits=0)


def test_payloads_wider_than_a_message_are_refused():
    with pytest.raises(ScaDeployError, match="input of 17 bits"):
        lower(graph(np.ones((1, 2)), np.zeros(1)), dt=DT, steps=4, input_bits=17)


@pytest.mark.parametrize("feature", GRAPHS)
def test_every_feature_gives_nearly_the_spikes_of_the_graph_run_node_by_node(feature):
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state
    shape, graph_ = GRAPHS[feature]()
    program = lower(graph_, dt=DT, steps=12, input_bits=0)
    x = (RNG.random((40, 12, *shape)) < 0.4).astype(np.uint8)
    expected, _ = run_graph(graph_, x, DT)
    run = simulate(program, x.reshape(40, 12, *program.input_shape), record=["spikes"])
    for name in expected:
        if hasattr(graph_.nodes[name], "v_threshold"):
            spikes = run.records[name]["spikes"].reshape(expected[name].shape)
            # 8 bits a weight move a potential across its threshold now and then, and one spike moves others.
            assert (spikes != expected[name]).mean() < 0.03, name


def test_where_a_convolution_waits_relays_repeat_its_sources_spikes():
    shape, graph_ = residual()
    program = lower(graph_, dt=DT, steps=12, input_bits=0)
    relays = {layer.name: layer for layer in program.layers if "_relay" in layer.name}
    assert list(relays) == ["a_relay1", "c_relay1"]
    assert program.stages["c"] == program.stages["a_relay1"] + 1 == program.stages["a"] + 2
    run = simulate(program, (RNG.random((10, 12, *shape)) < 0.4).astype(np.uint8), record=["spikes"])
    for name in relays:
        np.testing.assert_array_equal(run.records[name]["spikes"], run.records[name.removesuffix("_relay1")]["spikes"])
        assert run.records[name]["spikes"].any()


def test_a_long_way_round_takes_one_relay_a_step_and_readers_share_them():
    nodes = {"input": nir.Input({"input": np.array([2, 3, 3])}), "output": nir.Output({"output": np.array([1])})}
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        nodes |= {name: lif((2, 3, 3)), f"to_{name}": identity_conv()}
    edges = "input>to_a " + " ".join(f"to_{n}>{n}" for n in names) + " a>to_b b>to_c c>to_d d>to_e a>d a>e e>output"
    program = lower(net(nodes, edges), dt=DT, steps=4, input_bits=0)
    assert [layer.name for layer in program.layers if "relay" in layer.name] == ["a_relay1", "a_relay2", "a_relay3"]
    assert [synapse.source for synapse in program["d"].synapses] == ["c", "a_relay2"]
    assert [synapse.source for synapse in program["e"].synapses] == ["d", "a_relay3"]


def test_a_relay_gets_a_name_that_nobody_has():
    nodes = {"input": nir.Input({"input": np.array([2, 3, 3])}), "output": nir.Output({"output": np.array([1])})}
    for name in ("a", "a_relay1", "c"):
        nodes |= {name: lif((2, 3, 3)), f"to_{name}": identity_conv()}
    edges = "input>to_a to_a>a a>to_a_relay1 to_a_relay1>a_relay1 a_relay1>to_c to_c>c a>c c>output"
    program = lower(net(nodes, edges), dt=DT, steps=4, input_bits=0)
    assert [synapse.source for synapse in program["c"].synapses] == ["a_relay1", "a_relay1_"]


def identity_conv():
    weight = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    return nir.Conv2d((3, 3), weight, (1, 1), (0, 0), (1, 1), 1, np.zeros(2, np.float32))


def test_fully_connected_synapses_wait_by_themselves():
    nodes = {"input": nir.Input({"input": np.array([3])}), "output": nir.Output({"output": np.array([2])})}
    for name in "abc":
        nodes |= {name: lif((3,)), f"to_{name}": linear(3, 3)}
    program = lower(
        net(nodes, "input>to_a to_a>a a>to_b to_b>b b>to_c to_c>c a>c c>output"), dt=DT, steps=4, input_bits=0
    )
    assert [layer.name for layer in program.layers] == ["a", "b", "c"]
    assert [program.wait(program["c"], synapse) for synapse in program["c"].synapses] == [0, 1]


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.floats(1.0, 30.0), st.integers(1, 60))
def test_no_input_can_wrap_a_current_that_piles_up(seed, tau, steps):
    rng = np.random.default_rng(seed)
    weight = rng.normal(0.3, 1, (4, 20)).astype(np.float32)
    graph_ = chain((20,), nir.Linear(weight), cuba((4,), tau_syn=tau * DT), nir.Linear(np.eye(4, dtype=np.float32)))
    [layer, _] = lower(graph_, dt=DT, steps=steps, input_bits=0).layers
    integers = layer.synapses[0].weight.astype(int)
    for swing in (integers.clip(min=0).sum(1).max(), integers.clip(max=0).sum(1).min()):
        u = 0
        for _ in range(steps):
            u = int(np.sign(u)) * (abs(u) * (4096 - layer.u_decay) >> 12) + 64 * int(swing)
            assert abs(u) < 2**23
