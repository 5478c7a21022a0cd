"""The rules of the mapper on any Program; the published tables are in test_published_tables.py."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sca_deploy.errors import DoesNotFit, ScaDeployError, UsageError
from sca_deploy.hardware.chip import Quantity, load_chip
from sca_deploy.hardware.mapping import LayerMapping, Mapping, check_fits, map_program
from sca_deploy.hardware.placement import routes
from sca_deploy.hardware.program import INPUT, Conv, Dense, Program, Shape
from sca_deploy.hardware.storage import Layout, channel_chunks, weight_bits
from sca_deploy.report.tables import mapping_table
from tests.conftest import sca_deploy
from tests.hardware.test_published_tables import layer, perceptron, pilotnet, weights

LOIHI2 = load_chip("loihi2")


def network(input_shape: Shape, *layers: Any, input_bits: int = 0) -> Program:
    return Program(input_shape, input_bits, steps=1, layers=layers, readout=False)


def list_words(*chunks: int, bits: int) -> int:
    return sum(math.ceil((chunk * bits + 10) / 64) for chunk in chunks)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=6))
def test_weight_bits_are_the_fewest_that_hold_every_half_weight(halves: list[int]) -> None:
    fewest = next(b for b in range(1, 9) if all(-(2 ** (b - 1)) <= half < 2 ** (b - 1) for half in halves))
    assert weight_bits(2 * np.array(halves, np.int32), Layout.of(LOIHI2)) == fewest


@given(st.integers(1, 5000))
def test_channel_chunks_are_distinct_powers_of_two_that_sum_up(channels: int) -> None:
    chunks = channel_chunks(channels)
    assert sum(chunks) == channels
    assert len(set(chunks)) == len(chunks)
    assert all(math.log2(chunk).is_integer() for chunk in chunks)


def dense_fits(neurons: int, inputs: int) -> bool:
    words = inputs * math.ceil((neurons * 20 + 10) / 64)
    return words <= 16_000 and inputs + neurons + words + neurons <= 20_000


@given(st.integers(1, 300), st.integers(1, 2500))
def test_dense_cores_are_the_fewest_whose_budgets_hold(neurons: int, inputs: int) -> None:
    mapped = map_program(perceptron(inputs, neurons), LOIHI2).layers[0]
    per_core = max(n for n in range(1, neurons + 1) if dense_fits(n, inputs))
    assert mapped.cores == math.ceil(neurons / per_core)
    assert mapped.neurons_per_core == math.ceil(neurons / mapped.cores)
    sizes = [len(part) for part in np.array_split(np.arange(neurons), mapped.cores)]
    assert mapped.synapse_words_total == sum(inputs * math.ceil((n * 20 + 10) / 64) for n in sizes)
    assert mapped.synapse_words == inputs * math.ceil((max(sizes) * 20 + 10) / 64)
    assert mapped.compiler_like >= mapped.cores


@given(st.integers(1, 200), st.integers(1, 2500))
def test_the_headroom_of_a_dense_layer_ends_where_a_core_more_begins(neurons: int, inputs: int) -> None:
    def cores(n: int) -> int:
        return map_program(perceptron(inputs, n), LOIHI2).layers[0].cores

    headroom = map_program(perceptron(inputs, neurons), LOIHI2).layers[0].headroom()
    assert headroom["unit"] == "neurons"
    assert cores(neurons + headroom["more"]) == cores(neurons) < cores(neurons + headroom["more"] + 1)
    if headroom["fewer"]:
        assert cores(neurons - headroom["fewer"]) < cores(neurons) == cores(neurons - headroom["fewer"] + 1)
    else:
        assert cores(neurons) == 1


def one_map(channels: int, height: int, width: int, inputs: int = 3, side: int = 1, **options: Any) -> LayerMapping:
    kernel = weights((channels, inputs // options.get("groups", 1), side, side), -256, 254)
    pad = side // 2
    program = network(
        (inputs, height, width),
        layer("a", (channels, height, width), Conv(INPUT, kernel, padding=(pad, pad), **options)),
    )
    return map_program(program, LOIHI2)["a"]


@given(st.integers(2, 40), st.integers(1, 40), st.integers(1, 60))
def test_the_headroom_of_a_map_ends_where_a_core_more_begins(channels: int, height: int, width: int) -> None:
    def cores(c: int, w: int) -> int:
        return one_map(c, height, w).cores

    whole, headroom = cores(channels, width), one_map(channels, height, width).headroom()
    assert headroom["unit"] == "columns"
    assert cores(channels, width + headroom["more"]) == whole < cores(channels, width + headroom["more"] + 1)
    if headroom["fewer"]:
        assert cores(channels, width - headroom["fewer"]) < whole == cores(channels, width - headroom["fewer"] + 1)
    if headroom["channels_fewer"]:
        assert cores(channels - headroom["channels_fewer"], width) < whole
        assert all(cores(channels - c, width) >= whole for c in range(1, headroom["channels_fewer"]))
    else:
        assert whole == 1 or all(cores(c, width) >= whole for c in range(1, channels))


@settings(max_examples=50)
@given(st.integers(1, 300), st.integers(1, 5000), st.integers(1, 40), st.integers(1, 64), st.sampled_from([1, 3, 5]))
@example(127, 33, 1, 49, 5)  # halved into 64 and 63 channels: 63 are six chunks and more words
@example(127, 1, 1, 50, 5)
def test_tiles_cover_a_map_once_and_fit_a_core(channels: int, height: int, width: int, inputs: int, side: int) -> None:
    mapped = one_map(channels, height, width, inputs, side)
    tiles = list(mapped.tiles())
    assert mapped.fits
    assert len(tiles) == mapped.cores
    assert sum(tile.neurons for tile in tiles) == mapped.neurons == channels * height * width
    assert len({tile.ranges for tile in tiles}) == len(tiles)
    for tile in tiles:
        (first, last), *_ = tile.ranges
        words = inputs * side * side * list_words(*channel_chunks(last - first), bits=8)
        assert max(words, tile.neurons * 1) <= 16_000
        assert tile.neurons <= 4095
        assert words + 2 * tile.neurons <= 20_000  # the host reads every neuron: an axon map entry each


def test_tiles_of_a_dense_layer_are_runs_of_neurons() -> None:
    tiles = [tile.ranges for tile in map_program(perceptron(784, 128), LOIHI2).layers[0].tiles()]
    assert tiles == [((0, 42),), ((42, 85),), ((85, 128),)]


def test_a_kernel_larger_than_a_core_is_halved_over_its_output_channels() -> None:
    words = 128 * 9 * list_words(128, bits=8)
    halved = 128 * 9 * list_words(64, bits=8)
    assert halved <= 16_000 < words
    mapped = one_map(128, 6, 6, inputs=128, side=3)
    assert mapped.synapse_words == halved
    assert mapped.cut.tile == (64, 6, 8)  # 8 columns of 6 x 64 neurons; the map has only 6
    assert (mapped.cores, mapped.synapse_words_total) == (2, 2 * halved)
    assert "halved over its output channels" in mapped.basis


def test_a_column_of_more_neurons_than_a_core_is_halved_in_height() -> None:
    mapped = one_map(64, 64, 2, inputs=1)
    assert 64 * 64 > 4095
    assert (mapped.cut.tile, mapped.cores) == ((64, 32, 1), 4)
    assert "halved in height" in mapped.basis
    assert mapped.binding == "neurons"


def test_zero_weights_are_stored_and_charged() -> None:
    full, masked = (np.full((64, 64, 3, 3), 8, np.int32) for _ in range(2))
    masked[:, ::2] = 0
    words = [
        map_program(network((64, 4, 4), layer("a", (64, 2, 2), Conv(INPUT, weight))), LOIHI2)["a"].synapse_words
        for weight in (full, masked)
    ]
    assert words[0] == words[1]


def test_compacting_half_of_the_channels_frees_words_and_cores() -> None:
    def chain(channels: int) -> Mapping:
        shape = (channels, 32, 32)
        first = Conv(INPUT, weights((channels, 2, 3, 3), -256, 254), padding=(1, 1))
        second = Conv("a", weights((channels, channels, 3, 3), -256, 254), padding=(1, 1))
        return map_program(network((2, 32, 32), layer("a", shape, first), layer("b", shape, second)), LOIHI2)

    assert (chain(32).cores, chain(16).cores) == (2 * 16, 2 * 8)  # 2 and 4 columns of 1024 and 512 neurons
    assert chain(16)["b"].synapse_words < chain(32)["b"].synapse_words / 2


def test_the_words_and_axons_of_several_synapses_add_up() -> None:
    first = layer("a", (16, 8, 8), Conv(INPUT, weights((16, 2, 3, 3), -8, 6), padding=(1, 1)))
    both = layer(
        "b",
        (16, 8, 8),
        Conv("a", weights((16, 16, 3, 3), -8, 6), padding=(1, 1)),
        Conv(INPUT, weights((16, 2, 1, 1), -256, 254)),
    )
    mapped = map_program(network((2, 8, 8), first, both), LOIHI2)["b"]
    three_bits, eight_bits = 1, 3  # words for 16 x 3 + 10 and for 16 x 8 + 10 bits
    assert mapped.synapse_words == 16 * 9 * three_bits + 2 * eight_bits
    assert mapped.axon_in == 2
    assert mapped.weight_bits == 8


def test_a_recurrent_layer_has_axons_and_words_for_itself() -> None:
    own = Dense("a", weights((50, 50), -256, 254), delay=1)
    recurrent = layer("a", (50,), Dense(INPUT, weights((50, 20), -256, 254)), own)
    mapped = map_program(network((20,), recurrent), LOIHI2)["a"]
    assert mapped.axon_in == 20 + 50
    assert mapped.synapse_words == (20 + 50) * list_words(50, bits=20)
    assert mapped.core["axon_map"].used == 50  # its one reader is itself


def test_delays_are_not_charged_and_that_is_said() -> None:
    def with_delay(delay: int) -> LayerMapping:
        synapse = Dense(INPUT, weights((9, 9), -256, 254), delay)
        return map_program(network((9,), layer("a", (9,), synapse)), LOIHI2)["a"]

    assert with_delay(62).synapse_words == with_delay(0).synapse_words
    assert "delays is not known" in with_delay(62).basis
    assert "delays" not in with_delay(0).basis


def test_a_grouped_convolution_stores_only_its_groups_and_says_it_is_unpublished() -> None:
    depthwise = layer("a", (16, 4, 4), Conv(INPUT, weights((16, 1, 3, 3), -8, 6), padding=(1, 1), groups=16))
    mapped = map_program(network((16, 4, 4), depthwise), LOIHI2)["a"]
    assert mapped.synapse_words == 16 * 9 * 1
    assert mapped.lower_bound
    assert "grouped" in mapped.basis


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 40), st.integers(1, 3))
def test_a_part_of_a_grouped_convolution_stores_what_its_channels_read(
    groups: int, per_group: int, inputs: int, parts: int
) -> None:
    from sca_deploy.hardware.storage import Footprint

    outputs, layout = groups * per_group, Layout.of(LOIHI2)
    size = Footprint(True, outputs, inputs, 9, groups, 8)
    for part in np.array_split(np.arange(outputs), parts):
        if part.size:
            held = np.unique(part // per_group, return_counts=True)[1]
            words = sum(inputs * 9 * list_words(*channel_chunks(int(n)), bits=8) for n in held)
            start, stop = int(part[0]), int(part[-1]) + 1
            assert size.words(start, stop, layout) == words
            assert size.axons(start, stop) == sum(len(channel_chunks(int(n))) for n in held)


def test_a_one_dimensional_map_is_cut_along_its_length() -> None:
    kernel = weights((64, 8, 1, 5), -256, 254)
    program = network((8, 1, 1000), layer("a", (64, 1, 996), Conv(INPUT, kernel)))
    assert map_program(program, LOIHI2)["a"].cut.tile == (64, 1, 32)  # 64 columns would be 4096 neurons


def test_an_injected_vector_takes_neurons_only() -> None:
    program = network(
        (5000,), layer("a", (5000,), injected=True), layer("b", (1,), Dense("a", weights((1, 5000), 0, 2)))
    )
    mapped = map_program(program, LOIHI2)["a"]
    assert (mapped.kind, mapped.cores, mapped.synapse_words, mapped.weight_bits) == ("input", 2, 0, 0)
    assert not mapped.lower_bound


def test_a_tile_narrows_until_the_total_budget_holds() -> None:
    # 16 columns of 250 neurons keep every single budget, but with their axon map not the sum of 20,000.
    words = 45 * 9 * list_words(128, 64, 32, 16, 8, 2, bits=8)
    assert words <= 16_000 < 20_000 < words + 2 * 4000
    assert words + 2 * 2000 + 6 <= 20_000
    wide = layer("a", (250, 1, 16), Conv(INPUT, weights((250, 45, 3, 3), -256, 254)))
    mapped = map_program(network((45, 3, 18), wide), LOIHI2)["a"]
    assert mapped.synapse_words == words
    assert (mapped.columns, mapped.cores, mapped.binding) == (8, 2, "total")


def test_what_binds_is_what_a_larger_core_would_break_not_what_is_fullest() -> None:
    # Columns of 2100 neurons: two would be 4200. The kernel fills more of the core but is the same on any tile.
    split = layer("a", (60, 35, 2), Conv(INPUT, weights((60, 97, 3, 3), -256, 254)))
    mapped = map_program(network((97, 37, 4), split), LOIHI2)["a"]
    assert mapped.core["synapse_words"].fraction > mapped.core["neurons"].fraction
    assert (mapped.cores, mapped.binding) == (2, "neurons")


def test_a_layer_without_neurons_is_named() -> None:
    empty = layer("a", (1, 0, 5), Conv(INPUT, np.zeros((1, 1, 2, 1), np.int32)))
    with pytest.raises(ScaDeployError, match="layer 'a' of shape"):
        map_program(network((1, 1, 5), empty), LOIHI2)


def test_as_dict_holds_what_a_report_needs() -> None:
    document = map_program(perceptron(784, 128), LOIHI2).as_dict()
    assert (document["chip"], document["cores"], document["chips"], document["system"]) == (
        "loihi2",
        3,
        1,
        "oheo-gulch",
    )
    (row,) = document["layers"]
    assert {"name", "cores", "neurons", "synapse_words", "axon_in", "binding"} <= row.keys()
    assert row["core"]["axon_in"] == {"used": 784, "max": 16_000, "fraction": 0.049}
    json.dumps(document, allow_nan=False)


def refuse(program: Program, **wish: Any) -> str:
    mapping = map_program(program, LOIHI2)
    with pytest.raises(DoesNotFit) as caught:
        check_fits(mapping, LOIHI2, **wish)
    assert caught.value.exit_code == 3
    assert caught.value.fix
    return caught.value.problem


def test_a_kernel_of_one_channel_that_is_too_large_is_refused() -> None:
    program = network((700, 8, 8), layer("wide", (2, 4, 4), Conv(INPUT, weights((2, 700, 5, 5), -256, 254))))
    problem = refuse(program)
    assert f"layer 'wide': a core holding a single neuron needs {700 * 25} synapse_words, loihi2 has 16000" in problem


def test_a_fan_in_beyond_the_total_budget_is_refused() -> None:
    assert "a core holding a single neuron needs 20002 total, loihi2 has 20000" in refuse(perceptron(10_000, 2))


def test_the_largest_fan_in_fits() -> None:
    check_fits(map_program(perceptron(9_999, 2), LOIHI2), LOIHI2)


def full_cores(cores: int) -> Program:
    """A map that fills so many cores to the last neuron."""
    return network((1, 4095, cores), layer("sky", (1, 4095, cores), Conv(INPUT, weights((1, 1, 1, 1), 2, 2))))


@pytest.mark.parametrize(
    ("cores", "wish", "refusal"),
    [
        (128, {"chips": 1}, None),
        (129, {"chips": 1}, "the network needs 129 cores, loihi2 has 128; layer 'sky' alone takes 129 (neurons)"),
        (129, {"chips": 2}, None),
        (257, {"chips": 2}, "the network needs 257 cores, 2 chips of loihi2 has 256"),
        (1024, {"system": "kapoho-point"}, None),
        (1025, {"system": "kapoho-point"}, "needs 1025 cores, kapoho-point (8 x loihi2) has 1024"),
        (140_544, {}, None),
        (140_545, {}, "needs 140545 cores, hala-point (1152 x loihi2) has 140544"),
    ],
)
def test_a_network_must_fit_the_chips_there_are(cores: int, wish: dict[str, Any], refusal: str | None) -> None:
    if refusal is None:
        check_fits(map_program(full_cores(cores), LOIHI2), LOIHI2, **wish)
    else:
        assert refusal in refuse(full_cores(cores), **wish)


def test_a_refusal_names_the_system_that_would_hold_it() -> None:
    mapping = map_program(full_cores(129), LOIHI2)
    with pytest.raises(DoesNotFit) as caught:
        check_fits(mapping, LOIHI2, system="oheo-gulch")
    assert "kapoho-point holds it" in caught.value.fix


@pytest.mark.parametrize(
    ("cores", "chips", "system"),
    [
        (1, 1, "oheo-gulch"),
        (128, 1, "oheo-gulch"),
        (129, 2, "kapoho-point"),
        (1024, 8, "kapoho-point"),
        (1025, 9, "hala-point"),  # 122 usable cores a chip
        (140_545, 1099, None),
    ],
)
def test_the_smallest_system_that_holds_a_network_is_named(cores: int, chips: int, system: str | None) -> None:
    mapping = map_program(full_cores(cores), LOIHI2)
    assert (mapping.cores, mapping.chips, mapping.system) == (cores, chips, system)


def test_an_unknown_system_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        check_fits(map_program(full_cores(1), LOIHI2), LOIHI2, system="kapoho")
    assert "did you mean 'kapoho-point'?" in caught.value.fix


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ("message_bits", "graded spikes of 8 bits, loihi2 carries 0"),
        ("weight_bits", "weights of 8 bits, loihi2 stores 0"),
    ],
)
def test_a_chip_of_narrower_messages_or_weights_refuses(limit: str, complaint: str) -> None:
    narrow = dataclasses.replace(LOIHI2, limits={**LOIHI2.limits, limit: Quantity(0, "bits", "test", "inferred")})
    graded = network((4,), layer("a", (2,), Dense(INPUT, weights((2, 4), -256, 254))), input_bits=8)
    with pytest.raises(DoesNotFit, match=complaint):
        check_fits(map_program(graded, narrow), narrow)


def million_neurons() -> Program:
    """Convolutions of 1.2 million neurons and a dense layer that reads the last, pooled map."""
    kernels = [weights((64, n, 3, 3), -256, 254) for n in (3, 64, 64)]
    last = Dense("d", weights((1000, 64 * 8 * 8), -256, 254))
    return network(
        (3, 96, 96),
        layer("a", (64, 96, 96), Conv(INPUT, kernels[0], padding=(1, 1))),
        layer("b", (64, 96, 96), Conv("a", kernels[1], padding=(1, 1))),
        layer("c", (64, 48, 48), Conv("b", kernels[2], (2, 2), (1, 1))),
        layer("d", (64, 8, 8), Conv("c", kernels[2], (6, 6), (1, 1))),
        layer("e", (1000,), last),
    )


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_a_million_neurons_are_mapped_and_routed_in_seconds() -> None:
    program = million_neurons()
    assert sum(mapped.neurons for mapped in program.layers) > 1_000_000
    mapping = map_program(program, LOIHI2)
    assert seconds(lambda: map_program(program, LOIHI2)) < 20
    assert seconds(lambda: routes(program, mapping, LOIHI2)) < 20


def test_the_table_marks_lower_bounds_and_names_the_binding_budget() -> None:
    text = mapping_table({"title": "net", **map_program(pilotnet(), load_chip("loihi2-2023")).as_dict()})
    title, _, *rows = text.splitlines()
    cores = "net: at least 69 cores of loihi2-2023 (estimated), 74 as the compiler would split (inferred)"
    assert title.startswith(cores)
    cells = {row.split()[0]: row for row in rows}
    assert re.search(r"^fc_0 +dense +>= 7 +12 +15 +10,240 +2,560 .*synapse_words 85 %$", cells["fc_0"])
    assert re.search(
        r"^conv_1 +conv +13 +13 +2,160 +864 +2 +3 columns +-1 columns or -2 channels +neurons 53 %$", cells["conv_1"]
    )


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A Program that takes 129 cores."""
    full_cores(129).save(tmp_path / "wide.npz")
    return tmp_path / "wide.npz"


def test_the_command_answers_a_network_larger_than_every_system_with_exit_3(tmp_path: Path) -> None:
    full_cores(140_545).save(tmp_path / "sky.npz")
    done = sca_deploy("map", tmp_path / "sky.npz")
    assert done.returncode == 3
    assert "needs 140545 cores, hala-point (1152 x loihi2) has 140544; layer 'sky'" in done.stderr
    assert "140,545 cores" in done.stdout  # the table is printed all the same


def test_the_command_takes_the_chips_or_the_system_that_are_there(wide: Path) -> None:
    two, one = sca_deploy("map", wide, "--chips", 2), sca_deploy("map", wide, "--system", "oheo-gulch")
    assert (two.returncode, one.returncode) == (0, 3)
    assert "kapoho-point holds it" in two.stdout
    assert "129 cores, oheo-gulch (1 x loihi2) has 128" in one.stderr
    both = sca_deploy("map", wide, "--chips", 1, "--system", "oheo-gulch")
    assert (both.returncode, both.stdout) == (2, "")
