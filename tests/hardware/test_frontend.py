import itertools

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.frontend import read_populations

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


def apply(operator, x):
    """A folded operator on one source of shape (C, H, W)."""
    weight, bias = torch.from_numpy(operator.weight), torch.from_numpy(operator.bias)
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
    torch.testing.assert_close(apply(population.operator, x), expected)
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
    torch.testing.assert_close(apply(population.operator, x), expected)
    assert population.threshold is None


@pytest.mark.parametrize("pooling", [dict(kernel=5), dict(kernel=3, stride=2), dict(kernel=2, padding=1)])
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
    assert hidden.beta == pytest.approx(1 - DT / tau, abs=1e-6)
    np.testing.assert_allclose(hidden.operator.weight, graph.nodes["n0"].weight * (resistance * DT / tau), rtol=1e-6)
    np.testing.assert_allclose(hidden.operator.bias, graph.nodes["n0"].bias * (resistance * DT / tau), rtol=1e-6)


def test_if_integrates_r_dt_times_its_input():
    neurons = nir.IF(r=np.full(4, 1 / DT, np.float32), v_threshold=np.ones(4, np.float32))
    graph = chain((3,), affine(4, 3), neurons)
    _, [population] = read_populations(graph, DT)
    assert population.beta == 1.0
    np.testing.assert_allclose(population.operator.weight, graph.nodes["n0"].weight, rtol=1e-6)


def test_a_pool_straight_into_neurons_is_a_depthwise_convolution():
    _, [population] = read_populations(chain((3, 4, 4), pool(2), lif((3, 2, 2), beta=0.0, threshold=0.5)), DT)
    assert population.operator.weight.tolist() == np.ones((3, 1, 2, 2)).tolist()
    assert population.operator.groups == 3


MIXED = np.array([1, 1, 1, 2], np.float32)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([affine(4, 3), lif((4,), v_reset=0.1)], "'n1' .LIF.: 'v_reset' is not zero"),
        ([affine(4, 3), lif((4,), v_leak=0.1)], "'n1' .LIF.: 'v_leak' is not zero"),
        ([affine(4, 3), lif((4,), tau=MIXED)], "'tau' differs between neurons"),
        ([affine(4, 3), lif((4,), v_threshold=MIXED)], "'v_threshold' differs between neurons"),
        ([affine(4, 3), lif((4,), tau=DT / 2)], "shorter than the time step"),
        ([affine(4, 3), lif((4,), v_threshold=0.0)], "must be positive"),
        ([affine(4, 3), lif((4,), v_threshold=np.nan)], "holds NaN"),
        ([affine(4, 3), affine(2, 4)], "'n1' .Affine.: it follows 'n0' without neurons in between"),
        ([affine(4, 7)], "does not fit a source of shape"),
        ([nir.Threshold(np.ones(3))], "'n0' .Threshold.: this node type cannot be lowered"),
        ([lif((3,))], "neurons need a convolution"),
        ([nir.Flatten({"input": np.array([3])}, 0)], "no neurons"),
    ],
)
def test_what_a_chip_neuron_cannot_do_is_refused_by_name(nodes, message):
    with pytest.raises(ScaDeployError, match=message):
        read_populations(chain((3,), *nodes), DT)


def test_a_branching_graph_is_refused_by_name():
    graph = chain((3,), affine(3, 3), lif((3,)), affine(3, 3), lif((3,)))
    graph.edges.append(("n1", "n3"))
    with pytest.raises(ScaDeployError, match="node 'n1' branches"):
        read_populations(graph, DT)
