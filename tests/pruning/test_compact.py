import pytest
import torch

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.compact import compact, prove

LAYERS = [
    {"type": "conv", "channels": 6, "kernel": 3, "padding": 1, "bias": True},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "max_pool", "kernel": 2},
    {"type": "conv", "channels": 8, "kernel": 3},
    {"type": "batch_norm"},
    {"type": "if"},
    {"type": "avg_pool", "kernel": 2},
    {"type": "flatten"},
    {"type": "linear", "features": 16},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "linear", "features": 5},
]
MASKS = {
    "batch_norm1": [1, 0, 1, 1, 0, 0],
    "batch_norm2": [0, 1, 1, 0, 1, 1, 0, 1],
    "batch_norm3": [1, 0] * 8,
}


@pytest.fixture
def masked():
    torch.manual_seed(0)
    network = SpikingNetwork(NetworkSpec((2, 12, 12), parse_layers(LAYERS, {}), steps=4))
    network.train()
    for _ in range(5):  # so that the running statistics are not the initial ones
        network(torch.randn(16, 2, 12, 12) * 2)
    for name, mask in MASKS.items():
        network.norms()[name].mask.copy_(torch.tensor(mask))
        torch.nn.init.uniform_(network.norms()[name].bias, -0.2, 0.8)
    return network.eval()


@pytest.fixture
def batch():
    return torch.randn(8, 2, 12, 12, generator=torch.Generator().manual_seed(3)) * 2


def test_every_boundary_is_cut(masked):
    small = compact(masked)
    shapes = {name: tuple(m.weight.shape) for name, m in small.layers.items() if hasattr(m, "weight")}
    assert shapes == {
        "conv1": (3, 2, 3, 3),
        "batch_norm1": (3,),
        "conv2": (5, 3, 3, 3),
        "batch_norm2": (5,),
        "linear1": (8, 5 * 2 * 2),
        "batch_norm3": (8,),
        "linear2": (5, 8),
    }


def test_the_compacted_network_gives_the_masked_ones_spikes(masked, batch):
    small = compact(masked)
    with torch.no_grad(), masked.double().recording() as before:
        masked(batch)
    with torch.no_grad(), small.double().recording() as after:
        small(batch)
    for name, mask in zip(before, MASKS.values(), strict=True):
        on = torch.tensor(mask, dtype=torch.bool)
        assert torch.equal(before[name][:, :, on], after[name])
        assert not before[name][:, :, ~on].any()
        assert after[name].any()


def test_the_proof_counts_what_it_compared(masked, batch):
    proof = prove(masked, compact(masked), batch)
    assert proof.spikes_compared == 8 * 4 * (3 * 144 + 5 * 16 + 8)
    assert proof.max_logit_difference < 1e-12


def test_the_proof_fails_when_a_weight_is_wrong(masked, batch):
    small = compact(masked)
    small.layers["conv2"].weight.data[0] += 1.0
    with pytest.raises(Mismatch, match="spikes of layer 'if1'"):
        prove(masked, small, batch)


def test_the_proof_fails_when_a_logit_is_wrong(masked, batch):
    small = compact(masked)
    small.layers["linear2"].bias.data += 1e-4
    with pytest.raises(Mismatch, match="logit"):
        prove(masked, small, batch)


def test_a_layer_without_channels_is_refused(masked):
    masked.norms()["batch_norm2"].mask.zero_()
    with pytest.raises(ScaDeployError, match="'batch_norm2' has no channel left"):
        compact(masked)
