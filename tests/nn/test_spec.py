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
