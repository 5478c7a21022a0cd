"""Graphs from anywhere, brought into profiles: what is exact stays exact, what is not is named and measured."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir import NirExporter, check_portable
from sca_deploy.exporters.profiles.comparison import difference
from sca_deploy.exporters.profiles.rewriting import PROFILES, Rewritten, rewritten
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph
from tests.hardware import nir_reference

DT = 1e-4
HARD = Dynamics(DT)
SUBTRACT = Dynamics(DT, "subtract")
SINABS = Dynamics(DT, "subtract", multi_spike=True, clamp="threshold", tie="ge")


def full(shape: Any, value: Any) -> np.ndarray:
    return np.array(np.broadcast_to(value, shape), np.float64)


def lif(shape: Any, tau: Any = 5e-4, r: Any = 1.0, leak: Any = 0.0, theta: Any = 1.0, reset: Any = 0.0) -> nir.LIF:
    return nir.LIF(*(full(shape, value) for value in (tau, r, leak, theta, reset)))


def integrating(shape: Any, r: Any = 1e4, theta: Any = 3.0, reset: Any = 0.0) -> nir.IF:
    return nir.IF(full(shape, r), full(shape, theta), full(shape, reset))


def cuba(shape: Any, syn: Any = 4e-4, mem: Any = 6e-4, r: Any = 2.0, leak: Any = 0.0, w_in: Any = 3.0) -> nir.CubaLIF:
    values = (full(shape, value) for value in (syn, mem, r, leak, 1.0, 0.0))
    return nir.CubaLIF(*values, w_in=full(shape, w_in))


def affine(rows: int, columns: int, seed: int = 0, bias: bool = True) -> nir.Affine:
    rng = np.random.default_rng(seed)
    return nir.Affine(rng.normal(0.6, 1.5, (rows, columns)), rng.normal(0.2, 0.2, rows) * bias)


def conv(rows: int, channels: int, kernel: Any = (3, 3), padding: Any = (1, 1), **more: Any) -> nir.Conv2d:
    rng = np.random.default_rng(more.pop("seed", 0))
    settings = {"stride": (1, 1), "dilation": (1, 1), "groups": 1, "bias": rng.normal(0.2, 0.2, rows)} | more
    return nir.Conv2d(None, rng.normal(0.4, 1.0, (rows, channels, *kernel)), padding=padding, **settings)


def pixels(*shape: int) -> np.ndarray:
    """A value for each."""
    return np.random.default_rng(0).uniform(0.2, 2, shape)


def pool(kind: type, kernel: Any = (2, 2), stride: Any = (2, 2), padding: Any = (0, 0)) -> nir.NIRNode:
    return kind(np.array(kernel), np.array(stride), np.array(padding))


def flatten(start: int = -3) -> nir.Flatten:
    return nir.Flatten({"input": None}, start_dim=start, end_dim=-1)


def network(size: Any, nodes: dict[str, nir.NIRNode], *edges: tuple[str, str], out: Any = (4,)) -> nir.NIRGraph:
    """A chain of nodes from `input` to `output`, and further edges."""
    named = {"input": nir.Input(np.array(size)), **nodes, "output": nir.Output(np.array(out))}
    return nir.NIRGraph(named, [*pairwise(named), *edges], {}, type_check=False)


def flat(neurons: nir.NIRNode, *more: nir.NIRNode) -> nir.NIRGraph:
    """Six inputs, a matrix, eight neurons, further nodes, four neurons."""
    further = {f"m{i}": node for i, node in enumerate(more)}
    return network((6,), {"a": affine(8, 6), "n": neurons, **further, "b": affine(4, 8, 1), "last": lif(4)})


def maps(*nodes: nir.NIRNode, features: int = 48, neurons: Any = None) -> nir.NIRGraph:
    """A map (2, 8, 8), nodes m0, m1, ..., a Flatten, a matrix, four neurons."""
    named = {f"m{i}": node for i, node in enumerate(nodes)}
    named |= {"flat": flatten(), "b": affine(4, features, 1), "last": neurons or lif(4, r=0.3)}
    return network((2, 8, 8), named)


def branches(first: str, second: str, *extra: tuple[str, nir.NIRNode]) -> nir.NIRGraph:
    """A block between `n` and `sum`, and a way around it; the edges into `sum` in the order given."""
    nodes = {"input": nir.Input(np.array([6])), "output": nir.Output(np.array([8])), **dict(extra)}
    nodes |= {"a": affine(8, 6), "n": lif(8), "b": affine(8, 8, 1), "inner": lif(8), "c": affine(8, 8, 2)}
    nodes["sum"] = lif(8, r=2.0)
    way = [("input", "a"), ("a", "n"), ("n", "b"), ("b", "inner"), ("inner", "c"), ("sum", "output")]
    around = [("n", name) for name, _ in extra]
    return nir.NIRGraph(nodes, [*way, *around, (first, "sum"), (second, "sum")], {}, type_check=False)


def recurrent(loop: nir.NIRNode, neurons: nir.NIRNode | None = None) -> nir.NIRGraph:
    nodes = {"into": affine(8, 6), "n": neurons or lif(8), "out_of": affine(4, 8, 1), "z": lif(4)}
    graph = network((6,), nodes)
    graph.nodes["loop"] = loop
    graph.edges += [("n", "loop"), ("loop", "n")]
    return graph


def nested() -> nir.NIRGraph:
    inner = network((6,), {"a": affine(8, 6), "n": lif(8)}, out=(8,))
    return network((6,), {"block": inner, "b": affine(4, 8, 1), "last": lif(4)})


def two_outs() -> nir.NIRGraph:
    graph = network((6,), {"a": affine(8, 6), "n": lif(8), "b": affine(8, 8, 1), "m": lif(8)}, out=(8,))
    graph.edges.append(("n", "output"))
    return graph


def named_badly() -> nir.NIRGraph:
    nodes = {"image": nir.Input(np.array([6])), "class": affine(8, 6), "block/1.n": lif(8)}
    nodes |= {"block_1_n": affine(4, 8, 1), "input": lif(4), "keys": affine(4, 4, 2), "last": lif(4)}
    nodes["out"] = nir.Output(np.array([4]))
    return nir.NIRGraph(nodes, list(pairwise(nodes)), {}, type_check=False)


def around_in_the_wrong_order() -> nir.NIRGraph:
    graph = branches("n", "c")
    graph.edges.reverse()
    return graph


SPREAD = np.linspace(0.4, 2.0, 8)
CHANNELS = np.linspace(0.5, 1.5, 3)[:, None, None]
ROOM = (3, 8, 8)
EXACT: dict[str, Callable[[], nir.NIRGraph]] = {
    "R of a LIF": lambda: flat(lif(8, r=2.5)),
    "R that differs": lambda: flat(lif(8, r=SPREAD)),
    "a resting potential": lambda: flat(lif(8, leak=0.4, r=1.7)),
    "a resting potential without a map to carry it": lambda: flat(lif(8), lif(8, leak=0.6, r=3.0)),
    "thresholds that differ": lambda: flat(lif(8, theta=SPREAD, leak=0.2)),
    "thresholds that differ from channel to channel": lambda: maps(conv(3, 2), lif(ROOM, theta=CHANNELS), features=192),
    "R that differs from channel to channel": lambda: maps(conv(3, 2), lif(ROOM, r=CHANNELS), features=192),
    "neurons that integrate": lambda: flat(integrating(8, r=400.0, theta=0.4)),
    "synaptic currents": lambda: flat(cuba(8)),
    "synaptic currents of differing gain": lambda: flat(cuba(8, r=SPREAD, w_in=SPREAD[::-1])),
    "neurons that remember nothing": lambda: flat(lif(8, tau=DT)),
    "one number for all neurons": lambda: flat(nir.LIF(*(np.full(1, v) for v in (5e-4, 2.0, 0.0, 1.0, 0.0)))),
    "spikes read as they are, with a gain": lambda: flat(lif(8), integrating(8, r=4e3, theta=1.1)),
    "a matrix read by two populations of which one has a gain": lambda: _shared_matrix(),
    "a matrix without bias": lambda: flat(lif(8), nir.Linear(affine(8, 8, 3).weight)),
    "an average": lambda: maps(conv(3, 2), lif(ROOM), pool(nir.AvgPool2d)),
    "an average in front of neurons": lambda: maps(conv(3, 2), pool(nir.AvgPool2d), lif((3, 4, 4))),
    "an average over a padded map": lambda: maps(
        conv(3, 2), lif(ROOM), pool(nir.AvgPool2d, padding=(1, 1)), features=75
    ),
    "an average of the input": lambda: maps(pool(nir.AvgPool2d), lif((2, 4, 4), r=6.0), features=32, neurons=lif(4)),
    "a sum over a padded map": lambda: maps(conv(3, 2), lif(ROOM), pool(nir.SumPool2d, padding=(1, 0)), features=60),
    "two averages": lambda: maps(conv(3, 2), lif(ROOM), pool(nir.AvgPool2d), pool(nir.AvgPool2d), features=12),
    "an average read twice": lambda: _read_twice(),
    "a scale before a map": lambda: flat(lif(8), nir.Scale(SPREAD)),
    "a scale after a map": lambda: flat(lif(8), affine(8, 8, 3), nir.Scale(SPREAD), lif(8)),
    "a scale of spikes in front of neurons": lambda: flat(lif(8), nir.Scale(2 * SPREAD), lif(8)),
    "a scale before a convolution": lambda: maps(nir.Scale(full((2, 8, 8), 1.5)), conv(3, 2), lif(ROOM), features=192),
    "a scale of each pixel before a Flatten": lambda: maps(
        conv(3, 2), lif(ROOM), nir.Scale(pixels(*ROOM)), features=192
    ),
    "a scale of each value behind a Flatten": lambda: network(
        (2, 4, 4), {"f": flatten(), "s": nir.Scale(pixels(32)), "n": lif(32, r=9.0), "b": affine(4, 32), "last": lif(4)}
    ),
    "a threshold node": lambda: flat(lif(8), affine(8, 8, 3), nir.Threshold(full(8, 1.2))),
    "threshold nodes that differ, some below zero": lambda: flat(
        lif(8), affine(8, 8, 3), nir.Threshold(np.linspace(-1.0, 2.5, 8))
    ),
    "groups": lambda: maps(conv(4, 1, groups=2), lif((4, 8, 8)), features=256),
    "a scale before groups": lambda: maps(
        nir.Scale(full((2, 8, 8), CHANNELS[:2])), conv(4, 1, groups=2), lif((4, 8, 8)), features=256
    ),
    "a kernel of 3 x 5": lambda: maps(conv(3, 2, (3, 5), (1, 2)), lif(ROOM), features=192),
    "a kernel of 5 x 1 without padding": lambda: maps(conv(3, 2, (5, 1), (0, 0)), lif((3, 4, 8)), features=96),
    "a kernel of 2 x 3 with a stride": lambda: maps(conv(3, 2, (2, 3), (0, 1), stride=(2, 2)), lif((3, 4, 4))),
    "a dilated kernel of 1 x 3": lambda: maps(conv(3, 2, (1, 3), (0, 2), dilation=(2, 2)), lif(ROOM), features=192),
    "padding 'same'": lambda: maps(conv(3, 2, padding="same"), lif(ROOM), features=192),
    "padding 'same' around an even kernel": lambda: maps(conv(3, 2, (4, 4), "same"), lif(ROOM), features=192),
    "padding 'same' around an even dilated kernel": lambda: maps(
        conv(3, 2, (2, 2), "same", dilation=(3, 3)), lif(ROOM), features=192
    ),
    "padding 'valid'": lambda: maps(conv(3, 2, padding="valid"), lif((3, 6, 6)), features=108),
    "a convolution without bias": lambda: maps(conv(3, 2, bias=None), lif(ROOM), features=192),
    "Flatten(0, -1)": lambda: network((2, 8, 8), {"f": flatten(0), "b": affine(4, 128), "last": lif(4, r=0.2)}),
    "Flatten(1, -1)": lambda: network((2, 8, 8), {"f": flatten(1), "b": affine(4, 128), "last": lif(4, r=0.2)}),
    "a matrix that reads a map": lambda: network((2, 8, 8), {"b": affine(4, 128), "last": lif(4, r=0.2)}),
    "a graph in the graph": nested,
    "a loop": lambda: recurrent(affine(8, 8, 4, bias=False)),
    "a loop with a bias": lambda: recurrent(affine(8, 8, 4)),
    "a loop that is scaled": lambda: recurrent(affine(8, 8, 4), lif(8, r=2.0, theta=SPREAD, leak=0.1)),
    "a loop without a matrix": lambda: _reading_itself(),
    "a way around a block": lambda: branches("c", "n"),
    "a way around a block, listed first": around_in_the_wrong_order,
    "a way around a block through a matrix": lambda: branches("c", "skip", ("skip", affine(8, 8, 5))),
    "two edges into the Output": two_outs,
    "names that no module can have": named_badly,
    "no delay": lambda: flat(lif(8), nir.Delay(full(8, 0.0))),
}  # fmt: skip


def _read_twice() -> nir.NIRGraph:
    graph = maps(conv(3, 2), lif(ROOM), pool(nir.AvgPool2d), conv(3, 3, seed=3), lif((3, 4, 4)))
    graph.edges.append(("m2", "m4"))
    return graph


def _shared_matrix() -> nir.NIRGraph:
    nodes = {"a": affine(8, 6), "n": lif(8, r=2.0), "b": affine(4, 8, 1), "last": lif(4)}
    graph = network((6,), nodes)
    graph.nodes |= {"other": lif(8, r=0.7), "c": affine(4, 8, 2)}
    graph.edges += [("a", "other"), ("other", "c"), ("c", "last")]
    return graph


def _reading_itself() -> nir.NIRGraph:
    graph = network((6,), {"a": affine(8, 6), "n": lif(8, r=2.0), "b": affine(4, 8, 1), "last": lif(4)})
    graph.edges.append(("n", "n"))
    return graph


def events(graph: nir.NIRGraph, samples: int = 4, steps: int = 24) -> np.ndarray:
    node = next(node for node in graph.nodes.values() if isinstance(node, nir.Input))
    shape = tuple(int(n) for n in node.input_type["input"])
    return (np.random.default_rng(1).random((samples, steps, *shape)) < 0.3).astype(np.float64)


def assert_alike(graph: nir.NIRGraph, dynamics: Dynamics, made: Rewritten) -> None:
    """Every population fires as it did, neither never nor always, and the Output reads what it read."""
    x = events(graph)
    before, after = run_graph(graph, dynamics, x), run_graph(made.executed, made.dynamics, x)
    assert made.renamed
    for name, other in made.renamed.items():
        assert 0.01 < (before[name] > 0).mean() < 0.99, name
        np.testing.assert_array_equal(after[other].reshape(before[name].shape), before[name], err_msg=name)
    output = next(name for name, node in graph.nodes.items() if isinstance(node, nir.Output))
    np.testing.assert_allclose(after["output"], before[output], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("what", EXACT)
def test_every_spike_survives_the_portable_profile(what: str, tmp_path: Path) -> None:
    graph = EXACT[what]()
    with pytest.raises(ScaDeployError, match="outside the portable"):
        check_portable(graph, DT)
    made = rewritten(graph, HARD, "portable")
    assert made.losses == ()
    check_portable(made.graph, DT)
    assert_alike(graph, HARD, made)
    NirExporter().export(Deployable(graph, DT), tmp_path / "network.nir")


@pytest.mark.parametrize(
    "what",
    ["R of a LIF", "R that differs", "neurons that integrate", "synaptic currents", "an average over a padded map",
     "a scale of each pixel before a Flatten", "groups", "a kernel of 2 x 3 with a stride",
     "padding 'same' around an even dilated kernel", "a way around a block through a matrix", "a loop"],
)  # fmt: skip
def test_every_spike_survives_by_a_plain_walk_over_the_nodes(what: str) -> None:
    graph = EXACT[what]()
    made, x = rewritten(graph, HARD, "portable"), events(graph)
    before, _, _ = nir_reference.run_graph(graph, x, DT)
    if what == "a loop":  # the reference knows no graphs in the graph
        made = Rewritten(recurrent_flat(made.graph), made.dynamics, (), {"n": "n", "z": "z"}, made.executed)
    after, _, _ = nir_reference.run_graph(made.graph, x, DT)
    for name, other in made.renamed.items():
        np.testing.assert_array_equal(after[other].reshape(before[name].shape), before[name], err_msg=name)


def recurrent_flat(graph: nir.NIRGraph) -> nir.NIRGraph:
    """The loop of the graph `n` beside the other nodes."""
    inner = graph.nodes["n"]
    nodes = {**graph.nodes, "n": inner.nodes["neurons"], "loop": inner.nodes["weights"]}
    return nir.NIRGraph(nodes, [*graph.edges, ("n", "loop"), ("loop", "n")], {}, type_check=False)


@pytest.mark.parametrize("dt", [1e-3, 1.0, 3e-5])
def test_a_graph_of_another_time_step_keeps_its_steps(dt: float) -> None:
    ratio = dt / DT
    nodes = {"a": affine(8, 6), "n": lif(8, tau=5e-4 * ratio), "b": affine(8, 8, 1), "m": integrating(8, r=4e3 / ratio)}
    graph = network((6,), {**nodes, "c": affine(4, 8, 2), "last": cuba(4, 4e-4 * ratio, 6e-4 * ratio, r=1.0)})
    made = rewritten(graph, Dynamics(dt), "portable")
    assert made.dynamics == HARD
    assert_alike(graph, Dynamics(dt), made)


def test_what_is_within_the_profile_is_written_as_it_is(graph: nir.NIRGraph, tmp_path: Path) -> None:
    made = rewritten(graph, HARD, "portable").graph
    assert made.edges == graph.edges
    for name, node in graph.nodes.items():
        assert made.nodes[name].to_dict().keys() == node.to_dict().keys()
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(made.nodes[name], key), value)
    exported = NirExporter().export(Deployable(graph, DT), tmp_path / "network.nir")
    assert [check.name for check in exported.checks] == ["portable profile", "re-read network.nir"]


def test_the_graph_given_is_left_alone() -> None:
    graph = EXACT["a loop that is scaled"]()
    before = copy.deepcopy(graph)
    rewritten(graph, HARD, "portable")
    assert graph.edges == before.edges
    for name, node in before.nodes.items():
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(graph.nodes[name], key), value)


def test_edges_are_listed_with_the_longest_way_before_the_way_around() -> None:
    made = rewritten(around_in_the_wrong_order(), HARD, "portable").graph
    assert [edge for edge in made.edges if edge[1] == "sum"] == [("c", "sum"), ("n", "sum")]


def test_a_loop_becomes_a_graph_of_four_nodes() -> None:
    made = rewritten(recurrent(affine(8, 8, 4)), HARD, "portable")
    inner = made.graph.nodes["n"]
    assert {name: type(node).__name__ for name, node in inner.nodes.items()} == {
        "input": "Input", "neurons": "LIF", "weights": "Affine", "output": "Output",
    }  # fmt: skip
    assert not inner.nodes["weights"].bias.any()
    assert made.renamed == {"n": "n.neurons", "z": "z"}
    assert "loop" not in made.graph.nodes


def test_nodes_are_numbered_where_a_reader_would_meet_a_nested_graph_before_what_it_reads() -> None:
    graph = recurrent(affine(8, 8, 4))
    graph.nodes = {"a" if name == "into" else name: node for name, node in graph.nodes.items()}
    graph.edges = [tuple("a" if end == "into" else end for end in edge) for edge in graph.edges]
    made = rewritten(graph, HARD, "portable")
    assert list(made.graph.nodes) == ["input", "n1_a", "n2_n", "n3_out_of", "n4_z", "output"]
    assert made.renamed == {"n": "n2_n.neurons", "z": "n4_z"}
    assert_alike(graph, HARD, made)


def test_names_stay_apart_and_say_where_spikes_are_found() -> None:
    made = rewritten(named_badly(), HARD, "portable")
    assert made.renamed == {"block/1.n": "block_1_n_", "input": "input_", "last": "last"}
    assert list(made.graph.nodes) == ["input", "class_", "block_1_n_", "block_1_n", "input_", "keys_", "last", "output"]


def test_metadata_keeps_what_it_said_as_text(tmp_path: Path) -> None:
    graph = flat(lif(8))
    graph.metadata = {"T": 12, "made": {"by": "hand"}, "reset": "hard", "dt": DT}
    path = NirExporter().export(Deployable(graph, DT, title="small"), tmp_path / "n.nir").path
    metadata = nir.read(path).metadata
    assert metadata == {"T": 12, "made": '{"by": "hand"}', "dt": DT, "reset": "hard", "title": "small"}


def test_whole_numbers_at_the_threshold_are_decided_as_they_were() -> None:
    """In single precision, which readers use; ties are what integers do often."""
    rng = np.random.default_rng(0)
    nodes = {"a": nir.Affine(rng.integers(-2, 4, (8, 6)).astype(float), np.zeros(8)), "n": integrating(8, theta=3.0)}
    graph = network((6,), nodes, out=(8,))
    for tie, profile in (("ge", "portable"), ("gt", "portable"), ("gt", "spikingjelly"), ("ge", "spikingjelly")):
        made = rewritten(graph, Dynamics(DT, tie=tie), profile)
        assert made.losses == ()
        assert made.dynamics.tie == {"portable": "gt", "spikingjelly": "ge"}[profile]
        before, after = (
            run_graph(g, d, events(graph), torch.float32)["n"]
            for g, d in ((graph, Dynamics(DT, tie=tie)), (made.graph, made.dynamics))
        )
        np.testing.assert_array_equal(before, after)
    other = run_graph(graph, Dynamics(DT, tie="ge"), events(graph))["n"]
    assert (run_graph(graph, HARD, events(graph))["n"] != other).any()


REFUSED = {
    "an integrator on the way": (lambda: flat(nir.I(full(8, 1e4))), HARD, "portable", "node 'n' is a I, which"),
    "a convolution over length": (
        lambda: network((2, 9), {"a": nir.Conv1d(None, np.ones((3, 2, 3)), 1, 1, 1, 1, np.zeros(3)), "n": lif((3, 9)),
                                 "f": flatten(-2), "b": affine(4, 27), "last": lif(4)}),
        HARD, "portable", "node 'a' is a Conv1d"),
    "a kernel that cannot be made square": (
        lambda: maps(conv(3, 2, (2, 3), (0, 1)), lif((3, 7, 8)), features=168), HARD, "portable",
        "convolution 'm0' has a 2x3 kernel, which no padding makes square"),
    "a scale of each pixel before a convolution": (
        lambda: maps(nir.Scale(pixels(2, 8, 8)), conv(3, 2), lif(ROOM), features=192),
        HARD, "portable", "values of shape (2, 8, 8) between 'input' and 'm0' are scaled one by one"),
    "a loop over two populations": (
        lambda: _two_in_a_loop(), HARD, "portable", "'b', 'last', 'loop' and 1 more form a loop; only"),
    "a loop through a convolution": (
        lambda: _loop_of_maps(), HARD, "portable", "'loop', 'm1' form a loop; only a flat population"),
    "thresholds that differ and are not positive": (
        lambda: flat(lif(8, theta=np.linspace(-1, 1, 8))), HARD, "portable",
        "neurons 'n' have thresholds from -1 to 1"),
    "a reset above the threshold": (
        lambda: flat(lif(8, reset=1.5)), HARD, "portable", "neurons 'n' reset to 1.5, which is not below"),
    "a part of a map flattened": (
        lambda: network((2, 8, 8), {"f": nir.Flatten({"input": None}, -2, -1), "n": lif((2, 64), r=3.0)}, out=(2, 64)),
        HARD, "portable", "'f' flattens a part of (2, 8, 8) to (2, 64)"),
    "a convolution too large to write out": (
        lambda: maps(conv(3, 2, (2, 2), "same", dilation=(9999, 9999)), lif(ROOM), features=192), HARD, "portable",
        "convolution 'm0' would hold 600,120,006 weights if written out"),
    "a scale of more values than a matrix holds": (
        lambda: network((20000,), {"s": nir.Scale(pixels(20000)), "n": lif(20000)}, out=(20000,)), HARD, "portable",
        "values of shape (20000,) between 'input' and 's' are scaled one by one"),
    "sinabs: leaky maps": (
        lambda: maps(conv(3, 2), lif(ROOM), features=192), SINABS, "sinabs",
        "neurons 'm1' leak and have the shape (3, 8, 8)"),
    "sinabs: a loop": (lambda: recurrent(affine(8, 8, 4)), SINABS, "sinabs", "'loop', 'n' form a loop"),
    "sinabs: branches": (
        lambda: branches("c", "skip", ("skip", affine(8, 8, 5))), SINABS, "sinabs", "'sum' adds up branches"),
    "sinabs: synaptic currents": (lambda: flat(cuba(8)), SINABS, "sinabs", "node 'n' is a CubaLIF"),
    "sinabs: a threshold node": (
        lambda: flat(lif(8), affine(8, 8), nir.Threshold(full(8, 1.2))), SINABS, "sinabs", "node 'm1' is a Threshold"),
    "spyx: a sum": (lambda: branches("c", "n"), SUBTRACT, "spyx", "'n' feeds 2 nodes; spyx runs chains alone"),
    "lava: a loop": (lambda: recurrent(affine(8, 8, 4)), HARD, "lava", "'loop', 'n' form a loop"),
}  # fmt: skip


def _two_in_a_loop() -> nir.NIRGraph:
    graph = flat(lif(8))
    graph.nodes["loop"] = affine(8, 4)
    graph.edges += [("last", "loop"), ("loop", "n")]
    return graph


def _loop_of_maps() -> nir.NIRGraph:
    graph = maps(conv(3, 2), lif(ROOM), features=192)
    graph.nodes["loop"] = conv(3, 3, seed=5)
    graph.edges += [("m1", "loop"), ("loop", "m1")]
    return graph


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_file_of_the_profile_can_hold_is_refused_by_name(case: str, tmp_path: Path) -> None:
    build, dynamics, profile, message = REFUSED[case]
    for lossy in (False, True):
        with pytest.raises(ScaDeployError, match=re.escape(message)) as raised:
            NirExporter(profile, lossy).export(Deployable(build(), DT, dynamics=dynamics), tmp_path / "n.nir")
        assert raised.value.problem.startswith(f"outside the {profile} NIR profile: ")
        assert raised.value.fix == "no nearest can be written either"
    assert not (tmp_path / "n.nir").exists()


LOSSY = {
    "soft reset": (lambda: flat(lif(8)), SUBTRACT, "portable",
                   "'n', 'last' reset to 0 instead of subtracting the threshold"),
    "several spikes": (lambda: flat(integrating(8)), Dynamics(DT, "subtract", multi_spike=True), "portable",
                       "'n', 'last' fire at most once a step"),
    "a clamp": (lambda: flat(lif(8)), Dynamics(DT, clamp=-0.2), "portable",
                "the potentials of 'n', 'last' are not clamped from below"),
    "time constants that differ": (lambda: flat(lif(8, tau=4e-4 * SPREAD)), HARD, "portable",
                                   "'n' has one tau, 0.00048 s, instead of 0.00016 to 0.0008 s"),
    "thresholds that differ within a channel": (
        lambda: maps(conv(3, 2), lif(ROOM, theta=np.linspace(0.6, 1.4, 64).reshape(8, 8)), features=192),
        HARD, "portable",
        "'m1' has one threshold a channel, the mean, instead of 0.6 to 1.4"),
    "a reset potential": (lambda: flat(lif(8, reset=-0.5)), HARD, "portable",
                          "the potentials of 'n' begin at their v_reset instead of at 0"),
    "a delay": (lambda: flat(lif(8), nir.Delay(full(8, 3 * DT))), HARD, "portable",
                "the delay 'm0' of up to 3 steps is left out"),
    "a rest behind a current": (lambda: flat(cuba(8, leak=0.2)), HARD, "portable",
                                "the resting potential of 'n' builds up through its synapses"),
    "sinabs: a hard reset": (lambda: flat(integrating(8)), HARD, "sinabs",
                             "'n', 'last' subtract the threshold instead of resetting"),
    "sinabs: no clamp": (lambda: flat(integrating(8)), Dynamics(DT, "subtract", True, None, "ge"), "sinabs",
                         "the potentials of 'n' are clamped at the negative threshold"),
    "sinabs: one spike a step": (lambda: flat(lif(8)), Dynamics(DT, "subtract", False, "threshold", "ge"), "sinabs",
                                 "'n', 'last' fire as often as the threshold fits in a step"),
    "spyx: late spikes": (lambda: flat(integrating(8)), SUBTRACT, "spyx",
                          "every population fires one step late (2 of them)"),
    "lava: biases": (lambda: flat(lif(8)), HARD, "lava", "the bias of 'a' is left out"),
    "lava: decays": (lambda: flat(lif(8, tau=7e-4)), HARD, "lava",
                     "the decay of 'n' (tau_mem) is 0.142822, not 0.142857"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOSSY)
def test_the_nearest_is_written_only_when_asked_and_its_difference_is_measured(case: str, tmp_path: Path) -> None:
    build, dynamics, profile, sentence = LOSSY[case]
    given = Deployable(build(), DT, dynamics=dynamics)
    with pytest.raises(ScaDeployError, match="outside the") as raised:
        NirExporter(profile).export(given, tmp_path / "n.nir")
    assert raised.value.fix == "--allow-lossy writes the nearest and measures how many spikes differ"
    assert not (tmp_path / "n.nir").exists()
    made = rewritten(given.graph, dynamics, profile, allow_lossy=True)
    assert sentence in made.losses
    exported = NirExporter(profile, allow_lossy=True).export(given, tmp_path / "n.nir")
    [line] = [check.detail for check in exported.checks if check.name == "lossy"]
    found = difference((given.graph, dynamics), (made.executed, made.dynamics), made.renamed, None)
    assert line.startswith(f"{found.differing:,} of {found.spikes:,} spikes differ")
    assert "8 samples of 32 steps of random spikes of density 0.2" in line
    assert sentence in line
    assert nir.read(exported.path).nodes.keys() == made.graph.nodes.keys()


def test_a_reset_potential_is_lost_only_until_the_first_spike() -> None:
    graph = network((6,), {"a": affine(8, 6), "n": integrating(8, theta=2.0, reset=-1.0)}, out=(8,))
    made, x = rewritten(graph, HARD, "portable", allow_lossy=True), events(graph)
    v = np.full((len(x), 8), -1.0)
    weight, bias = graph.nodes["a"].weight, graph.nodes["a"].bias
    expected = []
    for t in range(x.shape[1]):
        v = v + x[:, t] @ weight.T + bias
        expected.append(v > 2.0)
        v = np.where(v > 2.0, -1.0, v)
    np.testing.assert_array_equal(run_graph(made.graph, HARD, x)["n"], np.stack(expected, 1))


def test_an_integrator_in_front_of_the_output_is_left_to_the_reader() -> None:
    graph = network((6,), {"a": affine(8, 6), "n": lif(8), "b": affine(4, 8, 1), "sum": nir.I(full(4, 1.0 / DT))})
    with pytest.raises(ScaDeployError, match="the read-out 'sum'"):
        rewritten(graph, HARD, "portable")
    made, x = rewritten(graph, HARD, "portable", allow_lossy=True), events(graph)
    assert made.losses == ("the read-out 'sum' (I) is left out, the Output is what it read",)
    summed = np.cumsum(run_graph(made.graph, HARD, x)["output"], axis=1)
    np.testing.assert_allclose(summed, run_graph(graph, HARD, x)["output"], rtol=1e-5, atol=1e-5)


def test_the_first_of_several_losses_is_named_and_the_others_counted() -> None:
    with pytest.raises(ScaDeployError, match=r"'n', 'last' reset to 0 .* \(and 1 more\)$"):
        rewritten(flat(lif(8)), Dynamics(DT, "subtract", multi_spike=True), "portable")


def test_a_population_without_memory_loses_nothing_with_its_reset() -> None:
    graph = network((6,), {"a": affine(8, 6), "n": lif(8, tau=DT, reset=-3.0)}, out=(8,))
    for dynamics in (HARD, SUBTRACT):
        made = rewritten(graph, dynamics, "portable")
        assert_alike(graph, dynamics, made)


def run_as_sinabs(graph: nir.NIRGraph, x: np.ndarray) -> np.ndarray:
    """A chain of matrices, LIF and IF by the equations of sinabs: exp(-1 / tau), no R, no dt; the last spikes."""
    for node in list(graph.nodes.values())[1:-1]:
        if isinstance(node, nir.Affine):
            x = x @ node.weight.T.astype(np.float64) + node.bias
            continue
        v, spikes = np.zeros((len(x), *node.r.shape)), []
        keep = np.exp(-1.0 / np.float64(node.tau)) if isinstance(node, nir.LIF) else 1.0
        for now in np.moveaxis(x, 1, 0):
            v = keep * v + now
            fired = np.maximum(np.floor(v / node.v_threshold), 0.0)
            v = v - fired * node.v_threshold
            v = np.maximum(v, -node.v_threshold) if isinstance(node, nir.IF) else v
            spikes.append(fired)
        x = np.stack(spikes, 1)
    return x


def test_the_sinabs_profile_is_written_for_what_sinabs_computes() -> None:
    graph = flat(lif(8, r=2.0), affine(8, 8, 3), integrating(8, r=5e3))
    made, x = rewritten(graph, SINABS, "sinabs"), events(graph)
    expected = run_graph(graph, SINABS, x)["last"]
    assert expected.max() > 1
    np.testing.assert_array_equal(run_as_sinabs(made.graph, x), expected)
    assert made.dynamics.metadata() == {
        "dt": 1.0, "reset": "subtract", "multi_spike": 1, "clamp": "threshold", "tie": "ge",
    }  # fmt: skip


def test_a_sinabs_file_holds_nothing_that_its_older_nir_refuses(tmp_path: Path) -> None:
    graph = maps(conv(3, 2), integrating(ROOM), features=192, neurons=integrating(4))
    path = NirExporter("sinabs").export(Deployable(graph, DT, dynamics=SINABS), tmp_path / "n.nir").path
    with h5py.File(path) as file:
        nodes = file["node/nodes"]
        assert all("v_reset" not in nodes[name] for name in nodes)
        assert all(not isinstance(value, h5py.Group) for value in file["node/metadata"].values())
    read = nir.read(path)
    assert read.metadata["profile"] == "sinabs"
    assert read.metadata["reset"] == "subtract"


def run_as_spyx(graph: nir.NIRGraph, x: np.ndarray) -> np.ndarray:
    """A chain by the equations of spyx: spikes of the step before, channels last; the last spikes."""
    x = x.transpose(0, 1, 3, 4, 2)
    for node in list(graph.nodes.values())[1:-1]:
        if isinstance(node, nir.Flatten):
            x = x.reshape(*x.shape[:2], -1)
        elif isinstance(node, nir.Affine):
            x = x @ node.weight.T.astype(np.float64) + node.bias
        elif isinstance(node, nir.Conv2d):
            frames = torch.from_numpy(x.reshape(-1, *x.shape[2:])).permute(0, 3, 1, 2)
            weight, bias = (torch.from_numpy(np.float64(value)) for value in (node.weight, node.bias))
            y = torch.nn.functional.conv2d(frames, weight, bias, padding=tuple(node.padding))
            x = y.permute(0, 2, 3, 1).numpy().reshape(*x.shape[:2], *y.shape[2:], -1)
        else:
            theta = float(node.v_threshold.flat[0])
            v, spikes = np.zeros_like(x[:, 0]), []
            for now in np.moveaxis(x, 1, 0):
                spikes.append(v > theta)
                v = v + now - theta * spikes[-1]
            x = np.stack(spikes, 1).astype(np.float64)
    return x


def test_the_spyx_profile_is_written_for_what_spyx_computes() -> None:
    graph = maps(conv(3, 2), integrating(ROOM, r=5e3, theta=1.0), features=192, neurons=integrating(4, theta=20.0))
    made, x = rewritten(graph, SUBTRACT, "spyx", allow_lossy=True), events(graph)
    expected = run_graph(made.executed, made.dynamics, x)[made.renamed["last"]]
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(run_as_spyx(made.graph, x), expected)


def test_the_lava_profile_holds_currents_of_one_step_and_twelve_bit_decays() -> None:
    made = rewritten(flat(lif(8, tau=7e-4, r=2.0), integrating(8, r=5e3)), HARD, "lava", allow_lossy=True).graph
    neurons = made.nodes["n"]
    assert isinstance(neurons, nir.CubaLIF)
    np.testing.assert_allclose(DT / neurons.tau_syn, 1.0, rtol=1e-6)
    decays = DT / np.float64(neurons.tau_mem) * 4096
    np.testing.assert_allclose(decays, np.rint(decays), atol=1e-3)
    np.testing.assert_allclose(neurons.r, np.float64(neurons.tau_mem) / DT, rtol=1e-6)
    np.testing.assert_array_equal(made.nodes["m0"].r, 1.0)
    assert not any(np.any(node.bias) for node in made.nodes.values() if isinstance(node, nir.Affine))


def test_lava_takes_decays_of_twelve_bits_without_biases_exactly() -> None:
    nodes = {"a": affine(8, 6, bias=False), "n": lif(8, tau=DT * 4096 / 500, r=3.0), "b": affine(4, 8, 1, bias=False)}
    graph = network((6,), {**nodes, "last": integrating(4, r=3e3)})
    assert_alike(graph, HARD, rewritten(graph, HARD, "lava"))


def test_an_unknown_profile_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown profile 'sinab'") as raised:
        rewritten(flat(lif(8)), HARD, "sinab")
    assert raised.value.fix == "did you mean 'sinabs'? known: lava, portable, sinabs, spikingjelly, spyx"
    assert set(PROFILES) == {"lava", "portable", "sinabs", "spikingjelly", "spyx"}


def test_a_graph_built_for_another_time_step_is_not_read_as_this_one() -> None:
    graph = flat(lif(8))
    graph.metadata = {"dt": 1e-3}
    with pytest.raises(ScaDeployError, match=r"built for dt = 0\.001 s, the export asks for 0\.0001 s") as raised:
        rewritten(graph, HARD, "portable")
    assert raised.value.fix == "give --dt 0.001"


def test_differing_spikes_are_counted_one_by_one() -> None:
    graph, other = flat(lif(8)), flat(lif(8))
    other.nodes["b"] = affine(4, 8, 9)
    x = events(graph, samples=3)
    found = difference((graph, HARD), (other, HARD), {"n": "n", "last": "last"}, x)
    before, after = run_graph(graph, HARD, x), run_graph(other, HARD, x)
    assert found.differing == int((before["last"] != after["last"]).sum()) > 0
    assert found.spikes == int(before["n"].sum() + np.maximum(before["last"], after["last"]).sum())
    assert found.worst == "last"
    assert found.share == found.differing / found.spikes
    assert "on 3 samples of 24 steps of the probe" in str(found)
