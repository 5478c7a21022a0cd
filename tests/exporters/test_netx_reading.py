"""Foreign `.net` files: what of them netx reads, what it makes of that, and that nothing else gets through.

The files are made here as lava-dl makes them: weights in floats, strings of variable length, scalars.
"""

import logging
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest

from sca_deploy.artifact import Reading, open_artifact
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.netx import read_net, read_program
from sca_deploy.hardware.lava import client
from sca_deploy.hardware.program import INPUT, NEVER, THRESHOLD_MAX, Conv
from sca_deploy.hardware.simulate import simulate
from tests.conftest import needs_lava


def weights(*shape, seed=0, low=-60, high=100):
    return (np.random.default_rng(seed).integers(low // 2, high // 2 + 1, shape) * 2).astype(np.float32)


def neuron(kind="LOIHI", current=1000, potential=700, threshold=150, **more):
    return {"type": kind, "iDecay": current, "vDecay": potential, "vThMant": threshold, "refDelay": 1} | more


def dense(outputs=4, inputs=5, kind="dense", **changes):
    entry = {"type": kind, "shape": [outputs, 1, 1], "weight": weights(outputs, inputs), "inFeatures": inputs}
    if kind == "dense_rec":
        entry["weight_rec"] = weights(outputs, outputs, seed=1)
    return entry | {"neuron": neuron()} | changes


def conv(**changes):
    """2 channels of 7 x 6 to 4 of 4 x 5."""
    entry = {"type": "conv", "shape": [4, 4, 5], "weight": weights(4, 1, 3, 2, 1), "inChannels": 2}
    entry |= {"stride": [2, 1], "padding": [1, 0], "dilation": 1, "groups": 2, "neuron": neuron()}
    return entry | changes


MAP = {"type": "input", "shape": [2, 7, 6]}
FLATTEN = {"type": "flatten", "shape": [80, 1, 1]}


def write(path, *entries):
    """A file of such entries; members of None are left out."""
    with h5py.File(path, "w") as file:
        file["simulation/Ts"] = 1
        for index, entry in enumerate(entries):
            fill(file.create_group(f"layer/{index}"), entry)
    return path


def fill(group, members):
    for name, value in members.items():
        if isinstance(value, dict):
            fill(group.create_group(name), value)
        elif name == "type" and group.name.count("/") == 2:
            group.create_dataset("type", (1,), "S10", [value.encode()])
        elif value is not None:
            group[name] = value


def program(tmp_path, *entries, **how):
    return read_program(write(tmp_path / "a.net", *entries), **{"steps": 12} | how)


def refused(tmp_path, *entries):
    """The one line and the fix that reading such a file gives."""
    with pytest.raises(ScaDeployError) as error:
        program(tmp_path, *entries)
    assert "\n" not in error.value.problem
    assert str(tmp_path / "a.net") in error.value.problem
    return error.value.problem, error.value.fix


# What a file may say.


def test_floats_that_are_integers_are_read_as_such(tmp_path):
    (layer,) = program(tmp_path, dense(bias=np.arange(4.0))).layers
    assert layer.synapses[0].weight.dtype == layer.bias.dtype == np.int32
    np.testing.assert_array_equal(layer.synapses[0].weight, weights(4, 5))
    np.testing.assert_array_equal(layer.bias, [0, 1, 2, 3])


@pytest.mark.parametrize("kind", ["CUBA", "LOIHI"])
def test_both_names_of_the_lif_neuron_are_one(kind, tmp_path):
    layer = program(tmp_path, dense(neuron=neuron(kind))).layers[0]
    assert (layer.u_decay, layer.v_decay, layer.threshold) == (1000, 700, 150)


def test_strings_may_have_a_fixed_or_a_variable_length(tmp_path):
    program(tmp_path, dense(neuron=neuron() | {"type": np.array([b"CUBA"], "S10")}))
    program(tmp_path, dense(neuron=neuron() | {"type": np.bytes_("CUBA")}))
    with h5py.File(tmp_path / "a.net", "r+") as file:
        del file["layer/0/type"]
        file["layer/0/type"] = "dense"
    assert len(read_net(tmp_path / "a.net").layers) == 1


def test_a_kernel_may_end_in_axes_of_one_and_sides_may_be_one_number(tmp_path):
    layer = program(tmp_path, MAP, conv(stride=2, padding=1, shape=[4, 4, 4])).layers[0]
    synapse = layer.synapses[0]
    assert (synapse.stride, synapse.padding, synapse.dilation, synapse.groups) == ((2, 2), (1, 1), (1, 1), 2)
    np.testing.assert_array_equal(synapse.weight, weights(4, 1, 3, 2))


def test_a_missing_bias_is_none(tmp_path):
    layers = program(tmp_path, MAP, conv(), FLATTEN, dense(3, 80)).layers
    assert [(layer.bias.shape, layer.bias.any()) for layer in layers] == [((4,), False), ((3,), False)]


def test_a_dense_layer_without_neurons_integrates_and_never_fires_as_in_netx(tmp_path):
    read = program(tmp_path, dense(), dense(2, 4, neuron=None))
    last = read.layers[-1]
    assert (last.u_decay, last.v_decay, last.threshold, read.readout) == (0, 4096, NEVER, True)


def test_the_highest_threshold_of_lava_dl_is_never(tmp_path):
    read = program(tmp_path, dense(neuron=neuron(threshold=(1 << 18) - 1)))
    assert (read.layers[0].threshold, read.readout) == (NEVER, True)


@pytest.mark.parametrize(("steps", "readout"), [(1310, True), (1311, False)])
def test_the_highest_threshold_of_the_chip_is_a_read_out_for_as_many_steps_as_nothing_reaches_it(
    steps, readout, tmp_path
):
    """100 a step at most: 131,000 after 1,310 steps, beyond 131,071 one step later."""
    entry = dense(1, 2, weight=np.array([[90.0, 4.0]]), bias=np.array([6.0]))
    entry["neuron"] = neuron(current=4096, potential=0, threshold=THRESHOLD_MAX)
    assert program(tmp_path, entry, steps=steps).readout is readout


def test_a_flat_weight_is_as_wide_as_its_outputs_leave(tmp_path):
    assert program(tmp_path, dense(2, 5, weight=weights(10))).layers[0].synapses[0].weight.shape == (2, 5)


def test_a_file_without_an_input_layer_is_as_wide_as_its_first_matrix(tmp_path):
    assert program(tmp_path, dense()).input_shape == (5,)


def test_flat_spikes_may_be_declared_as_a_map(tmp_path):
    declared = {"type": "input", "shape": [1, 1, 5]}
    for entries in ([declared, dense()], [declared, FLATTEN, dense()]):
        assert program(tmp_path, *entries).input_shape == (1, 1, 5)


def test_input_neurons_are_a_layer_that_the_host_drives_through_the_bias(tmp_path):
    entry = MAP | {"weight": np.array([36.0]), "bias": np.array([34.0]), "neuron": neuron()}
    read = program(tmp_path, entry, conv())
    assert (read.injected, read.layers[0].injected, read.layers[0].shape) == (True, True, (2, 7, 6))
    assert not read.layers[0].bias.any()
    assert read["layer1"].synapses[0].source == "layer0"
    assert read_net(tmp_path / "a.net").transform == (36, 34)
    assert read_net(write(tmp_path / "b.net", MAP | {"neuron": neuron()})).transform == (64, 0)


def test_members_that_netx_does_not_look_at_are_not_looked_at(tmp_path):
    extra = {"refDelay": 7, "theta": np.nan, "gradedSpike": True, "tauRho": "what"}
    entry = dense(kernelSize="none", neuron=neuron(**extra))
    assert program(tmp_path, entry).layers[0].threshold == 150


def test_num_layers_counts_every_entry_of_the_file(tmp_path):
    write(tmp_path / "a.net", MAP, conv(), FLATTEN, dense(3, 80), {"type": "average", "shape": [3]})
    for count, layers in ((2, 1), (3, 1), (4, 2)):
        assert len(read_program(tmp_path / "a.net", steps=1, num_layers=count).layers) == layers
    with pytest.raises(UsageError, match="num_layers is 0"):
        read_net(tmp_path / "a.net", num_layers=0)


# The same file in Lava, read by netx.

RNG = np.random.default_rng(4)
INPUT_NEURONS = {"weight": np.array([3.0]), "bias": np.array([50.0]), "neuron": neuron(current=4096, threshold=50)}
FILES = {
    "delays of outputs": [dense(6, 5, delay=RNG.integers(0, 9, 6).astype(np.float32)), dense(4, 6)],
    "delays of inputs": [dense(6, 5, delay=RNG.integers(0, 9, 5).astype(np.float32))],
    "delays of a square matrix": [dense(5, 5, delay=RNG.integers(0, 9, 5).astype(np.float32))],
    "delays of synapses": [dense(6, 5, delay=RNG.choice([0, 3, 8], (6, 5)))],
    "one delay": [dense(6, 5, delay=np.float32(3)), dense(4, 6, delay=2)],
    "a loop": [dense(6, 5, "dense_rec", bias=np.arange(6.0)), dense(4, 6, bias=np.float32(7))],
    "a loop of one sign": [dense(6, 5, "dense_rec", weight_rec=-weights(6, 6, low=2))],
    "a loop with delays": [dense(5, 5, "dense_rec", delay=RNG.integers(0, 4, 5), neuron=neuron(threshold=600))],
    "weights beyond the range": [dense(6, 5, weight=weights(6, 5, low=-400, high=500))],
    "convolutions": [
        MAP, conv(bias=np.arange(4.0), delay=np.ones(4)), FLATTEN, dense(3, 80), dense(2, 3, neuron=None)
    ],
    "a bias for every neuron": [
        MAP | INPUT_NEURONS, conv(bias=RNG.integers(-9, 9, (5, 4, 4)).astype(float)), FLATTEN, dense(3, 80)
    ],
}  # fmt: skip


@needs_lava
@pytest.mark.parametrize("entries", FILES.values(), ids=FILES)
def test_netx_and_lava_run_the_file_as_it_is_read(entries, tmp_path):
    path = write(tmp_path / "a.net", *entries)
    read = read_program(path, steps=20)
    rng = np.random.default_rng(9)
    shape = (2, 20, *read.input_shape)
    x = rng.integers(0, 60, shape).astype(np.int16) if read.injected else (rng.random(shape) < 0.4).astype(np.uint8)
    lava = client.run_lava(path, read, x, states=True, timeout=120).records
    ours = simulate(read, x, record=("spikes", "u", "v")).records
    for layer in read.layers:
        for what, values in ours[layer.name].items():
            np.testing.assert_array_equal(values, lava[layer.name][what], err_msg=f"{layer.name} {what}")
    assert lava[read.layers[0].name]["spikes"].any()


# What runs otherwise than the file says is said.


@pytest.mark.parametrize(
    ("entries", "note"),
    [
        ([dense(delay=np.array([0, 70, 3, 4]))], "layer0: netx clamps delays of up to 70 steps at 62"),
        ([MAP, conv(delay=np.ones(4))], "layer1: netx ignores the delays of convolutions"),
        ([dense(weight=weights(4, 5, low=-300))], "layer0: netx clips the weights to -256 to 254"),
        ([dense(weight=np.zeros((4, 5)))], r"layer0: all weights are 0, which netx itself cannot load"),
        (
            [dense(4, 4, "dense_rec", delay=2, weight=np.full((4, 4), 62.0), weight_rec=np.full((4, 4), -2.0))],
            "layer0: netx multiplies the weights of a recurrent layer with delays by 4",
        ),
    ],
)
def test_a_change_that_netx_makes_is_a_warning(entries, note, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        program(tmp_path, *entries)
    assert len(caplog.records) == 1
    assert note in caplog.text


def test_a_plain_file_gives_no_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        program(tmp_path, MAP, conv(), FLATTEN, dense(3, 80, delay=np.zeros(3)))
    assert not caplog.records


def test_clamped_delays_are_62(tmp_path):
    layer = program(tmp_path, dense(delay=np.array([0, 70, 3, 4]))).layers[0]
    np.testing.assert_array_equal(layer.synapses[0].delay, [[0], [62], [3], [4]])


# What is refused, by name and with a reason.


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("average", "it averages the spikes"),
        ("pool", "netx has no pooling"),
        ("convT", "netx has no transposed convolution"),
        ("concat", "netx has no branches"),
        ("dense_comp", "complex weights"),
        ("surprise", "netx does not know it"),
    ],
)
def test_a_layer_that_netx_does_not_run_is_refused_and_can_be_left_out(kind, reason, tmp_path):
    problem, fix = refused(tmp_path, MAP, conv(), {"type": kind, "shape": [3]})
    assert f"/layer/2 is of type '{kind}': " in problem
    assert reason in problem
    assert fix == "stop before it with --num-layers 2"


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([dense(neuron=neuron("SDNN"))], "/layer/0/neuron is of type 'SDNN', expected CUBA or LOIHI"),
        ([dense(neuron=neuron("RF_PHASE"))], "is of type 'RF_PHASE'"),
        ([dense(neuron=neuron(messageBits=8))], "messageBits asks for graded spikes"),
        ([dense(neuron=neuron(current=4097))], "/layer/0/neuron/iDecay is 4097, outside 0 to 4096"),
        ([dense(neuron=neuron(potential=-1))], "/layer/0/neuron/vDecay is -1, outside 0 to 4096"),
        ([dense(neuron=neuron(threshold=1 << 18))], "/layer/0/neuron/vThMant is 262144, outside 0 to 262143"),
        ([dense(neuron=neuron(potential=[1, 2, 3, 4]))], "/layer/0/neuron/vDecay has 4 values"),
        ([dense(neuron=neuron(potential=0.5))], "/layer/0/neuron/vDecay holds 0.5"),
        ([dense(weight={"real": weights(4, 5), "imag": weights(4, 5)})], "/layer/0/weight is complex"),
        ([dense(weight=weights(4, 5) + 1)], "/layer/0 has odd weights; the chip drops the lowest bit"),
        ([dense(weight=weights(4, 5) / 4)], "which is not an integer"),
        ([dense(weight=np.full((4, 5), np.nan))], "/layer/0/weight holds nan, which is not an integer"),
        ([dense(weight=np.full((4, 5), np.inf))], "/layer/0/weight holds inf, which is not an integer"),
        ([dense(weight=np.full((4, 5), 1 << 40))], "holds 1099511627776, which is not an integer of 32 bits"),
        ([dense(weight=np.full((4, 5), 256.0))], "/layer/0: weight 256 is outside -256 to 254"),
        ([dense(weight=np.full((4, 5), -300.0))], "/layer/0: weight -300 is outside -256 to 254"),
        ([dense(weight=np.full((4, 5), -128.0))], "without a positive weight, netx and Lava lose the one of -128"),
        ([dense(weight=weights(3, 5))], "/layer/0/weight has shape (3, 5), expected (4, inputs)"),
        ([dense(weight=np.zeros((4, 0)))], "/layer/0/weight of shape (4, 0) holds no weights"),
        ([dense(weight=np.array([b"12"] * 20).reshape(4, 5))], "/layer/0/weight has type |S2, expected integers"),
        ([dense(bias=np.arange(3.0))], "/layer/0/bias has shape (3,), expected (4,)"),
        ([dense(bias=np.full(4, 5000.0))], "layer 'layer0': bias 5000 is outside -4096 to 4095"),
        ([dense(delay=np.array([1, 2, 3]))], "/layer/0/delay has shape (3,) for weights of (4, 5)"),
        ([dense(delay=-1)], "/layer/0/delay holds -1, a delay is 0 or more steps"),
        ([dense(delay=1.5)], "/layer/0/delay holds 1.5"),
        ([dense(kind="dense_rec", delay=2)], "netx gives its own spikes the delays of its input"),
        ([dense(), dense(3, 5)], "dense synapse of 5 inputs reads 'layer0' of (4,)"),
        ([dense(), FLATTEN, dense(3, 4)], "/layer/2 reads (4,): a flatten mark is missing or too many"),
        ([MAP, conv(), dense(3, 80)], "/layer/2 reads (4, 4, 5): a flatten mark is missing or too many"),
        ([conv()], "/layer/0 is a convolution, and nothing says the shape of its input"),
        ([MAP, conv(shape=[4, 4, 4])], "layer1 has shape (4, 4, 4), its synapses give (4, 4, 5)"),
        ([MAP, conv(shape=[4, 4, 10**9])], "/layer/1/shape is (4, 4, 1000000000), expected 1 to 268435456 neurons"),
        ([MAP, conv(shape=[4, -4, 5])], "/layer/1/shape is (4, -4, 5)"),
        ([MAP, conv(stride=0)], "/layer/1/stride is 0, outside 1 to 127"),
        ([MAP, conv(stride=[1, 2, 3])], "/layer/1/stride has 3 values, expected 1 or 2"),
        ([MAP, conv(dilation=[1, 128])], "/layer/1/dilation is [1, 128], outside 1 to 127"),
        ([MAP, conv(groups=3)], "which Lava does not run in 3 groups"),
        ([MAP, conv(groups=None)], "/layer/1/groups is missing or a link"),
        ([MAP, conv(neuron=None)], "/layer/1/neuron is missing or a link"),
        ([MAP, conv(weight=weights(4, 1, 3, 2, 2))], "expected (out, in, height, width)"),
        ([MAP, conv(weight=np.full((4, 1, 3, 2), 255.0))], "/layer/1: weight 255 is outside -256 to 254"),
        ([MAP, conv(bias=np.zeros((4, 4, 5)))], "/layer/1/bias has shape (4, 4, 5), expected (4,) or (5, 4, 4)"),
        ([MAP, MAP, conv()], "/layer/1 is a second input"),
        ([{"type": "input", "shape": [2, 7]}, conv()], "expected (channels, height, width) or (features,)"),
        ([MAP], "/layer holds no layer with neurons"),
    ],
)  # fmt: skip
def test_what_a_program_cannot_be_is_refused_by_its_place(entries, problem, tmp_path):
    assert problem in refused(tmp_path, *entries)[0]


def test_graded_spikes_cannot_reach_input_neurons(tmp_path):
    with pytest.raises(UsageError, match="has input neurons: 8-bit spikes cannot reach them"):
        program(tmp_path, MAP | {"neuron": neuron()}, conv(), input_bits=8)


# Files that are damaged, or that want to lead elsewhere.


@pytest.mark.parametrize("kind", ["soft", "external", "external storage", "virtual"])
def test_data_that_lives_elsewhere_is_not_read(kind, tmp_path):
    path = write(tmp_path / "a.net", dense())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.zeros((4, 5), np.int16)
    (tmp_path / "raw").write_bytes(bytes(4 * 5 * 2))
    with h5py.File(path, "r+") as file:
        entry = file["layer/0"]
        del entry["weight"]
        if kind == "soft":
            entry["weight"] = h5py.SoftLink("/layer/0/weight_rec")
        elif kind == "external":
            entry["weight"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        elif kind == "external storage":
            entry.create_dataset("weight", (4, 5), "i2", external=[(str(tmp_path / "raw"), 0, 40)])
        else:
            layout = h5py.VirtualLayout((4, 5), "i2")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (4, 5))
            entry.create_virtual_dataset("weight", layout)
    with pytest.raises(ScaDeployError, match=r"missing or a link|outside the file"):
        read_net(path)


@pytest.mark.parametrize("name", ["neuron", "bias", "delay"])
def test_an_optional_member_that_is_a_link_to_nowhere_is_not_taken_for_absent(name, tmp_path):
    path = write(tmp_path / "a.net", dense(neuron=None))
    with h5py.File(path, "r+") as file:
        file[f"layer/0/{name}"] = h5py.SoftLink("/nowhere")
    with pytest.raises(ScaDeployError, match=f"/layer/0/{name} is missing or a link"):
        read_net(path)


def test_a_claim_of_too_many_values_is_refused_without_reading_them(tmp_path):
    path = write(tmp_path / "a.net", dense(weight=None))
    with h5py.File(path, "r+") as file:
        file.create_dataset("layer/0/weight", (1 << 20, 1 << 20), "i2", chunks=(1024, 1024))
    with pytest.raises(ScaDeployError, match="claims 1099511627776 values, more than 268435456"):
        read_net(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(ScaDeployError, match="no such file"):
        read_net(tmp_path / "a.net")


DAMAGE = """
import sys
import numpy as np
from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.netx import read_program
whole, place = open(sys.argv[1], "rb").read(), sys.argv[2]
rng = np.random.default_rng(int(sys.argv[3]))
written = np.flatnonzero(np.frombuffer(whole, np.uint8))
for number in range(400):
    damaged = bytearray(whole)
    if number % 4 == 0:
        damaged = damaged[: rng.integers(0, len(whole))]
    else:
        for _ in range(rng.choice([1, 1, 3])):
            damaged[rng.choice(written)] = rng.integers(0, 256)
    with open(place, "wb") as file:
        file.write(damaged)
    try:
        read_program(place, steps=4)
        print("read")
    except ScaDeployError as error:
        assert "\\n" not in error.problem and len(error.problem) < 400, error.problem
        print("refused")
"""


def damaged_outcomes(path, place, seed):
    """What reading 400 damaged versions of a file gives, in a process that may crash or hang."""
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, str(path), str(place), str(seed)], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.split()


@pytest.mark.parametrize("seed", range(3))
def test_a_file_cut_short_or_with_changed_bytes_is_read_or_refused_in_one_line(seed, tmp_path):
    entries = MAP | INPUT_NEURONS, conv(), FLATTEN, dense(5, 80, delay=np.arange(5.0)), dense(5, 5, "dense_rec")
    outcomes = damaged_outcomes(write(tmp_path / "a.net", *entries), tmp_path / "b.net", seed)
    assert len(outcomes) == 400
    assert outcomes.count("refused") > 100
    # Bytes of weights and biases may change into other ones.
    assert outcomes.count("read") > 10


def test_a_string_in_a_heap_that_never_ends_is_refused(tmp_path):
    """libhdf5 goes round and round in a heap whose objects have lost their size, and so would netx."""
    path = write(tmp_path / "a.net", dense())
    whole = bytearray(path.read_bytes())
    heap = whole.index(b"GCOL")
    # The first object of the heap: number, references, size.
    assert struct.unpack_from("<HH4xQ", whole, heap + 16) == (1, 0, 5)
    struct.pack_into("<HH4xQ", whole, heap + 16, 9, 0, 0)
    path.write_bytes(whole)
    with pytest.raises(ScaDeployError, match="/layer/0/neuron/type names a string that is not in the file"):
        read_net(path)


# On the command line.


def test_a_net_file_is_an_artifact_with_a_program_and_its_graph_in_floats(tmp_path):
    path = write(tmp_path / "mine.net", MAP, conv(), FLATTEN, dense(3, 80))
    artifact = open_artifact(path, Reading(steps=7, input_bits=4))
    assert (artifact.title, artifact.network) == ("mine", None)
    np.testing.assert_array_equal(
        artifact.graph.nodes["layer1_from_input"].weight, artifact.program.layers[0].synapses[0].weight
    )
    assert (artifact.program.steps, artifact.program.input_bits, len(artifact.program.layers)) == (7, 4, 2)
    assert isinstance(artifact.program.layers[0].synapses[0], Conv)
    assert artifact.program.layers[0].synapses[0].source == INPUT


def test_spikes_are_binary_unless_said_otherwise(tmp_path):
    path = write(tmp_path / "a.net", dense())
    assert open_artifact(path, Reading(steps=7)).program.input_bits == 0


def test_only_so_many_layers_as_asked_for_are_opened(tmp_path):
    path = write(tmp_path / "a.net", dense(), dense(3, 4), {"type": "average", "shape": [3]})
    assert len(open_artifact(path, Reading(steps=7, num_layers=2)).program.layers) == 2


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (Reading(), "does not say how many steps"),
        (Reading(dt=1e-3, steps=4), "holds decays a step, not time constants"),
    ],
)
def test_what_a_net_file_does_not_say_or_cannot_be_told_is_a_usage_error(reading, message, tmp_path):
    artifact = open_artifact(write(tmp_path / "a.net", dense()), reading)
    with pytest.raises(UsageError, match=message):
        _ = artifact.program
