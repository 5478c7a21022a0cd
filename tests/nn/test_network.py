import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from sca_deploy.config import load_config
from sca_deploy.errors import ScaDeployError
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.nn.neuron import LIF
from sca_deploy.nn.spec import NetworkSpec, parse_layers

LAYERS = [
    {"type": "conv", "channels": 5, "kernel": 3},
    {"type": "batch_norm"},
    {"type": "lif", "beta": 0.6},
    {"type": "avg_pool", "kernel": 2},
    {"type": "flatten"},
    {"type": "linear", "features": 4},
]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SpikingNetwork(NetworkSpec((2, 8, 8), parse_layers(LAYERS, {}), steps=3, input_scale=0.25)).eval()


@pytest.fixture
def frames():
    return torch.randint(0, 16, (6, 2, 8, 8), generator=torch.Generator().manual_seed(1))


def test_a_still_frame_means_the_frame_at_every_step(network, frames):
    torch.testing.assert_close(network(frames), network(frames[:, None].expand(-1, 3, -1, -1, -1)))


def test_logits_are_the_read_out_summed_over_time(network, frames):
    layers = network.layers
    steps = []
    hook = layers["flatten1"].register_forward_hook(lambda *args: steps.append(args[2]))
    logits = network(frames)
    hook.remove()
    per_step = layers["linear1"](steps[0]).unflatten(0, (3, 6))
    torch.testing.assert_close(logits, per_step.sum(0))


def test_a_masked_channel_is_silent_in_evaluation_and_in_training(network, frames):
    network.norms()["batch_norm1"].mask[2] = 0
    for mode in (True, False):
        network.train(mode)
        with network.recording() as recorded:
            network(frames)
        active = recorded["lif1"].sum((0, 1, 3, 4)) > 0
        assert not active[2]
        assert active.sum() > 0


@pytest.mark.parametrize("shape", [(6, 3, 5, 5), (6, 3)])
def test_gamma_gradient_of_a_masked_channel_is_what_gamma_would_get_if_it_were_on(shape):
    generator = torch.Generator().manual_seed(2)
    x, incoming = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    norm = MaskedBatchNorm(3).double()
    norm.mask[1] = 0
    norm(x).backward(incoming)
    axes = [axis for axis in range(x.dim()) if axis != 1]
    normalised = (x - x.mean(axes, keepdim=True)) / (x.var(axes, unbiased=False, keepdim=True) + norm.eps).sqrt()
    torch.testing.assert_close(norm.gamma_gradient, (incoming * normalised).sum(axes))


def test_pruned_weights_get_no_gradient(network, frames):
    network.train().norms()["batch_norm1"].mask[2] = 0
    network(frames).square().sum().backward()
    gradient = network.layers["conv1"].weight.grad.abs().sum((1, 2, 3))
    assert gradient[2] == 0
    assert (gradient > 0).sum() == 4


@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (6, 8, 8), (2, 8, 8)])
def test_an_input_of_another_shape_is_refused(network, shape):
    with pytest.raises(ScaDeployError, match=r"the network expects \(samples, \[steps,\] \(2, 8, 8\)\)"):
        network(torch.zeros(shape))


def chain(network, x):
    """Logits of a network without branches: one layer after the other, a still frame shown once up to the neurons."""
    steps, values = network.spec.steps, (x.float() * network.spec.input_scale).unsqueeze(0)
    *hidden, readout = network.layers.values()
    for module in hidden:
        if isinstance(module, LIF):
            values = module(values.expand(steps, *values.shape[1:]))
        else:
            values = module(values.flatten(0, 1)).unflatten(0, (len(values), -1))
    return F.linear(values.sum(0), readout.weight, steps * readout.bias)


def test_a_chain_has_the_bits_of_its_layers_one_after_the_other():
    config = load_config("digits").network
    spec = NetworkSpec((1, 8, 8), parse_layers(config.layers, config.neuron), config.steps, 1 / 16)
    x = torch.randint(0, 17, (16, 1, 8, 8), generator=torch.Generator().manual_seed(4))
    results = []
    for forward in (chain, lambda network, x: network(x)):
        torch.manual_seed(5)
        network = SpikingNetwork(spec).train()
        network.norms()["batch_norm2"].mask[:9] = 0
        logits = forward(network, x)
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in network.parameters()), *network.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


BRANCHES = [
    {"type": "conv", "channels": 4, "kernel": 3, "padding": 1},
    {"type": "batch_norm"},
    {"type": "lif", "beta": 0.6},
    {"type": "conv", "channels": 4, "kernel": 3, "padding": 1},
    {"type": "sum", "of": ["batch_norm1", "conv2", "lif1"]},
    {"type": "batch_norm"},
    {"type": "if"},
    {"type": "select", "channels": [2, 0]},
    {"type": "flatten"},
    {"type": "linear", "features": 4},
]


@pytest.fixture
def branches():
    torch.manual_seed(1)
    network = SpikingNetwork(NetworkSpec((2, 8, 8), parse_layers(BRANCHES, {}), steps=3, input_scale=0.25)).eval()
    for norm in network.norms().values():
        torch.nn.init.uniform_(norm.bias, 0.2, 0.8)
    return network


def test_branches_are_added_step_by_step(branches, frames):
    layers, v1, v2, logits = branches.layers, 0.0, 0.0, 0.0
    still = layers["batch_norm1"](layers["conv1"](frames * 0.25))
    for _ in range(3):
        v1 = 0.6 * v1 + still
        s1 = (v1 > 1).float()
        v1 = v1 * (1 - s1)
        v2 = v2 + layers["batch_norm2"](still + layers["conv2"](s1) + s1)
        s2 = (v2 > 1).float()
        v2 = v2 * (1 - s2)
        assert 0 < s2.mean() < 1
        logits = logits + layers["linear1"](s2[:, [2, 0]].flatten(1))
    torch.testing.assert_close(branches(frames), logits)


@pytest.mark.parametrize("which", ["network", "branches"])
def test_logits_are_the_sum_of_those_of_every_step(which, frames, request):
    network = request.getfixturevalue(which)
    moving = torch.randint(0, 16, (6, 3, 2, 8, 8), generator=torch.Generator().manual_seed(3))
    for x in (frames, moving):
        steps = network(x, per_step=True)
        assert steps.shape == (3, 6, 4)
        torch.testing.assert_close(steps.sum(0), network(x))
    # No step sees a later one.
    moving_end = moving.clone()
    moving_end[:, 2] = 0
    torch.testing.assert_close(network(moving_end, per_step=True)[:2], network(moving, per_step=True)[:2])
    assert (network(moving_end, per_step=True)[2] != network(moving, per_step=True)[2]).any()


def test_per_step_logits_of_a_network_without_neurons_are_the_same_at_every_step(frames):
    layers = parse_layers([{"type": "flatten"}, {"type": "linear", "features": 4}], {})
    network = SpikingNetwork(NetworkSpec((2, 8, 8), layers, steps=3))
    steps = network(frames, per_step=True)
    torch.testing.assert_close(steps, network.layers["linear1"](frames.float().flatten(1)).expand(3, -1, -1))
    torch.testing.assert_close(network(frames), steps.sum(0))


SHARES = (5, 3)
"""Samples that each of two processes holds of a batch of eight."""


def whole_batch():
    generator = torch.Generator().manual_seed(6)
    frames = torch.randint(0, 16, (sum(SHARES), 2, 8, 8), generator=generator)
    return frames, torch.randn(sum(SHARES), 4, generator=generator, dtype=torch.float64)


def trained(frames, weights):
    """What two passes and one backward leave: logits, parameter gradients, gamma gradients, statistics."""
    torch.manual_seed(1)
    network = SpikingNetwork(NetworkSpec((2, 8, 8), parse_layers(BRANCHES, {}), steps=3, input_scale=0.25)).double()
    network.norms()["batch_norm2"].mask[1] = 0
    network(frames)  # so that the statistics are updated twice
    logits = network(frames)
    (logits * weights).sum().backward()
    return {
        "logits": logits.detach(),
        "gradients": [p.grad for p in network.parameters()],
        "gamma": [norm.gamma_gradient for norm in network.norms().values()],
        "statistics": [t for norm in network.norms().values() for t in (norm.running_mean, norm.running_var)],
    }


def process(rank, folder):
    """One of two processes, with its share of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(trained(*(part.split(SHARES)[rank] for part in whole_batch())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_normalise_as_one_that_holds_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(process, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    alone = trained(*whole_batch())
    exactly = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(torch.cat([part["logits"] for part in parts]), alone["logits"], **exactly)
    for key in ("gradients", "gamma"):  # each process has its part of them
        for *of_each, expected in zip(*(part[key] for part in parts), alone[key], strict=True):
            torch.testing.assert_close(sum(of_each), expected, **exactly)
    for part in parts:
        torch.testing.assert_close(part["statistics"], alone["statistics"], **exactly)
