import pytest
import torch
import torch.nn.functional as F

from sca_deploy.errors import UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.nn.zoo import NETWORKS, layers_of
from sca_deploy.pruning.compact import compact, prove
from sca_deploy.pruning.groups import channel_groups

PUBLISHED = {"dvs-cifar10": (2, 48, 48), "conv2": (1, 8, 8), "conv4": (1, 28, 28), "resnet8": (1, 28, 28)}
"""The input each is meant for, where it is not (3, 32, 32)."""

SMALLEST = {"vgg16-bn": (3, 32, 32), "vgg16-avg": (3, 32, 32), "dvs-cifar10": (2, 32, 32)}
"""The smallest input each can read, where 8 x 8 is too small."""


def network(name, shape, steps=2, classes=10):
    torch.manual_seed(0)
    return SpikingNetwork(NetworkSpec(shape, parse_layers(layers_of(name, classes, shape), {"beta": 0.5}), steps))


def size(net):
    return sum(p.numel() for p in net.parameters())


def keep(group, channels):
    for norm in group.norms:
        norm.mask.zero_()[:channels] = 1


@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains_and_what_is_masked_is_cut_with_proof(name):
    shape = SMALLEST.get(name, (PUBLISHED.get(name, (3,))[0], 8, 8))
    net, x = network(name, shape), torch.rand(2, *shape) * 4
    before = [p.detach().clone() for p in net.parameters()]
    F.cross_entropy(net(x), torch.tensor([3, 7])).backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert sum(bool((a != b).any()) for a, b in zip(before, net.parameters(), strict=True)) > len(before) / 2
    generator = torch.Generator().manual_seed(1)
    for group in channel_groups(net):
        mask = (torch.rand(group.channels, generator=generator) < 0.4).float()
        mask[0] = 1
        group.set_mask(mask)
        for norm in group.norms:
            torch.nn.init.uniform_(norm.bias, 0.0, 1.5)
    small = compact(net)
    proof = prove(net, small, x[:1])
    assert proof.spikes_compared > 100
    assert all(norm.mask.all() for norm in small.norms().values())
    assert small.kept_channels == net.kept_channels
    assert size(small) < 0.5 * size(net)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_batch_norm_can_be_pruned_and_every_convolution_reads_spikes_or_the_input(name):
    net = network(name, PUBLISHED.get(name, (3, 32, 32)))
    assert {norm for group in channel_groups(net) for norm in group.norms} == set(net.norms().values())
    readers = {s for layer, s in zip(net.spec.layers, net.spec.sources, strict=True) if layer.type == "conv"}
    kinds = {"input": "input", **{layer.name: layer.type for layer in net.spec.layers}}
    assert {kinds[source] for (source,) in readers} <= {"input", "lif", "avg_pool", "max_pool"}


def test_vgg16_bn_has_the_papers_parameters():
    assert size(network("vgg16-bn", (3, 32, 32))) == 15_250_378


def test_vgg16_bn_cut_to_the_released_structure_keeps_the_published_shares():
    net = network("vgg16-bn", (3, 32, 32))
    released = (64, 64, 128, 128, 256, 256, 252, 462, 401, 450, 419, 409, 512)
    groups = channel_groups(net)[: len(released)]
    for group, channels in zip(groups, released, strict=True):
        keep(group, channels)
    assert sum(released) / sum(group.channels for group in groups) == pytest.approx(0.900, abs=5e-4)
    assert size(compact(net)) / size(net) == pytest.approx(0.769, abs=5e-4)


def test_preresnet18_cut_to_the_released_structure_keeps_the_published_share_of_channels():
    net = network("preresnet18", (3, 32, 32))
    released = (64, 64, 62, 52, 59, 84, 105, 81, 105, 111, 170, 124, 97, 22, 139, 1, 260)
    groups = channel_groups(net)
    for group, channels in zip(groups, released, strict=True):
        keep(group, channels)
    assert sum(released) / sum(group.channels for group in groups) == pytest.approx(0.410, abs=5e-4)
    small = compact(net)
    assert list(small.kept_channels.values()) == list(released)
    # About 14.2 % where the streams keep their width; ours lose what no reader is left with.
    assert size(small) / size(net) < 0.142


@pytest.mark.parametrize("name", ["preresnet18", "resnet19"])
def test_pre_activation_networks_end_in_maps_of_four_by_four(name):
    spec = network(name, (3, 32, 32)).spec
    shapes = dict(zip((layer.name for layer in spec.layers), spec.shapes, strict=True))
    assert shapes["last_lif"] == (512, 4, 4)
    assert shapes["flatten1"] == (512,)


def test_resnet8_ties_the_widths_of_its_stages():
    groups = channel_groups(network("resnet8", (1, 28, 28)))
    assert [(group.channels, len(group.norms)) for group in groups] == [
        (16, 2),
        (16, 1),
        (32, 1),
        (32, 2),
        (64, 1),
        (64, 2),
    ]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        layers_of("vgg16", 10, (3, 32, 32))
    assert "did you mean 'vgg16-" in caught.value.fix


def test_an_input_without_a_map_is_refused():
    with pytest.raises(UsageError, match=r"network 'conv2' reads maps .* shape \(64,\)"):
        layers_of("conv2", 10, (64,))
