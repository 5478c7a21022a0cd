"""Cores, words and axons against the tables that the Loihi 2 compiler printed in the lava-dl tutorials."""

from __future__ import annotations

import dataclasses
import math
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sca_deploy.errors import DoesNotFit
from sca_deploy.hardware.chip import Quantity, load_chip
from sca_deploy.hardware.mapping import Mapping, channel_chunks, check_fits, dense_words, map_program, weight_bits
from sca_deploy.hardware.program import Conv, Dense, IntArray, Layer, Program, Shape, Synapse

LOIHI2 = load_chip("loihi2")

# PilotNet LIF of lava-dl 0.6.0 (tests/lava/lib/dl/netx/gts/pilotnet_lif/network.net):
# layer, shape, weight shape, smallest and largest weight, stride, padding
PILOTNET_NET: list[tuple[str, Shape, Shape, int, int, tuple[int, int], tuple[int, int]]] = [
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

# Compiler table of the lava-dl tutorial "pilotnet_snn" (benchmark), Loihi 2:
# layer, axon in, neurons, synapse words, axon map (mean), cores, columns of a tile
PILOTNET_CONV = [
    ("conv_0", 2, 3072, 81, 253, 25, 4),
    ("conv_1", 2, 2160, 864, 113, 13, 4),
    ("conv_2", 2, 2688, 1620, 112, 3, 8),
    ("conv_3", 1, 2048, 2160, 29, 3, 8),
    ("conv_4", 1, 2048, 2880, 1280, 2, 16),
]
# layer, axon in, neurons, synapse words, axon map, cores
PILOTNET_DENSE_ON_ONE_CORE = [
    ("fc_1", 100, 50, 1300, 50, 1),
    ("fc_2", 50, 10, 150, 10, 1),
    ("fc_3", 10, 1, 10, 1, 1),
]
PILOTNET_CORES_WITHOUT_INPUT = 74 - 13
PILOTNET_FC_0_CORES = 12

# Compiler table of the lava-dl tutorial "mnist" (784-128-64-10), percent of a core's budget:
# layer, inputs, neurons on the fullest core, axon in, neuron groups, neurons, synapse words, axon map, total
MNIST = [
    ("fc_0", 784, 50, 4.90, 12.50, 1.22, 78.40, 0.31, 67.14),
    ("fc_1", 128, 64, 0.80, 12.50, 1.56, 16.80, 0.40, 14.72),
    ("fc_2", 64, 10, 0.40, 12.50, 0.24, 1.60, 0.06, 1.71),
]
MNIST_CORES = {"fc_0": 3, "fc_1": 1, "fc_2": 1}


def weights(shape: Shape, low: int, high: int) -> IntArray:
    """Zeros with the two extremes in them: storage depends on nothing else."""
    array = np.zeros(shape, np.int32)
    array.flat[0], array.flat[-1] = low, high
    return array


def layer(name: str, shape: Shape, *synapses: Synapse) -> Layer:
    return Layer(name, shape, synapses, v_decay=1024, threshold=25, bias=np.zeros(shape[:1], np.int32))


def network(input_shape: Shape, *layers: Layer, input_bits: int = 0) -> Program:
    return Program(input_shape, input_bits, steps=1, layers=layers, readout=False)


def pilotnet() -> Program:
    layers, source = [], "input"
    for name, shape, weight_shape, low, high, stride, padding in PILOTNET_NET:
        weight = weights(weight_shape, low, high)
        synapse = Conv(source, weight, stride, padding) if weight.ndim == 4 else Dense(source, weight)
        layers.append(layer(name, shape, synapse))
        source = name
    return network((3, 66, 200), *layers)


def perceptron(*sizes: int) -> Program:
    """Dense layers fc_0, fc_1, ... with weights over the whole 8-bit range."""
    names = ["input", *(f"fc_{i}" for i in range(len(sizes) - 1))]
    layers = [
        layer(names[i + 1], (sizes[i + 1],), Dense(names[i], weights((sizes[i + 1], sizes[i]), -256, 254)))
        for i in range(len(sizes) - 1)
    ]
    return network((sizes[0],), *layers)


@pytest.fixture(scope="module")
def pilotnet_mapping() -> Mapping:
    return map_program(pilotnet(), LOIHI2)


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


@pytest.mark.parametrize("row", PILOTNET_CONV, ids=lambda row: row[0])
def test_a_published_convolution_is_reproduced(
    pilotnet_mapping: Mapping, row: tuple[str, int, int, int, int, int, int]
) -> None:
    name, axon_in, neurons, words, axon_map, cores, columns = row
    mapped = pilotnet_mapping[name]
    assert (mapped.axon_in, mapped.neurons_per_core, mapped.synapse_words) == (axon_in, neurons, words)
    assert (mapped.cores, mapped.columns) == (cores, columns)
    # The table prints the mean over the cores, the last of which holds the columns that are left.
    width = pilotnet()[name].shape[2]
    assert mapped.core["axon_map"].used * width // (cores * columns) == axon_map
    assert not mapped.lower_bound


@pytest.mark.parametrize("row", PILOTNET_DENSE_ON_ONE_CORE, ids=lambda row: row[0])
def test_a_published_dense_layer_on_one_core_is_reproduced(
    pilotnet_mapping: Mapping, row: tuple[str, int, int, int, int, int]
) -> None:
    mapped = pilotnet_mapping[row[0]]
    axon_map = mapped.core["axon_map"].used
    assert (mapped.axon_in, mapped.neurons_per_core, mapped.synapse_words, axon_map, mapped.cores) == row[1:]


def test_dense_cores_that_were_split_are_a_lower_bound(pilotnet_mapping: Mapping) -> None:
    split = pilotnet_mapping["fc_0"]
    assert split.lower_bound
    assert 1 < split.cores <= PILOTNET_FC_0_CORES
    assert pilotnet_mapping.lower_bound
    assert pilotnet_mapping.cores <= PILOTNET_CORES_WITHOUT_INPUT
    # What is left of the difference to the published total is this layer's alone.
    assert pilotnet_mapping.cores - split.cores == PILOTNET_CORES_WITHOUT_INPUT - PILOTNET_FC_0_CORES


def test_the_published_words_of_pilotnet_fc_0_follow_from_its_split() -> None:
    bits = 3  # -6..6
    assert dense_words(2560, 100, bits, LOIHI2) == 61_440
    assert dense_words(2560, math.ceil(100 / 6), bits, LOIHI2) == 12_800
    twelve_cores = 11 * dense_words(2560, 9, bits, LOIHI2) + dense_words(2560, 1, bits, LOIHI2)
    assert twelve_cores // 12 == 7253


@pytest.mark.parametrize("row", MNIST, ids=lambda row: row[0])
def test_a_published_mnist_core_is_reproduced_in_percent(
    row: tuple[str, int, int, float, float, float, float, float, float],
) -> None:
    _, inputs, neurons, *published, total = row
    mapped = map_program(perceptron(inputs, neurons), LOIHI2).layers[0]
    assert mapped.cores == 1
    percent = {resource: 100 * use.fraction for resource, use in mapped.core.items()}
    shown = [percent[key] for key in ("axon_in", "neuron_groups", "neurons", "synapse_words", "axon_map")]
    assert shown == pytest.approx(published, abs=0.005)
    # fc_2 reads 1.71 where the sum of its own columns is 1.70.
    assert percent["total"] == pytest.approx(total, abs=0.011)


def test_mnist_takes_the_published_cores() -> None:
    mapping = map_program(perceptron(784, 128, 64, 10), LOIHI2)
    assert {mapped.name: mapped.cores for mapped in mapping.layers} == MNIST_CORES
    assert mapping["fc_0"].binding == "synapse_words"


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=6))
def test_weight_bits_are_the_fewest_that_hold_every_half_weight(halves: list[int]) -> None:
    fewest = next(b for b in range(1, 9) if all(-(2 ** (b - 1)) <= half < 2 ** (b - 1) for half in halves))
    assert weight_bits(2 * np.array(halves, np.int32), LOIHI2) == fewest


@given(st.integers(1, 5000))
def test_channel_chunks_are_distinct_powers_of_two_that_sum_up(channels: int) -> None:
    chunks = channel_chunks(channels)
    assert sum(chunks) == channels
    assert len(set(chunks)) == len(chunks)
    assert all(math.log2(chunk).is_integer() for chunk in chunks)


@given(st.integers(1, 300), st.integers(1, 2500))
def test_dense_cores_are_the_fewest_whose_budgets_hold(neurons: int, inputs: int) -> None:
    program = perceptron(inputs, neurons)
    mapped = map_program(program, LOIHI2).layers[0]

    def fits(n: int) -> bool:
        words = inputs * math.ceil((n * 20 + 10) / 64)
        return words <= 16_000 and inputs + n + words + n <= 20_000

    per_core = max(n for n in range(1, neurons + 1) if fits(n))
    assert mapped.cores == math.ceil(neurons / per_core)
    assert mapped.neurons_per_core == math.ceil(neurons / mapped.cores)
    sizes = [len(part) for part in np.array_split(np.arange(neurons), mapped.cores)]
    assert mapped.synapse_words_total == sum(inputs * math.ceil((n * 20 + 10) / 64) for n in sizes)
    assert mapped.synapse_words == inputs * math.ceil((max(sizes) * 20 + 10) / 64)


def test_zero_weights_are_stored_and_charged() -> None:
    full, masked = (np.full((64, 64, 3, 3), 8, np.int32) for _ in range(2))
    masked[:, ::2] = 0
    words = [
        map_program(network((64, 4, 4), layer("a", (64, 2, 2), Conv("input", weight))), LOIHI2)["a"].synapse_words
        for weight in (full, masked)
    ]
    assert words[0] == words[1]


def test_compacting_half_of_the_channels_frees_words_and_cores() -> None:
    def chain(channels: int) -> Mapping:
        shape = (channels, 32, 32)
        first = Conv("input", weights((channels, 2, 3, 3), -256, 254), padding=(1, 1))
        second = Conv("a", weights((channels, channels, 3, 3), -256, 254), padding=(1, 1))
        return map_program(network((2, 32, 32), layer("a", shape, first), layer("b", shape, second)), LOIHI2)

    assert (chain(32).cores, chain(16).cores) == (2 * 16, 2 * 8)  # 2 and 4 columns of 1024 and 512 neurons
    assert chain(16)["b"].synapse_words < chain(32)["b"].synapse_words / 2


def test_the_words_and_axons_of_several_synapses_add_up() -> None:
    first = layer("a", (16, 8, 8), Conv("input", weights((16, 2, 3, 3), -8, 6), padding=(1, 1)))
    both = layer(
        "b",
        (16, 8, 8),
        Conv("a", weights((16, 16, 3, 3), -8, 6), padding=(1, 1)),
        Conv("input", weights((16, 2, 1, 1), -256, 254)),
    )
    mapped = map_program(network((2, 8, 8), first, both), LOIHI2)["b"]
    three_bits, eight_bits = 1, 3  # words for 16 x 3 + 10 and for 16 x 8 + 10 bits
    assert mapped.synapse_words == 16 * 9 * three_bits + 2 * eight_bits
    assert mapped.axon_in == 2
    assert mapped.weight_bits == 8


def test_a_grouped_convolution_stores_only_its_groups_and_says_it_is_unpublished() -> None:
    depthwise = layer("a", (16, 4, 4), Conv("input", weights((16, 1, 3, 3), -8, 6), padding=(1, 1), groups=16))
    mapped = map_program(network((16, 4, 4), depthwise), LOIHI2)["a"]
    assert mapped.synapse_words == 16 * 9 * 1
    assert mapped.lower_bound
    assert "grouped" in mapped.basis


def test_a_tile_narrows_until_the_total_budget_holds() -> None:
    # 16 columns of 250 neurons keep every single budget, but with their axon map not the sum of 20,000.
    words = 45 * 9 * sum(math.ceil((chunk * 8 + 10) / 64) for chunk in (128, 64, 32, 16, 8, 2))
    assert words <= 16_000 < 20_000 < words + 2 * 4000
    assert words + 2 * 2000 + 6 <= 20_000
    wide = layer("a", (250, 1, 16), Conv("input", weights((250, 45, 3, 3), -256, 254)))
    mapped = map_program(network((45, 3, 18), wide), LOIHI2)["a"]
    assert mapped.synapse_words == words
    assert (mapped.columns, mapped.cores, mapped.binding) == (8, 2, "total")


def test_what_binds_is_what_a_larger_core_would_break_not_what_is_fullest() -> None:
    # Columns of 2100 neurons: two would be 4200. The kernel fills more of the core but is the same on any tile.
    split = layer("a", (60, 35, 2), Conv("input", weights((60, 97, 3, 3), -256, 254)))
    mapped = map_program(network((97, 37, 4), split), LOIHI2)["a"]
    assert mapped.core["synapse_words"].fraction > mapped.core["neurons"].fraction
    assert (mapped.cores, mapped.binding) == (2, "neurons")


def test_as_dict_holds_what_a_report_needs() -> None:
    document = map_program(perceptron(784, 128), LOIHI2).as_dict()
    assert (document["chip"], document["cores"]) == ("loihi2", 3)
    (row,) = document["layers"]
    assert {"name", "cores", "neurons", "synapse_words", "axon_in", "binding"} <= row.keys()
    assert row["core"]["axon_in"] == {"used": 784, "max": 16_000}


def refuse(program: Program) -> str:
    mapping = map_program(program, LOIHI2)
    with pytest.raises(DoesNotFit) as caught:
        check_fits(mapping, LOIHI2)
    assert caught.value.exit_code == 3
    assert caught.value.fix
    return caught.value.problem


def test_pilotnet_fits(pilotnet_mapping: Mapping) -> None:
    check_fits(pilotnet_mapping, LOIHI2)


def test_a_kernel_larger_than_the_synapse_memory_is_refused() -> None:
    kernel = weights((128, 128, 3, 3), -256, 254)
    problem = refuse(network((128, 8, 8), layer("wide", (128, 6, 6), Conv("input", kernel))))
    words = 128 * 9 * math.ceil((128 * 8 + 10) / 64)
    assert f"layer 'wide': a core holding a tile of one column needs {words} synapse_words, loihi2 has 16000" in problem


def test_a_column_of_more_neurons_than_a_core_is_refused() -> None:
    tall = layer("tall", (64, 64, 2), Conv("input", weights((64, 1, 1, 1), 2, 2)))
    assert "needs 4096 neurons, loihi2 has 4095" in refuse(network((1, 64, 2), tall))


def test_a_fan_in_beyond_the_total_budget_is_refused() -> None:
    assert "a core holding a single neuron needs 20002 total, loihi2 has 20000" in refuse(perceptron(10_000, 2))


def test_the_largest_fan_in_fits() -> None:
    check_fits(map_program(perceptron(9_999, 2), LOIHI2), LOIHI2)


@pytest.mark.parametrize("columns", [128, 129])
def test_a_chip_has_128_cores(columns: int) -> None:
    full_cores = network((1, 4095, columns), layer("a", (1, 4095, columns), Conv("input", weights((1, 1, 1, 1), 2, 2))))
    if columns == 128:
        check_fits(map_program(full_cores, LOIHI2), LOIHI2)
    else:
        assert "the network needs 129 cores, loihi2 has 128; layer 'a' alone takes 129 (neurons)" in refuse(full_cores)


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ("message_bits", "graded spikes of 8 bits, loihi2 carries 0"),
        ("weight_bits", "weights of 8 bits, loihi2 stores 0"),
    ],
)
def test_a_chip_of_narrower_messages_or_weights_refuses(limit: str, complaint: str) -> None:
    narrow = dataclasses.replace(LOIHI2, limits={**LOIHI2.limits, limit: Quantity(0, "bits", "test", "inferred")})
    graded = network((4,), layer("a", (2,), Dense("input", weights((2, 4), -256, 254))), input_bits=8)
    with pytest.raises(DoesNotFit, match=complaint):
        check_fits(map_program(graded, narrow), narrow)
