"""The `.net` file: what is in it, what it refuses, and that netx computes with the numbers that were written."""

import json
import subprocess
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.netx import net_difference, read_net, read_program, survives_netx, write_net
from sca_deploy.exporters.netx_weights import shift_up
from sca_deploy.hardware.lava import client
from sca_deploy.hardware.program import INPUT, NEVER, Conv, Dense, Layer, Program
from sca_deploy.hardware.simulate import simulate
from tests.conftest import needs_lava


def even(*shape, seed=0, low=-80, high=90):
    return (np.random.default_rng(seed).integers(low // 2, high // 2, shape) * 2).astype(np.int32)


def program(*layers, input_shape=(2, 6, 5)):
    return Program(input_shape, 0, 4, layers, False)


def conv_layer(name="a", source=INPUT, source_shape=(2, 6, 5), bias=None, **geometry):
    groups = geometry.get("groups", 1)
    conv = Conv(source, even(4, source_shape[0] // groups, 3, 2), **geometry)
    shape = conv.output_shape(source_shape)
    return Layer(name, shape, (conv,), 300, 90, np.arange(4, dtype=np.int32) if bias is None else bias, 4000)


def dense_layer(name, source, weight, v_decay=10, threshold=77):
    bias = np.arange(len(weight), dtype=np.int32) - 3
    return Layer(name, (len(weight),), (Dense(source, weight),), v_decay, threshold, bias)


@pytest.fixture
def net(tmp_path):
    """A file of a convolution and a dense layer, and the Program it was written for."""
    first = conv_layer(stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    second = dense_layer("b", "a", even(3, first.neurons, seed=1))
    written = program(first, second)
    assert write_net(written, tmp_path / "a.net") == ()
    return tmp_path / "a.net", written


# What is in the file, as lava.lib.dl.netx.hdf5 reads it.


def test_the_layers_follow_one_another_with_a_flatten_mark_before_a_dense_layer_on_a_map(net):
    with h5py.File(net[0]) as file:
        layers = file["layer"]
        assert [layers[str(i)]["type"][0] for i in range(len(layers))] == [b"input", b"conv", b"flatten", b"dense"]
        assert {layers[i]["type"].dtype for i in layers} == {np.dtype("S10")}
        assert list(layers["0"]["shape"]) == [2, 6, 5]
        assert set(layers["0"]) == {"type", "shape"}


def test_a_convolution_keeps_pytorch_order_and_height_before_width(net):
    path, written = net
    with h5py.File(path) as file:
        entry = file["layer/1"]
        np.testing.assert_array_equal(entry["weight"], written["a"].synapses[0].weight)
        assert tuple(entry["shape"]) == written["a"].shape == (4, 3, 3)
        sides = [tuple(entry[what]) for what in ("stride", "padding", "dilation")]
        assert (sides, entry["groups"][()]) == ([(2, 1), (1, 0), (1, 2)], 2)


def test_neurons_are_cuba_with_signed_decays(net):
    with h5py.File(net[0]) as file:
        neuron = file["layer/1/neuron"]
        assert neuron["type"][0] == b"CUBA"
        assert [neuron[field][()] for field in ("iDecay", "vDecay", "vThMant")] == [4000, 300, 90]
        # netx computes iDecay - 1: with an unsigned type, no decay would become the largest.
        assert neuron["iDecay"].dtype.kind == "i"


def test_a_bias_for_every_neuron_is_written_in_lavas_axis_order(tmp_path):
    bias = np.arange(4 * 4 * 4, dtype=np.int32).reshape(4, 4, 4)
    write_net(program(conv_layer(bias=bias)), tmp_path / "a.net")
    with h5py.File(tmp_path / "a.net") as file:
        np.testing.assert_array_equal(file["layer/1/bias"], bias.transpose(2, 1, 0))
    np.testing.assert_array_equal(read_net(tmp_path / "a.net").layers[0].bias, bias)


def test_reading_gives_back_every_number(net):
    path, written = net
    stored = read_net(path)
    assert stored.input_shape == (2, 6, 5)
    for ours, theirs in zip(written.layers, stored.layers, strict=True):
        np.testing.assert_array_equal(ours.synapses[0].weight, theirs.synapses[0].weight)
        np.testing.assert_array_equal(ours.bias, theirs.bias)
        for what in ("shape", "u_decay", "v_decay", "threshold"):
            assert getattr(ours, what) == getattr(theirs, what)
    for what in ("stride", "padding", "dilation", "groups"):
        assert getattr(written["a"].synapses[0], what) == getattr(stored.layers[0].synapses[0], what)


def test_the_difference_is_the_largest_of_any_number(net):
    path, written = net
    assert net_difference(written, path) == 0
    for place, change in {
        "layer/1/weight": 6,
        "layer/3/bias": -7,
        "layer/1/neuron/iDecay": -8,
        "layer/3/neuron/vDecay": 9,
        "layer/3/neuron/vThMant": 10,
    }.items():
        with h5py.File(path, "r+") as file:
            data = file[place][...]
            data[(0,) * data.ndim] += change
            file[place][...] = data
        assert net_difference(written, path) == abs(change)


def test_a_file_of_other_geometry_has_no_difference_but_an_error(net):
    path, written = net
    with h5py.File(path, "r+") as file:
        # The same shapes from another convolution.
        file["layer/1/padding"][...], file["layer/1/stride"][...] = [2, 0], [3, 1]
    with pytest.raises(ScaDeployError, match="layer 'a' with shape"):
        net_difference(written, path)


# What a chain cannot hold.


def test_a_skip_connection_is_refused_by_name(tmp_path):
    first = dense_layer("a", INPUT, even(6, 6))
    second = Layer("b", (6,), (Dense("a", even(6, 6)), Dense(INPUT, even(6, 6))), 10, 77, np.zeros(6, np.int32))
    with pytest.raises(UsageError, match=r"layer 'b' reads a, input; a \.net file is a chain, where it reads a"):
        write_net(program(first, second, input_shape=(6,)), tmp_path / "a.net")


def test_a_layer_that_does_not_read_the_one_before_is_refused_by_name(tmp_path):
    layers = [dense_layer(name, source, even(6, 6)) for name, source in (("a", INPUT), ("b", "a"), ("c", "a"))]
    with pytest.raises(UsageError, match=r"layer 'c' reads a; a \.net file is a chain, where it reads b"):
        write_net(program(*layers, input_shape=(6,)), tmp_path / "a.net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["kernel", "stride", "padding", "dilation"])
def test_geometry_beyond_8_signed_bits_is_refused_by_name(what, tmp_path):
    kernel = 128 if what == "kernel" else 2
    sides = {} if what == "kernel" else {what: (1 if what != "padding" else 0, 128)}
    conv = Conv(INPUT, even(1, 1, 1, kernel), **sides)
    layer = Layer("wide", conv.output_shape((1, 1, 200)), (conv,), 0, 9, np.zeros(1, np.int32))
    with pytest.raises(UsageError, match=f"layer 'wide': {what} 128 exceeds 127"):
        write_net(program(layer, input_shape=(1, 1, 200)), tmp_path / "a.net")


def test_a_refused_network_leaves_the_file_that_was_there(net, tmp_path):
    path, _ = net
    before = path.read_bytes()
    layers = [dense_layer("a", INPUT, even(6, 6)), dense_layer("b", INPUT, even(6, 6))]
    with pytest.raises(UsageError):
        write_net(program(*layers, input_shape=(6,)), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.net"]


# What netx would change.


def test_more_than_127_groups_merge_into_fewer_that_convolve_the_same(tmp_path):
    conv = Conv(INPUT, even(260, 2, 3, 3, seed=3), groups=130)
    layer = Layer("a", conv.output_shape((260, 4, 5)), (conv,), 0, 9, np.zeros(260, np.int32))
    write_net(program(layer, input_shape=(260, 4, 5)), tmp_path / "a.net")
    (stored,) = read_net(tmp_path / "a.net").layers
    merged = stored.synapses[0]
    assert merged.groups == 65
    x = torch.from_numpy(even(3, 260, 4, 5, seed=4)).double()
    ours, theirs = (
        torch.nn.functional.conv2d(x, torch.from_numpy(c.weight).double(), groups=c.groups) for c in (conv, merged)
    )
    assert torch.equal(ours, theirs)
    assert net_difference(program(layer, input_shape=(260, 4, 5)), tmp_path / "a.net") == 0


EFFECTIVE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, shim
shim.apply("sca-lava-test-", "error: ")
from lava.lib.dl.netx.utils import optimize_weight_bits
from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights
def effect(parts):
    try:
        shifted, bits, exponent, _ = optimize_weight_bits(np.hstack(parts))
    except OverflowError:
        return False, 0
    exact = True
    for weight, up in zip(parts, np.split(shifted, len(parts), axis=1)):
        # What lava.proc.dense.models.PyDenseModelBitAcc does with them.
        mode = determine_sign_mode(up)
        used = truncate_weights(clip_weights(up, mode, num_bits=8), mode, bits)
        exact = exact and bool(np.array_equal(used, weight * 2**-exponent))
    return exact, -exponent
print(json.dumps([effect([np.array(part) for part in parts]) for parts in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def effects():
    """Matrices of all signs and sizes, alone and in pairs; whether netx and Lava keep each, and netx's shift."""
    rng = np.random.default_rng(8)
    alone = [np.zeros((2, 3), np.int64)]
    for low in range(-256, 2, 2):
        for high in (-2, 0, 2, 128, 254):
            if low <= high:
                weight = rng.integers(low // 2, high // 2 + 1, (2, 3)) * 2
                weight[0, :2] = low, high
                alone.append(weight)
    alone += [(rng.integers(-128, 128, (2, 3)) >> s << s) * 2 for s in range(7) for _ in range(40)]
    pairs = [(alone[a], alone[b]) for a, b in rng.integers(0, len(alone), (300, 2))]
    cases = [(weight,) for weight in alone] + pairs
    done = subprocess.run(
        [client.lava_python(), "-W", "ignore", "-c", EFFECTIVE, str(client.WORKER.parent)],
        input=json.dumps([[part.tolist() for part in parts] for parts in cases]),
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return list(zip(cases, json.loads(done.stdout), strict=True))


@needs_lava
@pytest.mark.filterwarnings("ignore")
def test_survives_netx_says_what_netx_and_lava_do_to_dense_weights(effects):
    assert [survives_netx(*parts) for parts, _ in effects] == [exact for _, (exact, _) in effects]
    assert 10 < sum(not exact for _, (exact, _) in effects) < 150


@needs_lava
@pytest.mark.filterwarnings("ignore")
def test_shift_up_is_the_exponent_that_netx_takes(effects):
    nonzero = [(parts, shift) for parts, (_, shift) in effects if any(part.any() for part in parts)]
    assert [shift_up(*parts) for parts, _ in nonzero] == [shift for _, shift in nonzero]
    assert {shift for _, shift in nonzero} == set(range(8))


def test_a_dense_layer_netx_would_change_is_held_as_a_convolution_of_the_same_weights(tmp_path):
    first = conv_layer()
    zero = dense_layer("b", "a", np.zeros((3, first.neurons), np.int32))
    after = dense_layer("c", "b", even(2, 3))
    written = program(first, zero, after)
    assert write_net(written, tmp_path / "a.net") == ("b",)
    stored = read_net(tmp_path / "a.net").layers
    assert [(type(layer.synapses[0]), layer.shape) for layer in stored] == [
        (Conv, (4, 4, 4)),
        (Conv, (3, 1, 1)),
        (Dense, (2,)),
    ]
    assert stored[1].synapses[0].weight.shape == (3, 4, 4, 4)
    assert net_difference(written, tmp_path / "a.net") == 0


def test_a_layer_without_weights_has_as_many_groups_as_its_shape_allows(tmp_path):
    first = conv_layer()
    written = program(first, dense_layer("b", "a", np.zeros((6, first.neurons), np.int32)))
    write_net(written, tmp_path / "a.net")
    synapse = read_net(tmp_path / "a.net").layers[1].synapses[0]
    assert (synapse.groups, synapse.weight.shape) == (2, (6, 2, 4, 4))
    assert net_difference(written, tmp_path / "a.net") == 0


def test_dense_layers_that_feed_it_become_convolutions_too(tmp_path):
    weight = even(3, 4, low=-256, high=0)
    weight[0, 0] = -256
    written = program(dense_layer("a", INPUT, even(4, 6)), dense_layer("b", "a", weight), input_shape=(6,))
    assert write_net(written, tmp_path / "a.net") == ("a", "b")
    stored = read_net(tmp_path / "a.net")
    assert (stored.input_shape, [layer.shape for layer in stored.layers]) == ((6, 1, 1), [(4, 1, 1), (3, 1, 1)])
    np.testing.assert_array_equal(stored.layers[1].synapses[0].weight.reshape(3, 4), weight)


# Delays, loops, input neurons.


def recurrent_layer(own_delay=1, delay=0, weight=None):
    own = even(4, 4, seed=6) if weight is None else weight
    synapses = (Dense("r", own, own_delay), Dense(INPUT, even(4, 6, seed=5), delay))
    return Layer("r", (4,), synapses, 500, 90, np.arange(4, dtype=np.int32), 2000)


def input_layer(shape=(2, 6, 5), **changes):
    return Layer("in", shape, (), 300, 60, changes.pop("bias", np.zeros(shape[0], np.int32)), injected=True, **changes)


DELAYS = {
    "one for all": 7,
    "one an output": np.array([[0], [5], [62]], np.int32),
    "one an input": np.array([[3, 1, 4, 1, 5, 9]], np.int32),
    "one a synapse": np.arange(18, dtype=np.int32).reshape(3, 6),
}


@pytest.mark.parametrize("delay", DELAYS.values(), ids=DELAYS)
def test_a_delay_is_written_for_every_synapse(delay, tmp_path):
    written = program(
        Layer("a", (3,), (Dense(INPUT, even(3, 6), delay),), 10, 77, np.zeros(3, np.int32)), input_shape=(6,)
    )
    write_net(written, tmp_path / "a.net")
    with h5py.File(tmp_path / "a.net") as file:
        np.testing.assert_array_equal(file["layer/1/delay"], np.broadcast_to(delay, (3, 6)))
    (stored,) = read_program(tmp_path / "a.net", steps=4).layers
    np.testing.assert_array_equal(np.broadcast_to(stored.synapses[0].delay, (3, 6)), np.broadcast_to(delay, (3, 6)))


def test_a_delay_in_the_file_that_differs_is_a_difference(tmp_path):
    layer = Layer("a", (3,), (Dense(INPUT, even(3, 6), 7),), 10, 77, np.zeros(3, np.int32))
    write_net(program(layer, input_shape=(6,)), tmp_path / "a.net")
    with h5py.File(tmp_path / "a.net", "r+") as file:
        file["layer/1/delay"][1, 2] = 12
    assert net_difference(program(layer, input_shape=(6,)), tmp_path / "a.net") == 5


def test_a_layer_without_delays_has_none_in_the_file(net):
    with h5py.File(net[0]) as file:
        assert "delay" not in file["layer/3"]


def test_a_layer_that_reads_itself_is_dense_rec_whose_own_spikes_come_one_step_later(tmp_path):
    layer = recurrent_layer()
    write_net(program(layer, input_shape=(6,)), tmp_path / "a.net")
    with h5py.File(tmp_path / "a.net") as file:
        entry = file["layer/1"]
        assert (entry["type"][0], "delay" in entry) == (b"dense_rec", False)
        np.testing.assert_array_equal(entry["weight_rec"], layer.synapses[0].weight)
        np.testing.assert_array_equal(entry["weight"], layer.synapses[1].weight)
    (stored,) = read_program(tmp_path / "a.net", steps=4).layers
    assert [(s.source, s.delay) for s in stored.synapses] == [(INPUT, 0), ("layer1", 1)]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (recurrent_layer(own_delay=2), "reads itself with delays of 2 and its source with 0; netx runs only 1 and 0"),
        (recurrent_layer(delay=3), "reads itself with delays of 1 and its source with 3; netx runs only 1 and 0"),
    ],
)
def test_a_loop_with_other_delays_is_refused_with_a_way_out(layer, message, tmp_path):
    with pytest.raises(UsageError, match=f"layer 'r' {message}") as refused:
        write_net(program(layer, input_shape=(6,)), tmp_path / "a.net")
    assert "--target lava" in refused.value.fix


def test_a_loop_whose_weights_netx_would_change_is_refused(tmp_path):
    synapses = (Dense(INPUT, np.full((2, 3), -128, np.int32)), Dense("r", np.full((2, 2), -64, np.int32), 1))
    layer = Layer("r", (2,), synapses, 0, 9, np.zeros(2, np.int32))
    with pytest.raises(UsageError, match="layer 'r': netx would change the weights"):
        write_net(program(layer, input_shape=(3,)), tmp_path / "a.net")


def test_a_loop_before_a_layer_that_must_be_a_convolution_is_refused(tmp_path):
    zero = dense_layer("z", "r", np.zeros((2, 4), np.int32))
    with pytest.raises(UsageError, match="layer 'r' has to be a convolution"):
        write_net(program(recurrent_layer(), zero, input_shape=(6,)), tmp_path / "a.net")


def test_a_delayed_layer_that_must_be_a_convolution_is_refused(tmp_path):
    layer = Layer("z", (2,), (Dense(INPUT, np.zeros((2, 6), np.int32), 5),), 0, 9, np.zeros(2, np.int32))
    with pytest.raises(UsageError, match="layer 'z' has to be a convolution.* delays of 5 steps"):
        write_net(program(layer, input_shape=(6,)), tmp_path / "a.net")


def test_an_injected_input_is_an_input_layer_with_neurons_and_nothing_for_the_host_to_convert(tmp_path):
    conv = conv_layer(source="in")
    written = program(input_layer(), conv)
    assert write_net(written, tmp_path / "a.net") == ()
    with h5py.File(tmp_path / "a.net") as file:
        assert [file[f"layer/{i}/type"][0] for i in range(2)] == [b"input", b"conv"]
        assert set(file["layer/0"]) == {"type", "shape", "weight", "bias", "neuron"}
    stored = read_net(tmp_path / "a.net")
    assert stored.transform == (1, 0)
    assert [(layer.injected, layer.shape, layer.threshold) for layer in stored.layers] == [
        (True, (2, 6, 5), 60),
        (False, conv.shape, 90),
    ]


def test_flat_input_neurons_before_a_layer_that_must_be_a_convolution_are_a_map_too(tmp_path):
    written = program(input_layer((6,)), dense_layer("z", "in", np.zeros((2, 6), np.int32)), input_shape=(6,))
    assert write_net(written, tmp_path / "a.net") == ("z",)
    assert [layer.shape for layer in read_net(tmp_path / "a.net").layers] == [(6, 1, 1), (2, 1, 1)]


def test_input_neurons_with_a_bias_of_their_own_are_refused(tmp_path):
    layers = input_layer(bias=np.array([0, 3], np.int32)), conv_layer(source="in")
    with pytest.raises(UsageError, match="layer 'in' has an injected input and a bias"):
        write_net(program(*layers), tmp_path / "a.net")


def test_input_neurons_after_another_layer_are_refused(tmp_path):
    never = Layer("n", (3,), (), 0, 9, np.zeros(3, np.int32), injected=True)
    layers = replace(never, name="m"), never
    with pytest.raises(UsageError, match=r"layer 'n' reads ; a \.net file is a chain, where it reads m"):
        write_net(program(*layers, input_shape=(3,)), tmp_path / "a.net")


def test_a_layer_that_never_fires_comes_back_as_a_read_out(tmp_path):
    layer = replace(dense_layer("a", INPUT, even(3, 6)), threshold=NEVER)
    write_net(program(layer, input_shape=(6,)), tmp_path / "a.net")
    read = read_program(tmp_path / "a.net", steps=4)
    assert (read.readout, read["layer1"].threshold) == (True, NEVER)


def features():
    """Programs with what a chain can have, and an input for each."""
    rng = np.random.default_rng(12)
    spikes = (rng.random((2, 9, 6)) < 0.5).astype(np.uint8)
    delayed = Layer("a", (4,), (Dense(INPUT, even(4, 6), rng.integers(0, 5, (4, 6)).astype(np.int32)),), 300, 60, BIAS)
    after = Layer("b", (3,), (Dense("a", even(3, 4, seed=2), 3),), 100, 40, np.zeros(3, np.int32), 1000)
    maps = rng.integers(-20, 60, (2, 9, 2, 6, 5)).astype(np.int16)
    first = input_layer()
    yield "delays", Program((6,), 0, 9, (delayed, after), False), spikes
    yield "loop", Program((6,), 0, 9, (recurrent_layer(),), False), spikes
    yield "input neurons", Program((2, 6, 5), 0, 9, (first, conv_layer(source="in")), False), maps


BIAS = np.arange(4, dtype=np.int32)


@needs_lava
@pytest.mark.parametrize(("written", "x"), [case[1:] for case in features()], ids=[case[0] for case in features()])
def test_lava_computes_with_the_file_what_the_simulator_computes_with_the_program(written, x, tmp_path):
    write_net(written, tmp_path / "a.net")
    lava = client.run_lava(tmp_path / "a.net", written, x, states=True, timeout=120)
    ours = simulate(written, x, record=("spikes", "u", "v")).records
    for layer in written.layers:
        assert lava.records[layer.name]["spikes"].any()
        for what, values in ours[layer.name].items():
            np.testing.assert_array_equal(values, lava.records[layer.name][what])
