"""Module -> NIR -> integers -> Lava, for what the digits recipe does not have: events, max-pooling, IF neurons."""

import nir
import norse.torch as norse
import numpy as np
import pytest
import torch

from sca_deploy.exporters.netx import write_net
from sca_deploy.exporters.nir import check_portable
from sca_deploy.graph import DT, to_nir
from sca_deploy.hardware.lava.compare import verify
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.simulate import simulate
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers

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
