import pytest
import torch

from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.groups import channel_groups


def conv(name, source=None):
    table = {"type": "conv", "name": name, "channels": 4, "kernel": 3, "padding": 1}
    return table if source is None else table | {"from": source}


def norm(name):
    return {"type": "batch_norm", "name": name}


def lif(name):
    return {"type": "lif", "name": name}


END = [{"type": "flatten"}, {"type": "linear", "name": "readout", "features": 3}]


def grouped(layers):
    """For each group, the names of its norms, populations and the layers that own its weights."""
    network = SpikingNetwork(NetworkSpec((2, 6, 6), parse_layers([*layers, *END], {}), steps=2))
    names = {module: name for name, module in network.layers.items()}
    owners = {module.weight: name for name, module in network.layers.items() if hasattr(module, "weight")}
    groups = channel_groups(network)
    assert [group.name for group in groups] == [names[group.norms[0]] for group in groups]
    return [
        ([names[n] for n in g.norms], [names[n] for n in g.neurons], [owners[w] for w in g.weights]) for g in groups
    ]


def test_in_a_chain_every_norm_is_a_group():
    fc = {"type": "linear", "name": "fc", "features": 8}
    layers = [conv("a"), norm("na"), lif("sa"), {"type": "max_pool", "kernel": 2}, conv("b"), lif("sb")]
    layers += [{"type": "flatten", "name": "flat"}, {"type": "dropout", "p": 0.1}, fc, norm("nf"), lif("sf")]
    network = SpikingNetwork(
        NetworkSpec((2, 6, 6), parse_layers([*layers, {"type": "linear", "features": 3}], {}), steps=2)
    )
    groups = channel_groups(network)
    assert [(group.name, group.channels) for group in groups] == [("na", 4), ("nf", 8)]
    assert groups[0].neurons == (network.layers["sa"],)
    assert groups[1].weights == (network.layers["fc"].weight,)


def test_norms_that_meet_in_a_sum_are_one_group():
    layers = [conv("a"), norm("na"), conv("b", "input"), norm("nb"), {"type": "sum", "of": ["na", "nb"]}, lif("s")]
    assert grouped(layers) == [(["na", "nb"], ["s"], ["a", "b"])]


def test_spikes_that_skip_a_block_tie_what_they_started_from():
    layers = [conv("a"), norm("na"), lif("sa"), conv("b"), norm("nb"), lif("sb"), conv("c"), norm("nc")]
    layers += [{"type": "sum", "of": ["nc", "sa"]}, lif("sc")]
    assert grouped(layers) == [(["na", "nc"], ["sa", "sc"], ["a", "c"]), (["nb"], ["sb"], ["b"])]


def test_ties_go_on_through_pooling_and_nested_sums():
    layers = [conv("a"), norm("na"), lif("sa"), {"type": "avg_pool", "name": "pa", "kernel": 1}, conv("b"), norm("nb")]
    layers += [conv("c", "pa"), norm("nc"), {"type": "sum", "name": "s1", "of": ["nb", "nc"]}]
    layers += [{"type": "sum", "name": "s2", "of": ["pa", "s1"]}, lif("sd")]
    assert grouped(layers) == [(["na", "nb", "nc"], ["sa", "sd"], ["a", "b", "c"])]


def test_a_norm_that_meets_a_bare_convolution_is_left_alone():
    layers = [conv("a"), norm("na"), lif("sa"), conv("b"), norm("nb"), conv("c", "sa")]
    layers += [{"type": "sum", "of": ["nb", "c"]}, lif("sb")]
    assert grouped(layers) == [(["na"], ["sa"], ["a"])]


def test_norms_whose_sum_is_normalised_again_are_left_alone():
    layers = [conv("a"), norm("na"), conv("b", "input"), norm("nb"), {"type": "sum", "of": ["na", "nb"]}]
    layers += [norm("nc"), lif("sc")]
    assert grouped(layers) == [(["nc"], ["sc"], [])]


def test_norms_whose_sum_fires_and_is_normalised_too_are_left_alone():
    layers = [conv("a"), norm("na"), conv("b", "input"), norm("nb"), {"type": "sum", "name": "x", "of": ["na", "nb"]}]
    layers += [lif("sx"), conv("c"), norm("nx") | {"from": "x"}, {"type": "sum", "of": ["c", "nx"]}, lif("sy")]
    assert grouped(layers) == []


def test_each_norm_that_reads_a_stream_is_a_group_of_its_own():
    layers = [conv("a"), norm("n1"), lif("s1"), conv("b"), norm("n2"), lif("s2"), conv("c")]
    layers += [{"type": "sum", "name": "x1", "of": ["a", "c"]}, norm("n3"), lif("s3"), conv("d")]
    layers += [{"type": "sum", "name": "x2", "of": ["x1", "d"]}, norm("n4"), lif("s4")]
    assert grouped(layers) == [
        (["n1"], ["s1"], ["a"]),
        (["n2"], ["s2"], ["b"]),
        (["n3"], ["s3"], ["a", "c"]),
        (["n4"], ["s4"], ["a", "c", "d"]),
    ]


def test_a_select_parts_what_it_reads_from_what_it_gives():
    layers = [conv("a"), norm("na"), lif("sa"), {"type": "select", "name": "cut", "channels": [3, 2, 1, 0]}]
    layers += [conv("b", "sa"), norm("nb"), {"type": "sum", "of": ["nb", "cut"]}, lif("sb")]
    assert grouped(layers) == [(["na"], ["sa"], ["a"])]


@pytest.mark.parametrize("off", [0, 3])
def test_a_group_that_is_masked_is_silent_wherever_it_fires(off):
    layers = [conv("a"), norm("na"), lif("sa"), conv("b"), norm("nb"), {"type": "sum", "of": ["nb", "sa"]}, lif("sb")]
    network = SpikingNetwork(NetworkSpec((2, 6, 6), parse_layers([*layers, *END], {}), steps=2)).eval()
    [group] = channel_groups(network)
    for member in group.norms:
        torch.nn.init.constant_(member.bias, 3.0)
        member.mask[off] = 0
    with torch.no_grad(), network.recording() as recorded:
        network(torch.zeros(2, 2, 6, 6))
    for name in ("sa", "sb"):
        assert recorded[name].any(dim=0).any(dim=0).flatten(1).any(1).tolist() == [c != off for c in range(4)]
