"""Integers as a NIR graph in floats and back: every field equal, the spikes those of the chip but for its rounding."""

import copy
import json
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.netx import read_program
from sca_deploy.exporters.profiles.rewriting import rewritten
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph
from sca_deploy.hardware.lifting import KEY, checksum, lifted
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.neurons import Reach
from sca_deploy.hardware.program import INPUT, NEVER, Conv, Dense, Layer, Program
from sca_deploy.hardware.restoring import holds_integers, restored
from sca_deploy.hardware.simulate import simulate
from tests.hardware.programs import brute_force, programs

DT = 1e-4


def even(*shape, seed=0, low=-80, high=90):
    return (np.random.default_rng(seed).integers(low // 2, high // 2, shape) * 2).astype(np.int32)


def layer(name, synapses, shape=(4,), bias=0, v_decay=300, threshold=90, **more):
    return Layer(name, shape, synapses, v_decay, threshold, np.full(shape[0], bias, np.int32), **more)


def program(*layers, input_shape=(6,), **more):
    return Program(input_shape, **{"input_bits": 0, "steps": 8, "readout": False} | more, layers=layers)


def conv_program(conv, **more):
    shape = conv.output_shape((2, 8, 8))
    return program(layer("a", (conv,), shape, **more), input_shape=(2, 8, 8))


DELAYS = {
    "for all": 3,
    "by input": np.array([[3, 1, 0, 1, 5, 9]], np.int32),
    "by input, flat": np.array([3, 1, 0, 1, 5, 9], np.int32),
    "by output": np.array([[0], [5], [2], [7]], np.int32),
    "by synapse": np.arange(24, dtype=np.int32).reshape(4, 6) % 5,
}
PROGRAMS = {
    "LIF": program(layer("a", (Dense(INPUT, even(4, 6)),), bias=7, scale=123.4)),
    "IF": program(layer("a", (Dense(INPUT, even(4, 6)),), bias=7, v_decay=0, scale=0.37)),
    "CUBA": program(layer("a", (Dense(INPUT, even(4, 6)),), u_decay=700)),
    "CUBA with a bias": program(layer("a", (Dense(INPUT, even(4, 6)),), bias=7, u_decay=700)),
    "CUBA that forgets nothing": program(layer("a", (Dense(INPUT, even(4, 6)),), bias=7, u_decay=0, v_decay=0)),
    "memoryless": program(layer("a", (Dense(INPUT, even(4, 6)),), v_decay=4096)),
    "convolution": conv_program(Conv(INPUT, even(4, 2, 3, 3), (2, 1), (1, 0), (1, 2)), bias=7),
    "groups": conv_program(Conv(INPUT, even(4, 1, 3, 3), groups=2), bias=7),
    "kernel not square": conv_program(Conv(INPUT, even(4, 2, 3, 1), padding=(1, 0)), bias=7),
    "recurrent": program(layer("a", (Dense(INPUT, even(4, 6)), Dense("a", even(4, 4, seed=1), 1)), bias=7)),
    "recurrent alone": program(
        layer("a", (Dense("a", even(4, 4, seed=1), 2),), bias=70), layer("b", (Dense("a", even(4, 4)),))
    ),
    "recurrent first": program(layer("a", (Dense("a", even(4, 4), 1), Dense(INPUT, even(4, 6))), bias=7)),
    "graded input": program(layer("a", (Dense(INPUT, even(4, 6)),)), input_bits=4),
    "read-out that adds up": program(
        layer("a", (Dense(INPUT, even(4, 6)),)),
        layer("b", (Dense("a", even(4, 4)),), bias=7, v_decay=0, threshold=131071),
        readout=True,
    ),
    "read-out that leaks": program(layer("b", (Dense(INPUT, even(4, 6)),), bias=7, threshold=NEVER), readout=True),
    "read-out with a current": program(layer("b", (Dense(INPUT, even(4, 6)),), bias=7, u_decay=5), readout=True),
    "read-out of two": program(
        layer("b", (Dense(INPUT, even(4, 6)), Dense(INPUT, even(4, 6, seed=1))), v_decay=0), readout=True
    ),
    "injected": program(layer("a", (), (2, 3, 3), injected=True), input_shape=(2, 3, 3)),
    "injected, flat": program(layer("a", (), (6,), bias=-3, injected=True)),
    "bias by neuron": program(
        replace(layer("a", (), (2, 3, 3), injected=True), bias=even(2, 3, 3)), input_shape=(2, 3, 3)
    ),
    "names with dots": program(
        layer("rec.lif", (Dense(INPUT, even(4, 6)),)),
        layer("rec_lif", (Dense("rec.lif", even(4, 4)), Dense("rec_lif", even(4, 4), 1))),
    ),
    "names that graphs use": program(
        layer("output", (Dense(INPUT, even(4, 6), 2),)),
        layer("a_from_output", (Dense("output", even(4, 4)),)),
        layer("a", (Dense("output", even(4, 4)), Dense("a_from_output", even(4, 4)))),
    ),
} | {
    f"delay {what}": program(layer("a", (Dense(INPUT, even(4, 6), delay),), bias=bias))
    for what, delay in DELAYS.items()
    for bias in (0, 7)
}  # fmt: skip
PORTABLE = ["LIF", "IF", "CUBA", "memoryless", "convolution", "groups", "kernel not square", "recurrent"]
PORTABLE += ["recurrent first", "names with dots"]


def plain(thing):
    """A Program as nested tuples of plain numbers, types of arrays included."""
    if isinstance(thing, np.ndarray):
        return (thing.dtype.str, thing.shape, thing.tolist())
    if isinstance(thing, tuple):
        return tuple(plain(part) for part in thing)
    if hasattr(thing, "__dataclass_fields__"):
        return (type(thing).__name__, *(plain(getattr(thing, field.name)) for field in fields(thing)))
    return (type(thing).__name__, thing)


def called(part):
    return {"rec_lif": "rec_lif_"}.get(part.name, part.name.replace(".", "_"))


def written(graph, path, type_check=False):
    nir.write(path, graph)
    return nir.read(path, type_check=type_check)


@pytest.fixture(params=PROGRAMS)
def one(request):
    return PROGRAMS[request.param]


# Restoring.


@settings(max_examples=80)
@given(programs())
def test_any_program_comes_back_with_every_field_equal(drawn):
    given, _ = drawn
    assert plain(restored(lifted(given))) == plain(given)


def test_a_program_comes_back_from_a_file(one, tmp_path):
    assert plain(restored(written(lifted(one), tmp_path / "a.nir"))) == plain(one)


def test_a_program_comes_back_from_single_precision(one):
    graph = lifted(one)
    for node in graph.nodes.values():
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray) and value.dtype == np.float64:
                setattr(node, key, value.astype(np.float32))
    assert plain(restored(graph)) == plain(one)


@pytest.mark.parametrize("name", PORTABLE)
def test_a_program_comes_back_from_the_portable_profile(name, tmp_path):
    graph = rewritten(lifted(PROGRAMS[name]), Dynamics(DT), "portable").graph
    graph.metadata |= Dynamics(DT).metadata()
    assert plain(restored(written(graph, tmp_path / "a.nir", type_check=True))) == plain(PROGRAMS[name])


def test_the_time_step_does_not_matter(one):
    graph = lifted(one, dt=0.37)
    assert graph.metadata["dt"] == 0.37
    assert plain(restored(graph)) == plain(one)


def test_the_metadata_is_flat_and_says_what_a_graph_leaves_open(one):
    graph = lifted(one)
    assert holds_integers(graph)
    assert {key: type(value) for key, value in graph.metadata.items()} == {
        "dt": float, "T": int, "reset": str, KEY: str,
    }  # fmt: skip
    assert (graph.metadata["T"], graph.metadata["reset"]) == (8, "hard")


def test_a_graph_without_integers_is_refused():
    graph = lifted(PROGRAMS["LIF"])
    del graph.metadata[KEY]
    assert not holds_integers(graph)
    with pytest.raises(ScaDeployError, match="the graph's metadata holds no 'integers'"):
        restored(graph)


# The floats.


def test_values_are_the_integers_over_the_scale(one):
    """Whatever the node multiplies its input by, and the halves that a threshold lies between."""
    for part in one.layers:
        node = lifted(one).nodes[called(part)]
        gain = 1.0
        if isinstance(node, nir.LIF | nir.LI):
            gain = (node.r * DT / node.tau).flat[0]
        elif isinstance(node, nir.IF | nir.I):
            gain = node.r.flat[0] * DT
        elif isinstance(node, nir.CubaLIF | nir.CubaLI):
            gain = (node.w_in * DT / node.tau_syn * node.r * DT / node.tau_mem).flat[0]
        maps = [lifted(one).nodes[source] for source, target in lifted(one).edges if target == called(part)]
        found = [np.asarray(source.weight) * gain * part.scale for source in maps if hasattr(source, "weight")]
        found += [node.weight * part.scale] if hasattr(node, "weight") else []
        integers = np.concatenate([weight.ravel() for weight in found]) if found else np.zeros(1)
        np.testing.assert_allclose(integers, np.rint(integers), rtol=1e-12)
        if hasattr(node, "v_threshold"):
            assert np.all(np.floor(node.v_threshold * part.scale) == part.threshold)


@settings(max_examples=60)
@given(programs(), st.data())
def test_without_rounding_wrapping_and_saturation_every_spike_is_the_chips(drawn, data):
    """Decays that keep all or nothing; the integers one neuron at a time."""
    given, x = drawn
    layers = []
    for part in given.layers:
        decays = [data.draw(st.sampled_from([0, 4096])) for _ in "uv"]
        layers.append(replace(part, u_decay=decays[0], v_decay=decays[1]))
    sharp = replace(given, layers=tuple(layers))
    assume(not any(Reach(sharp, part, sharp.steps).saturates for part in layers))
    fired = run_graph(lifted(sharp), Dynamics(DT), x)
    expected = brute_force(sharp, x)
    for part in layers:
        np.testing.assert_array_equal(fired[part.name], expected[part.name]["spikes"])


@settings(max_examples=60)
@given(programs())
def test_a_potential_is_off_by_what_the_chip_rounded_and_no_more(drawn):
    """Every step rounds the current and the potential by less than 1 / 64 each, and all may add up."""
    given, x = drawn
    first = replace(given.layers[0], threshold=NEVER)
    silent = replace(given, layers=(first,), readout=True)
    assume(not first.recurrent and not Reach(silent, first, silent.steps).saturates)
    graph = lifted(silent)
    potential = run_graph(graph, Dynamics(DT), x)[first.name]
    if isinstance(graph.nodes[first.name], nir.Affine | nir.Conv2d):
        potential = potential.cumsum(axis=1)
    expected = brute_force(silent, x)[first.name]["v"] / 64
    steps = np.arange(1, 1 + x.shape[1]).reshape(-1, *(1,) * len(first.shape))
    assert np.all(np.abs(potential - expected) <= (steps + steps * (steps + 1) / 2) / 64)


@pytest.mark.parametrize("tie", ["gt", "ge"])
def test_a_potential_on_the_threshold_does_not_fire_whatever_a_reader_does_with_ties(tie):
    """Six inputs of 10 reach 60."""
    tied = program(layer("a", (Dense(INPUT, np.full((4, 6), 10, np.int32)),), v_decay=0, threshold=60))
    spikes = run_graph(lifted(tied), Dynamics(DT, tie=tie), np.ones((1, 2, 6)))["a"]
    assert (not spikes[0, 0].any(), spikes[0, 1].all()) == (True, True)


@pytest.mark.parametrize("name", ["LIF", "IF", "CUBA", "convolution", "groups", "kernel not square", "recurrent"])
def test_lowering_the_floats_at_their_scales_gives_the_integers(name):
    given = PROGRAMS[name]
    scales = {part.name: part.scale for part in given.layers}
    again = lower(lifted(given), dt=DT, steps=8, input_bits=0, scales=scales)
    for ours, theirs in zip(given.layers, again.layers, strict=True):
        numbers = ("name", "shape", "v_decay", "u_decay", "threshold")
        assert [getattr(ours, what) for what in numbers] == [getattr(theirs, what) for what in numbers]
        np.testing.assert_array_equal(ours.full_bias(), theirs.full_bias())
        assert [plain(synapse) for synapse in ours.synapses] == [plain(synapse) for synapse in theirs.synapses]


# Real networks.


def lava_dl(name):
    try:
        found = Path(str(metadata.distribution("lava-dl").locate_file(f"tests/lava/lib/dl/netx/{name}")))
    except metadata.PackageNotFoundError:
        pytest.skip("the lava-dl wheel is not installed")
    if not found.is_file():
        pytest.skip(f"this lava-dl holds no {name}")
    return found


@pytest.mark.parametrize("name", ["gts/pilotnet_lif/network.net", "mnist.net", "gts/ntidigits/ntidigits.net"])
def test_lava_dls_own_networks_come_back_from_a_file(name, tmp_path):
    given = read_program(lava_dl(name), steps=16, num_layers=5 if "ntidigits" in name else None)
    assert plain(restored(written(lifted(given), tmp_path / "a.nir", type_check=True))) == plain(given)


def test_pilotnet_in_floats_begins_as_the_chip():
    """Spikes of the first convolution, on lava-dl's image: 20 in five million may move, and do not multiply there."""
    given = read_program(lava_dl("gts/pilotnet_lif/network.net"), steps=17)
    image = np.load(lava_dl("gts/pilotnet_lif/image.npy")).T
    x = np.broadcast_to(image, (1, 17, *image.shape))
    ours = simulate(given, x, record=("spikes",)).records
    floats = run_graph(lifted(given), Dynamics(DT), x, torch.float32)
    assert np.sum(floats["layer0"] != ours["layer0"]["spikes"]) == 0
    assert ours["layer1"]["spikes"].sum() > 50_000
    assert np.sum(floats["layer1"] != ours["layer1"]["spikes"]) < 50


def test_a_network_trained_on_digits_fires_in_floats_exactly_as_in_integers(digits_run):
    """Its potentials halve, for four steps: 1 / 64 holds what is left."""
    given = Program.load(digits_run / "pruned" / "loihi2" / "program.npz")
    graph = lifted(given)
    assert plain(restored(graph)) == plain(given)
    x = np.random.default_rng(0).integers(0, given.input_max + 1, (20, given.steps, *given.input_shape))
    run = simulate(given, x, record=("spikes",))
    floats = run_graph(graph, Dynamics(DT), x)
    for part in given.layers[:-1]:
        np.testing.assert_array_equal(floats[part.name], run.records[part.name]["spikes"])
    last = given.layers[-1]
    np.testing.assert_allclose(floats[last.name].sum(axis=1) * last.scale * 64, run.readout, rtol=1e-9, atol=1e-3)


# What has no equal.


def test_a_read_out_that_reads_itself_is_refused_by_name():
    given = program(
        layer("a", (Dense(INPUT, even(4, 6)), Dense("a", even(4, 4), 1)), threshold=NEVER), readout=True
    )  # fmt: skip
    with pytest.raises(ScaDeployError, match="layer 'a' reads its own spikes and is the read-out"):
        lifted(given)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_nothing_can_be_divided_by_is_refused(scale):
    with pytest.raises(ScaDeployError, match=r"layer 'a' has a scale of .*, it must be positive"):
        lifted(program(layer("a", (Dense(INPUT, even(4, 6)),), scale=scale)))


@pytest.mark.parametrize("dt", [0.0, -1e-4, float("nan"), float("inf")])
def test_a_time_step_that_is_none_is_refused(dt):
    with pytest.raises(ScaDeployError, match="the time step is"):
        lifted(PROGRAMS["LIF"], dt)


# Changes since.


def test_any_value_that_was_changed_is_noticed_and_its_node_named(one):
    """By a part in a thousand, which a step of training moves more than."""
    made = lifted(one)
    for name, node in made.nodes.items():
        for key, value in vars(node).items():
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
                continue
            changed = copy.deepcopy(made)
            moved = value.copy()
            moved.flat[-1] = moved.flat[-1] * 1.001 if moved.flat[-1] else 1e-3
            setattr(changed.nodes[name], key, moved)
            with pytest.raises(ScaDeployError, match=f"node '{name}' was changed since, its '{key}' differs"):
                restored(changed)


def test_an_edge_that_was_taken_or_added_is_noticed(one):
    made = lifted(one)
    for edges in (made.edges[1:], [*made.edges, (INPUT, made.edges[-1][1])]):
        if set(edges) == set(made.edges):
            continue
        changed = nir.NIRGraph(dict(made.nodes), list(edges), dict(made.metadata), type_check=False)
        with pytest.raises(ScaDeployError, match="other nodes or edges than it had"):
            restored(changed)


def test_another_node_in_the_place_of_one_is_noticed():
    changed = lifted(PROGRAMS["LIF"])
    changed.nodes["a"] = nir.IF(np.ones(4), np.ones(4), np.zeros(4))
    with pytest.raises(ScaDeployError, match="node 'a' is of type IF, not LIF"):
        restored(changed)


def places(document, path=()):
    """The paths to every value of a JSON document."""
    yield path
    children = list(enumerate(document)) if isinstance(document, list) else []
    children += document.items() if isinstance(document, dict) else []
    for key, child in children:
        yield from places(child, (*path, key))


def put(document, path, value):
    """A document with one value replaced, or left out where it is `...`."""
    changed = copy.deepcopy(document)
    if not path:
        return value
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return changed


NONSENSE = [None, True, -1, 0, 3, 1.5, 1e300, 10**12, 2**70, "", "x", [], [10**9, 10**9], {}, [[1, 2], [3]]]
DAMAGED = ["CUBA with a bias", "groups", "delay by synapse", "read-out that adds up", "injected"]


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_metadata_is_refused_whatever_was_hit(name):
    graph = lifted(PROGRAMS[name])
    document = json.loads(graph.metadata[KEY])
    for path in places(document):
        for value in NONSENSE if not path else [..., *NONSENSE]:
            changed = put(document, path, value)
            if json.dumps(changed) != json.dumps(document):
                graph.metadata[KEY] = json.dumps(changed)
                with pytest.raises(ScaDeployError):
                    restored(graph)


@pytest.mark.parametrize("name", DAMAGED)
def test_metadata_that_was_forged_ends_in_one_line_or_in_a_program_of_that_graph(name):
    graph = lifted(PROGRAMS[name])
    document = json.loads(graph.metadata[KEY])
    refusals = []
    for path in places(document):
        for value in NONSENSE if not path else [..., *NONSENSE]:
            changed = put(document, path, value)
            if isinstance(changed, dict):
                changed["crc32"] = checksum(changed)
            graph.metadata[KEY] = json.dumps(changed)
            try:
                again = lifted(restored(graph))
            except ScaDeployError as error:
                refusals.append(error)
            else:
                assert again.nodes.keys() == graph.nodes.keys()
    assert len(refusals) > 200
    assert all("\n" not in error.problem and len(error.problem) < 400 for error in refusals)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff\xfe", "null", "[]", '"x"', '{"format": "another"}'])
def test_metadata_that_is_no_such_document_is_refused(text):
    graph = lifted(PROGRAMS["LIF"])
    graph.metadata[KEY] = text
    with pytest.raises(ScaDeployError) as error:
        restored(graph)
    assert len(error.value.problem) < 300


@pytest.mark.parametrize("dt", [None, "x", 0.0, -1.0, float("nan"), 2e-4])
def test_a_time_step_that_does_not_fit_the_graph_is_refused(dt):
    graph = lifted(PROGRAMS["LIF"])
    graph.metadata["dt"] = dt
    with pytest.raises(ScaDeployError):
        restored(graph)
