"""Module -> NIR -> integers -> Lava, for what the digits recipe does not have: events, max-pooling, IF neurons."""

import random
from functools import partial

import nir
import nirtorch
import norse.torch as norse
import numpy as np
import pytest
import torch
from norse.torch.utils.import_nir import _import_norse_module

from sca_deploy.exporters.netx import write_net
from sca_deploy.exporters.nir import check_portable
from sca_deploy.graph import DT, to_nir
from sca_deploy.hardware.lava.compare import verify
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.simulate import simulate
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.nn.zoo import layers_of
from sca_deploy.probe import probe
from sca_deploy.pruning.compact import compact
from tests.networks import random_layers

STEPS = 8


def network(pool, neuron, beta=None, padding=1):
    """A trained-looking network on 2 x 10 x 10 events: batch-norm statistics and biases are not the initial ones."""
    torch.manual_seed(0)
    spikes = {"type": neuron} | ({} if beta is None else {"beta": beta})
    layers = [
        {"type": "conv", "channels": 6, "kernel": 3, "padding": padding},
        {"type": "batch_norm"},
        spikes,
        {"type": pool, "kernel": 2},
        {"type": "conv", "channels": 8, "kernel": 3, "padding": 1},
        {"type": "batch_norm"},
        spikes,
        {"type": "flatten"},
        {"type": "dropout", "p": 0.3},
        {"type": "linear", "features": 20, "bias": False},
        {"type": "batch_norm"},
        spikes,
        {"type": "linear", "features": 5},
    ]
    net = SpikingNetwork(NetworkSpec((2, 10, 10), parse_layers(layers, {}), steps=STEPS))
    for norm in net.norms().values():
        torch.nn.init.uniform_(norm.bias, -0.1, 0.7)
    net.train()
    for _ in range(10):
        net((torch.rand(16, STEPS, 2, 10, 10) < 0.2).float())
    return net.eval()


def events(samples=24):
    return (np.random.default_rng(1).random((samples, STEPS, 2, 10, 10)) < 0.2).astype(np.uint8)


def float_spikes(net, x):
    with torch.no_grad(), net.recording() as recorded:
        logits = net(torch.from_numpy(x))
    return {name: spikes.numpy() > 0 for name, spikes in recorded.items()}, logits.numpy()


CASES = [("avg_pool", "lif", 0.75), ("max_pool", "lif", 0.75), ("avg_pool", "if", None), ("max_pool", "if", None)]


@pytest.mark.parametrize(("pool", "neuron", "beta"), CASES)
def test_binary_events_give_lavas_spikes_exactly_and_the_float_networks_rates(pool, neuron, beta, tmp_path):
    net, x = network(pool, neuron, beta), events()
    program = lower(to_nir(net), dt=DT, steps=STEPS, input_bits=0)
    write_net(program, tmp_path / "network.net")
    result = verify(program, tmp_path / "network.net", x, states=True)
    assert result.mismatches == 0
    spikes, logits = float_spikes(net, x)
    run = simulate(program, x, record=["spikes"])
    first = next(iter(spikes))
    assert (run.records[first]["spikes"] != spikes[first]).mean() < 0.005
    for name, expected in spikes.items():
        # In an untrained network single spikes turn and multiply from layer to layer; rates stay.
        assert 0.02 < expected.mean() < 0.9
        assert abs(run.records[name]["spikes"].mean() - expected.mean()) < 0.005
    assert np.corrcoef(run.readout.ravel(), logits.ravel())[0, 1] > 0.9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("pool", "neuron", "beta"), CASES)
def test_norse_gives_the_same_spikes(pool, neuron, beta, tmp_path):
    net, x = network(pool, neuron, beta), events()
    nir.write(tmp_path / "n.nir", to_nir(net))
    model = norse.from_nir(nir.read(tmp_path / "n.nir", type_check=True), dt=DT)
    recorded = {}
    for name, child in model.named_children():
        if name in net.neurons():
            child.register_forward_hook(lambda m, i, out, name=name: recorded.setdefault(name, []).append(out[0]))
    state = None
    with torch.no_grad():
        for t in range(STEPS):
            _, state = model(torch.from_numpy(x[:, t]).float(), state)
    for name, expected in float_spikes(net, x)[0].items():
        # Folding batch-norm rounds differently; a potential within that of the threshold may turn.
        differ = torch.stack(recorded[name], 1).numpy() != expected
        assert differ.mean() < 1e-4


@pytest.mark.parametrize(("pool", "neuron", "beta"), CASES)
def test_the_graph_is_in_the_portable_profile(pool, neuron, beta):
    check_portable(to_nir(network(pool, neuron, beta)), DT)


def test_masks_are_part_of_the_graph():
    net, x = network("avg_pool", "lif", 0.5), events(4)
    net.norms()["batch_norm1"].mask[1] = 0
    program = lower(to_nir(net), dt=DT, steps=STEPS, input_bits=0)
    assert not simulate(program, x, record=["spikes"]).records["lif1"]["spikes"][:, :, 1].any()


def executed(graph, x):
    """Spikes of every neuron node, (N, T, ...), and summed logits: norse's nodes, edges added by nirtorch."""
    graph = nir.NIRGraph(graph.nodes, graph.edges, graph.metadata, type_check=True)
    kinds = {type(node) for node in graph.nodes.values()} - {nir.Input, nir.Output}
    model = nirtorch.nir_to_torch(graph, dict.fromkeys(kinds, partial(_import_norse_module, dt=DT))).double()
    recorded = {name: [] for name, node in graph.nodes.items() if isinstance(node, nir.LIF | nir.IF)}
    for name, spikes in recorded.items():
        model.get_submodule(name).register_forward_hook(lambda m, i, out, spikes=spikes: spikes.append(out[0]))
    state, logits = None, 0.0
    with torch.no_grad():
        for t in range(x.shape[1]):
            out, state = model(x[:, t], state)
            logits = logits + out
    return {name: torch.stack(spikes, 1) for name, spikes in recorded.items()}, logits


def branching(layers, shape, mask=False):
    """A trained-looking network whose potentials do not lie on the threshold, as sums of spikes would on 1."""
    spec = NetworkSpec(shape, parse_layers(layers, {"beta": 0.7, "threshold": 1.1}), steps=3, input_scale=0.5)
    net = SpikingNetwork(spec)
    for norm in net.norms().values():
        torch.nn.init.uniform_(norm.bias, 0.0, 1.5)
        if mask:
            norm.mask[::2] = 0
    for _ in range(3):
        net(torch.randint(0, 4, (8, 3, *shape)))
    return net.double().eval()


def assert_graph_has_the_networks_spikes(net, shape):
    x = torch.randint(0, 4, (6, 3, *shape)).double()
    with torch.no_grad(), net.recording() as expected:
        logits = net(x)
    spikes, read_out = executed(to_nir(net), x)
    for name, value in expected.items():
        assert torch.equal(spikes[name], value)
    torch.testing.assert_close(read_out, logits, rtol=1e-4, atol=1e-4)
    return expected


@pytest.mark.parametrize("seed", range(25))
def test_a_graph_with_branches_gives_the_networks_spikes(seed):
    torch.manual_seed(seed)
    net = branching(random_layers(random.Random(seed)), (2, 3, 3))
    assert_graph_has_the_networks_spikes(net, (2, 3, 3))


PRE_ACTIVATION = [
    {"type": "conv", "name": "stem", "channels": 6, "kernel": 3, "padding": 1, "bias": True},
    {"type": "batch_norm"},
    {"type": "lif", "name": "first"},
    {"type": "max_pool", "kernel": 2},
    {"type": "conv", "channels": 6, "kernel": 3, "padding": 1},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "conv", "name": "inner", "channels": 6, "kernel": 3, "padding": 1},
    {"type": "conv", "name": "shortcut", "channels": 6, "kernel": 2, "stride": 2, "from": "first"},
    {"type": "sum", "of": ["inner", "shortcut"]},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "conv", "name": "outer", "channels": 6, "kernel": 3, "padding": 1},
    {"type": "sum", "of": ["sum1", "outer"]},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "avg_pool", "kernel": 2},
    {"type": "flatten"},
    {"type": "linear", "name": "hidden", "features": 8},
    {"type": "batch_norm"},
    {"type": "lif", "name": "narrow"},
    {"type": "linear", "features": 8},
    {"type": "sum", "of": ["linear2", "narrow"]},
    {"type": "lif"},
    {"type": "linear", "features": 3},
]


@pytest.mark.parametrize("masked", [False, True])
def test_a_compacted_stream_gives_the_networks_spikes(masked):
    torch.manual_seed(3)
    net = branching(PRE_ACTIVATION, (2, 8, 8), masked)
    net.norms()["batch_norm3"].mask[1] = 1
    small = compact(net)
    assert any(layer.type == "select" for layer in small.spec.layers) == masked
    spikes = assert_graph_has_the_networks_spikes(small, (2, 8, 8))
    assert all(0.01 < value.mean() < 0.99 for value in spikes.values())


def test_a_convolution_that_several_populations_read_is_written_once_for_each():
    net = branching(PRE_ACTIVATION, (2, 8, 8))
    graph = to_nir(net)
    assert {name for name in graph.nodes if name.startswith(("inner", "outer", "shortcut"))} == {
        "inner_to_lif3",
        "inner_to_lif4",
        "shortcut_to_lif3",
        "shortcut_to_lif4",
        "outer",
    }


def test_a_select_in_any_order_is_folded_into_the_weights_behind_flatten():
    layers = [
        {"type": "conv", "channels": 4, "kernel": 3, "padding": 1},
        {"type": "batch_norm"},
        {"type": "lif"},
        {"type": "select", "channels": [3, 0, 1]},
        {"type": "avg_pool", "kernel": 2},
        {"type": "flatten"},
        {"type": "linear", "features": 3},
    ]
    torch.manual_seed(0)
    net = branching(layers, (2, 8, 8))
    assert to_nir(net).nodes["linear1"].weight.shape == (3, 4 * 4 * 4)
    assert_graph_has_the_networks_spikes(net, (2, 8, 8))


def test_the_probe_holds_the_spikes_of_every_neuron_node():
    layers = [
        {"type": "conv", "channels": 4, "kernel": 3, "padding": 1},
        {"type": "batch_norm"},
        {"type": "lif"},
        {"type": "select", "channels": [3, 1]},
        {"type": "max_pool", "kernel": 2},
        {"type": "conv", "channels": 2, "kernel": 1},
        {"type": "sum", "of": ["conv2", "max_pool1"]},
        {"type": "lif"},
        {"type": "flatten"},
        {"type": "linear", "features": 3},
    ]
    torch.manual_seed(0)
    net = branching(layers, (2, 8, 8))
    frames = np.random.default_rng(2).integers(0, 4, (5, 2, 8, 8), np.uint8)
    probed, graph = probe(net, np.repeat(frames[:, None], net.spec.steps, axis=1)), to_nir(net)
    spikes, logits = executed(graph, torch.from_numpy(probed.x).double())
    assert probed.spikes.keys() == spikes.keys() == {"lif1", "max_pool1_or", "lif2"}
    for name, value in probed.spikes.items():
        assert value.any()
        assert np.array_equal(value, spikes[name].numpy() > 0)
    np.testing.assert_allclose(probed.logits, logits.numpy(), atol=1e-4)


def test_resnet8_is_one_population_a_layer_with_identity_shortcuts():
    net = branching(layers_of("resnet8", 10, (1, 8, 8)), (1, 8, 8))
    graph = to_nir(net)
    into = {name: sorted(a for a, b in graph.edges if b == name) for name in net.neurons()}
    assert into["block1_lif2"] == ["block1_conv2", "stem_lif_to_block1_lif2"]
    assert into["block2_lif2"] == ["block2_conv2", "block2_shortcut"]
    identity = graph.nodes["stem_lif_to_block1_lif2"].weight[:, :, 0, 0]
    np.testing.assert_allclose(identity, np.eye(16) / 0.3, rtol=1e-6)
    torch.manual_seed(0)
    assert_graph_has_the_networks_spikes(net, (1, 8, 8))
