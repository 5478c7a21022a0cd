import random

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.compact import compact, prove
from sca_deploy.pruning.groups import channel_groups
from tests.networks import random_layers

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


STREAM = [
    {"type": "conv", "name": "stem", "channels": 6, "kernel": 3, "padding": 1},
    {"type": "batch_norm", "name": "norm1"},
    {"type": "lif"},
    {"type": "conv", "name": "inner1", "channels": 5, "kernel": 3, "padding": 1},
    {"type": "batch_norm", "name": "norm2"},
    {"type": "lif"},
    {"type": "conv", "name": "outer1", "channels": 6, "kernel": 3, "padding": 1},
    {"type": "sum", "of": ["stem", "outer1"]},
    {"type": "batch_norm", "name": "norm3"},
    {"type": "lif"},
    {"type": "flatten"},
    {"type": "linear", "features": 3},
]


def test_a_stream_loses_the_channels_that_no_reader_is_left_with():
    network = SpikingNetwork(NetworkSpec((2, 4, 4), parse_layers(STREAM, {}), steps=2))
    network.norms()["norm1"].mask[:] = torch.tensor([1, 1, 0, 0, 0, 0])
    network.norms()["norm2"].mask[:] = torch.tensor([0, 1, 1, 1, 0])
    network.norms()["norm3"].mask[:] = torch.tensor([0, 1, 1, 0, 0, 1])
    small = compact(network)
    shapes = {name: tuple(m.weight.shape) for name, m in small.layers.items() if hasattr(m, "weight")}
    assert shapes == {
        "stem": (4, 2, 3, 3),  # 0, 1, 2 and 5; nothing reads 3 and 4
        "norm1": (2,),
        "inner1": (3, 2, 3, 3),
        "norm2": (3,),
        "outer1": (3, 3, 3, 3),  # 1, 2 and 5, which are read after the sum
        "norm3": (3,),
        "linear1": (3, 3 * 4 * 4),
    }
    tables = {table["name"]: table for table in small.spec.to_plain()["layers"]}
    assert tables["stem_for_norm1"]["channels"] == [0, 1]
    assert tables["stem_for_sum1"]["channels"] == [1, 2, 3]
    assert tables["sum1"]["of"] == ["stem_for_sum1", "outer1"]
    assert "from" not in tables["norm1"]


def test_a_compacted_network_is_not_made_smaller_again(masked):
    small = compact(masked)
    assert compact(small).spec == small.spec


def test_a_channel_that_is_off_beside_one_that_is_on_stays_off():
    layers = [
        {"type": "conv", "channels": 3, "kernel": 3},
        {"type": "batch_norm"},
        {"type": "conv", "channels": 3, "kernel": 3, "from": "input"},
        {"type": "batch_norm"},
        {"type": "sum", "of": ["batch_norm1", "batch_norm2"]},
        {"type": "lif"},
        {"type": "flatten"},
        {"type": "linear", "features": 2},
    ]
    network = SpikingNetwork(NetworkSpec((2, 4, 4), parse_layers(layers, {}), steps=2))
    network.norms()["batch_norm1"].mask[:] = torch.tensor([1, 0, 0])
    network.norms()["batch_norm2"].mask[:] = torch.tensor([0, 0, 1])
    small = compact(network)
    assert small.norms()["batch_norm1"].mask.tolist() == [1, 0]
    assert small.norms()["batch_norm2"].mask.tolist() == [0, 1]


def channels_in_order(part, whole):
    """Whether the channels of `part` (N, T, C, ...) are some of those of `whole`, in their order."""
    candidates = iter(whole.unbind(2))
    return all(any(torch.equal(channel, candidate) for candidate in candidates) for channel in part.unbind(2))


def trained_looking(layers):
    network = SpikingNetwork(NetworkSpec((2, 3, 3), parse_layers(layers, {"beta": 0.7}), steps=3)).double()
    for norm in network.norms().values():
        torch.nn.init.uniform_(norm.bias, 0.0, 1.5)
    for _ in range(2):
        network(torch.randn(8, 3, 2, 3, 3))
    return network.eval()


def cut(network):
    try:
        return compact(network)
    except ScaDeployError:
        # A select may leave a layer with nothing but silent channels.
        assume(all(layer.type != "select" for layer in network.spec.layers))
        raise


def compare(network, small):
    """Every spike and logit of a batch are found in the masked network."""
    x = torch.randn(4, 3, 2, 3, 3)
    with torch.no_grad(), network.recording() as before:
        expected = network(x)
    with torch.no_grad(), small.recording() as after:
        torch.testing.assert_close(small(x), expected, rtol=1e-10, atol=1e-10)
    for name, spikes in after.items():
        assert channels_in_order(spikes, before[name])
    assert prove(network, small, x).spikes_compared == sum(spikes.numel() for spikes in after.values())


def mask_of(draw, channels):
    on = draw.randint(1, channels)
    return torch.tensor(draw.sample([1.0] * on + [0.0] * (channels - on), channels))


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_network_with_any_masks_keeps_its_spikes(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    network = trained_looking(random_layers(draw))
    for norm in network.norms().values():
        norm.mask.copy_(mask_of(draw, len(norm.mask)))
    compare(network, cut(network))


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_what_a_group_masks_is_gone_from_all_its_layers(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    network = trained_looking(random_layers(draw))
    groups = channel_groups(network)
    for group in groups:
        mask = mask_of(draw, group.channels)
        group.set_mask(mask)
    small = cut(network)
    compare(network, small)
    names = {norm: name for name, norm in network.norms().items()}
    for norm in (norm for group in groups for norm in group.norms):
        left = small.norms()[names[norm]].mask
        assert left.all()
        assert len(left) <= norm.mask.sum()
