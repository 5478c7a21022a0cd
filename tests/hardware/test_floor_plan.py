"""Every core of a floor plan, counted again neuron by neuron."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.hardware import floor_plan as module
from sca_deploy.hardware.chip import Chip, load_chip
from sca_deploy.hardware.floor_plan import LISTED_CHIPS, FloorPlan, floor_plan
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.program import INPUT, Conv, Dense, Layer, Program
from sca_deploy.hardware.storage import Layout, weight_bits
from tests.hardware.programs import programs
from tests.hardware.test_placement import TILES, tiny
from tests.hardware.test_published_tables import layer, perceptron, pilotnet, weights

LOIHI2 = load_chip("loihi2")


def planned(program: Program, chip: Chip = LOIHI2) -> FloorPlan:
    return floor_plan(program, map_program(program, chip), chip)


def pieces(number: int) -> list[int]:
    """The powers of two that a number of channels is stored in."""
    return [2**digit for digit, set_ in enumerate(reversed(bin(number)[2:])) if set_ == "1"]


def held(program: Program, of: Layer, neurons: list[tuple[int, ...]]) -> dict[str, int]:
    """What a core of these neurons of a layer uses, list of synapses by list of synapses."""
    channels, positions = {neuron[0] for neuron in neurons}, {neuron[1:] for neuron in neurons}
    words, axons = 0, 0 if of.synapses else 1
    for synapse in of.synapses:
        bits = weight_bits(synapse.weight, Layout.of(LOIHI2))
        if isinstance(synapse, Dense):
            sources = synapse.weight.shape[1]
            words += sources * math.ceil((len(neurons) * (bits + 12) + 10) / 64)
            axons += sources
            continue
        for group in np.array_split(np.arange(of.shape[0]), synapse.groups):
            chunks = pieces(len(channels & set(group.tolist())))
            kernel = math.prod(synapse.weight.shape[1:])
            words += sum(kernel * math.ceil((chunk * bits + 10) / 64) for chunk in chunks)
            axons += len(chunks)
    readers = [s for reader in program.layers for s in reader.synapses if s.source == of.name]
    convs = sum(isinstance(s, Conv) for s in readers)
    sent = convs * len(positions) * (len(pieces(len(channels))) if of.synapses else 1)
    sent += (len(readers) - convs) * len(neurons) if readers else len(neurons)
    counts = {"neurons": len(neurons), "axon_in": axons, "synapse_words": words, "axon_map": sent}
    return {**counts, "neuron_groups": 1, "total": sum(counts.values())}


@settings(max_examples=150)
@given(programs(), st.sampled_from([8, 20, 60, 400]), st.sampled_from([60, 300, 16_000]))
def test_every_core_uses_what_its_own_neurons_need(case: tuple[Program, object], neurons: int, words: int) -> None:
    program, chip = case[0], tiny(neurons, words)
    mapping = map_program(program, chip)
    found = {(core.layer, core.index): core for core in floor_plan(program, mapping, chip).cores}
    for mapped in mapping.layers:
        for index, tile in enumerate(mapped.tiles()):
            inside = list(product(*(range(*ends) for ends in tile.ranges)))
            core = found.pop((mapped.name, index), None)
            if core is not None:  # else on a chip that is not listed
                assert {k: use.used for k, use in core.use.items()} == held(program, program[mapped.name], inside)
                assert core.neurons == len(inside)
    assert found == {}


@settings(max_examples=100)
@given(programs(), st.sampled_from([8, 60, 400]), st.sampled_from([60, 300, 16_000]))
def test_the_fullest_core_of_a_layer_is_the_one_the_mapping_names(
    case: tuple[Program, object], neurons: int, words: int
) -> None:
    program, chip = case[0], tiny(neurons, words)
    mapping = map_program(program, chip)
    cores = floor_plan(program, mapping, chip).cores
    for mapped in mapping.layers:
        mine = [core for core in cores if core.layer == mapped.name]
        if mapped.fits and len(mine) == mapped.cores:
            assert sum(core.neurons for core in mine) == mapped.neurons
            assert sum(core.use["synapse_words"].used for core in mine) == mapped.synapse_words_total
            assert mapped.core in [core.use for core in mine]
            # Every core has a neuron group; where that is the largest fraction, any core may be the one named.
            fractions = {max(use.fraction for use in core.use.values()) for core in mine}
            assert max(fractions) == max(use.fraction for use in mapped.core.values())


def test_a_border_of_a_map_is_emptier_than_its_middle() -> None:
    # PilotNet conv-4: 20 columns of 128 neurons take cores of 16 and of 4.
    cores = [core for core in planned(pilotnet()).cores if core.layer == "conv_4"]
    assert [(core.neurons, core.use["axon_map"].used) for core in cores] == [(2048, 2048), (512, 512)]
    # The kernel is stored whole on both; with a quarter of the neurons it is the sum of all that is nearest its limit.
    assert [(core.binding, core.fill) for core in cores] == [("neurons", 2048 / 4095), ("total", 3905 / 20_000)]


@settings(max_examples=50)
@given(programs(), st.sampled_from([2, 8, 60]))
def test_no_two_cores_share_a_place_and_all_are_on_the_mesh(case: tuple[Program, object], neurons: int) -> None:
    found = planned(case[0], tiny(neurons, 300))
    places = [(core.chip, core.x, core.y, core.slot) for core in found.cores]
    assert len(set(places)) == len(places)
    assert all(x in range(found.columns) and y in range(found.rows) for _, x, y, _ in places)
    assert {core.slot for core in found.cores} <= set(range(found.cores_per_tile))
    assert {core.chip for core in found.cores} == set(range(min(found.chips, LISTED_CHIPS)))


def sky(width: int) -> Program:
    """A map that takes one core a column on a chip that holds 4 neurons a core."""
    return Program((1, 4, width), 0, 1, (layer("sky", (1, 4, width), Conv(INPUT, weights((1, 1, 1, 1), 2, 2))),), False)


def test_cores_fill_a_tile_then_the_next_then_the_next_chip() -> None:
    found = planned(sky(30), tiny(4, 100))
    expected = [(chip, x, y, slot) for chip in range(3) for x, y in TILES for slot in range(2)]
    assert [(core.chip, core.x, core.y, core.slot) for core in found.cores] == expected[:30]
    assert (found.columns, found.rows, found.cores_per_tile, found.cores_per_chip) == (3, 2, 2, 12)
    assert (found.chips, found.used, found.truncated) == (3, 30, 0)


def test_a_chip_of_which_a_system_uses_fewer_cores_ends_earlier() -> None:
    chip = tiny(4, 100)
    sizes = {
        key: dataclasses.replace(chip.limits["cores"], value=value) for key, value in (("chips", 10), ("cores", 70))
    }
    found = planned(
        sky(20), dataclasses.replace(chip, systems={"few": dataclasses.replace(chip.systems["rack"], sizes=sizes)})
    )
    assert found.cores_per_chip == 7
    assert [core.chip for core in found.cores] == [0] * 7 + [1] * 7 + [2] * 6
    assert [core.slot for core in found.cores[:8]] == [0, 1, 0, 1, 0, 1, 0, 0]


def test_cores_beyond_the_first_chips_are_counted() -> None:
    found = planned(sky(60), tiny(4, 100))
    assert (found.chips, found.used) == (5, 60)
    assert (len(found.cores), found.truncated) == (48, 12)
    assert [core.index for core in found.cores] == list(range(48))


@settings(max_examples=100)
@given(programs(), st.sampled_from([2, 8, 60]), st.sampled_from([60, 300]))
def test_the_fill_of_a_layer_is_over_all_its_cores_the_unlisted_ones_too(
    case: tuple[Program, object], neurons: int, words: int
) -> None:
    program, chip = case[0], tiny(neurons, words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LISTED_CHIPS", 10_000)
        found = planned(program, chip)
    assert found.truncated == 0
    for fill in found.layers:
        fills = [core.fill for core in found.cores if core.layer == fill.name]
        assert (fill.cores, fill.least, fill.most) == (len(fills), min(fills), max(fills))
        assert fill.binding in {
            core.binding for core in found.cores if core.layer == fill.name and core.fill == fill.most
        }


def test_of_grouped_channels_a_core_in_the_middle_can_be_the_fullest() -> None:
    # Three groups of 5 channels in cores of 4: the second one holds pieces of two groups, 1 + (2 + 1) channels.
    kernel = weights((15, 20, 1, 1), 2, 2)
    program = Program((60, 1, 1), 0, 1, (layer("a", (15, 1, 1), Conv(INPUT, kernel, groups=3)),), readout=False)
    found = planned(program, tiny(7, 100))
    assert [core.use["synapse_words"].used for core in found.cores] == [20, 60, 40, 40]
    assert (found.layers[0].most, found.layers[0].binding) == (60 / 100, "synapse_words")


def test_a_core_that_cannot_hold_one_neuron_is_more_than_full() -> None:
    found = planned(perceptron(20_000, 3))
    assert [core.neurons for core in found.cores] == [1, 1, 1]
    assert all(core.fill > 1 for core in found.cores)


def test_a_lower_bound_is_said_to_be_one() -> None:
    assert planned(perceptron(3000, 300)).lower_bound
    assert not planned(sky(3)).lower_bound


def test_it_is_plain_data() -> None:
    document = planned(pilotnet()).as_dict()
    assert json.loads(json.dumps(document)) == document
    first = document["cores"][0]
    assert first["use"]["neurons"] == [3168, 4095]
    assert first["fill"] == 3168 / 4095
    assert document["layers"][0] == {
        "name": "input_0",
        "cores": 13,
        "fill": [3 * 66 * 8 / 4095, 3168 / 4095],
        "binding": "neurons",
    }


def test_a_hundred_thousand_cores_take_no_time() -> None:
    program = Program(
        (1, 1, 100_000 * 2),
        0,
        1,
        (layer("wide", (2000, 1, 200_000), Conv(INPUT, weights((2000, 1, 1, 1), 2, 2))),),
        readout=False,
    )
    mapping = map_program(program, LOIHI2)
    assert mapping.cores == 100_000
    started = time.process_time()
    found = floor_plan(program, mapping, LOIHI2)
    assert time.process_time() - started < 1
    assert found.used == 100_000
    assert len(found.cores) == LISTED_CHIPS * found.cores_per_chip
