import pytest
import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
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
