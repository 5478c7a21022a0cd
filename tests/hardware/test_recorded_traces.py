"""The lava-dl wheel's records, which its tests assert on Loihi 2 and in Lava, against its files read and run here.

The wheel keeps arrays in (x, y, channel, step) order, and a layer's record is in steps of the run: layer l
answers step t of the input at step t + l.
"""

from dataclasses import replace
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
import pytest

from sca_deploy.exporters.netx import read_program
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.program import BIAS_MAX, INPUT, Program
from sca_deploy.hardware.simulate import FreeRun, simulate


def wheel():
    try:
        found = Path(str(metadata.distribution("lava-dl").locate_file("tests/lava/lib/dl/netx")))
    except metadata.PackageNotFoundError:
        pytest.skip("the lava-dl wheel is not installed", allow_module_level=True)
    if not (found / "gts").is_dir():
        pytest.skip("this lava-dl holds no records", allow_module_level=True)
    return found


WHEEL = wheel()
RECORDED_SPIKE = 128
"""What the chip has in place of `v` where a neuron just fired: its refractory code, not 0."""


def record(name):
    """(steps, *shape) of a layer in (channel, height, width) order, from (x, y, channel, steps)."""
    array = np.moveaxis(np.load(WHEEL / "gts" / f"{name}.npy"), -1, 0)
    return array.transpose(0, 3, 2, 1) if array.ndim == 4 else array


def trained(name):
    """The same from (1, channel, height, width, steps), the order of the network that was trained."""
    return np.moveaxis(np.load(WHEEL / "gts" / f"{name}.npy")[0], -1, 0)


def everything(program, x, **how):
    """layer -> what -> (steps, *shape) of one sample."""
    run = simulate(program, x[None], record=("spikes", "u", "v"), **how)
    return {layer: {what: array[0] for what, array in found.items()} for layer, found in run.records.items()}


# PilotNet LIF on Loihi 2: 24 steps, all states rest every 17 steps, layer after layer.

PILOTNET = {"conv-0": 1, "conv-1": 2, "conv-2": 3, "conv-3": 4, "conv-4": 5, "fc-0": 7, "fc-1": 8, "fc-2": 9}


@pytest.fixture(scope="module")
def pilotnet() -> Program:
    return read_program(WHEEL / "gts/pilotnet_lif/network.net", steps=17)


@pytest.fixture(scope="module")
def image():
    """What the host writes into the bias of the input neurons, at every step."""
    return np.load(WHEEL / "gts/pilotnet_lif/image.npy").T


@pytest.fixture(scope="module")
def driven(pilotnet, image):
    return everything(pilotnet, np.broadcast_to(image, (24, *image.shape)), free_run=FreeRun(17))


def test_pilotnets_input_neurons_fire_as_recorded(driven):
    np.testing.assert_array_equal(driven["layer0"]["spikes"], record("pilotnet_lif/input"))


@pytest.mark.parametrize("name", PILOTNET)
def test_spikes_and_currents_of_pilotnet_are_the_chips_in_every_layer_step_and_neuron(driven, name):
    ours = driven[f"layer{PILOTNET[name]}"]
    np.testing.assert_array_equal(ours["spikes"], record(f"pilotnet_lif/{name}"))
    np.testing.assert_array_equal(ours["u"], record(f"pilotnet_lif/{name}-u"))


@pytest.mark.parametrize("name", PILOTNET)
def test_potentials_of_pilotnet_are_the_chips_wherever_a_neuron_did_not_fire(driven, name):
    ours, theirs = driven[f"layer{PILOTNET[name]}"], record(f"pilotnet_lif/{name}-v")
    fired = ours["spikes"] != 0
    np.testing.assert_array_equal(ours["v"][~fired], theirs[~fired])
    assert set(np.unique(theirs[fired])) == {RECORDED_SPIKE}
    assert not ours["v"][fired].any()


def test_pilotnets_read_out_integrates_as_recorded_until_it_rests(driven):
    """The read-out was recorded in another run (see the next test), which begins like this one: 8 steps."""
    for what in ("u", "v"):
        np.testing.assert_array_equal(driven["layer10"][what][:8], record(f"pilotnet_lif/fc-3-{what}")[:8])


def test_pilotnets_read_out_integrates_as_recorded_when_spikes_are_given(pilotnet):
    """Recorded with the spikes of input-s.npy in place of the input neurons, and rests every 16 steps.

    netx then counts the rests from the first layer it has, so that every layer rests one step before the
    input's first spike reaches it. Here that is the input one step late. All steps from the first rest on
    are compared; before it, layers integrate their biases one step longer here.
    """
    spikes = record("pilotnet_lif/input-s").astype(np.uint8)
    first = pilotnet["layer1"]
    first = replace(first, synapses=(replace(first.synapses[0], source=INPUT),))
    program = Program(pilotnet.input_shape, 0, 26, (first, *pilotnet.layers[2:]), pilotnet.readout)
    late = np.concatenate([np.zeros_like(spikes[:1]), spikes, np.zeros_like(spikes[:1])])
    ours = everything(program, late, free_run=FreeRun(16))["layer10"]
    rest = program.stages["layer10"]
    for what in ("u", "v"):
        np.testing.assert_array_equal(ours[what][rest:], record(f"pilotnet_lif/fc-3-{what}")[rest - 1 :])
    assert not record("pilotnet_lif/fc-3-s").any()
    assert not ours["spikes"].any()
    assert len(ours["v"]) - rest == 17


def test_pilotnets_input_neurons_fire_as_recorded_with_rests_every_16_steps(pilotnet, image):
    ours = everything(pilotnet, np.broadcast_to(image, (24, *image.shape)), free_run=FreeRun(16))
    np.testing.assert_array_equal(ours["layer0"]["spikes"], record("pilotnet_lif/input-s"))


# Tinynet: input neurons and two convolutions. The records have one empty step before the first.


@pytest.fixture(scope="module")
def tinynet() -> Program:
    return read_program(WHEEL / "tiny.net", steps=15)


@pytest.fixture(scope="module")
def tiny_run(tinynet):
    bias = np.load(WHEEL / "gts/tinynet/input_bias.npy").T.astype(np.int32)
    return everything(tinynet, np.broadcast_to(bias, (15, *bias.shape)))


@pytest.mark.parametrize(("layer", "name"), [("layer0", "input"), ("layer1", "layer1"), ("layer2", "output")])
def test_every_spike_of_tinynet_is_the_recorded_one(tiny_run, layer, name):
    """All 15 steps and neurons of the input and both layers."""
    theirs = trained(f"tinynet/{name}")
    assert len(theirs) == 16
    assert not theirs[0].any()
    np.testing.assert_array_equal(tiny_run[layer]["spikes"], theirs[1:])


def test_every_current_of_tinynets_first_layer_is_the_recorded_one(tiny_run):
    np.testing.assert_array_equal(tiny_run["layer1"]["u"], trained("tinynet/current")[1:] * 64)


def test_tinynets_kernel_and_bias_are_those_that_lava_is_given(tinynet):
    """The wheel keeps the kernel as Lava wants it: (out, x, y, in), both axes flipped."""
    kernel = np.load(WHEEL / "gts/tinynet/layer1_kernel.npy")
    np.testing.assert_array_equal(tinynet["layer1"].synapses[0].weight, kernel[:, ::-1, ::-1].transpose(0, 3, 2, 1))
    np.testing.assert_array_equal(tinynet["layer1"].bias, np.load(WHEEL / "gts/tinynet/layer1_bias.npy"))


# A dense layer alone: weights and neuron as in lava-dl's test of its blocks, in a file as lava-dl writes it.


def test_every_spike_and_sum_of_the_dense_layer_is_the_recorded_one(tmp_path):
    """All 2000 steps of 256 neurons; the record runs one step behind its input."""
    folder = WHEEL / "gts/dense"
    with h5py.File(tmp_path / "dense.net", "w") as file:
        entry = file.create_group("layer/0")
        entry.create_dataset("type", (1,), "S10", [b"dense"])
        entry["shape"] = np.array([256, 1, 1])
        entry["weight"] = np.load(folder / "weight.npy").astype(np.float32)
        for name, value in {"type": "CUBA", "iDecay": 4096, "vDecay": 415, "vThMant": 6, "refDelay": 1}.items():
            entry[f"neuron/{name}"] = value
    program = read_program(tmp_path / "dense.net", steps=2000)
    ours = everything(program, np.load(folder / "in.npy").T.astype(np.uint8))["layer0"]
    spikes, sums = record("dense/out"), record("dense/current")
    assert not spikes[0].any()
    assert not sums[0].any()
    np.testing.assert_array_equal(ours["spikes"][:-1], spikes[1:])
    np.testing.assert_array_equal(ours["u"][:-1], sums[1:] * 64)


# NTIDIGITS: three dense layers with currents and a delay for every neuron of the first two.


def test_every_spike_of_the_network_with_delays_is_the_recorded_one():
    """All 3000 steps of 242 neurons; lava-dl's own test compares one step. The record is 4 steps behind its input."""
    program = read_program(WHEEL / "gts/ntidigits/ntidigits.net", steps=3000, num_layers=5)
    assert [layer.synapses[0].delay_range for layer in program.layers] == [(0, 62), (0, 62), (0, 0)]
    x = record("ntidigits/input").reshape(3000, *program.input_shape).astype(np.uint8)
    ours, theirs = everything(program, x)["layer4"]["spikes"], record("ntidigits/output")
    assert theirs.sum() == 22572
    assert not theirs[:4].any()
    np.testing.assert_array_equal(ours[:-4], theirs[4:])


# Networks without records: they load, map and run.


@pytest.mark.parametrize(
    ("name", "neurons", "weights"),
    [
        ("mnist", [784, 512, 512, 10], [0, 784 * 512, 512 * 512, 5120]),
        ("tiny", [768, 864, 36], [0, 24 * 3 * 25, 36 * 24 * 25]),
    ],
)
def test_a_network_of_the_wheel_loads_maps_and_runs(name, neurons, weights):
    program = read_program(WHEEL / f"{name}.net", steps=16)
    assert [layer.neurons for layer in program.layers] == neurons
    assert [sum(s.weight.size for s in layer.synapses) for layer in program.layers] == weights
    mapping = map_program(program, load_chip("loihi2"))
    assert [mapping[layer.name].neurons for layer in program.layers] == neurons
    x = np.full((2, 16, *program.input_shape), BIAS_MAX, np.int16)
    run = simulate(program, x)
    # Input neurons far above their threshold fire at every step.
    assert (run.messages["layer0"] == 32).all()
    assert not run.messages[INPUT].any()
