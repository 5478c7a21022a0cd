"""Where cores lie, and where spikes go: against a loop over every neuron and every weight."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.hardware.chip import Chip, load_chip
from sca_deploy.hardware.mapping import Mapping, map_program
from sca_deploy.hardware.placement import place, routes
from sca_deploy.hardware.program import INPUT, Conv, Dense, Program, Shape
from tests.hardware.test_published_tables import layer, pilotnet

LOIHI2 = load_chip("loihi2")


def tiny(neurons: int, words: int) -> Chip:
    """A chip of 3 x 2 tiles of 2 cores, which holds little."""
    changed = {"neurons": neurons, "synapse_words": words, "mesh_columns": 3, "mesh_rows": 2, "cores_per_tile": 2}

    def replaced(table: Any) -> Any:
        return {k: dataclasses.replace(v, value=changed.get(k, v.value)) for k, v in table.items()}

    limits = replaced(LOIHI2.limits) | {"cores": dataclasses.replace(LOIHI2.limits["cores"], value=12)}
    board = {"one": dataclasses.replace(LOIHI2.systems["oheo-gulch"], sizes=sizes(1, 12))}
    rack = {"rack": dataclasses.replace(LOIHI2.systems["hala-point"], sizes=sizes(1000, 12_000))}
    return dataclasses.replace(LOIHI2, limits=limits, budgets=replaced(LOIHI2.budgets), systems=board | rack)


def sizes(chips: int, cores: int) -> Any:
    quantity = LOIHI2.limits["cores"]
    return {key: dataclasses.replace(quantity, value=value) for key, value in (("chips", chips), ("cores", cores))}


# (x, y) of the tiles of a 3 x 2 mesh, and of the chips where four lie in a square
TILES = [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1)]
SQUARE = [(0, 0), (1, 0), (1, 1), (0, 1)]


def test_cores_follow_a_serpentine_over_the_tiles_then_over_the_chips() -> None:
    sky = layer("sky", (1, 4, 40), Conv(INPUT, np.full((1, 1, 1, 1), 2, np.int32)))
    chip = tiny(4, 100)
    mapping = map_program(Program((1, 4, 40), 0, 1, (sky,), readout=False), chip)
    assert (mapping.cores, mapping.chips) == (40, 4)
    found = place(mapping, chip)["sky"]
    expected = [
        (number, 3 * chip_x + x, 2 * chip_y + y)
        for number, (chip_x, chip_y) in enumerate(SQUARE)
        for x, y in TILES
        for _ in range(2)
    ]
    assert list(zip(found.chip.tolist(), found.x.tolist(), found.y.tolist(), strict=True)) == expected[:40]


def test_layers_are_placed_one_after_the_other() -> None:
    mapping = map_program(pilotnet(), LOIHI2)
    places = place(mapping, LOIHI2)
    assert [len(places[mapped.name].x) for mapped in mapping.layers] == [mapped.cores for mapped in mapping.layers]
    # 13 cores of the input fill three tiles and a quarter; conv_0 goes on in the fourth tile of the first row.
    assert (places["conv_0"].x[:4].tolist(), places["conv_0"].y[:4].tolist()) == ([3, 3, 3, 4], [0, 0, 0, 0])


def core_of_neuron(mapping: Mapping, name: str) -> dict[tuple[int, ...], int]:
    """Every neuron of a layer -> its core, counted over the whole network."""
    first = 0
    for mapped in mapping.layers:
        if mapped.name == name:
            return {
                index: first + core
                for core, tile in enumerate(mapped.tiles())
                for index in product(*(range(*ends) for ends in tile.ranges))
            }
        first += mapped.cores
    raise KeyError(name)


def heard(
    program: Program, source: str, reader: str, cores: dict[tuple[int, ...], int]
) -> dict[tuple[int, ...], set[int]]:
    """Every neuron of the source -> the cores of the reader with a synapse from it, weight after weight."""
    shape = program.shape_of(source)
    told: dict[tuple[int, ...], set[int]] = {index: set() for index in np.ndindex(shape)}
    for synapse in program[reader].synapses:
        if synapse.source != source:
            continue
        if isinstance(synapse, Dense):
            for index in told:
                told[index] |= set(cores.values())
            continue
        outputs, inputs, *_ = synapse.weight.shape
        for (o, y, x), core in cores.items():
            for c, i, j in np.ndindex(synapse.weight.shape[1:]):
                row = y * synapse.stride[0] - synapse.padding[0] + i * synapse.dilation[0]
                column = x * synapse.stride[1] - synapse.padding[1] + j * synapse.dilation[1]
                channel = o // (outputs // synapse.groups) * inputs + c
                if (channel, row, column) in told:
                    told[channel, row, column].add(core)
    return told


def traveled(program: Program, mapping: Mapping, source: str, reader: str) -> np.ndarray[Any, Any]:
    """(4, places): cores, hops x, hops y and other chips, the mean over the neurons of a place."""
    here = core_of_neuron(mapping, source)
    told = heard(program, source, reader, core_of_neuron(mapping, reader))
    side = next(n for n in range(1, 100) if n * n >= mapping.chips)

    def position(core: int) -> tuple[int, int, int]:
        number, within = divmod(core, 12)
        chip_y, chip_x = divmod(number, side)
        x, y = TILES[within // 2]
        return 3 * (side - 1 - chip_x if chip_y % 2 else chip_x) + x, 2 * chip_y + y, number

    shape = program.shape_of(source)
    sums = np.zeros((4, shape[-1]))
    for index, targets in told.items():
        x, y, number = position(here[index])
        for other_x, other_y, other in map(position, targets):
            sums[:, index[-1]] += [1, abs(x - other_x), abs(y - other_y), number != other]
    return sums / np.prod(shape[:-1])


@st.composite
def networks(draw: Any) -> Program:
    """A map, a map that reads it, a dense layer and one that reads itself."""

    def number(low: int, high: int) -> int:
        return int(draw(st.integers(low, high)))

    groups = draw(st.sampled_from([1, 1, 2]))
    source: Shape = (groups * number(1, 3), number(1, 5), number(1, 9))
    first = Conv(INPUT, np.full((source[0], 1, 1, 1), 2, np.int32))
    kernel = np.full((groups * number(1, 3), source[0] // groups, number(1, 3), number(1, 3)), 2, np.int32)
    options = {key: (number(1, 2), number(1, 2)) for key in ("stride", "dilation")}
    second = Conv("a", kernel, padding=(number(2, 4), number(2, 4)), groups=groups, **options)
    reader = second.output_shape(source)
    neurons = int(np.prod(reader))
    width = number(1, 12)
    dense = Dense("b", np.full((width, neurons), 2, np.int32))
    own = Dense("c", np.full((width, width), 2, np.int32), delay=1)
    layers = (layer("a", source, first), layer("b", reader, second), layer("c", (width,), dense, own))
    return Program((1, *source[1:]), 0, 1, layers, readout=False)


@settings(max_examples=60, deadline=None)
@given(networks(), st.integers(2, 12), st.integers(60, 200))
def test_every_route_is_that_of_a_loop_over_all_weights(program: Program, neurons: int, words: int) -> None:
    chip = tiny(neurons, words)
    mapping = map_program(program, chip)
    found = routes(program, mapping, chip)
    assert set(found) == {("a", "b"), ("b", "c"), ("c", "c")}
    for (source, reader), route in found.items():
        arrays = np.array([route.fanout, route.hops_x, route.hops_y, route.off_chip])
        assert arrays.dtype == np.int64
        # Rounded to the next whole number where the neurons of a place differ; exact where they do not.
        assert np.abs(arrays - traveled(program, mapping, source, reader)).max() <= 0.5 + 1e-9


def test_the_input_is_not_routed() -> None:
    program = Program((4,), 0, 1, (layer("a", (2,), Dense(INPUT, np.full((2, 4), 2, np.int32))),), readout=False)
    assert routes(program, map_program(program, LOIHI2), LOIHI2) == {}


def test_a_core_is_told_once_however_many_synapses_of_the_layer_read_it() -> None:
    weight = np.full((2, 2), 2, np.int32)
    twice = layer("b", (2,), Dense("a", weight), Dense("a", weight, delay=3))
    program = Program((2,), 0, 1, (layer("a", (2,), Dense(INPUT, weight)), twice), readout=False)
    assert routes(program, map_program(program, LOIHI2), LOIHI2)["a", "b"].fanout.tolist() == [1, 1]


@pytest.mark.parametrize(("column", "tiles"), [(0, 1), (7, 1), (8, 2), (9, 1), (98, 1)])
def test_a_column_of_pilotnet_is_sent_to_the_tiles_whose_kernels_read_it(column: int, tiles: int) -> None:
    # conv_1 has tiles of 4 columns, of stride 2 and kernel 3: tile k reads the columns 8 k to 8 k + 8 of conv_0.
    program = pilotnet()
    route = routes(program, map_program(program, LOIHI2), LOIHI2)["conv_0", "conv_1"]
    assert route.fanout[column] == tiles
    assert route.fanout.shape == (99,)
