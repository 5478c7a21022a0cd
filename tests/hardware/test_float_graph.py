"""Any NIR graph in floats, against NIR's equations written out neuron by neuron."""

import itertools
import math
from fractions import Fraction

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph
from tests.graphs import ARCHITECTURES, DT, Made, architecture, graph_of, spikes_in
from tests.hardware.nir_reference import run_nodes

PLAIN = Dynamics(DT)
SAID = [
    Dynamics(DT, reset, multi, clamp, tie)
    for reset, multi in (("hard", False), ("subtract", False), ("subtract", True))
    for clamp in (None, "threshold", -0.25)
    for tie in ("gt", "ge")
]


def alone(node, size=1):
    return graph_of((size,), size, {"n": node}, ["input n output"])


def by_hand(currents, *, dynamics, beta=1, gain=1, theta=1, reset=0, alpha=None, inflow=1, drift=0, integrates=False):
    """One neuron's spikes, or potentials, in exact fractions: what it does in the words of `hardware.dynamics`."""
    v = i = Fraction(0)
    out = []
    for x in currents:
        arrived = Fraction(gain) * Fraction(x)
        if alpha is not None:
            i = Fraction(alpha) * i + arrived
            arrived = Fraction(inflow) * i
        v = Fraction(beta) * v + arrived + Fraction(drift)
        if not integrates:
            spikes, left = 0, v
            while (left > theta or (dynamics.tie == "ge" and left == theta)) and (dynamics.multi_spike or not spikes):
                spikes, left = spikes + 1, left - theta
            if dynamics.reset == "subtract":
                v = left
            elif spikes:
                v = Fraction(reset)
            if isinstance(dynamics.clamp, float):
                v = max(v, Fraction(dynamics.clamp))
            elif dynamics.clamp == "threshold" and beta == 1 and alpha is None:
                v = max(v, -Fraction(theta))
        out.append(v if integrates else Fraction(spikes))
    return [float(value) for value in out]


DYADIC = st.lists(st.integers(-8, 12).map(lambda n: n / 4), min_size=1, max_size=12)
"""Currents that single-precision sums hold exactly, so that potentials land on thresholds."""


@pytest.mark.parametrize("dynamics", SAID, ids=str)
@given(currents=DYADIC)
@settings(max_examples=25)
def test_if_neurons_fire_reset_and_clamp_as_said_also_exactly_on_the_threshold(dynamics, currents):
    node = nir.IF(np.array([1 / DT]), np.array([1.0]), np.array([0.0]))
    expected = by_hand(currents, dynamics=dynamics)
    x = np.array(currents).reshape(1, -1, 1)
    for dtype in (torch.float32, torch.float64):
        assert run_graph(alone(node), dynamics, x, dtype)["n"].ravel().tolist() == expected


@pytest.mark.parametrize("dynamics", SAID, ids=str)
@given(currents=DYADIC)
@settings(max_examples=25)
def test_lif_neurons_leak_by_half_towards_their_rest_and_reset_where_the_file_says(dynamics, currents):
    # dt / tau = 1/2: v = v / 2 + (v_leak + r x) / 2, every number of it exact.
    exact = Dynamics(0.5, dynamics.reset, dynamics.multi_spike, dynamics.clamp, dynamics.tie)
    node = nir.LIF(*(np.array([value]) for value in (1.0, 2.0, 0.5, 1.0, -0.5)))
    expected = by_hand(currents, dynamics=dynamics, beta=0.5, drift=0.25, reset=Fraction(-1, 2))
    assert run_graph(alone(node), exact, np.array(currents).reshape(1, -1, 1))["n"].ravel().tolist() == expected


@pytest.mark.parametrize("dynamics", SAID[:3] + SAID[-3:], ids=str)
@given(currents=DYADIC)
@settings(max_examples=25)
def test_cubalif_neurons_pass_their_input_through_a_current_that_no_reset_touches(dynamics, currents):
    # dt / tau_syn = 1/2, dt / tau_mem = 1/4, w_in = 3, r = 2, v_leak = -1
    exact = Dynamics(0.5, dynamics.reset, dynamics.multi_spike, dynamics.clamp, dynamics.tie)
    node = nir.CubaLIF(*(np.array([value]) for value in (1.0, 2.0, 2.0, -1.0, 1.0, 0.25)), w_in=np.array([3.0]))
    expected = by_hand(currents, dynamics=dynamics, beta=0.75, gain=1.5, alpha=0.5, inflow=0.5, drift=-0.25,
                       reset=Fraction(1, 4))  # fmt: skip
    assert run_graph(alone(node), exact, np.array(currents).reshape(1, -1, 1))["n"].ravel().tolist() == expected


@pytest.mark.parametrize(
    ("node", "equation"),
    [
        (nir.I(np.array([2.0])), {"gain": 1}),
        (nir.LI(*(np.array([v]) for v in (1.0, 2.0, 0.5))), {"beta": 0.5, "drift": 0.25}),
        (nir.CubaLI(*(np.array([v]) for v in (1.0, 2.0, 2.0, -1.0)), w_in=np.array([3.0])),
         {"beta": 0.75, "gain": 1.5, "alpha": 0.5, "inflow": 0.5, "drift": -0.25}),
    ],
    ids=["I", "LI", "CubaLI"],
)  # fmt: skip
@pytest.mark.parametrize("dynamics", [Dynamics(0.5), Dynamics(0.5, "subtract", True, -0.125, "ge")], ids=str)
def test_integrators_put_out_their_potential_and_know_neither_reset_nor_clamp(node, equation, dynamics):
    currents = [1.0, -3.0, 0.5, 4.0, -0.25]
    expected = by_hand(currents, dynamics=dynamics, integrates=True, **equation)
    assert run_graph(alone(node), dynamics, np.array(currents).reshape(1, -1, 1))["n"].ravel().tolist() == expected
    assert min(expected) < -0.125


@pytest.mark.parametrize(("v", "spikes"), [(0.5, 0), (1.0, 0), (1.25, 1), (2.0, 1), (2.25, 2), (-3.0, 0)])
def test_several_spikes_are_as_many_thresholds_as_were_passed_strictly(v, spikes):
    node = nir.IF(np.array([1 / DT]), np.array([1.0]), np.array([0.0]))
    strict = run_graph(alone(node), Dynamics(DT, "subtract", True), np.array([v, 0.0]).reshape(1, 2, 1))["n"]
    assert strict.ravel().tolist() == [spikes, 0]


def test_a_potential_on_the_threshold_is_where_the_ties_part():
    node = nir.IF(np.array([1 / DT]), np.array([1.0]), np.array([0.0]))
    x = np.full((1, 6, 1), 0.5)
    fired = {tie: run_graph(alone(node), Dynamics(DT, tie=tie), x)["n"].ravel().tolist() for tie in ("gt", "ge")}
    assert fired == {"gt": [0, 0, 1, 0, 0, 1], "ge": [0, 1, 0, 1, 0, 1]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["lif", "cuba"])
def test_norse_fires_the_same_spikes(kind):
    norse = pytest.importorskip("norse.torch")
    made = Made(3, np.float32)
    node = made.lif(7, beta=0.9) if kind == "lif" else made.cuba(7)
    gain = node.r[0]
    unit = np.ones(7, np.float32)
    # norse leaves R out; what it stands for goes into the weights before.
    bare = nir.LIF(node.tau, unit, 0 * unit, unit) if kind == "lif" else node
    fc = made.linear(7, 5)
    graph = graph_of((5,), 7, {"fc": nir.Linear(fc.weight * gain if kind == "lif" else fc.weight), "n": bare},
                     ["input fc n output"])  # fmt: skip
    x = np.random.default_rng(1).integers(0, 2, (3, 60, 5)).astype(np.float32)
    model, state, theirs = norse.from_nir(graph, dt=DT), None, []
    with torch.no_grad():
        for t in range(x.shape[1]):
            now, state = model(torch.from_numpy(x[:, t]), state)
            theirs.append(now.numpy())
    ours = run_graph(graph, PLAIN, x, torch.float32)["n"]
    assert 0.05 < ours.mean() < 0.6
    np.testing.assert_array_equal(ours, np.stack(theirs, 1))


def delayed(x, delays):
    """x (steps, neurons) with each neuron's values so many steps later, by a loop."""
    out = np.zeros_like(x)
    for t, n in itertools.product(range(len(x)), range(x.shape[1])):
        if t >= delays[n]:
            out[t, n] = x[t - delays[n], n]
    return out


@pytest.mark.parametrize("delays", [[0, 1, 3], [2, 2, 2], [9, 0, 4]])
def test_a_delay_is_each_neurons_own_and_longer_than_the_sample_is_silence(delays):
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    node = nir.Delay(np.array(delays) * DT)
    out = run_graph(alone(node, 3), PLAIN, x)["n"]
    for sample, expected in zip(out, x, strict=True):
        np.testing.assert_array_equal(sample, delayed(expected, delays))


@pytest.mark.parametrize("delay", [[0.5 * DT], [-DT], [DT, 1.3 * DT]])
def test_a_delay_that_is_no_whole_number_of_steps_is_refused(delay):
    with pytest.raises(ScaDeployError, match=r"node 'n' \(Delay\): its delay is not a whole number of steps"):
        run_graph(alone(nir.Delay(np.array(delay)), len(delay)), PLAIN, np.zeros((1, 2, len(delay))))


# ---- linear nodes and whole graphs ----

MAP = (3, 5, 5)


def random_graph(draw):
    """A graph over maps of 3 x 5 x 5, with every node type that keeps them so, sums, and now and then loops."""
    made = Made(draw.randrange(1 << 30))
    ones = np.array([1, 1])
    makers = {
        "conv": lambda: made.conv(3, 3),
        "depthwise": lambda: made.conv(3, 3, groups=3),
        "same": lambda: nir.Conv2d(
            None, made.between(-0.5, 0.6, 3, 3, 2, 4), 1, "same", (2, 1), 1, made.between(0, 1, 3)
        ),
        "dilated": lambda: nir.Conv2d(None, made.between(-0.5, 0.6, 3, 3, 3, 3), 1, 2, 2, 1, made.between(0, 1, 3)),
        "sum_pool": lambda: nir.SumPool2d(3 * ones, ones, ones),
        "avg_pool": lambda: nir.AvgPool2d(3 * ones, ones, ones),
        "scale": lambda: nir.Scale(made.between(-1, 2, *MAP)),
        "threshold": lambda: nir.Threshold(made.between(-0.2, 1, *MAP)),
        "delay": lambda: nir.Delay(made.rng.integers(0, 3, MAP) * DT),
        "along": lambda: nir.Affine(made.between(-0.5, 0.6, 5, 5), made.between(-0.1, 0.1, 5)),
    }
    neurons = {
        "lif": lambda: made.varied(*MAP),
        "if": lambda: made.integrate(*MAP),
        "cubalif": lambda: made.cuba(*MAP),
        "li": lambda: nir.LI(made.full(MAP, 3 * DT), made.full(MAP, 1), made.between(-0.3, 0.3, *MAP)),
        "i": lambda: nir.I(made.full(MAP, 0.3 / DT)),
        "cubali": lambda: nir.CubaLI(*(made.full(MAP, v) for v in (2 * DT, 3 * DT, 1, 0.1)), w_in=made.full(MAP, 2)),
    }
    nodes, edges, names = {}, [], ["input"]
    for number in range(draw.randint(3, 9)):
        kind = draw.choice(list(makers) + 2 * list(neurons))
        name = f"{kind}_{number}"
        nodes[name] = (makers | neurons)[kind]()
        edges += [f"{source} {name}" for source in draw.sample(names, min(len(names), draw.choice([1, 1, 2, 3])))]
        names.append(name)
    unread = [name for name in names if not any(edge.startswith(f"{name} ") for edge in edges)]
    populations = [name for name in names[1:] if name.rsplit("_", 1)[0] in neurons]
    for number in range(draw.choice([0, 0, 1, 2]) if populations else 0):
        # From a population to any node before it, or itself: a loop, or a shortcut.
        back, source = f"back_{number}", draw.choice(populations)
        nodes[back] = made.conv(3, 3, bias=False)
        edges.append(f"{source} {back} {draw.choice(populations)}")
    return graph_of(MAP, 75, nodes, [*edges, *(f"{name} output" for name in unread)])


@given(draw=st.randoms(use_true_random=False), dynamics=st.sampled_from(SAID))
@settings(max_examples=60, derandomize=True)
def test_every_node_of_a_graph_at_random_puts_out_what_the_equations_say(draw, dynamics):
    graph = random_graph(draw)
    x = spikes_in(graph, samples=2, steps=4, seed=draw.randrange(100))
    expected, arrived, _ = run_nodes(graph, x, dynamics)
    found = run_graph(graph, dynamics, x)
    assert found.keys() == graph.nodes.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(found["output"], arrived, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "nested" not in name])
def test_every_architecture_runs_as_the_equations_say(name):
    graph, dynamics = architecture(name)
    x = spikes_in(graph)
    expected, arrived, _ = run_nodes(graph, x, dynamics)
    found = run_graph(graph, dynamics, x)
    for population in (n for n in graph.nodes if n.startswith("n")):
        assert found[population].any()
        np.testing.assert_array_equal(found[population], expected[population], err_msg=population)
    np.testing.assert_allclose(found["output"], arrived, atol=1e-9)


def test_one_dimensional_convolutions_slide_along_a_line():
    weight = np.array([[[1.0, -2.0, 3.0]], [[0.5, 0.0, -1.0]]])
    node = nir.Conv1d(None, weight, 2, 1, 1, 1, np.array([0.25, -0.25]))
    x = np.arange(1.0, 6.0).reshape(1, 1, 1, 5)
    padded = np.pad(x[0, 0, 0], 1)
    expected = [[sum(w * padded[2 * place + k] for k, w in enumerate(row[0])) + shift for place in range(3)]
                for row, shift in zip(weight, (0.25, -0.25), strict=True)]  # fmt: skip
    graph = graph_of((1, 5), 6, {"n": node}, ["input n output"])
    np.testing.assert_array_equal(run_graph(graph, PLAIN, x)["n"][0, 0], expected)


def test_one_number_stands_for_a_whole_population():
    made = Made(2)
    whole, single = made.lif(4), made.lif(1)
    fc = made.affine(4, 3)
    x = np.random.default_rng(0).integers(0, 3, (2, 6, 3))
    spikes = [run_graph(graph_of((3,), 4, {"fc": fc, "n": node}, ["input fc n output"]), PLAIN, x)["n"]
              for node in (whole, single)]  # fmt: skip
    assert spikes[0].any()
    np.testing.assert_array_equal(*spikes)


def test_a_matrix_takes_a_map_flattened_or_row_by_row_if_only_its_last_axis_fits():
    x = np.arange(12.0).reshape(1, 1, 2, 2, 3)
    flat, along = nir.Linear(np.arange(24.0).reshape(2, 12)), nir.Linear(np.array([[1.0, 10.0, 100.0]]))
    out = [
        run_graph(graph_of((2, 2, 3), 2, {"n": node}, ["input n output"]), PLAIN, x)["n"][0, 0]
        for node in (flat, along)
    ]
    np.testing.assert_array_equal(out[0], flat.weight @ np.arange(12.0))
    np.testing.assert_array_equal(out[1], [[[210], [543]], [[876], [1209]]])


# ---- loops ----


def looped(back):
    """Two neurons that hear their own spikes through a matrix."""
    made = Made()
    nodes = {"fc": nir.Linear(np.eye(2)), "n": made.integrate(2), "back": nir.Linear(np.array(back, float))}
    return graph_of((2,), 2, nodes, ["input fc n output", "n back n"])


def test_what_a_population_fires_comes_back_one_step_late():
    # Neuron 0 fires at step 0; its spike of 2 makes neuron 1 fire at step 1, whose spike comes back at step 2.
    x = np.zeros((1, 5, 2))
    x[0, 0, 0] = 1.5
    spikes = run_graph(looped([[0, 2], [2, 0]]), PLAIN, x)["n"][0]
    assert spikes.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]


def test_an_edge_from_a_population_to_itself_needs_no_node_in_between():
    made = Made()
    graph = graph_of((1,), 1, {"n": made.integrate(1)}, ["input n output", "n n"])
    x = np.array([2.0, 0.5, 0.0, 0.0]).reshape(1, 4, 1)
    # 2 fires; 0.5 + 1 fires; 1 alone does not pass the threshold; nothing comes back, 1 stays.
    assert run_graph(graph, PLAIN, x)["n"].ravel().tolist() == [1, 1, 0, 0]


def two_in_a_loop(names, edges):
    made = Made()
    eye = {name: nir.Linear(np.array([[2.0]])) for name in ("there", "back")}
    return graph_of((1,), 1, {name: made.integrate(1) for name in names} | eye, edges)


def test_of_two_populations_in_a_loop_the_one_nearer_to_the_input_is_not_late_to_the_other():
    # "z" is nearer to the Input than "a": its spike reaches "a" in the same step, and comes back in the next.
    graph = two_in_a_loop("za", ["input z there a back z", "a output"])
    x = np.array([1.5, 0, 0, 0]).reshape(1, 4, 1)
    found = run_graph(graph, PLAIN, x)
    assert found["z"].ravel().tolist() == found["a"].ravel().tolist() == [1, 1, 1, 1]


def test_nearness_is_counted_in_edges_from_the_input_also_where_both_are_led_into():
    # "a" is entered as well, but from further away.
    graph = two_in_a_loop("za", ["input z there a back z", "input s1 s2 a", "a output"])
    graph.nodes |= {"s1": nir.Scale(np.array([1.0])), "s2": nir.Scale(np.array([0.0]))}
    x = np.array([1.5, 0, 0]).reshape(1, 3, 1)
    found = run_graph(graph, PLAIN, x)
    assert found["z"].ravel().tolist() == found["a"].ravel().tolist() == [1, 1, 1]


def test_equally_near_populations_of_a_loop_are_late_to_each_other():
    graph = two_in_a_loop("ab", ["input a there b back a", "input off b", "input on a", "b output"])
    graph.edges.remove(("input", "a"))
    graph.nodes |= {"on": nir.Scale(np.array([1.0])), "off": nir.Scale(np.array([0.0]))}
    x = np.array([1.5, 0, 0, 0]).reshape(1, 4, 1)
    found = run_graph(graph, PLAIN, x)
    assert found["a"].ravel().tolist() == [1, 0, 1, 0]
    assert found["b"].ravel().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_a_graph_inside_the_graph_does_what_its_nodes_do_outside(seed):
    flat = architecture("recurrent, flat", seed)[0]
    inside = graph_of(
        (6,), 6, {"cell": flat.nodes["n1"], "w": flat.nodes["back"]}, ["input cell output", "cell w cell"]
    )
    nodes = {name: node for name, node in flat.nodes.items() if name not in ("n1", "back", "input", "output")}
    nested = graph_of((4,), 3, nodes | {"rec": inside}, ["input fc1 rec fc2 n2 fc3 output"])
    x = spikes_in(flat)
    one, other = run_graph(flat, PLAIN, x), run_graph(nested, PLAIN, x)
    np.testing.assert_array_equal(one["n1"], other["rec.cell"])
    np.testing.assert_array_equal(one["output"], other["output"])
    assert one["n1"].any()


def test_a_graph_inside_that_reads_itself_is_a_loop():
    made = Made()
    inside = graph_of((1,), 1, {"cell": made.integrate(1)}, ["input cell output"])
    graph = graph_of((1,), 1, {"g": inside}, ["input g output", "g g"])
    x = np.array([2.0, 0.5, 0.0, 0.0]).reshape(1, 4, 1)
    assert run_graph(graph, PLAIN, x)["g.cell"].ravel().tolist() == [1, 1, 0, 0]


def test_populations_of_single_numbers_in_a_loop_take_the_shape_of_what_they_read():
    made = Made(1)
    nodes = {
        "c1": made.conv(3, 2),
        "a": made.lif(1),
        "there": made.conv(4, 3),
        "b": made.lif(1),
        "back": made.conv(3, 4),
    }
    graph = graph_of((2, 6, 6), 144, nodes, ["input c1 a there b back a", "b output"])
    x = spikes_in(graph)
    single = run_graph(graph, PLAIN, x)
    assert single["a"].shape[2:] == (3, 6, 6)
    assert single["b"].shape[2:] == (4, 6, 6)
    graph.nodes |= {"a": made.lif(3, 6, 6), "b": made.lif(4, 6, 6)}
    for name, value in run_graph(graph, PLAIN, x).items():
        np.testing.assert_array_equal(single[name], value)
    assert single["b"].any()


# ---- shapes, precision, refusals ----


def test_one_step_is_the_first_of_many():
    for name in ARCHITECTURES:
        graph, dynamics = architecture(name)
        x = spikes_in(graph)
        many, one = run_graph(graph, dynamics, x), run_graph(graph, dynamics, x[:, :1])
        for node, value in one.items():
            np.testing.assert_allclose(value, many[node][:, :1], atol=1e-12, err_msg=f"{name}: {node}")


def test_double_precision_is_the_default_and_single_on_request():
    graph, dynamics = architecture("feed-forward")
    x = spikes_in(graph, samples=20)
    double, single = run_graph(graph, dynamics, x), run_graph(graph, dynamics, x, torch.float32)
    assert {value.dtype for value in double.values()} == {np.dtype(np.float64)}
    assert {value.dtype for value in single.values()} == {np.dtype(np.float32)}
    difference = np.abs(double["conv1"] - single["conv1"]).max()
    assert 0 < difference < 1e-6 * np.abs(double["conv1"]).max()


def test_samples_do_not_meet():
    graph, dynamics = architecture("recurrent, nested")
    x = spikes_in(graph)
    together, alone_ = run_graph(graph, dynamics, x), run_graph(graph, dynamics, x[3:4])
    for name, value in alone_.items():
        np.testing.assert_allclose(together[name][3:4], value, atol=1e-12)


@pytest.mark.parametrize(
    ("nodes", "edges", "problem"),
    [
        ({"a": nir.Scale(np.ones(2)), "b": nir.Scale(np.ones(2))}, ["input a b output", "b a"],
         r"node 'a' \(Scale\): it is part of a loop without neurons"),
        ({"a": nir.Scale(np.ones(2)), "b": nir.Linear(np.ones((3, 2)))}, ["input a output", "input b output"],
         r"node 'output' \(Output\): it sums values of shapes \(2,\), \(3,\)"),
        ({"n": Made().lif(3)}, ["input n output"],
         r"node 'n' \(LIF\): it has neurons of shape \(3,\) and reads \(2,\)"),
        ({"n": Made().lif(2)}, ["input output", "n output"], r"node 'n' \(LIF\): no edge leads to it"),
        ({"n": nir.Linear(np.ones((3, 4)))}, ["input n output"], r"node 'n' \(Linear\): it cannot read .* \(2,\)"),
        ({"n": nir.SumPool2d(*[np.array([2, 2])] * 3)}, ["input n output"], r"node 'n' \(SumPool2d\): it cannot read"),
        ({"n": nir.LIF(*(np.array([v]) for v in (0.5 * DT, 1.0, 0.0, 1.0)))}, ["input n output"],
         r"node 'n' \(LIF\): tau is 5e-05 s, shorter than the time step of 0.0001 s"),
        ({"n": nir.IF(np.array([math.nan]), np.array([1.0]))}, ["input n output"], "'r' holds NaN"),
        ({"n": nir.Output({"output": np.array([2])})}, ["input n", "input output"],
         "has 2 Output nodes, one is needed"),
        ({"n": Made().lif(2)}, ["input n output", "n input"], "leads into the Input 'input'"),
        ({"n": Made().lif(2)}, ["input n output n"], "out of the Output 'output'"),
        ({}, ["input ghost output"], "edge 'input' -> 'ghost' names a node that the graph does not hold"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_by_name_in_one_line(nodes, edges, problem):
    with pytest.raises(ScaDeployError, match=problem) as error:
        run_graph(graph_of((2,), 2, nodes, edges), PLAIN, np.zeros((1, 2, 2)))
    assert "\n" not in error.value.problem


def test_a_threshold_of_zero_cannot_be_subtracted():
    node = nir.IF(np.array([1.0, 1.0]), np.array([1.0, 0.0]))
    with pytest.raises(ScaDeployError, match=r"node 'n' \(IF\): a threshold of 0 cannot be subtracted"):
        run_graph(alone(node, 2), Dynamics(DT, "subtract"), np.zeros((1, 2, 2)))


@pytest.mark.parametrize("shape", [(2, 4), (1, 2, 5), (4,)])
def test_input_of_another_shape_is_refused(shape):
    with pytest.raises(ScaDeployError, match="input has shape .*, the graph expects"):
        run_graph(alone(Made().lif(4), 4), PLAIN, np.zeros(shape))


def test_graphs_that_hold_themselves_end():
    inside = graph_of((1,), 1, {}, ["input output"])
    inside.nodes["self"] = inside
    with pytest.raises(ScaDeployError, match="more than 16 deep"):
        run_graph(graph_of((1,), 1, {"g": inside}, ["input g output"]), PLAIN, np.zeros((1, 1, 1)))
