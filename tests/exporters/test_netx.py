"""The `.net` file: what is in it, what it refuses, and that netx computes with the numbers that were written."""

import importlib.util
import json
import os
import subprocess

import h5py
import numpy as np
import pytest
import torch

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.netx import net_difference, read_net, survives_netx, write_net
from sca_deploy.hardware.lava import client
from sca_deploy.hardware.program import INPUT, Conv, Dense, Layer, Program

needs_lava = pytest.mark.skipif(
    client.PYTHON_VARIABLE not in os.environ and importlib.util.find_spec("lava") is None,
    reason="Lava is not installed",
)


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
        file["layer/1/padding"][...] = [0, 1]
    with pytest.raises(ScaDeployError, match="layer 'a'"):
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
def exact(weight):
    try:
        shifted, bits, exponent, _ = optimize_weight_bits(weight)
    except OverflowError:
        return False
    # What lava.proc.dense.models.PyDenseModelBitAcc does with them.
    mode = determine_sign_mode(shifted)
    used = truncate_weights(clip_weights(shifted, mode, num_bits=8), mode, bits)
    return bool(np.array_equal(used, weight * 2**-exponent))
print(json.dumps([exact(np.array(weight)) for weight in json.load(sys.stdin)]))
"""


@needs_lava
@pytest.mark.filterwarnings("ignore")
def test_survives_netx_says_what_netx_and_lava_do_to_dense_weights():
    rng = np.random.default_rng(8)
    matrices = [np.zeros((2, 3), np.int64)]
    for low in range(-256, 2, 2):
        for high in (-2, 0, 2, 128, 254):
            if low <= high:
                weight = rng.integers(low // 2, high // 2 + 1, (2, 3)) * 2
                weight[0, :2] = low, high
                matrices.append(weight)
    matrices += [(rng.integers(-128, 128, (2, 3)) >> s << s) * 2 for s in range(7) for _ in range(40)]
    done = subprocess.run(
        [client.lava_python(), "-W", "ignore", "-c", EFFECTIVE, str(client.WORKER.parent)],
        input=json.dumps([m.tolist() for m in matrices]), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    exact = json.loads(done.stdout)
    assert [survives_netx(weight) for weight in matrices] == exact
    assert 8 < exact.count(False) < 40


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


# Files from elsewhere.


@pytest.mark.parametrize("kind", ["soft", "external", "external storage", "virtual"])
def test_data_that_lives_elsewhere_is_not_read(kind, net, tmp_path):
    path, _ = net
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.zeros((3, 36), np.int16)
    (tmp_path / "raw").write_bytes(bytes(3 * 36 * 2))
    with h5py.File(path, "r+") as file:
        entry = file["layer/3"]
        del entry["weight"]
        if kind == "soft":
            entry["weight"] = h5py.SoftLink("/layer/1/weight")
        elif kind == "external":
            entry["weight"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        elif kind == "external storage":
            entry.create_dataset("weight", (3, 36), "i2", external=[(str(tmp_path / "raw"), 0, 3 * 36 * 2)])
        else:
            layout = h5py.VirtualLayout((3, 36), "i2")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (3, 36))
            entry.create_virtual_dataset("weight", layout)
    with pytest.raises(ScaDeployError, match=r"missing or a link|outside the file"):
        read_net(path)


def test_a_claim_of_too_many_values_is_refused_without_reading_them(net):
    path, _ = net
    with h5py.File(path, "r+") as file:
        del file["layer/3/weight"]
        file.create_dataset("layer/3/weight", (1 << 20, 1 << 20), "i2", chunks=(1024, 1024))
    with pytest.raises(ScaDeployError, match="claims 1099511627776 values, more than 268435456"):
        read_net(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("layer/1/type", np.array([b"pool"], "S10"), "of type 'pool'"),
        ("layer/1/neuron/type", np.array([b"SDNN"], "S10"), "expected 'CUBA'"),
        ("layer/3/weight", np.zeros((3, 36), np.float32), "expected integers"),
        ("layer/2/type", np.array([b"conv"], "S10"), "missing or a link"),
        ("layer/0/type", np.array([b"conv"], "S10"), "expected 'input'"),
        ("layer/1/stride", np.array([1, 2, 3]), r"not a readable \.net file"),
    ],
)
def test_what_is_not_such_a_file_is_refused_by_its_place(place, value, message, net):
    path, _ = net
    with h5py.File(path, "r+") as file:
        del file[place]
        file[place] = value
    with pytest.raises(ScaDeployError, match=message):
        read_net(path)


def test_a_missing_flatten_mark_is_noticed(net):
    path, _ = net
    with h5py.File(path, "r+") as file:
        file.move("layer/3", "layer/9")
        del file["layer/2"]
        file.move("layer/9", "layer/2")
    with pytest.raises(ScaDeployError, match="a flatten mark is missing"):
        read_net(path)


def test_a_damaged_or_missing_file_is_an_error_of_one_line(net):
    path, _ = net
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:length])
        with pytest.raises(ScaDeployError, match=r"not a readable \.net file"):
            read_net(path)
    path.unlink()
    with pytest.raises(ScaDeployError, match="no such file"):
        read_net(path)
