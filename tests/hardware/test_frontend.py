import itertools

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.floats import run_floats
from sca_deploy.hardware.frontend import read_populations
from tests.hardware.nir_reference import run_graph

DT = 1e-4
RNG = np.random.default_rng(0)


def lif(shape, beta=0.5, threshold=1.0, **changes):
    def full(value):
        return np.full(shape, value, np.float32)

    fields = {"tau": DT / (1 - beta), "r": 1.0, "v_leak": 0.0, "v_threshold": threshold, "v_reset": 0.0} | changes
    return nir.LIF(**{key: full(value) if np.isscalar(value) else value for key, value in fields.items()})


def conv(out, channels, kernel, **changes):
    fields = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1} | changes
    weight = RNG.normal(size=(out, channels, kernel, kernel)).astype(np.float32)
    return nir.Conv2d(input_shape=None, weight=weight, bias=RNG.normal(size=out).astype(np.float32), **fields)


def pool(kernel, stride=None, padding=0, kind=nir.SumPool2d):
    return kind(*(np.array([n, n]) for n in (kernel, stride or kernel, padding)))


def affine(out, inputs):
    return nir.Affine(RNG.normal(size=(out, inputs)).astype(np.float32), RNG.normal(size=out).astype(np.float32))


def chain(shape, *nodes):
    named = {"input": nir.Input({"input": np.array(shape)})}
    named |= {f"n{i}": node for i, node in enumerate(nodes)} | {"output": nir.Output({"output": np.array([1])})}
    names = list(named)
    return nir.NIRGraph(named, list(itertools.pairwise(names)), type_check=False)


def apply(population, x):
    """The one path of a population on one source of shape (C, H, W), with its constant input."""
    [path] = population.paths
    operator = path.operator
    weight, bias = torch.from_numpy(operator.weight), torch.from_numpy(population.bias)
    if operator.is_conv:
        return F.conv2d(x[None], weight, bias, operator.stride, operator.padding, operator.dilation, operator.groups)[0]
    return weight @ x.flatten() + bias


def torch_pool(node, x):
    kernel, stride, padding = (int(np.ravel(v)[0]) for v in (node.kernel_size, node.stride, node.padding))
    area = kernel**2 if isinstance(node, nir.SumPool2d) else 1
    return area * F.avg_pool2d(x[None], kernel, stride, padding)[0]


@pytest.mark.parametrize("kind", [nir.SumPool2d, nir.AvgPool2d])
@pytest.mark.parametrize(
    ("pooling", "convolution"),
    [
        (dict(kernel=2), dict(kernel=3)),
        (dict(kernel=2), dict(kernel=3, stride=(2, 2))),
        (dict(kernel=2), dict(kernel=3, padding=(1, 1))),
        (dict(kernel=2), dict(kernel=2, dilation=(2, 2))),
        (dict(kernel=3, stride=2), dict(kernel=2)),
        (dict(kernel=3, stride=1, padding=1), dict(kernel=3)),
        (dict(kernel=4), dict(kernel=1)),
    ],
)
def test_a_pool_folds_into_the_convolution_after_it(kind, pooling, convolution):
    first, second = pool(**pooling, kind=kind), conv(4, 3, **convolution)
    x = torch.rand(3, 12, 12, dtype=torch.float64)
    weight, bias = (torch.from_numpy(np.float64(a)) for a in (second.weight, second.bias))
    expected = F.conv2d(torch_pool(first, x)[None], weight, bias, second.stride, second.padding, second.dilation)[0]
    _, [population] = read_populations(chain((3, 12, 12), first, second, lif(tuple(expected.shape), beta=0.0)), DT)
    torch.testing.assert_close(apply(population, x), expected)
    assert population.shape == tuple(expected.shape)


@pytest.mark.parametrize("pooling", [dict(kernel=2), dict(kernel=3, stride=2), dict(kernel=3, stride=2, padding=1)])
def test_a_pool_folds_into_the_matrix_after_it(pooling):
    node = pool(**pooling)
    x = torch.rand(3, 8, 8, dtype=torch.float64)
    small = torch_pool(node, x)
    matrix = affine(5, small.numel())
    flatten = nir.Flatten({"input": np.array(small.shape)}, start_dim=-3)
    _, [population] = read_populations(chain((3, 8, 8), node, flatten, matrix), DT)
    expected = torch.from_numpy(np.float64(matrix.weight)) @ small.flatten() + torch.from_numpy(np.float64(matrix.bias))
    torch.testing.assert_close(apply(population, x), expected)
    assert population.neuron.threshold is None


@pytest.mark.parametrize("pooling", [dict(kernel=5), dict(kernel=3, stride=2), dict(kernel=4, stride=2, padding=1)])
def test_a_pool_that_cannot_fold_exactly_under_padding_is_refused_by_name(pooling):
    graph = chain((3, 12, 12), pool(**pooling), conv(4, 3, 3, padding=(1, 1)), lif((4, 12, 12)))
    with pytest.raises(ScaDeployError, match="'n1': the pooling before it cannot be folded"):
        read_populations(graph, DT)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 0.95])
def test_one_euler_step_of_lif_is_beta_and_an_input_gain(beta):
    resistance = 2.5
    graph = chain((3,), affine(4, 3), lif((4,), beta, r=resistance), affine(2, 4))
    _, [hidden, _] = read_populations(graph, DT)
    tau = np.float64(graph.nodes["n1"].tau[0])
    assert hidden.neuron.beta == pytest.approx(1 - DT / tau, abs=1e-6)
    np.testing.assert_allclose(
        hidden.paths[0].operator.weight, graph.nodes["n0"].weight * (resistance * DT / tau), rtol=1e-6
    )
    np.testing.assert_allclose(hidden.bias, graph.nodes["n0"].bias * (resistance * DT / tau), rtol=1e-6)


def test_if_integrates_r_dt_times_its_input():
    neurons = nir.IF(r=np.full(4, 1 / DT, np.float32), v_threshold=np.ones(4, np.float32))
    graph = chain((3,), affine(4, 3), neurons)
    _, [population] = read_populations(graph, DT)
    assert population.neuron.beta == 1.0
    np.testing.assert_allclose(population.paths[0].operator.weight, graph.nodes["n0"].weight, rtol=1e-6)


def test_a_pool_straight_into_neurons_is_a_depthwise_convolution():
    _, [population] = read_populations(chain((3, 4, 4), pool(2), lif((3, 2, 2), beta=0.0, threshold=0.5)), DT)
    assert population.paths[0].operator.weight.tolist() == np.ones((3, 1, 2, 2)).tolist()
    assert population.paths[0].operator.groups == 3


def cuba(shape, **changes):
    fields = {"tau_syn": 2.5 * DT, "tau_mem": 4 * DT, "r": 3.0, "v_leak": 0.0, "v_threshold": 1.0, "w_in": 2.0}
    return nir.CubaLIF(**{key: np.full(shape, value, np.float32) for key, value in (fields | changes).items()})


UNEVEN = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
MIXED = np.array([1, 1, 1, 2], np.float32)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([affine(4, 3), lif((4,), v_reset=0.1)], "'n1' .LIF.: 'v_reset' is not zero"),
        ([conv(2, 3, 2), lif((2, 3, 3), v_leak=UNEVEN)], "'n1' .LIF.: 'v_leak' differs within a channel"),
        ([affine(4, 3), lif((4,), tau=MIXED)], "'tau' differs between neurons"),
        ([affine(4, 3), lif((4,), v_threshold=MIXED)], "'v_threshold' differs between neurons"),
        ([affine(4, 3), lif((4,), tau=DT / 2)], "shorter than the time step"),
        ([affine(4, 3), lif((4,), v_threshold=0.0)], "must be positive"),
        ([affine(4, 3), lif((4,), v_threshold=np.nan)], "holds NaN"),
        ([affine(4, 3), affine(2, 4)], "'n1' .Affine.: it follows 'n0' without neurons in between"),
        ([affine(4, 7)], "does not fit a source of shape"),
        ([nir.Threshold(np.ones(3))], "'n0' .Threshold.: this node type cannot be lowered"),
        ([affine(4, 3), cuba((4,))], "'n1' .CubaLIF.: a constant input flows into its synaptic current"),
        ([affine(4, 3), nir.LI(*np.full((3, 4), [[DT], [1], [0]])), affine(2, 4)], "'n1' .LI.: its neurons never fire"),
        ([affine(4, 3), lif((5,))], r"neurons of shape \(5,\) and reads \(4,\)"),
        ([nir.Delay(np.full(3, 1.5 * DT)), affine(4, 3)], "'n0' .Delay.: its delays are not whole steps"),
        ([conv(2, 3, 2, padding="same", dilation=(3, 3)), lif((2, 4, 4))], "padding 'same' is uneven"),
        ([nir.Scale(np.ones(2)), affine(4, 3)], "'n0' .Scale.: its 2 values do not fit"),
        ([nir.Scale(np.full(3, 2.0))], "ends in 'n0' without neurons"),
        ([nir.Flatten({"input": np.array([3])}, 0)], "no neurons"),
    ],
)
def test_what_a_chip_neuron_cannot_do_is_refused_by_name(nodes, message):
    shape = (3, 4, 4) if isinstance(nodes[0], nir.Conv2d) else (3,)
    with pytest.raises(ScaDeployError, match=message):
        read_populations(chain(shape, *nodes), DT)


@pytest.mark.parametrize(
    "neurons", [lif((4,), v_leak=np.array([0.5, -0.5, 2.0, 0], np.float32)), cuba((4,), v_leak=0.7)]
)
def test_a_leak_towards_something_is_a_bias_of_the_potential(neurons):
    maps = nir.Affine(RNG.normal(size=(4, 3)).astype(np.float32), np.zeros(4, np.float32))
    graph = chain((3,), maps, neurons)
    x = RNG.integers(0, 2, (6, 40, 3))
    spikes, _, _ = run_graph(graph, x, DT)
    _, populations = read_populations(graph, DT)
    assert 0 < spikes["n1"].mean() < 1
    np.testing.assert_array_equal(run_floats(populations, x).spikes["n1"], spikes["n1"])


def test_a_sum_of_shapes_that_differ_is_refused_by_name():
    graph = chain((3,), affine(3, 3), lif((3,)), affine(4, 3), lif((4,)))
    graph.edges.append(("n1", "n3"))
    with pytest.raises(ScaDeployError, match=r"'n3' .LIF.: it sums values of shapes \(3,\), \(4,\)"):
        read_populations(graph, DT)


def test_populations_that_read_one_another_in_a_loop_are_refused():
    graph = chain((3,), affine(3, 3), lif((3,)), affine(3, 3), lif((3,)), affine(2, 3))
    graph.nodes["back"] = affine(3, 3)
    graph.edges += [("n3", "back"), ("back", "n1")]
    with pytest.raises(ScaDeployError, match="n1, n3 read one another in a loop"):
        read_populations(graph, DT)


def test_a_loop_without_neurons_is_refused():
    graph = chain((3,), affine(3, 3), lif((3,)), affine(2, 3))
    graph.edges.append(("n2", "n2"))
    with pytest.raises(ScaDeployError, match="'n2' .Affine.: it is part of a loop without neurons"):
        read_populations(graph, DT)


def test_a_convolution_of_a_populations_own_spikes_is_refused():
    graph = chain((3, 4, 4), conv(3, 3, 3, padding=(1, 1)), lif((3, 4, 4)), affine(2, 48))
    graph.nodes["back"] = conv(3, 3, 3, padding=(1, 1))
    graph.edges += [("n1", "back"), ("back", "n1")]
    with pytest.raises(ScaDeployError, match="'n1' reads itself through a convolution"):
        read_populations(graph, DT)


def net(nodes, edges):
    return nir.NIRGraph(nodes, [tuple(edge.split(">")) for edge in edges.split()], type_check=False)


def ends(shape):
    return {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": np.array([1])})}


def conv1d(out, channels, kernel, **changes):
    fields = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | changes
    weight = RNG.normal(size=(out, channels // fields["groups"], kernel)).astype(np.float32)
    return nir.Conv1d(None, weight, bias=RNG.normal(size=out).astype(np.float32), **fields)


def linear(out, inputs):
    return nir.Linear(RNG.normal(size=(out, inputs)).astype(np.float32))


def residual():
    """Two blocks: an identity shortcut, then one through a strided 1 x 1 convolution."""
    nodes = ends((2, 6, 6)) | {
        "c1": conv(4, 2, 3, padding=(1, 1)), "a": lif((4, 6, 6), threshold=0.7),
        "c2": conv(4, 4, 3, padding=(1, 1)), "b": lif((4, 6, 6), threshold=0.7),
        "c3": conv(4, 4, 3, padding=(1, 1)), "c": lif((4, 6, 6), threshold=0.7),
        "c4": conv(5, 4, 3, stride=(2, 2), padding=(1, 1)), "d": lif((5, 3, 3), threshold=0.7),
        "c5": conv(5, 5, 3, padding=(1, 1)), "short": conv(5, 4, 1, stride=(2, 2)), "e": lif((5, 3, 3), threshold=0.7),
        "flat": nir.Flatten({"input": np.array([5, 3, 3])}, 0), "fc": affine(3, 45),
    }  # fmt: skip
    edges = "input>c1 c1>a a>c2 c2>b b>c3 c3>c a>c c>c4 c4>d d>c5 c5>e c>short short>e e>flat flat>fc fc>output"
    return (2, 6, 6), net(nodes, edges)


def recurrent(inside=False):
    nodes = ends((4,)) | {"fc": affine(5, 4), "r": lif((5,), threshold=0.5), "w": linear(5, 5), "out": affine(2, 5)}
    if not inside:
        return (4,), net(nodes, "input>fc fc>r r>w w>r r>out out>output")
    cell = net(ends((5,)) | {"r": nodes.pop("r"), "w": nodes.pop("w")}, "input>r r>w w>r r>output")
    return (4,), net(nodes | {"cell": cell}, "input>fc fc>cell cell>out out>output")


def steps_late(*steps):
    return nir.Delay(np.array(steps) * DT)


def flat(*shape):
    return nir.Flatten({"input": np.array(shape)}, 0)


def block():
    """A matrix and a way around it."""
    return net(ends((3,)) | {"w": affine(3, 3)}, "input>w w>output input>output")


GRAPHS = {
    "residual": residual,
    "recurrent": recurrent,
    "current decay": lambda: ((4,), chain((4,), linear(5, 4), cuba((5,)), affine(2, 5))),
    "one-dimensional": lambda: (
        (2, 12),
        chain((2, 12), conv1d(4, 2, 3, stride=2, padding=1), lif((4, 6), threshold=0.3),
              conv1d(4, 4, 2, dilation=2, groups=2), lif((4, 4), threshold=0.3),
              nir.Flatten({"input": np.array([4, 4])}, 0), affine(3, 16)),
    ),
    "padding 'same' of odd and even kernels": lambda: (
        (2, 7, 7),
        chain((2, 7, 7), conv(3, 2, 2, padding="same"), lif((3, 7, 7)), conv(3, 3, 3, padding="same"), lif((3, 7, 7)),
              conv(3, 3, 3, padding="same", dilation=(3, 3)), lif((3, 7, 7))),
    ),
    "asymmetric stride and padding": lambda: (
        (2, 7, 9),
        chain((2, 7, 9), conv(3, 2, 3, stride=(2, 1), padding=(1, 0)), lif((3, 4, 7))),
    ),
    "delays of inputs and of outputs": lambda: (
        (3,),
        chain((3,), steps_late(0, 2, 5), affine(4, 3), lif((4,), threshold=0.1), linear(2, 4), steps_late(1, 3),
              lif((2,), threshold=0.1)),
    ),
    "scales before and after": lambda: (
        (2, 4, 4),
        chain((2, 4, 4), nir.Scale(np.repeat([0.5, 2.0], 16).reshape(2, 4, 4)), pool(2),
              conv(4, 2, 2), nir.Scale(np.full((4, 1, 1), 3.0)), lif((4, 1, 1))),
    ),
    "a leaky integrator reads out": lambda: (
        (4,),
        chain((4,), affine(5, 4), lif((5,), threshold=0.3), affine(2, 5),
              nir.LI(*np.full((3, 2), [[3 * DT], [1.0], [0.0]]))),
    ),
    "a neuron reads a map as flat values": lambda: (
        (2, 2, 3),
        chain((2, 2, 3), conv(3, 2, 1), lif((3, 2, 3), threshold=0.3), flat(3, 2, 3), lif((18,), threshold=0.3)),
    ),
    "a scale after a flattened pool": lambda: (
        (2, 4, 4),
        chain((2, 4, 4), pool(2), flat(2, 2, 2), nir.Scale(np.repeat([0.5, 2.0], 4)), affine(3, 8), lif((3,))),
    ),
    "a leaky integrator of a current": lambda: (
        (4,),
        chain((4,), affine(5, 4), lif((5,), threshold=0.3), linear(2, 5),
              nir.CubaLI(*np.full((4, 2), [[3 * DT], [2 * DT], [1.5], [0.0]]), w_in=np.full(2, 0.7))),
    ),
    "an integrator reads out": lambda: (
        (4,),
        chain((4,), affine(5, 4), lif((5,), threshold=0.3), affine(2, 5), nir.I(np.full(2, 0.5 / DT))),
    ),
    "a shortcut through a graph inside the graph": lambda: (
        (3,),
        net(ends((3,)) | {"to": affine(3, 3), "a": lif((3,), threshold=0.2), "block": block(),
                          "b": lif((3,), threshold=0.2)},
            "input>to to>a a>block block>b b>output"),
    ),
    "pools read by several": lambda: (
        (2, 8, 8),
        net(ends((2, 8, 8)) | {"c": conv(3, 2, 3, padding=(1, 1)), "a": lif((3, 8, 8)), "p": pool(2),
                               "c2": conv(3, 3, 3, padding=(1, 1)), "b": lif((3, 4, 4))},
            "input>c c>a a>p p>c2 c2>b p>b b>output"),
    ),
}  # fmt: skip


def unfolded(graph):
    """The graph of the shortcut with its inner graph written out, any other as it is."""
    if "block" not in graph.nodes:
        return graph
    nodes = {name: node for name, node in graph.nodes.items() if name != "block"}
    return net(nodes | {"w": graph.nodes["block"].nodes["w"]}, "input>to to>a a>w w>b a>b b>output")


@pytest.mark.parametrize("feature", GRAPHS)
def test_what_was_read_computes_what_the_graph_says_node_by_node(feature):
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state
    shape, graph = GRAPHS[feature]()
    x = (RNG.random((8, 12, *shape)) < 0.4).astype(float)
    expected, arrived, potentials = run_graph(unfolded(graph), x, DT)
    input_shape, populations = read_populations(graph, DT)
    run = run_floats(populations, x.reshape(8, 12, *input_shape))
    for name, spikes in expected.items():
        np.testing.assert_array_equal(run.spikes[name], spikes.reshape(run.spikes[name].shape), err_msg=name)
        assert spikes.any() or not hasattr(graph.nodes[name], "v_threshold"), f"no neuron of {name} fired"
    last = graph.nodes.get(populations[-1].name)
    if populations[-1].neuron.threshold is None:
        # Neurons that never fire show their potential, a linear end what it adds up to.
        final = potentials[populations[-1].name] if isinstance(last, nir.LI | nir.I | nir.CubaLI) else arrived.sum(1)
        np.testing.assert_allclose(run.final, final, rtol=1e-5, atol=1e-5)


def test_a_graph_inside_the_graph_is_the_same_as_its_nodes():
    shape, nested = recurrent(inside=True)
    flat_graph = recurrent()[1]
    for name, inner in (("r", "r"), ("w", "w")):
        flat_graph.nodes[name] = nested.nodes["cell"].nodes[inner]
    flat_graph.nodes |= {name: nested.nodes[name] for name in ("fc", "out")}
    x = (RNG.random((8, 12, *shape)) < 0.4).astype(float)
    expected, *_ = run_graph(flat_graph, x, DT)
    _, populations = read_populations(nested, DT)
    np.testing.assert_array_equal(run_floats(populations, x).spikes["cell.r"], expected["r"])


UNSEEN = [(8, dict(kernel=2)), (5, dict(kernel=2, stride=3)), (6, dict(kernel=2, padding=1))]


@pytest.mark.parametrize(("size", "pooling"), UNSEEN)
def test_padding_after_a_pool_is_exact_where_no_window_beyond_the_map_sees_anything(size, pooling):
    node, convolution = pool(**pooling), conv(4, 3, 3, padding=(1, 1))
    x = torch.rand(3, size, size, dtype=torch.float64)
    weight, bias = (torch.from_numpy(np.float64(a)) for a in (convolution.weight, convolution.bias))
    expected = F.conv2d(torch_pool(node, x)[None], weight, bias, padding=1)[0]
    _, [population] = read_populations(chain(tuple(x.shape), node, convolution, lif(tuple(expected.shape), 0.0)), DT)
    torch.testing.assert_close(apply(population, x), expected)


HOSTILE = {
    "the Output sums": lambda: net(ends((3,)) | {"w": linear(3, 3), "a": lif((3,)), "v": linear(3, 3), "b": lif((3,))},
                                   "input>w w>a input>v v>b a>output b>output"),
    "share a name": lambda: net(ends((3,)) | {"w": linear(3, 3), "c.r": lif((3,)), "c": inner(), "o": linear(2, 3)},
                                "input>w w>c.r c.r>c c>o o>output"),
    "says reset 'soft'": lambda: net(ends((3,)) | {"w": linear(3, 3), "c": inner(reset="soft")},
                                     "input>w w>c c>output"),
    "which has two dimensions": lambda: chain((2, 3, 6), conv1d(3, 2, 3), lif((3, 3, 4))),
    "more than 16 deep|too many": lambda: nested(20),
    "at most 256 are followed": lambda: diamonds(12),
    "says the shape None": lambda: net({"input": nir.Input({"input": None}), "output": ends((1,))["output"],
                                        "w": linear(3, 3), "a": lif((3,))}, "input>w w>a a>output"),
    "one to three sizes": lambda: chain((0,), linear(3, 3), lif((3,))),
    "too many nodes between two populations": lambda: chain((3,), *(nir.Scale(np.ones(3)) for _ in range(3000)),
                                                            linear(3, 3), lif((3,))),
    "its stride is": lambda: chain((2, 4, 4), conv(3, 2, 3, stride=(0, 1)), lif((3, 2, 2))),
    "its dilation is": lambda: chain((2, 4, 4), conv(3, 2, 3, dilation=(0, 1)), lif((3, 2, 2))),
    "its padding is": lambda: chain((2, 4, 4), conv(3, 2, 3, padding=(-1, 1)), lif((3, 2, 2))),
    "with 2 groups does not fit": lambda: chain((4, 4, 4), conv(3, 2, 3, groups=2), lif((3, 2, 2))),
    "its kernel_size is": lambda: chain((2, 4, 4), nir.SumPool2d(np.array([0, 2]), np.array([2, 2]), np.array([0, 0])),
                                        lif((2, 2, 2))),
    "it has 3 biases for 2 outputs": lambda: chain((3,), nir.Affine(np.ones((2, 3)), np.ones(3)), lif((2,))),
    "reads 300000 flat values": lambda: chain((300_000,), lif((300_000,))),
}  # fmt: skip


def inner(**metadata):
    graph = net(ends((3,)) | {"r": lif((3,)), "w": linear(3, 3)}, "input>w w>r r>output")
    graph.metadata = metadata
    return graph


def nested(depth):
    graph = inner()
    for _ in range(depth):
        graph = net(ends((3,)) | {"g": graph}, "input>g g>output")
    return graph


def diamonds(stages):
    """Two ways through delays at every stage: twice the paths each time."""
    nodes, edges, last = ends((3,)), "", "input"
    for stage in range(stages):
        for way in "ab":
            nodes[f"{way}{stage}"] = steps_late(*(3 * [2**stage if way == "a" else 0]))
        nodes[f"s{stage}"] = nir.Scale(np.ones(3))
        edges += f"{last}>a{stage} {last}>b{stage} a{stage}>s{stage} b{stage}>s{stage} "
        last = f"s{stage}"
    return net(nodes | {"w": linear(3, 3), "n": lif((3,))}, f"{edges}{last}>w w>n n>output")


@pytest.mark.parametrize("message", HOSTILE)
def test_what_a_graph_cannot_mean_ends_in_one_clear_line(message):
    with pytest.raises(ScaDeployError, match=message):
        read_populations(HOSTILE[message](), DT)


def test_paths_that_differ_in_a_factor_only_are_one():
    nodes = (
        ends((3,)) | {f"s{n}": nir.Scale(np.full(3, n + 1.0)) for n in range(4)} | {"w": linear(2, 3), "a": lif((2,))}
    )
    graph = net(nodes, "input>s0 input>s1 input>s2 input>s3 s0>w s1>w s2>w s3>w w>a a>output")
    _, [population] = read_populations(graph, DT)
    [path] = population.paths
    gain = DT / np.float64(graph.nodes["a"].tau[0])
    np.testing.assert_allclose(path.operator.weight, 10 * gain * graph.nodes["w"].weight, rtol=1e-6)


def test_an_edge_that_a_file_repeats_counts_once():
    graph = chain((3,), linear(2, 3), lif((2,)))
    graph.edges += graph.edges
    _, [population] = read_populations(graph, DT)
    assert len(population.paths) == 1
    np.testing.assert_allclose(population.paths[0].operator.weight, 0.5 * graph.nodes["n0"].weight, rtol=1e-6)
