import pytest
import torch

from sca_deploy.errors import UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers

CONV = {"type": "conv", "channels": 4, "kernel": 3}
LAYERS = [
    CONV | {"padding": 1, "stride": 2},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "max_pool", "kernel": 2},
    {"type": "conv", "channels": 6, "kernel": 2},
    {"type": "if"},
    {"type": "avg_pool", "kernel": 2, "stride": 1},
    {"type": "dropout", "p": 0.2},
    {"type": "flatten"},
    {"type": "linear", "features": 10},
]


def spec(layers, shape=(2, 13, 17), neuron=None):
    return NetworkSpec(shape, parse_layers(layers, neuron or {}), steps=3)


def test_inferred_shapes_are_those_torch_computes():
    network = SpikingNetwork(spec(LAYERS)).eval()
    values = torch.zeros(1, 2, 13, 17)
    for layer, shape in zip(network.spec.layers, network.spec.shapes, strict=True):
        module = network.layers[layer.name]
        values = module(values[None])[0] if layer.type in ("lif", "if") else module(values)
        assert tuple(values.shape[1:]) == shape


def test_a_spec_survives_its_plain_form():
    assert NetworkSpec.from_plain(spec(LAYERS).to_plain()) == spec(LAYERS)


def test_a_chain_is_written_as_it_always_was():
    layers = [CONV | {"name": "first"}, {"type": "if"}, {"type": "flatten"}, {"type": "linear", "features": 2}]
    written = {
        "input_shape": [2, 13, 17],
        "steps": 3,
        "input_scale": 1.0,
        "layers": [
            {"type": "conv", "name": "first", "channels": 4, "kernel": 3, "stride": 1, "padding": 0, "bias": False},
            {"type": "if", "name": "if1", "beta": 1.0, "threshold": 1.0, "surrogate": "sigmoid", "alpha": None},
            {"type": "flatten", "name": "flatten1"},
            {"type": "linear", "name": "linear1", "features": 2, "bias": True},
        ],
    }
    assert spec(layers).to_plain() == written
    assert NetworkSpec.from_plain(written) == spec(layers)


POOL = {"type": "avg_pool", "kernel": 2}
END = [{"type": "flatten"}, {"type": "linear", "features": 2}]
RESIDUAL = [
    CONV | {"padding": 1},
    {"type": "batch_norm"},
    {"type": "lif"},
    CONV | {"padding": 1},
    {"type": "sum", "of": ["conv2", "lif1"]},
    {"type": "lif"},
    CONV | {"padding": 1, "from": "lif1"},
    {"type": "sum", "of": ["sum1", "batch_norm1", "conv3"]},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "sum", "of": ["lif2", "lif3"]},
    {"type": "lif"},
    {"type": "select", "channels": [3, 0]},
    *END,
]


def test_a_layer_reads_the_one_before_it_unless_it_names_another():
    network = spec(RESIDUAL)
    assert network.sources == [
        ("input",),
        ("conv1",),
        ("batch_norm1",),
        ("lif1",),
        ("conv2", "lif1"),
        ("sum1",),
        ("lif1",),
        ("sum1", "batch_norm1", "conv3"),
        ("sum2",),
        ("batch_norm2",),
        ("lif2", "lif3"),
        ("sum3",),
        ("lif4",),
        ("select1",),
        ("flatten1",),
    ]


def test_shapes_along_branches_are_those_torch_computes():
    network = SpikingNetwork(spec(RESIDUAL)).eval()
    seen = {}
    for name, module in network.layers.items():
        module.register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name, out.shape))
    network(torch.zeros(5, 2, 13, 17))
    for layer, shape in zip(network.spec.layers[:-1], network.spec.shapes, strict=False):
        assert tuple(seen[layer.name])[-len(shape) :] == shape


def test_a_spec_with_branches_survives_its_plain_form():
    network = spec(RESIDUAL)
    again = NetworkSpec.from_plain(network.to_plain())
    assert again == network
    assert again.sources == network.sources


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ([CONV, {"type": "lif", "from": "conv9"}, *END], "unknown layer read by 'lif1': 'conv9'"),
        ([CONV, {"type": "lif", "from": "lif1"}, *END], "layer 'lif1' reads 'lif1', which does not come before it"),
        (
            [CONV, {"type": "sum", "of": ["conv1", "lif1"]}, {"type": "lif"}, *END],
            "layer 'sum1' reads 'lif1', which does not come before it",
        ),
        (
            [CONV, {"type": "lif"}, CONV, {"type": "sum", "of": ["conv1", "conv2"]}, {"type": "lif"}, *END],
            "layer 'sum1' cannot add 'conv2' (4, 9, 13) to 'conv1' (4, 11, 15)",
        ),
        ([CONV, {"type": "sum", "of": ["conv1", "input"]}, {"type": "lif"}, *END], "cannot follow the input (input)"),
        ([CONV, {"type": "sum", "of": ["conv1"]}, {"type": "lif"}, *END], "layer 'sum1' is the sum of conv1"),
        ([CONV, {"type": "sum", "of": ["conv1", "conv1"]}, *END], "layer 'sum1' is the sum of conv1, conv1"),
        ([CONV, {"type": "sum", "of": "conv1"}, *END], "layer 'sum1': of is 'conv1', it must be a list"),
        ([CONV, {"type": "sum", "of": ["conv1", 3]}, *END], "layer 'sum1': of is 3, it must be text"),
        (
            [CONV, {"type": "sum", "of": ["conv1", "input"], "from": "conv1"}, *END],
            "unknown key of layer 'sum1' 'from'",
        ),
        ([CONV, {"type": "lif"}, CONV | {"from": "input"}, {"type": "lif"}, *END], "no layer reads 'lif1'"),
        (
            [CONV, {"type": "lif"}, CONV, {"type": "sum", "of": ["conv2", "conv3"]}, *END],
            "unknown layer read by 'sum1': 'conv3'",
        ),
        ([CONV, {"type": "select", "channels": [4]}, {"type": "lif"}, *END], "channel 4 is not one of 0 to 3"),
        ([CONV, {"type": "select", "channels": [1, 1]}, {"type": "lif"}, *END], "channels is [1, 1]"),
        ([CONV, {"type": "select", "channels": []}, {"type": "lif"}, *END], "channels is []"),
        ([CONV, {"type": "select", "channels": [-1]}, {"type": "lif"}, *END], "must be a whole number from 0"),
        ([CONV, {"type": "select", "channels": [1]}, CONV, *END], "'conv2' (conv) cannot follow 'select1' (conv)"),
        (
            [CONV, {"type": "lif"}, POOL, {"type": "dropout"}, POOL | {"type": "max_pool"}, *END],
            "layer 'max_pool1' (max_pool) cannot follow 'dropout1' (avg_pool)",
        ),
    ],
)
def test_a_branch_that_cannot_be_is_named(layers, problem):
    with pytest.raises(UsageError) as caught:
        spec(layers)
    assert problem in caught.value.problem


def test_neuron_defaults_apply_to_every_population_and_give_way_to_its_own():
    layers = parse_layers(
        [CONV, {"type": "lif"}, CONV, {"type": "lif", "beta": 0.9}, CONV, {"type": "if"}], {"beta": 0.25}
    )
    assert [layer.beta for layer in layers if layer.type in ("lif", "if")] == [0.25, 0.9, 1.0]


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([{"type": "convolution"}], "convolution"),
        ([{"channels": 3}], "layer 1"),
        ([{"type": "conv", "channels": 3}], "kernel"),
        ([CONV | {"kernal": 3}], "kernal"),
        ([CONV | {"channels": 0}], "channels is 0"),
        ([CONV | {"channels": 2.5}], "channels is 2.5"),
        ([CONV, {"type": "lif", "beta": 1.5}], "lif1"),
        ([CONV, {"type": "lif", "threshold": -1}], "lif1"),
        ([CONV, {"type": "if", "beta": 0.5}], "if1"),
        ([CONV, CONV | {"name": "conv1"}], "conv1"),
        ([CONV | {"name": "a/b"}], "a/b"),
    ],
)
def test_a_wrong_table_is_named(layers, named):
    with pytest.raises(UsageError) as caught:
        parse_layers(layers, {})
    assert named in caught.value.problem


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([CONV, {"type": "lif"}], "lif1"),
        ([CONV, CONV, {"type": "linear", "features": 2}], "conv2"),
        ([{"type": "lif"}, {"type": "linear", "features": 2}], "lif1"),
        ([{"type": "max_pool", "kernel": 2}, {"type": "flatten"}, {"type": "linear", "features": 2}], "max_pool1"),
        ([CONV, {"type": "avg_pool", "kernel": 2}, {"type": "linear", "features": 2}], "avg_pool1"),
        ([CONV, {"type": "lif"}, {"type": "linear", "features": 2}], "linear1"),
        ([CONV | {"kernel": 14}, {"type": "lif"}, {"type": "flatten"}, {"type": "linear", "features": 2}], "conv1"),
        ([{"type": "flatten"}, CONV, {"type": "linear", "features": 2}], "conv1"),
    ],
)
def test_a_layer_out_of_place_is_named(layers, named):
    with pytest.raises(UsageError) as caught:
        spec(
            layers
            if layers[-1]["type"] == "linear" or named == "lif1"
            else [*layers, {"type": "linear", "features": 2}]
        )
    assert f"'{named}'" in caught.value.problem
