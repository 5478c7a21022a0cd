"""Cores, words and axons, row by row, against the tables that the Loihi 2 compiler printed in lava-dl's tutorials.

github.com/lava-nc/lava-dl, tutorials/lava/lib/dl/netx: pilotnet_snn/benchmark.ipynb and
pilotnet_sdnn/benchmark.ipynb (words, budget of 12,000), oxford/run.ipynb (the same) and oxford/runLoihi.ipynb
(logged when the budget was 8,184 words), mnist (percent, budget of 16,000) and yolo_kp/run.ipynb (the same).
"""

from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from sca_deploy.hardware.chip import Chip, load_chip
from sca_deploy.hardware.cutting import Population, compiler_capacities
from sca_deploy.hardware.mapping import Mapping, map_program
from sca_deploy.hardware.program import INPUT, Conv, Dense, IntArray, Layer, Program, Shape, Synapse
from sca_deploy.hardware.storage import Footprint, Layout

OF_2023, OF_2024 = load_chip("loihi2-2023"), load_chip("loihi2")

# PilotNet LIF and SDNN of lava-dl 0.6.0 (tests/lava/lib/dl/netx/gts/pilotnet_lif/network.net):
# layer, shape, weight shape, smallest and largest weight, stride, padding
Described = tuple[str, Shape, Shape, int, int, tuple[int, int], tuple[int, int]]
PILOTNET_NET: list[Described] = [
    ("conv_0", (24, 32, 99), (24, 3, 3, 3), -20, 18, (2, 2), (0, 0)),
    ("conv_1", (36, 15, 49), (36, 24, 3, 3), -12, 10, (2, 2), (0, 0)),
    ("conv_2", (48, 7, 24), (48, 36, 3, 3), -10, 8, (2, 2), (0, 0)),
    ("conv_3", (64, 4, 22), (64, 48, 3, 3), -8, 8, (2, 1), (1, 0)),
    ("conv_4", (64, 2, 20), (64, 64, 3, 3), -8, 8, (1, 1), (0, 0)),
    ("fc_0", (100,), (100, 2560), -6, 6, (1, 1), (0, 0)),
    ("fc_1", (50,), (50, 100), -14, 10, (1, 1), (0, 0)),
    ("fc_2", (10,), (10, 50), -24, 20, (1, 1), (0, 0)),
    ("fc_3", (1,), (1, 10), -24, 42, (1, 1), (0, 0)),
]

# layer, axon in, neurons, synapse words, axon map (mean over the cores), cores, tile (channels, rows, columns)
PILOTNET_MAPS: list[tuple[str, int, int, int, int, int, Shape]] = [
    ("input_0", 1, 3168, 0, 1015, 13, (3, 66, 16)),
    ("conv_0", 2, 3072, 81, 253, 25, (24, 32, 4)),
    ("conv_1", 2, 2160, 864, 113, 13, (36, 15, 4)),
    ("conv_2", 2, 2688, 1620, 112, 3, (48, 7, 8)),
    ("conv_3", 1, 2048, 2160, 29, 3, (64, 4, 8)),
    ("conv_4", 1, 2048, 2880, 1280, 2, (64, 2, 16)),
]
# layer, axon in, neurons, synapse words, axon map, cores
PILOTNET_DENSE_ON_ONE_CORE = [
    ("fc_1", 100, 50, 1300, 50, 1),
    ("fc_2", 50, 10, 150, 10, 1),
    ("fc_3", 10, 1, 10, 1, 1),
]
PILOTNET_CORES = 74

# what, neurons, inputs, bits a weight, words a core; the words that the compiler logged as too many, one try after
# another; then the row of the table: neurons and synapse words (means over the cores, rounded down), cores.
SPLIT: list[tuple[str, int, int, int, int, list[int], tuple[int, int, int]]] = [
    ("pilotnet_snn fc-0", 100, 2560, 3, 12_000, [61_440, 61_440, 61_440, 12_800], (8, 7253, 12)),
    ("pilotnet_sdnn fc-0", 100, 2560, 4, 12_000, [66_560, 66_560, 66_560, 12_800], (8, 7253, 12)),
    ("oxford fc-0", 256, 200, 8, 12_000, [16_200] * 4 + [16_000], (85, 5400, 3)),
    ("oxford fc-1", 200, 256, 8, 12_000, [16_128] * 5, (100, 8064, 2)),
]

# Percent of a core's budget: layer, inputs, neurons on the fullest core, axon in, groups, neurons, words, map, total
MNIST = [
    ("fc_0", 784, 50, 4.90, 12.50, 1.22, 78.40, 0.31, 67.14),
    ("fc_1", 128, 64, 0.80, 12.50, 1.56, 16.80, 0.40, 14.72),
    ("fc_2", 64, 10, 0.40, 12.50, 0.24, 1.60, 0.06, 1.71),
]
MNIST_CORES = {"fc_0": 3, "fc_1": 1, "fc_2": 1}

# layer, shape, channels read, side and stride of the kernel, bits a weight, neurons %, words %, axon map %, cores.
# The file is not in the wheel: the bits are the fewest that give the words.
YOLO_KP = [
    ("conv_0", (16, 224, 224), 3, 3, 2, 4, 87.52, 0.34, 1.40, 224),
    ("conv_1", (32, 112, 112), 16, 3, 2, 6, 87.52, 3.60, 0.70, 112),
    ("conv_2", (64, 56, 56), 32, 3, 2, 5, 87.52, 10.80, 0.35, 56),
    ("conv_3", (128, 28, 28), 64, 3, 2, 5, 87.52, 39.60, 0.17, 28),
    ("conv_4", (256, 28, 28), 128, 3, 1, 5, 87.52, 79.20, 0.17, 56),
    ("conv_5", (256, 14, 14), 256, 3, 2, 4, 87.52, 72.00, 0.35, 16),
    ("conv_6", (512, 14, 14), 256, 3, 1, 5, 87.52, 86.40, 0.35, 32),
    ("conv_7", (256, 14, 14), 512, 1, 1, 5, 87.52, 67.20, 0.09, 14),
    ("conv_8", (512, 14, 14), 256, 3, 1, 5, 87.52, 86.40, 0.35, 32),
    ("conv_9", (48, 14, 14), 512, 1, 1, 6, 65.64, 19.20, 16.80, 4),
]
YOLO_KP_CORES = 574


def weights(shape: Shape, low: int, high: int) -> IntArray:
    """Zeros with the two extremes in them: storage depends on nothing else."""
    array = np.zeros(shape, np.int32)
    array.flat[0], array.flat[-1] = low, high
    return array


def layer(name: str, shape: Shape, *synapses: Synapse, injected: bool = False) -> Layer:
    bias = np.zeros(shape[:1], np.int32)
    return Layer(name, shape, synapses, v_decay=1024, threshold=25, bias=bias, injected=injected)


def pilotnet() -> Program:
    layers, source = [layer("input_0", (3, 66, 200), injected=True)], "input_0"
    for name, shape, weight_shape, low, high, stride, padding in PILOTNET_NET:
        weight = weights(weight_shape, low, high)
        synapse = Conv(source, weight, stride, padding) if weight.ndim == 4 else Dense(source, weight)
        layers.append(layer(name, shape, synapse))
        source = name
    return Program((3, 66, 200), 0, 1, tuple(layers), readout=False)


def perceptron(*sizes: int) -> Program:
    """Dense layers fc_0, fc_1, ... with weights over the whole 8-bit range."""
    names = [INPUT, *(f"fc_{i}" for i in range(len(sizes) - 1))]
    layers = [
        layer(names[i + 1], (sizes[i + 1],), Dense(names[i], weights((sizes[i + 1], sizes[i]), -256, 254)))
        for i in range(len(sizes) - 1)
    ]
    return Program((sizes[0],), 0, 1, tuple(layers), readout=False)


def yolo_kp() -> Program:
    layers, source = [], INPUT
    for name, shape, inputs, side, stride, bits, *_ in YOLO_KP:
        kernel = weights((shape[0], inputs, side, side), -(2**bits), 2**bits - 2)
        layers.append(layer(name, shape, Conv(source, kernel, (stride, stride), (side // 2, side // 2))))
        source = name
    return Program((3, 448, 448), 16, 1, tuple(layers), readout=False)


@pytest.fixture(scope="module")
def of_pilotnet() -> Mapping:
    return map_program(pilotnet(), OF_2023)


@pytest.fixture(scope="module")
def of_yolo_kp() -> Mapping:
    return map_program(yolo_kp(), OF_2024)


def test_the_pilotnet_ranges_are_those_of_the_published_file() -> None:
    h5py = pytest.importorskip("h5py")
    try:
        wheel = metadata.distribution("lava-dl")
    except metadata.PackageNotFoundError:
        pytest.skip("lava-dl is not installed")
    path = Path(str(wheel.locate_file("tests/lava/lib/dl/netx/gts/pilotnet_lif/network.net")))
    with h5py.File(path) as file:
        stored = [file["layer"][str(i)] for i in range(1, 11) if "weight" in file["layer"][str(i)]]
        found = [
            (tuple(int(n) for n in node["shape"]), int(node["weight"][()].min()), int(node["weight"][()].max()))
            for node in stored
        ]
    # Dense shapes are (n, 1, 1) in the file.
    assert found == [(shape + (1,) * (3 - len(shape)), low, high) for _, shape, _, low, high, _, _ in PILOTNET_NET]


@pytest.mark.parametrize("row", PILOTNET_MAPS, ids=lambda row: row[0])
def test_a_pilotnet_map(of_pilotnet: Mapping, row: tuple[str, int, int, int, int, int, Shape]) -> None:
    name, axon_in, neurons, words, axon_map, cores, tile = row
    mapped = of_pilotnet[name]
    assert (mapped.axon_in, mapped.neurons_per_core, mapped.synapse_words) == (axon_in, neurons, words)
    assert (mapped.cores, mapped.cut.tile) == (cores, tile)
    # The table prints the mean over the cores, the last of which holds the columns that are left.
    width = pilotnet()[name].shape[2]
    assert mapped.core["axon_map"].used * width // (cores * tile[2]) == axon_map
    assert not mapped.lower_bound


@pytest.mark.parametrize("row", PILOTNET_DENSE_ON_ONE_CORE, ids=lambda row: row[0])
def test_a_pilotnet_dense_layer_on_one_core(of_pilotnet: Mapping, row: tuple[str, int, int, int, int, int]) -> None:
    mapped = of_pilotnet[row[0]]
    axon_map = mapped.core["axon_map"].used
    assert (mapped.axon_in, mapped.neurons_per_core, mapped.synapse_words, axon_map, mapped.cores) == row[1:]
    assert not mapped.lower_bound


def test_pilotnet_takes_at_least_what_its_split_layer_leaves_open(of_pilotnet: Mapping) -> None:
    split = of_pilotnet["fc_0"]
    assert split.lower_bound
    assert 1 < split.cores < split.compiler_like == 12
    assert of_pilotnet.cores - split.cores == PILOTNET_CORES - 12
    assert of_pilotnet.lower_bound


def test_pilotnet_takes_the_published_cores_by_the_rule_of_the_compiler(of_pilotnet: Mapping) -> None:
    assert of_pilotnet.compiler_like == PILOTNET_CORES


def within(words: int, neurons: int = 4095) -> Chip:
    """The chip with other budgets of synapse words and neurons."""
    changed = {"synapse_words": words, "neurons": neurons}
    budgets = {k: dataclasses.replace(v, value=changed.get(k, v.value)) for k, v in OF_2023.budgets.items()}
    return dataclasses.replace(OF_2023, budgets=budgets)


def tries(neurons: int, inputs: int, bits: int, chip: Chip) -> tuple[list[int], int]:
    """Words of the fullest core at every capacity that is tried, and the last capacity."""
    size = Footprint(False, neurons, inputs, 1, 1, bits)
    capacities = compiler_capacities(Population((neurons,), (size,), 0, 1), chip)
    layout = Layout.of(chip)
    return [size.words(0, min(neurons, capacity), layout) for capacity in capacities], capacities[-1]


@pytest.mark.parametrize("row", SPLIT, ids=lambda row: row[0])
def test_a_dense_layer_is_split_as_the_compiler_logged_it(
    row: tuple[str, int, int, int, int, list[int], tuple[int, int, int]],
) -> None:
    _, neurons, inputs, bits, budget, logged, published = row
    words, capacity = tries(neurons, inputs, bits, within(budget))
    assert words[:-1] == logged
    dealt = [min(capacity, neurons - start) for start in range(0, neurons, capacity)]
    size, layout = Footprint(False, neurons, inputs, 1, 1, bits), Layout.of(OF_2023)
    used = sum(size.words(0, n, layout) for n in dealt)
    assert (neurons // len(dealt), used // len(dealt), len(dealt)) == published


def test_the_rule_also_gives_what_was_logged_under_the_budgets_of_2022() -> None:
    # oxford/runLoihi.ipynb and dvs_gesture/runLoihi.ipynb: 8184 words, and a capacity that starts at 1024.
    chip = within(8184, 1024)
    assert tries(200, 256, 6, chip)[0][:-1] == [14_592, 14_592, 14_592, 9472]
    assert tries(256, 200, 6, chip)[0][:-1] == [14_600, 14_600, 14_600]
    assert tries(512, 2048, 3, chip)[0][:-1] == [247_808, 16_384]


def test_oxford_takes_the_published_cores() -> None:
    mapping = map_program(perceptron(200, 256, 200), OF_2023)
    assert [mapped.compiler_like for mapped in mapping.layers] == [3, 2]


@pytest.mark.parametrize("row", MNIST, ids=lambda row: row[0])
def test_an_mnist_core_in_percent(row: tuple[str, int, int, float, float, float, float, float, float]) -> None:
    _, inputs, neurons, *published, total = row
    mapped = map_program(perceptron(inputs, neurons), OF_2024).layers[0]
    assert mapped.cores == 1
    percent = {resource: 100 * use.fraction for resource, use in mapped.core.items()}
    shown = [percent[key] for key in ("axon_in", "neuron_groups", "neurons", "synapse_words", "axon_map")]
    assert shown == pytest.approx(published, abs=0.005)
    # fc_2 reads 1.71 where the sum of its own columns is 1.70.
    assert percent["total"] == pytest.approx(total, abs=0.011)


def test_mnist_takes_the_published_cores() -> None:
    mapping = map_program(perceptron(784, 128, 64, 10), OF_2024)
    assert {mapped.name: mapped.cores for mapped in mapping.layers} == MNIST_CORES
    assert {mapped.name: mapped.compiler_like for mapped in mapping.layers} == MNIST_CORES
    assert tries(128, 784, 8, OF_2024)[1] == 50


@pytest.mark.parametrize("row", YOLO_KP, ids=lambda row: row[0])
def test_a_yolo_kp_layer(
    of_yolo_kp: Mapping, row: tuple[str, Shape, int, int, int, int, float, float, float, int]
) -> None:
    name, *_, neurons, words, axon_map, cores = row
    mapped = of_yolo_kp[name]
    assert mapped.cores == cores
    percent = [100 * mapped.core[key].fraction for key in ("neurons", "synapse_words")]
    assert percent == pytest.approx([neurons, words], abs=0.0051)
    # Tiles have the published size in another shape; so has their axon map, of one entry a position.
    assert 100 * mapped.core["axon_map"].fraction == pytest.approx(axon_map, abs=0.0051)
    assert not mapped.lower_bound


def test_yolo_kp_takes_the_published_cores(of_yolo_kp: Mapping) -> None:
    assert of_yolo_kp.cores == of_yolo_kp.compiler_like == YOLO_KP_CORES
    assert of_yolo_kp.system == "kapoho-point"  # the board it was made for
