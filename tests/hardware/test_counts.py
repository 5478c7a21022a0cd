"""Every spike meets every synapse in a plain loop; the convolution arithmetic must say the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.counts import Counts, Tally, busiest, by_core, count
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.program import Conv, Dense, IntArray, Layer, Program, Shape, Synapse
from sca_deploy.hardware.simulate import Simulation, simulate

Index = tuple[int, ...]
WEIGHT = np.full((3, 1), 2, np.int32)


def synapses(synapse: Synapse, source: Shape, target: Shape) -> Iterator[tuple[Index, Index, int]]:
    """Every synapse that exists, one by one: (source neuron, target neuron, weight)."""
    for pre in np.ndindex(source):
        for post in np.ndindex(target):
            if isinstance(synapse, Dense):
                yield pre, post, int(synapse.weight[post[0], np.ravel_multi_index(pre, source)])
            elif (tap := _tap(synapse, pre, post, source[0], target[0])) is not None:
                yield pre, post, int(synapse.weight[tap])


def _tap(synapse: Conv, pre: Index, post: Index, inputs: int, outputs: int) -> Index | None:
    group_inputs, group_outputs = inputs // synapse.groups, outputs // synapse.groups
    if pre[0] // group_inputs != post[0] // group_outputs:
        return None
    tap = [post[0], pre[0] % group_inputs]
    for axis in (0, 1):
        offset = pre[1 + axis] + synapse.padding[axis] - post[1 + axis] * synapse.stride[axis]
        position, remainder = divmod(offset, synapse.dilation[axis])
        if remainder or not 0 <= position < synapse.weight.shape[2 + axis]:
            return None
        tap.append(position)
    return tuple(tap)


def brute_force(simulation: Simulation, layer: Layer) -> tuple[Tally, npt.NDArray[np.int64]]:
    """The tally of a layer and the synaptic operations of each of its neurons, event by event."""
    program = simulation.program
    synops = stored = payload = messages_in = 0
    received = np.zeros(layer.shape, np.int64)
    for synapse in layer.synapses:
        source = program.shape_of(synapse.source)
        for pre in np.ndindex(source):
            messages_in += int(simulation.messages[synapse.source][pre])
        for pre, post, weight in synapses(synapse, source, layer.shape):
            for _ in range(int(simulation.messages[synapse.source][pre])):
                stored += 1
                synops += weight != 0
                received[post] += weight != 0
            payload += (weight != 0) * int(simulation.payload[synapse.source][pre])
    spikes = sum(int(simulation.messages[layer.name][neuron]) for neuron in np.ndindex(layer.shape))
    updates = sum(1 for _ in np.ndindex(layer.shape)) * simulation.steps * simulation.samples
    injections = updates if layer.injected else 0
    return Tally(spikes, synops, stored, payload, updates, messages_in, injections), received


def sparse_even(rng: np.random.Generator, shape: Shape) -> IntArray:
    weight = 2 * rng.integers(-128, 128, shape, dtype=np.int32)
    return weight * rng.integers(0, 2, shape, dtype=np.int32)


def lif(name: str, shape: Shape, *fed_by: Synapse) -> Layer:
    return Layer(name, shape, fed_by, v_decay=1024, threshold=100, bias=np.zeros(shape[:1], np.int32))


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, np.random.Generator]:
    """input -> a (any convolution) -> b (two convolutions of a, summed) -> c (dense, delayed, reads itself, and a)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pair = st.tuples
    groups = draw(st.sampled_from((1, 2)))
    inputs, outputs = (groups * draw(st.integers(1, 2)) for _ in range(2))
    input_shape = (inputs, draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    conv = Conv(
        "input",
        sparse_even(rng, (outputs, inputs // groups, *kernel)),
        stride=draw(pair(st.integers(1, 3), st.integers(1, 3))),
        padding=draw(pair(st.integers(0, 2), st.integers(0, 2))),
        dilation=draw(pair(st.integers(1, 2), st.integers(1, 2))),
        groups=groups,
    )
    shape = conv.output_shape(input_shape)
    assume(min(shape) > 0)
    summed = (
        Conv("a", sparse_even(rng, (2, outputs, 3, 3)), padding=(1, 1)),
        Conv("a", sparse_even(rng, (2, outputs, 1, 1))),
    )
    layers = (
        lif("a", shape, conv),
        lif("b", (2, *shape[1:]), *summed),
        lif(
            "c",
            (3,),
            Dense("b", sparse_even(rng, (3, 2 * shape[1] * shape[2])), delay=rng.integers(0, 4, (3, 1))),
            Dense("c", sparse_even(rng, (3, 3)), delay=1),
            Dense("a", sparse_even(rng, (3, outputs * shape[1] * shape[2])), delay=2),
        ),
    )
    return Program(input_shape, draw(st.sampled_from((0, 4))), steps=3, layers=layers, readout=False), rng


def made_up(program: Program, rng: np.random.Generator) -> Simulation:
    """A run of 2 samples with messages drawn at random, as no neuron need have sent them."""
    shapes = {"input": program.input_shape} | {layer.name: layer.shape for layer in program.layers}
    messages = {name: rng.integers(0, 4, shape) * rng.integers(0, 2, shape) for name, shape in shapes.items()}
    payload = {name: sent * rng.integers(1, program.payload_max(name) + 1) for name, sent in messages.items()}
    return Simulation(program, 2, program.steps, messages, payload, readout=None, records={})


def tallies(counts: Counts) -> list[Tally]:
    return [layer.tally for layer in counts.layers]


@settings(max_examples=60, deadline=None)
@given(programs())
def test_every_count_equals_the_loop_over_spikes_and_synapses(drawn: tuple[Program, np.random.Generator]) -> None:
    simulation = made_up(*drawn)
    expected = [brute_force(simulation, layer)[0] for layer in simulation.program.layers]
    counts = count(simulation)
    assert tallies(counts) == expected
    assert counts.total.synops == sum(tally.synops for tally in expected)
    assert counts.input_messages == sum(int(n) for n in simulation.messages["input"].flat)


@settings(max_examples=30, deadline=None)
@given(programs())
def test_operations_by_place_are_those_its_neurons_receive(drawn: tuple[Program, np.random.Generator]) -> None:
    simulation = made_up(*drawn)
    for counted, layer in zip(count(simulation).layers, simulation.program.layers, strict=True):
        received = brute_force(simulation, layer)[1]
        columns = [int(received[..., place].sum()) for place in range(layer.shape[-1])]
        assert counted.synops_by_place.tolist() == columns


def test_an_injected_input_is_written_and_not_sent() -> None:
    """PilotNet's first layer: the host writes a bias into every neuron at every step, and nothing arrives as spikes."""
    rng = np.random.default_rng(5)
    first = Layer("a", (2, 3, 4), (), v_decay=0, threshold=10, bias=np.zeros(2, np.int32), injected=True)
    layers = (first, lif("b", (2,), Dense("a", sparse_even(rng, (2, 24)))))
    program = Program((2, 3, 4), 0, steps=7, layers=layers, readout=False)
    sent = {"a": rng.integers(0, 4, (2, 3, 4)), "b": np.zeros(2, np.int64)}
    simulation = Simulation(program, 5, 7, sent, sent, readout=None, records={})
    counts = count(simulation)
    assert counts.input_messages == 0
    assert counts.layers[0].tally == Tally(spikes=int(sent["a"].sum()), updates=24 * 7 * 5, injections=24 * 7 * 5)
    assert counts.layers[1].tally == brute_force(simulation, layers[1])[0]
    assert counts.as_dict()["per_sample"]["injections"] == 24 * 7


def test_a_delayed_message_is_counted_when_it_is_sent() -> None:
    """The only spike comes in the last step, and would be felt 5 steps later: the core has looked its synapses up."""
    layer = lif("a", (3,), Dense("input", np.array([[2], [0], [4]], np.int32), delay=5))
    program = Program((1,), 0, steps=4, layers=(layer,), readout=False)
    last = {"input": np.array([1]), "a": np.zeros(3, np.int64)}
    tally = count(Simulation(program, 1, 4, last, last, readout=None, records={})).total
    assert (tally.messages_in, tally.synops, tally.synops_stored) == (1, 2, 3)


def test_the_spikes_of_a_recurrent_layer_meet_its_own_synapses() -> None:
    own = np.array([[0, 2], [4, 6]], np.int32)
    layer = lif("a", (2,), Dense("input", np.array([[2], [2]], np.int32)), Dense("a", own, delay=1))
    program = Program((1,), 0, steps=9, layers=(layer,), readout=False)
    sent = {"input": np.array([10]), "a": np.array([3, 5])}
    counts = count(Simulation(program, 1, 9, sent, sent, readout=None, records={}))
    # Neuron 0 hears 10 inputs and 5 spikes of neuron 1; neuron 1 hears 10, 3 and 5.
    assert counts.layers[0].synops_by_place.tolist() == [15, 18]
    assert counts.total.synops_stored == 2 * 10 + 2 * (3 + 5)
    assert counts.total.messages_in == 10 + 3 + 5


def test_a_simulated_run_is_counted() -> None:
    rng = np.random.default_rng(7)
    layers = (
        lif("a", (4, 5, 5), Conv("input", sparse_even(rng, (4, 2, 3, 3)), padding=(1, 1))),
        lif("b", (6,), Dense("a", sparse_even(rng, (6, 100)))),
    )
    program = Program((2, 5, 5), 4, steps=5, layers=layers, readout=False)
    simulation = simulate(program, rng.integers(0, 16, (3, 5, 2, 5, 5)) * rng.integers(0, 2, (3, 5, 2, 5, 5)))
    expected = [brute_force(simulation, layer)[0] for layer in layers]
    assert min(tally.spikes for tally in expected) > 0
    assert expected[0].synops_payload > expected[0].synops
    assert tallies(count(simulation)) == expected


def test_a_simulated_recurrent_run_with_delays_is_counted_spike_by_spike() -> None:
    """From the recorded spikes, one at a time: each meets the synapses of its neuron once, whenever it was sent."""
    rng = np.random.default_rng(12)
    layers = (
        lif("a", (4,), Dense("input", sparse_even(rng, (4, 6)), delay=rng.integers(0, 3, (4, 6)))),
        lif("b", (5,), Dense("a", sparse_even(rng, (5, 4)), delay=2), Dense("b", sparse_even(rng, (5, 5)), delay=1)),
        lif("c", (3,), Dense("b", sparse_even(rng, (3, 5))), Dense("a", sparse_even(rng, (3, 4)))),
    )
    program = Program((6,), 0, steps=8, layers=layers, readout=False)
    x = rng.integers(0, 2, (3, 8, 6)).astype(np.uint8)
    run = simulate(program, x, record=["spikes"])
    sent = {"input": x} | {layer.name: run.records[layer.name]["spikes"] for layer in layers}
    for layer, counted in zip(layers, count(run).layers, strict=True):
        synops = stored = 0
        for synapse in layer.synapses:
            for _, _, neuron in zip(*np.nonzero(sent[synapse.source]), strict=True):
                stored += len(synapse.weight)
                synops += sum(1 for weight in synapse.weight[:, neuron] if weight != 0)
        assert (counted.tally.synops, counted.tally.synops_stored) == (synops, stored)
        assert counted.tally.spikes == int(sent[layer.name].sum()) > 0
        assert counted.tally.updates == layer.neurons * 3 * 8


def test_a_spike_in_a_corner_has_only_the_fan_out_inside_the_map() -> None:
    kernel = np.full((1, 1, 3, 3), 2, np.int32)
    program = Program((1, 4, 4), 0, 1, (lif("a", (1, 4, 4), Conv("input", kernel, padding=(1, 1))),), readout=False)
    corner = np.zeros((1, 1, 1, 4, 4), np.int64)
    corner[..., 0, 0] = 1
    assert count(simulate(program, corner)).total.synops == 4  # of the 9 a spike in the middle meets


@pytest.mark.parametrize("synapse", [Dense("input", WEIGHT), Conv("input", WEIGHT.reshape(3, 1, 1, 1))])
def test_counts_do_not_round_beyond_float_precision(synapse: Synapse) -> None:
    shape = (1, 1, 1) if isinstance(synapse, Conv) else (1,)
    program = Program(shape, 0, 1, (lif("a", (3, *shape[1:]), synapse),), readout=False)
    many = 2**53 + 1
    sent = {"input": np.full(shape, many), "a": np.zeros((3, *shape[1:]), np.int64)}
    assert count(Simulation(program, 1, 1, sent, sent, readout=None, records={})).total.synops == 3 * many


def test_per_sample_values_are_the_totals_over_the_samples() -> None:
    program = Program((1,), 0, 1, (lif("a", (2,), Dense("input", np.full((2, 1), 2, np.int32))),), readout=False)
    document = count(simulate(program, np.array([[[1]], [[0]], [[1]], [[1]]]))).as_dict()
    assert document["total"]["synops"] == 6
    assert document["per_sample"]["synops"] == 1.5
    assert document["per_sample"]["updates"] == 2.0
    assert document["per_sample"]["input_messages"] == 0.75


def test_messages_of_another_shape_are_refused() -> None:
    program = Program((2,), 0, 1, (lif("a", (2,), Dense("input", np.full((2, 2), 2, np.int32))),), readout=False)
    sent = {"input": np.zeros(3, np.int64), "a": np.zeros(2, np.int64)}
    with pytest.raises(ScaDeployError, match=r"messages of 'input' have shape \(3,\), expected \(2,\)"):
        count(Simulation(program, 1, 1, sent, sent, readout=None, records={}))


def test_a_run_without_samples_is_refused() -> None:
    program = Program((2,), 0, 1, (lif("a", (2,), Dense("input", np.full((2, 2), 2, np.int32))),), readout=False)
    with pytest.raises(ScaDeployError, match="holds 0 samples"):
        count(Simulation(program, 0, 1, {}, {}, readout=None, records={}))


def test_cores_share_out_the_counts_along_the_tiles_of_the_mapping() -> None:
    rng = np.random.default_rng(3)
    kernel = sparse_even(rng, (8, 1, 3, 3))
    layers = (
        lif("a", (8, 100, 11), Conv("input", kernel, padding=(1, 1))),
        lif("b", (130,), Dense("a", sparse_even(rng, (130, 8800)))),
    )
    program = Program((1, 100, 11), 0, 1, layers, readout=False)
    simulation = made_up(program, rng)
    counts, mapping = count(simulation), map_program(program, load_chip("loihi2"))
    cores = by_core(counts, mapping)

    spikes = simulation.messages["a"]
    tiles = [slice(0, 4), slice(4, 8), slice(8, 11)]  # 4 columns of 800 neurons; 8 are more than 4095
    assert [core.spikes for core in cores if core.layer == "a"] == [int(spikes[..., tile].sum()) for tile in tiles]
    assert [core.updates for core in cores if core.layer == "a"] == [2 * 3200, 2 * 3200, 2 * 2400]
    exists = kernel != 0
    received = np.zeros((8, 100, 11), np.int64)
    padded = np.pad(simulation.messages["input"][0], 1)
    for o, p, q, i, j in np.ndindex(8, 100, 11, 3, 3):
        received[o, p, q] += int(exists[o, 0, i, j]) * int(padded[p + i, q + j])
    assert [core.synops for core in cores if core.layer == "a"] == [int(received[..., tile].sum()) for tile in tiles]

    operations = (layers[1].synapses[0].weight != 0).astype(np.int64) @ spikes.reshape(-1)
    parts = [core for core in cores if core.layer == "b"]
    assert len(parts) == mapping["b"].cores > 1
    assert sum(core.synops for core in parts) == int(operations.sum())
    assert max(core.updates for core in parts) == 2 * mapping["b"].neurons_per_core
    assert busiest(cores, "synops").synops == max(core.synops for core in cores)

    # Without routes a spike is one message; with them it is as many as its place has cores to tell.
    assert [core.messages for core in cores] == [core.spikes for core in cores]
    fanout = {layer.name: rng.integers(0, 100, layer.spikes_by_place.shape) for layer in counts.layers}
    sent = spikes.sum(axis=(0, 1)) * fanout["a"]
    cores = by_core(counts, mapping, fanout)
    assert [core.messages for core in cores if core.layer == "a"] == [int(sent[tile].sum()) for tile in tiles]


def test_a_map_that_is_cut_over_channels_shares_its_counts_out_over_them() -> None:
    """A kernel of 512 x 256 x 3 x 3 takes two cores for the output channels alone, whatever the map."""
    rng = np.random.default_rng(4)
    kernel = sparse_even(rng, (512, 256, 3, 3))
    program = Program((256, 3, 3), 0, 1, (lif("a", (512, 1, 1), Conv("input", kernel)),), readout=False)
    simulation = made_up(program, rng)
    counts, mapping = count(simulation), map_program(program, load_chip("loihi2"))
    cores = by_core(counts, mapping)
    assert len(cores) == mapping.cores > 1
    received = ((kernel != 0) * simulation.messages["input"]).sum(axis=(1, 2, 3))
    parts = np.split(received, len(cores))
    assert [core.synops for core in cores] == [int(part.sum()) for part in parts]
    assert sum(core.updates for core in cores) == counts.total.updates
