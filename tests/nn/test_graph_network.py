"""A NIR graph as a module: what comes back from it, what it computes, and what it learns."""

import inspect
from functools import partial

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph
from sca_deploy.nn.graph_network import GraphNetwork
from tests.graphs import ARCHITECTURES, DT, PLAIN, SINABS, STEPS, Made, architecture, graph_of, spikes_in

# ---- every node type there and back ----


def of_type(kind, made):
    """A graph with a node of this type that is not like any default, and a map before it where that suits."""
    ones = np.array([1, 1])
    neurons = {
        "IF": lambda: nir.IF(*(made.between(low, high, 5) for low, high in ((5e3, 2e4), (0.5, 2), (-1, 0.4)))),
        "LIF": lambda: made.varied(5),
        "CubaLIF": lambda: nir.CubaLIF(*(made.between(low, high, 5) for low, high in (
            (2 * DT, 5 * DT), (2 * DT, 9 * DT), (3, 6), (-0.2, 0.2), (0.5, 2), (-1, 0.4))), w_in=made.between(1, 3, 5)),
        "I": lambda: nir.I(made.between(5e3, 2e4, 5)),
        "LI": lambda: nir.LI(*(made.between(low, high, 5) for low, high in ((2 * DT, 5 * DT), (1, 2), (-0.2, 0.2)))),
        "CubaLI": lambda: nir.CubaLI(*(made.between(low, high, 5) for low, high in (
            (2 * DT, 5 * DT), (2 * DT, 9 * DT), (3, 6), (-0.2, 0.2))), w_in=made.between(1, 3, 5)),
        "Scale": lambda: nir.Scale(made.between(-2, 2, 5)),
        "Threshold": lambda: nir.Threshold(made.between(-1, 1, 5)),
        "Delay": lambda: nir.Delay((made.rng.integers(0, 4, 5) * DT).astype(made.dtype)),
        "Affine": lambda: made.affine(4, 5),
        "Linear": lambda: made.linear(4, 5),
    }  # fmt: skip
    maps = {
        "Conv2d": lambda: nir.Conv2d((6, 6), made.between(-1, 1, 4, 2, 3, 2), (2, 1), (1, 0), (1, 2), 1,
                                     made.between(-1, 1, 4)),
        "Flatten": lambda: nir.Flatten({"input": np.array([2, 6, 6])}, 1, 2),
        "SumPool2d": lambda: nir.SumPool2d(2 * ones, ones, ones),
        "AvgPool2d": lambda: nir.AvgPool2d(np.array([3, 2]), 2 * ones, np.array([1, 0])),
    }  # fmt: skip
    if kind in neurons:
        nodes = {"before": made.affine(5, 4), "n": neurons[kind]()}
        return graph_of((4,), 5, nodes, ["input before n output"])
    if kind in maps:
        return graph_of((2, 6, 6), 5, {"n": maps[kind]()}, ["input n output"])
    if kind == "Conv1d":
        node = nir.Conv1d(9, made.between(-1, 1, 4, 1, 3), 2, 1, 2, 2, made.between(-1, 1, 4))
        return graph_of((2, 9), 5, {"n": node}, ["input n output"])
    if kind == "NIRGraph":
        return architecture("recurrent, nested", 1, made.dtype)[0]
    return graph_of((4,), 4, {}, ["input output"])  # Input and Output


KINDS = {name: kind for name, kind in vars(nir.ir).items() if inspect.isclass(kind)}
TYPES = [name for name, kind in KINDS.items() if issubclass(kind, nir.NIRNode) and kind is not nir.NIRNode]


def assert_same_graph(found, expected):
    """Nodes, types, arrays with their dtype bit for bit, edges in order, metadata; graphs inside as well."""
    assert found.nodes.keys() == expected.nodes.keys()
    assert [tuple(edge) for edge in found.edges] == [tuple(edge) for edge in expected.edges]
    for name, node in expected.nodes.items():
        other = found.nodes[name]
        assert type(other) is type(node)
        if isinstance(node, nir.NIRGraph):
            assert_same_graph(other, node)
            continue
        assert other.metadata == node.metadata
        values = {key: value for key, value in vars(node).items() if key != "metadata"}
        for key, value in values.items():
            assert_same_value(getattr(other, key), value, f"{name}.{key}")


def assert_same_value(found, expected, where):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same_value(found[key], value, f"{where}.{key}")
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes()), (
            where
        )
    else:
        assert np.array_equal(found, expected), where


def test_there_are_nineteen_types_and_none_is_forgotten():
    assert len(TYPES) == 19
    for kind in TYPES:
        graph = of_type(kind, Made())
        assert kind in {type(node).__name__ for node in graph.nodes.values()} | {"NIRGraph"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", TYPES)
def test_every_node_type_comes_back_bit_for_bit_by_way_of_a_file(kind, dtype, tmp_path):
    graph = of_type(kind, Made(4, dtype))
    graph.metadata = {"author": "somebody", "T": STEPS}
    for node in graph.nodes.values():
        if not isinstance(node, nir.NIRGraph):
            node.metadata = {"layer": "one of ours", "number": 3}
    network = GraphNetwork(graph, PLAIN, STEPS)
    written = network.to_nir()
    assert written.metadata == {"author": "somebody", "T": STEPS, "dt": DT, "reset": "hard"}
    written.metadata = dict(graph.metadata)
    assert_same_graph(written, graph)

    nir.write(tmp_path / "net.nir", written)
    read = read_nir(tmp_path / "net.nir")
    again = GraphNetwork(read, PLAIN, STEPS)
    back = again.to_nir()
    assert back.nodes.keys() == graph.nodes.keys()
    assert [tuple(edge) for edge in back.edges] == list(graph.edges)
    assert {k: v for k, v in back.metadata.items() if k not in ("dt", "reset")} == graph.metadata
    assert_same_arrays(back, graph)

    x = torch.from_numpy(spikes_in(graph, steps=STEPS))
    with torch.no_grad():
        out, expected = again(x, per_step=True), network(x, per_step=True)
    assert out.dtype == (torch.float64 if dtype == np.float64 and weighted(graph) else torch.float32)
    assert out.any()
    assert torch.equal(out, expected)


def weighted(graph):
    nodes = [*graph.nodes.values()] + [
        n for g in graph.nodes.values() if isinstance(g, nir.NIRGraph) for n in g.nodes.values()
    ]
    return any(isinstance(node, nir.Conv1d | nir.Conv2d | nir.Affine | nir.Linear) for node in nodes)


def assert_same_arrays(found, expected):
    """What a file holds of the nodes: their numbers and, where there are some, their remarks."""
    for name, node in expected.nodes.items():
        if isinstance(node, nir.NIRGraph):
            assert_same_arrays(found.nodes[name], node)
            continue
        assert type(found.nodes[name]) is type(node)
        assert found.nodes[name].metadata == node.metadata
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                assert_same_value(getattr(found.nodes[name], key), value, f"{name}.{key}")
            elif isinstance(value, np.ndarray | int) and key not in ("input_shape", "start_dim", "end_dim"):
                assert np.array_equal(getattr(found.nodes[name], key), value), f"{name}.{key}"


def test_a_node_type_that_nir_does_not_have_is_refused_by_name():
    class Dropout(nir.NIRNode):
        def __init__(self):
            self.input_type = self.output_type = {}

    with pytest.raises(ScaDeployError, match=r"node 'odd' \(Dropout\): this node type is not known"):
        GraphNetwork(graph_of((2,), 2, {"odd": Dropout()}, ["input odd output"]), PLAIN, 3)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_checkpoint_brings_the_same_network_back_and_unpickles_nothing(name, dtype, tmp_path):
    graph, dynamics = architecture(name, dtype=dtype)
    graph.metadata = {"author": "somebody", "classes": ["a", "b"], "nested": {"lr": 0.1}}
    graph.nodes["input"].metadata = {"sensor": "DVS"}
    network = GraphNetwork(graph, dynamics, 4)
    randomised(network)
    save_network(tmp_path / "net.pt", network)
    torch.load(tmp_path / "net.pt", weights_only=True)  # would refuse anything but plain values and tensors
    again, _ = load_network(tmp_path / "net.pt")
    assert (again.dynamics, again.steps, again.dtype) == (network.dynamics, 4, network.dtype)
    assert_same_graph(again.graph, network.graph)
    assert again.graph.metadata == network.graph.metadata
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    x = torch.from_numpy(spikes_in(graph))
    with torch.no_grad():
        assert torch.equal(again(x, per_step=True), network.eval()(x, per_step=True))


def test_graphs_without_any_weight_are_networks_too(tmp_path):
    graph = graph_of((2, 6, 6), 18, {"pool": nir.SumPool2d(*(np.array(v) for v in ([2, 2], [2, 2], [0, 0])))},
                     ["input pool output"])  # fmt: skip
    network = GraphNetwork(graph, PLAIN, 3)
    x = torch.ones(1, 2, 6, 6)
    assert torch.equal(network(x), torch.full((1, 18), 12.0))
    save_network(tmp_path / "net.pt", network)
    assert torch.equal(load_network(tmp_path / "net.pt")[0](x), network(x))
    assert network.twin(torch.float64)(x).dtype == torch.float64


# ---- what it computes ----


def randomised(network, seed=0, mask=0.7):
    """Gates as a training may leave them: scales, shifts and masks; returns the masks by population."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in network.norms().values():
            if gate.weight.requires_grad:
                gate.weight.copy_(torch.rand(gate.weight.shape, generator=generator) + 0.6)
            if gate.bias.requires_grad:
                gate.bias.copy_(torch.rand(gate.bias.shape, generator=generator) * 0.2)
            if mask and gate.folds:
                gate.mask.copy_((torch.rand(gate.mask.shape, generator=generator) < mask).double())
                gate.mask[0] = 1
    return {name: gate.mask.clone() for name, gate in network.norms().items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_runs_as_its_graph_does(name):
    graph, dynamics = architecture(name)
    x = spikes_in(graph)
    expected = run_graph(graph, dynamics, x)
    network = GraphNetwork(graph, dynamics, STEPS)
    for context in (torch.no_grad, torch.enable_grad):
        with context(), network.recording() as recorded:
            out = network(torch.from_numpy(x), per_step=True)
        assert recorded.keys() == network.neurons().keys()
        for population, spikes in recorded.items():
            np.testing.assert_array_equal(spikes.numpy(), expected[population], err_msg=population)
            assert spikes.any(), population
        np.testing.assert_allclose(
            out.detach().transpose(0, 1).numpy(), expected["output"].reshape(len(x), STEPS, -1), atol=1e-12
        )
        assert torch.allclose(network(torch.from_numpy(x)), out.sum(0))


def test_a_frame_without_time_is_shown_at_every_step():
    graph, dynamics = architecture("residual, projection")
    network = GraphNetwork(graph, dynamics, 7)
    x = torch.from_numpy(spikes_in(graph)[:, 0])
    with torch.no_grad():
        assert torch.allclose(network(x), network(x[:, None].expand(-1, 7, *x.shape[1:]).contiguous()), atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 2, 6), (2, 6, 6), (1, 5, 3, 6, 6)])
def test_input_of_another_shape_is_refused(shape):
    network = GraphNetwork(*architecture("feed-forward"), STEPS)
    with pytest.raises(ScaDeployError, match="input has shape .*, the network expects"):
        network(torch.zeros(shape))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_twin_computes_the_same_in_the_other_precision(name):
    graph, dynamics = architecture(name, dtype=np.float32)
    network = GraphNetwork(graph, dynamics, STEPS)
    masks = randomised(network)
    twin = network.twin(torch.float64)
    assert (network.dtype, twin.dtype, twin.training) == (torch.float32, torch.float64, False)
    assert all(torch.equal(twin.norms()[key].mask, mask.double()) for key, mask in masks.items())
    x = torch.from_numpy(spikes_in(graph))
    with torch.no_grad():
        assert torch.allclose(twin(x).float(), network(x), atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gates_fold_into_the_weights_before_them(name):
    graph, dynamics = architecture(name)
    network = GraphNetwork(graph, dynamics, STEPS).eval()
    randomised(network)
    folded = GraphNetwork(network.to_nir(), dynamics, STEPS)
    x = torch.from_numpy(spikes_in(graph, samples=12))
    with torch.no_grad(), network.recording() as gated, folded.recording() as plain:
        assert torch.allclose(network(x), folded(x), atol=1e-9)
    for population, spikes in gated.items():
        assert torch.equal(spikes, plain[population]), population
    assert all(gate.open for gate in folded.norms().values())
    changed = [
        n
        for n, w in folded.linear_maps().items()
        if not torch.equal(w[0], GraphNetwork(graph, dynamics, 1).linear_maps()[n][0])
    ]
    assert changed


def test_a_gate_behind_a_sum_with_spikes_cannot_be_folded_and_says_so():
    network = GraphNetwork(*architecture("residual, identity"), STEPS)
    assert {name: gate.folds for name, gate in network.norms().items()} == {"n0": True, "n1": True, "n2": False}
    network.to_nir()  # untouched, nothing is lost
    network.norms()["n2"].mask[1] = 0
    with pytest.raises(ScaDeployError, match="masked channels of 'n2' cannot be written as weights"):
        network.to_nir()


def test_a_matrix_along_the_last_axis_has_no_rows_for_channels():
    made = Made(5)
    nodes = {"along": made.affine(3, 3), "n": made.lif(3, 3), "fc": made.affine(2, 9)}
    network = GraphNetwork(graph_of((3, 3), 2, nodes, ["input along n fc output"]), PLAIN, STEPS)
    assert not network.norms()["n"].folds


def test_weights_that_are_not_finite_are_not_written():
    network = GraphNetwork(*architecture("feed-forward"), STEPS)
    with torch.no_grad():
        network.part("conv2").weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ScaDeployError, match="node 'conv2' holds NaN"):
        network.to_nir()


# ---- what it learns ----


class Step(torch.autograd.Function):
    """What fires; backward a logistic function of sharpness 4 at the nearest threshold that counts."""

    @staticmethod
    def forward(ctx, v, theta, dynamics):
        ctx.save_for_backward(v, theta)
        ctx.multi = dynamics.multi_spike
        if dynamics.multi_spike:
            return torch.stack([(v >= k * theta) for k in range(1, 60)]).sum(0).to(v.dtype)
        return ((v >= theta) if dynamics.tie == "ge" else (v > theta)).to(v.dtype)

    @staticmethod
    def backward(ctx, grad):
        v, theta = ctx.saved_tensors
        nearest = torch.ones_like(v)
        if ctx.multi:
            levels = torch.arange(1, 60, dtype=v.dtype).view(-1, *(1,) * v.dim())
            nearest = levels.flatten()[(v / theta - levels).abs().argmin(0)]
        s = torch.sigmoid(4 * (v / theta - nearest))
        return grad * 4 * s * (1 - s) / theta, None, None


def plain_forward(graph, dynamics, x, weights, gamma):
    """Logits of a graph without nested graphs, written out step by step with autograd's own operations.

    Args:
        weights: leaves by "node.weight" and "node.bias".
        gamma: leaves by population, what its input is multiplied by, mask included.
    """
    order = sorted(set(graph.nodes) - {"input", "output", "back"}, key=lambda name: depth(graph, name))
    state, logits, before = {}, 0, {}
    for t in range(x.shape[1]):
        values = {"input": x[:, t].double()}
        for name in [*(["back"] if "back" in graph.nodes else []), *order, "output"]:
            node = graph.nodes[name]
            read = [values[a] if name != "back" else before.get(a) for a, b in graph.edges if b == name]
            if name == "back" and read[0] is None:
                values[name] = torch.zeros(len(x), node.weight.shape[0], dtype=torch.float64)
                continue
            total = sum(read)
            if hasattr(node, "v_threshold"):
                values[name] = fire(name, node, total, state, dynamics, gamma)
            elif isinstance(node, nir.Conv2d):
                values[name] = F.conv2d(total, weights[f"{name}.weight"], weights[f"{name}.bias"], tuple(node.stride),
                                        tuple(node.padding), 1, node.groups)  # fmt: skip
            elif isinstance(node, nir.Affine | nir.Linear):
                values[name] = F.linear(total, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
            elif isinstance(node, nir.SumPool2d):
                values[name] = 4 * F.avg_pool2d(total, 2)
            else:
                values[name] = total.flatten(1) if isinstance(node, nir.Flatten) else total
        before = values
        logits = logits + values["output"]
    return logits


def depth(graph, name):
    """The longest way from the input."""
    before = [a for a, b in graph.edges if b == name and a != "back"]
    return 0 if name == "input" else 1 + max(depth(graph, source) for source in before)


def fire(name, node, total, state, dynamics, gamma):
    column = gamma[name].view(-1, *(1,) * (total.dim() - 2))
    numbers = {key: torch.from_numpy(value) for key, value in vars(node).items() if isinstance(value, np.ndarray)}
    x = total * column
    v = state.get((name, "v"), torch.zeros_like(x))
    if "tau_syn" in numbers:
        syn, mem = DT / numbers["tau_syn"], DT / numbers["tau_mem"]
        state[name, "i"] = (1 - syn) * state.get((name, "i"), torch.zeros_like(x)) + syn * numbers["w_in"] * x
        v = (1 - mem) * v + mem * numbers["r"] * state[name, "i"]
    elif "tau" in numbers:
        leak = DT / numbers["tau"]
        v = (1 - leak) * v + leak * numbers["r"] * x
    else:
        v = v + DT * numbers["r"] * x
    theta = numbers["v_threshold"].expand(v.shape)
    spikes = Step.apply(v, theta, dynamics)
    held = spikes.detach()
    after = (
        v - held * theta
        if dynamics.reset == "subtract"
        else torch.where(held > 0, numbers["v_reset"].expand(v.shape), v)
    )
    state[name, "v"] = torch.maximum(after, -theta) if dynamics.clamp == "threshold" else after
    return spikes


def gradients_by_hand(graph, dynamics, x, y, masks):
    leaves = {f"{name}.{key}": torch.from_numpy(getattr(node, key).copy()).requires_grad_()
              for name, node in graph.nodes.items() for key in ("weight", "bias") if hasattr(node, key)}  # fmt: skip
    gamma = {name: mask.double().clone().requires_grad_() for name, mask in masks.items()}
    F.cross_entropy(plain_forward(graph, dynamics, x, leaves, gamma) / x.shape[1], y).backward()
    return leaves, gamma


LEARNING = [name for name in ARCHITECTURES if "nested" not in name]


@pytest.mark.parametrize("name", LEARNING)
def test_gradients_are_those_of_the_equations_written_out_also_of_the_scales_of_masked_channels(name):
    graph, dynamics = architecture(name)
    network = GraphNetwork(graph, dynamics, STEPS).train()
    # Another channel in each: behind a masked one of a depthwise convolution nothing can be felt.
    masked = {name: place % len(gate.mask) for place, (name, gate) in enumerate(network.norms().items())}
    for population, channel in masked.items():
        network.norms()[population].mask[channel] = 0
    x, y = torch.from_numpy(spikes_in(graph)), torch.tensor([0, 1, 2, 0, 1, 2])
    leaves, gamma = gradients_by_hand(graph, dynamics, x, y, {n: g.mask for n, g in network.norms().items()})
    F.cross_entropy(network(x) / STEPS, y).backward()
    for key, leaf in leaves.items():
        node, part = key.split(".")
        gradient = getattr(network.part(node), part).grad
        if gradient is not None:
            torch.testing.assert_close(gradient, leaf.grad, rtol=1e-8, atol=1e-10, msg=key)
        else:
            assert not getattr(graph.nodes[node], part).any(), f"{key} is not learnt"
    for population, gate in network.norms().items():
        torch.testing.assert_close(gate.gamma_gradient, gamma[population].grad, rtol=1e-8, atol=1e-10, msg=population)
        assert gate.gamma_gradient[masked[population]] != 0, f"{population}: no signal in the masked channel"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_are_finite_and_reach_every_weight(name):
    graph, dynamics = architecture(name)
    network = GraphNetwork(graph, dynamics, STEPS).train()
    x, y = torch.from_numpy(spikes_in(graph)), torch.tensor([0, 1, 2, 0, 1, 2])
    F.cross_entropy(network(x) / STEPS, y).backward()
    reached = {key: value.grad for key, value in network.named_parameters() if value.requires_grad}
    assert all(torch.isfinite(gradient).all() for gradient in reached.values())
    dead = [key for key, gradient in reached.items() if not gradient.any()]
    assert not dead


@pytest.mark.parametrize("theta", [0.0, -0.5, 0.5])
def test_a_threshold_of_any_sign_pulls_weights_the_right_way(theta):
    # One step: more weight fires more, so wanting fewer spikes lowers it, wherever the threshold lies.
    node = nir.IF(np.array([1 / DT]), np.array([theta]), np.array([-1.0]))
    graph = graph_of((1,), 1, {"fc": nir.Linear(np.array([[0.25]])), "n": node}, ["input fc n output"])
    network = GraphNetwork(graph, PLAIN, 1)
    network(torch.ones(1, 1, 1)).sum().backward()
    s = 1 / (1 + np.exp(-4 * (0.25 - theta) / (abs(theta) or 1)))
    assert network.part("fc").weight.grad.item() == pytest.approx(4 * s * (1 - s) / (abs(theta) or 1))


@pytest.mark.parametrize(
    "name", ["feed-forward", "recurrent, flat", "recurrent, nested", "a value a neuron", "subtract, several spikes"]
)
def test_observers_are_told_once_of_all_steps_in_thresholds(name):
    graph, dynamics = architecture(name)
    network, seen = GraphNetwork(graph, dynamics, STEPS), {}

    def keep(population, v, spikes):
        assert population not in seen
        seen[population] = (v, spikes)

    for population, neurons in network.neurons().items():
        neurons.observers.append(partial(keep, population))
    x = spikes_in(graph)
    with torch.no_grad():
        network(torch.from_numpy(x))
    expected = run_graph(graph, dynamics, x)
    assert seen.keys() == network.neurons().keys()
    for population, (v, spikes) in seen.items():
        np.testing.assert_array_equal(spikes.transpose(0, 1).numpy(), expected[population])
        assert v.shape == spikes.shape
        fired = torch.floor(v).clamp(min=0) if dynamics.multi_spike else (v > 1)
        assert torch.equal(fired.to(spikes.dtype), spikes)


def test_several_spikes_and_ties_survive_the_way_through_the_module():
    graph = graph_of((1,), 1, {"n": Made().integrate(1)}, ["input n output"])
    network = GraphNetwork(graph, SINABS, 4)
    x = torch.tensor([3.0, 0.5, 0.5, -7.0, 2.0]).view(1, 5, 1)
    # 3 fires three times; 0.5 + 0.5 is the threshold and fires; -7 is held at -1, so that 2 just fires.
    assert network(x, per_step=True).flatten().tolist() == [3, 0, 1, 0, 1]
    assert network.to_nir().metadata == {
        "dt": DT,
        "reset": "subtract",
        "multi_spike": 1,
        "clamp": "threshold",
        "tie": "ge",
        "T": 4,
    }


def test_what_a_recording_kept_is_of_the_last_forward_only():
    network = GraphNetwork(*architecture("recurrent, flat"), STEPS)
    x = torch.from_numpy(spikes_in(network.graph))
    with torch.no_grad(), network.recording() as recorded:
        network(x)
        network(x[:2])
    assert {spikes.shape[:2] for spikes in recorded.values()} == {(2, STEPS)}
    assert all(neurons.heard is None for neurons in network.neurons().values())


def test_dynamics_are_part_of_what_is_computed():
    graph, _ = architecture("feed-forward")
    x = torch.from_numpy(spikes_in(graph))
    with torch.no_grad():
        hard, soft = (GraphNetwork(graph, Dynamics(DT, reset), STEPS)(x) for reset in ("hard", "subtract"))
    assert not torch.equal(hard, soft)
