"""The integer network against the simulated chip, and its gradients against those of the float network."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.graph import DT, to_nir
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.program import INPUT, Dense, Layer
from sca_deploy.hardware.simulate import simulate
from sca_deploy.nn.integer import IntegerNetwork, _IntegerLIF, _rounded
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.nn.surrogate import Sigmoid
from sca_deploy.nn.zoo import layers_of
from tests.networks import random_layers

NEURON = {"beta": 0.4, "threshold": 0.7, "surrogate": "sigmoid"}
POOLED = [
    {"type": "conv", "channels": 6, "kernel": 3, "padding": 1},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "avg_pool", "kernel": 2},
    {"type": "conv", "channels": 8, "kernel": 3, "padding": 1, "bias": True},
    {"type": "lif"},
    {"type": "max_pool", "kernel": 2},
    {"type": "flatten"},
    {"type": "linear", "features": 5},
]


def trained_looking(layers, shape, scale=1.0):
    """A network whose batch-norms have seen something."""
    spec = NetworkSpec(shape, parse_layers(layers, NEURON), steps=4, input_scale=scale)
    network = SpikingNetwork(spec)
    for module in network.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_mean.normal_(0, 0.05)
            module.running_var.uniform_(0.2, 0.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0.1, 0.1)
    return network.eval()


def chip_and_network(network, x, bits):
    program = lower(to_nir(network), dt=DT, steps=4, input_bits=bits)
    readout = simulate(program, x).readout
    logits = IntegerNetwork(network, program)(torch.from_numpy(x))
    return readout, (logits.detach().double() * program.layers[-1].scale * 64).round().numpy()


@pytest.mark.parametrize(("layers", "side"), [(POOLED, 8), (layers_of("resnet8", 10, (1, 12, 12)), 12)])
def test_its_logits_are_the_read_outs_of_the_simulated_chip(layers, side):
    torch.manual_seed(0)
    network = trained_looking(layers, (1, side, side), 1 / 255)
    x = np.random.default_rng(0).integers(0, 256, (6, 4, 1, side, side)).astype(np.uint8)
    readout, logits = chip_and_network(network, x, bits=8)
    assert readout.any()
    np.testing.assert_array_equal(logits, readout)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_so_are_those_of_any_network_with_branches(seed):
    torch.manual_seed(seed)
    network = trained_looking(random_layers(random.Random(seed)), (2, 3, 3))
    x = np.random.default_rng(seed).integers(0, 2, (3, 4, 2, 3, 3)).astype(np.uint8)
    readout, logits = chip_and_network(network, x, bits=0)
    np.testing.assert_array_equal(logits, readout)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_so_are_those_of_weights_that_lie_between_two_integers(seed):
    torch.manual_seed(seed)
    layers = [
        {"type": "flatten"},
        {"type": "linear", "features": 16},
        {"type": "lif"},
        {"type": "linear", "features": 4},
    ]
    network = trained_looking(layers, (1, 4, 4))
    for layer in ("linear1", "linear2"):
        weight = network.layers[layer].weight.data
        weight.copy_(torch.randint(-4, 5, weight.shape) * 0.25 * torch.rand(()))
    x = np.random.default_rng(seed).integers(0, 2, (8, 4, 1, 4, 4)).astype(np.uint8)
    readout, logits = chip_and_network(network, x, bits=0)
    np.testing.assert_array_equal(logits, readout)


def test_a_frame_shown_once_counts_at_every_step():
    torch.manual_seed(1)
    network = trained_looking(POOLED, (1, 8, 8), 1 / 255)
    program = lower(to_nir(network), dt=DT, steps=4, input_bits=8)
    x = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    integer = IntegerNetwork(network, program)
    torch.testing.assert_close(integer(x), integer(x.unsqueeze(1).expand(-1, 4, -1, -1, -1)))
    torch.testing.assert_close(integer(x, per_step=True).sum(0), integer(x))


def test_where_integers_are_fine_gradients_are_nearly_those_of_the_float_network():
    """8 bits leave a few percent of a gradient open."""
    torch.manual_seed(2)
    network = trained_looking([{"type": "flatten"}, {"type": "linear", "features": 6, "bias": True}, {"type": "lif"},
                               {"type": "linear", "features": 4}], (1, 3, 3))  # fmt: skip
    x = torch.randint(0, 2, (64, 4, 1, 3, 3), dtype=torch.uint8)
    program = lower(to_nir(network), dt=DT, steps=4, input_bits=0)
    gradients = []
    for module in (network, IntegerNetwork(network, program)):
        network.zero_grad()
        torch.nn.functional.cross_entropy(module(x), torch.arange(64) % 4).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98
    assert 0.9 < gradients[1].norm() / gradients[0].norm() < 1.1


def test_gradients_of_the_neuron_are_those_of_its_loop_through_time():
    torch.manual_seed(0)
    synapse = Dense(INPUT, np.full((30, 1), 2, np.int32))
    layer = Layer("n", (30,), (synapse,), 205, 60, np.zeros(30, np.int32), scale=40.0)
    current = (2.0 * torch.randint(-20, 40, (6, 5, 30))).requires_grad_()
    wanted = torch.randn(6, 5, 30)
    (_IntegerLIF.apply(current, 6, layer, Sigmoid(2.0)) * wanted).sum().backward()
    ours, current.grad = current.grad, None
    v, surrogate, total = torch.zeros(5, 30), Sigmoid(2.0), 0.0
    for t in range(6):
        v = (1 - 205 / 4096) * v + current[t] / 40
        spikes = surrogate(v - 60 / 40)
        total = total + (spikes * wanted[t]).sum()
        v = v * (1 - spikes.detach())
    total.backward()
    torch.testing.assert_close(ours, current.grad, rtol=0.02, atol=1e-4)


def test_what_is_clipped_has_no_gradient():
    x = torch.tensor([-130.0, -126.6, 0.4, 127.0, 127.4], requires_grad=True)
    rounded = _rounded(x, 127)
    rounded.sum().backward()
    assert rounded.tolist() == [-127, -127, 0, 127, 127]
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_a_potential_that_saturates_forgets_as_the_chips_does():
    network = trained_looking([{"type": "flatten"}, {"type": "linear", "features": 2}, {"type": "if"},
                               {"type": "linear", "features": 2}], (2, 30, 30))  # fmt: skip
    with torch.no_grad():
        network.layers["linear1"].weight[:] = torch.cat([-torch.ones(900), torch.ones(900)])
        network.layers["linear2"].weight[:] = torch.eye(2)
        for layer in ("linear1", "linear2"):
            network.layers[layer].bias.zero_()
    x = np.zeros((1, 4, 2, 30, 30), np.uint8)
    x[:, :2, 0], x[:, 2:, 1] = 1, 1
    readout, logits = chip_and_network(network, x, bits=0)
    np.testing.assert_array_equal(logits, readout)
    # In floats, two steps up only undo two steps down; on the chip, less was remembered.
    assert readout.any()
    assert not network(torch.from_numpy(x)).any()
