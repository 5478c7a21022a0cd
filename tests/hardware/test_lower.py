import nir
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.floats import run_floats
from sca_deploy.hardware.frontend import read_populations
from sca_deploy.hardware.lower import Rules, assemble, lower
from sca_deploy.hardware.simulate import simulate
from tests.hardware.nir_reference import run_graph
from tests.hardware.test_frontend import DT, GRAPHS, RNG, chain, cuba, lif, linear, net, pool, residual, unfolded


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
    assert -1.0 < layer.threshold - threshold * layer.scale <= 1e-5 * layer.threshold + 1e-6
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
    expected, *_ = run_graph(unfolded(graph_), x, DT)
    run = simulate(program, x.reshape(40, 12, *program.input_shape), record=["spikes"])
    for name in expected:
        if hasattr(graph_.nodes.get(name), "v_threshold"):
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


@pytest.mark.parametrize("threshold", [0.4994, 0.7497, 0.9999])
def test_a_potential_that_ties_with_the_rounded_threshold_fires_as_the_float_one_does(threshold):
    graph_ = graph(np.ones((1, 1)), np.zeros(1), beta=0.5, threshold=threshold)
    _, populations = read_populations(graph_, DT)
    x = np.ones((1, 8, 1), np.uint8)
    program = lower(graph_, dt=DT, steps=8, input_bits=0)
    spikes = simulate(program, x, record=["spikes"]).records["n1"]["spikes"]
    np.testing.assert_array_equal(spikes, run_floats(populations, x).spikes["n1"])


LEAKY = nir.LI(*np.full((3, 10), [[20 * DT], [1.0], [0.0]]))


@pytest.mark.parametrize("steps", [16, 300, 3000])
def test_the_head_room_of_a_read_out_that_forgets_does_not_grow_with_the_steps(steps):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(10, 200)).astype(np.float32)
    program = lower(chain((200,), nir.Linear(weight), LEAKY), dt=DT, steps=steps, input_bits=0)
    assert np.abs(program.layers[-1].synapses[0].weight).max() == 254
    x = np.ones((1, steps, 200), np.uint8)
    readout = simulate(program, x).readout[0] / (64 * program.layers[-1].scale)
    reference = run_floats(read_populations(chain((200,), nir.Linear(weight), LEAKY), DT)[1], x).final[0]
    np.testing.assert_allclose(readout, reference, atol=0.02 * np.abs(reference).max())


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.floats(1.0, 300.0), st.floats(1.0, 300.0), st.integers(1, 200), st.booleans())
def test_no_read_out_can_saturate_whatever_reaches_it_by_which_paths(seed, tau, tau_syn, steps, current):
    rng = np.random.default_rng(seed)
    sizes = np.full(2, tau * DT), np.ones(2), np.zeros(2)
    last = nir.CubaLI(np.full(2, tau_syn * DT), *sizes, w_in=np.full(2, tau_syn)) if current else nir.LI(*sizes)
    weights = [nir.Linear(rng.normal(0.3, 1, (2, 6)).astype(np.float32)) for _ in range(2)]
    nodes = {"input": nir.Input({"input": np.array([6])}), "output": nir.Output({"output": np.array([2])})}
    graph_ = net(nodes | {"a": weights[0], "b": weights[1], "li": last}, "input>a input>b a>li b>li li>output")
    try:
        program = lower(graph_, dt=DT, steps=steps, input_bits=0)
    except ScaDeployError as error:
        assume("at least 2 are needed" not in error.problem)
        raise
    layer, u, v = program["li"], np.zeros(2), np.zeros(2)
    assert np.abs(layer.synapses[0].weight).max() > 2
    for sign in (1, -1):
        swing = sum(np.maximum(sign * s.weight, 0).sum(1) for s in layer.synapses)
        u, v = np.zeros(2), np.zeros(2)
        for _ in range(steps):
            u = u * (4096 - layer.u_decay) / 4096 + 64 * swing
            v = v * (4096 - layer.v_decay) / 4096 + u
        assert u.max() < 2**23
        assert v.max() <= 131071 << 6


def test_a_read_out_without_head_room_for_a_single_step_of_its_weights_is_refused():
    graph_ = chain((4,), nir.Linear(np.ones((3, 4), np.float32)))
    with pytest.raises(ScaDeployError, match="at least 2 are needed"):
        lower(graph_, dt=DT, steps=140_000, input_bits=0)


def test_a_path_that_all_rounds_away_is_refused_by_its_source():
    nodes = {"input": nir.Input({"input": np.array([3])}), "output": nir.Output({"output": np.array([2])})}
    nodes |= {name: lif((3,)) for name in "ab"} | {f"to_{name}": linear(3, 3) for name in "abc"}
    nodes |= {"c": lif((3,)), "faint": nir.Linear(np.full((3, 3), 1e-5, np.float32))}
    graph_ = net(nodes, "input>to_a to_a>a a>to_b to_b>b b>to_c to_c>c a>faint faint>c c>output")
    with pytest.raises(ScaDeployError, match="layer 'c'.*largest weight from 'a' keeps"):
        lower(graph_, dt=DT, steps=4, input_bits=0)


@pytest.mark.parametrize("scale", [1e9, 1e300])
def test_no_scale_lifts_a_threshold_beyond_its_bits(scale):
    graph_ = graph(np.ones((2, 3)), np.zeros(2), threshold=400.0)
    shape, populations = read_populations(graph_, DT)
    program = assemble(shape, populations, Rules(4, 0), {"n1": scale})
    assert program["n1"].threshold <= 131071


def test_scales_of_layers_that_are_not_there_are_refused():
    with pytest.raises(ScaDeployError, match="'typo', which is no layer"):
        lower(graph(np.ones((2, 3)), np.zeros(2)), dt=DT, steps=4, input_bits=0, scales={"typo": 2.0})


def test_a_current_that_would_pile_up_beyond_its_bits_in_a_longer_sample_is_refused():
    slow = cuba((2,), tau_syn=1000 * DT, tau_mem=DT, w_in=1000.0, r=1.0, v_threshold=2.0)
    program = lower(chain((4,), nir.Linear(np.ones((2, 4), np.float32)), slow), dt=DT, steps=4, input_bits=0)
    simulate(program, np.ones((1, 4, 4), np.uint8))
    with pytest.raises(ScaDeployError, match="200 steps, the current of 'n1' has head-room for the 4"):
        simulate(program, np.ones((1, 200, 4), np.uint8))


def test_delays_beyond_the_chips_are_refused_before_they_overflow():
    late = nir.Delay(np.array([0.0, (2**32 + 3) * DT, 0.0]))
    with pytest.raises(ScaDeployError, match="steps late"):
        lower(chain((3,), late, linear(2, 3), lif((2,))), dt=DT, steps=4, input_bits=0)


@pytest.mark.parametrize(("tau", "refused"), [(800, False), (2800, True), (9000, True), (1e9, False)])
def test_a_leak_that_12_bits_cannot_hold_is_refused(tau, refused):
    graph_ = chain((3,), linear(2, 3), lif((2,), tau=tau * DT, r=tau))
    if refused:
        with pytest.raises(
            ScaDeployError, match="layer 'n1': its potential loses .* the chip's 12 bits make [01] of it"
        ):
            lower(graph_, dt=DT, steps=4, input_bits=0)
    else:
        lower(graph_, dt=DT, steps=4, input_bits=0)


@pytest.mark.parametrize(("tie", "threshold"), [("gt", 64), ("ge", 63)])
def test_where_a_tie_fires_the_whole_threshold_is_the_one_below(tie, threshold):
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "w": nir.Affine(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),
        "n": nir.IF(*np.ones((2, 2), np.float32)),
        "output": nir.Output({"output": np.array([2])}),
    }
    edges = [("input", "w"), ("w", "n"), ("n", "output")]
    graph = nir.NIRGraph(nodes, edges, {"dt": 1.0, "reset": "hard", "tie": tie}, type_check=False)
    [layer] = lower(graph, dt=1.0, steps=4, input_bits=0, scales={"n": 64.0}).layers
    assert layer.threshold == threshold
