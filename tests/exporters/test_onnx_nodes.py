"""Every node type and every reset as ONNX operators, against a reference that runs the graph node by node.

All parameters are small multiples of powers of two and dt is one, so that single precision is exact: no spike and no
potential may differ, ties with the threshold included.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.onnx import OnnxExporter
from sca_deploy.exporters.onnx_running import OnnxRun, run
from sca_deploy.hardware.dynamics import Dynamics
from tests.hardware.nir_reference import run_nodes

pytest.importorskip("onnxruntime")

DT = 2.0**-13
STEPS, SAMPLES = 6, 3
FORMS = ("step", "scan", "unroll")
SPIKING = (nir.LIF, nir.IF, nir.CubaLIF)
INTEGRATORS = (nir.LI, nir.I, nir.CubaLI)


class Draw:
    """Random parameters in eighths."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def eighths(self, low: int, high: int, *shape: int) -> np.ndarray:
        return (self.rng.integers(low, high, shape) / 8).astype(np.float32)

    def neurons(self, kind: type, *shape: int, leak: bool = True) -> Any:
        """A population whose every parameter is one of few numbers, another for each neuron."""
        fields = {
            "v_threshold": self.eighths(2, 8, *shape),
            "v_reset": self.eighths(-3, 2, *shape),
            "v_leak": self.eighths(-2, 4, *shape) * leak,
            "r": (2.0 ** self.rng.integers(-1, 2, shape)).astype(np.float32),
            "w_in": (2.0 ** self.rng.integers(0, 2, shape)).astype(np.float32),
            **{k: (DT * 2.0 ** self.rng.integers(0, 2, shape)).astype(np.float32) for k in ("tau_syn", "tau_mem")},
        }
        fields["tau"] = fields["tau_mem"] * 2
        if kind in (nir.IF, nir.I):
            fields["r"] = fields["r"] / np.float32(DT)
        known = kind.__dataclass_fields__
        return kind(**{key: value for key, value in fields.items() if key in known})

    def affine(self, out: int, inputs: int) -> nir.Affine:
        return nir.Affine(self.eighths(-4, 9, out, inputs), self.eighths(-2, 3, out))

    def linear(self, out: int, inputs: int) -> nir.Linear:
        return nir.Linear(self.eighths(-4, 9, out, inputs))

    def conv(self, *weight: int, **sides: Any) -> nir.Conv2d:
        fields = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | sides
        return nir.Conv2d(None, self.eighths(-4, 9, *weight), bias=self.eighths(-1, 2, weight[0]), **fields)

    def conv1(self, *weight: int, **sides: Any) -> nir.Conv1d:
        fields = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | sides
        return nir.Conv1d(None, self.eighths(-4, 9, *weight), bias=self.eighths(-1, 2, weight[0]), **fields)

    def delay(self, *shape: int) -> nir.Delay:
        return nir.Delay((self.rng.integers(0, 4, shape) * DT).astype(np.float32))


def net(shape: tuple[int, ...], nodes: dict[str, nir.NIRNode], wiring: str) -> nir.NIRGraph:
    """A graph from "a>b b>c", with an Input of a shape and an Output."""
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array([1]))}
    return nir.NIRGraph(ends | nodes, [tuple(edge.split(">")) for edge in wiring.split()], type_check=False)


def chain(shape: tuple[int, ...], *nodes: nir.NIRNode) -> nir.NIRGraph:
    """Nodes n0, n1, ... that follow one another."""
    names = ["input", *(f"n{i}" for i in range(len(nodes))), "output"]
    wiring = " ".join(f"{a}>{b}" for a, b in pairwise(names))
    return net(shape, {f"n{i}": node for i, node in enumerate(nodes)}, wiring)


def flattened_first(d: Draw) -> nir.NIRGraph:
    return chain((2, 4, 3), nir.Flatten({"input": np.array([2, 4, 3])}, 0, -1), d.affine(5, 24), d.neurons(nir.LIF, 5))


def residual(d: Draw) -> nir.NIRGraph:
    same = {"padding": 1}
    nodes = {
        "c1": d.conv(3, 2, 3, 3, **same),
        "a": d.neurons(nir.LIF, 3, 5, 4),
        "c2": d.conv(3, 3, 3, 3, **same),
        "b": d.neurons(nir.LIF, 3, 5, 4),
        "skip": d.conv(3, 2, 1, 1),
        "c": d.neurons(nir.IF, 3, 5, 4),
    }
    return net((2, 5, 4), nodes, "input>c1 c1>a a>c2 c2>b b>c a>c input>skip skip>c c>output")


def recurrent(d: Draw) -> nir.NIRGraph:
    nodes = {"in": d.affine(5, 4), "r": d.neurons(nir.CubaLIF, 5), "w": d.affine(5, 5), "out": d.affine(3, 5)}
    return net((4,), nodes, "input>in in>r r>w w>r r>out out>output")


def two_populations_in_a_loop(d: Draw) -> nir.NIRGraph:
    nodes = {
        "in": d.affine(5, 4),
        "a": d.neurons(nir.LIF, 5),
        "to": d.affine(6, 5),
        "b": d.neurons(nir.LIF, 6),
        "back": d.linear(5, 6),
        "self": d.linear(6, 6),
    }
    return net((4,), nodes, "input>in in>a a>to to>b b>self self>b b>back back>a b>output")


def integrator_in_a_loop(d: Draw) -> nir.NIRGraph:
    nodes = {"in": d.affine(4, 4), "r": d.neurons(nir.LIF, 4), "li": d.neurons(nir.LI, 4), "w": d.linear(4, 4)}
    return net((4,), nodes, "input>in in>r r>li li>w w>r r>output")


def population_that_reads_itself(d: Draw) -> nir.NIRGraph:
    return net((4,), {"r": d.neurons(nir.LIF, 4)}, "input>r r>r r>output")


GRAPHS: dict[str, Callable[[Draw], nir.NIRGraph]] = {
    **{
        f"{kind.__name__}, a value a neuron": lambda d, kind=kind: chain((4,), d.affine(6, 4), d.neurons(kind, 6))
        for kind in (*SPIKING, *INTEGRATORS)
    },
    **{
        f"{kind.__name__}, one value for all": lambda d, kind=kind: chain((4,), d.affine(6, 4), d.neurons(kind, 1))
        for kind in (*SPIKING, *INTEGRATORS)
    },
    "neurons on the input": lambda d: chain((4,), d.neurons(nir.LIF, 4)),
    "an integrator read by neurons": lambda d: chain((4,), d.neurons(nir.LI, 4), d.linear(5, 4), d.neurons(nir.LIF, 5)),
    "a matrix without a bias": lambda d: chain((4,), d.linear(6, 4), d.neurons(nir.LIF, 6), d.linear(2, 6)),
    "matrices after one another": lambda d: chain((4,), d.affine(6, 4), d.linear(3, 6), d.neurons(nir.LIF, 3)),
    "a matrix along the last axis": lambda d: chain((3, 4), d.affine(2, 4), d.neurons(nir.LIF, 3, 2), d.linear(2, 2)),
    "a flattened map": flattened_first,
    "a map flattened in part": lambda d: chain((2, 3, 4), nir.Flatten(None, 1, 2), d.neurons(nir.LIF, 2, 12)),
    "a convolution with uneven sides": lambda d: chain(
        (2, 7, 9), d.conv(3, 2, 3, 2, stride=(2, 1), padding=(0, 1), dilation=(1, 2)), d.neurons(nir.LIF, 1)
    ),
    "a convolution whose sides are arrays": lambda d: chain(
        (2, 7, 9),
        d.conv(3, 2, 3, 2, stride=np.array([2, 1]), padding=np.array([0, 1]), dilation=np.array([1, 2])),
        d.neurons(nir.LIF, 1),
    ),
    "a grouped convolution": lambda d: chain((4, 5, 5), d.conv(6, 2, 3, 3, groups=2), d.neurons(nir.LIF, 6, 3, 3)),
    "padding 'same'": lambda d: chain(
        (2, 6, 5), d.conv(3, 2, 4, 3, padding="same", dilation=(1, 2)), d.neurons(nir.LIF, 3, 6, 5)
    ),
    "padding 'valid'": lambda d: chain((2, 6, 5), d.conv(3, 2, 3, 3, padding="valid"), d.neurons(nir.LIF, 3, 4, 3)),
    "a convolution of one dimension": lambda d: chain(
        (2, 9), d.conv1(4, 1, 3, stride=2, padding=1, dilation=2, groups=2), d.neurons(nir.LIF, 4, 4)
    ),
    "a sum pool": lambda d: chain(
        (2, 6, 6), nir.SumPool2d(*(np.array(s) for s in ([2, 3], [2, 1], [1, 0]))), d.neurons(nir.LIF, 2, 4, 4)
    ),
    "an average pool": lambda d: chain(
        (2, 6, 6), nir.AvgPool2d(*(np.array(s) for s in ([2, 4], [2, 1], [1, 1]))), d.neurons(nir.LIF, 2, 4, 5)
    ),
    "a scale": lambda d: chain((2, 3, 3), nir.Scale(d.eighths(2, 12, 2, 3, 3)), d.neurons(nir.LIF, 2, 3, 3)),
    "one scale for all": lambda d: chain((3,), nir.Scale(d.eighths(8, 12, 1)), d.neurons(nir.LIF, 3)),
    "a threshold": lambda d: chain((4,), d.affine(5, 4), nir.Threshold(d.eighths(0, 4, 5)), d.neurons(nir.LIF, 5)),
    "a delay a neuron": lambda d: chain((3, 2, 2), d.delay(3, 2, 2), d.neurons(nir.LIF, 3, 2, 2)),
    "one delay for all": lambda d: chain(
        (4,), nir.Delay(np.array([2 * DT], np.float32)), d.affine(5, 4), d.neurons(nir.LIF, 5)
    ),
    "no delay": lambda d: chain((4,), nir.Delay(np.zeros(4, np.float32)), d.neurons(nir.LIF, 4)),
    "delayed spikes": lambda d: chain((4,), d.affine(5, 4), d.neurons(nir.LIF, 5), d.delay(5), d.linear(3, 5)),
    "a residual sum": residual,
    "a recurrent population": recurrent,
    "two populations in a loop": two_populations_in_a_loop,
    "an integrator in a loop": integrator_in_a_loop,
    "a population that reads itself": population_that_reads_itself,
}


def exported(graph: nir.NIRGraph, dynamics: Dynamics, form: str, folder: Path) -> Path:
    graph.metadata["T"] = STEPS
    given = Deployable(graph, dynamics.dt, dynamics=dynamics)
    return OnnxExporter(form).export(given, folder / f"{form}.onnx").path


def random_input(shape: np.ndarray) -> np.ndarray:
    return (np.random.default_rng(1).random((SAMPLES, STEPS, *shape)) < 0.6).astype(np.float32)


def check(run: OnnxRun, graph: nir.NIRGraph, x: np.ndarray, dynamics: Dynamics) -> None:
    outputs, arrived, _ = run_nodes(graph, x, dynamics)
    populations = {name for name, node in graph.nodes.items() if hasattr(node, "r")}
    assert run.spikes.keys() | run.potentials.keys() == populations
    for name, values in (run.spikes | run.potentials).items():
        np.testing.assert_array_equal(values, outputs[name], err_msg=name)
        assert (name in run.spikes) == hasattr(graph.nodes[name], "v_threshold")
        assert np.mean(values != 0) > 0.02, f"'{name}' is silent"
    np.testing.assert_array_equal(run.logits, arrived.sum(axis=1))


@pytest.mark.parametrize("feature", GRAPHS)
def test_a_graph_gives_what_its_nodes_say_in_every_form(feature: str, tmp_path: Path) -> None:
    graph = GRAPHS[feature](Draw(7))
    x = random_input(graph.nodes["input"].input_type["input"])
    for form in FORMS:
        check(run(exported(graph, Dynamics(DT), form, tmp_path), x), graph, x, Dynamics(DT))


RESETS: list[dict[str, Any]] = [
    {"reset": reset, "multi_spike": several, "tie": tie, "clamp": clamp}
    for reset, several, tie, clamp in product(
        ("hard", "subtract"), (False, True), ("gt", "ge"), (None, -0.25, "threshold")
    )
    if reset == "subtract" or not several
]


@pytest.mark.parametrize("asked", RESETS, ids=lambda asked: " ".join(str(value) for value in asked.values()))
def test_neurons_reset_as_they_are_told(asked: dict[str, Any], tmp_path: Path) -> None:
    """Populations of all three kinds that read one another, with ties, potentials far above and below."""
    d, dynamics = Draw(5), Dynamics(DT, **asked)
    nodes = {f"w{i}": d.linear(8, 8) for i in range(3)}
    nodes |= {kind.__name__: d.neurons(kind, 8, leak=False) for kind in SPIKING}
    graph = net((8,), nodes, "input>w0 w0>LIF LIF>w1 w1>IF IF>w2 w2>CubaLIF CubaLIF>output")
    x = 2 * random_input(np.array([8]))
    outputs = run_nodes(graph, x, dynamics)[0]
    if dynamics.multi_spike:
        assert max(values.max() for name, values in outputs.items() if name in ("LIF", "IF", "CubaLIF")) > 1
    check(run(exported(graph, dynamics, "scan", tmp_path), x), graph, x, dynamics)


def test_a_graph_inside_the_graph_is_taken_apart(tmp_path: Path) -> None:
    d = Draw(8)
    flat = recurrent(d)
    inner = {name: flat.nodes[name] for name in ("r", "w")}
    ends = {"input": nir.Input(np.array([5])), "output": nir.Output(np.array([5]))}
    cell = nir.NIRGraph(ends | inner, [("input", "r"), ("r", "w"), ("w", "r"), ("r", "output")], type_check=False)
    outer = {"in": flat.nodes["in"], "cell": cell, "out": flat.nodes["out"]}
    nested = net((4,), outer, "input>in in>cell cell>out out>output")
    x = random_input(np.array([4]))
    expected, arrived, _ = run_nodes(flat, x, Dynamics(DT))
    result = run(exported(nested, Dynamics(DT), "step", tmp_path), x)
    assert expected["r"].any()
    np.testing.assert_array_equal(result.spikes["cell.r"], expected["r"])
    np.testing.assert_array_equal(result.logits, arrived.sum(axis=1))


def refusal(graph: nir.NIRGraph, folder: Path) -> ScaDeployError:
    with pytest.raises(ScaDeployError) as error:
        exported(graph, Dynamics(DT), "step", folder)
    assert list(folder.iterdir()) == []
    return error.value


def test_what_cannot_be_carried_is_refused_by_name(tmp_path: Path) -> None:
    d = Draw(9)
    odd = {
        "its delay is not a whole number of steps": nir.Delay(np.full(4, 1.5 * DT, np.float32)),
        "it waits 1025 steps, at most 1024 are carried": nir.Delay(np.full(4, 1025 * DT, np.float32)),
        "it has neurons of shape (5,) and reads (4,)": d.neurons(nir.LIF, 5),
        "it cannot read a value of shape (4,)": d.conv(3, 2, 3, 3),
        "'scale' holds NaN or infinite values": nir.Scale(np.array([1, np.nan, 1, 1], np.float32)),
        "shorter than the time step": nir.LI(*(np.full(4, DT / 2, np.float32),) * 3),
    }
    for why, node in odd.items():
        problem = refusal(chain((4,), node, d.affine(2, 4)), tmp_path).problem
        assert problem.startswith("node 'n0'"), problem
        assert why in problem


def test_a_pool_reads_maps_only(tmp_path: Path) -> None:
    pool = nir.AvgPool2d(*(np.array([n, n]) for n in (2, 2, 0)))
    assert "it reads a value of shape (4, 4)" in refusal(chain((4, 4), pool), tmp_path).problem


def test_a_loop_without_neurons_is_refused_by_name(tmp_path: Path) -> None:
    d = Draw(10)
    graph = net((4,), {"a": d.linear(4, 4), "b": d.linear(4, 4)}, "input>a a>b b>a b>output")
    assert "part of a loop without neurons" in refusal(graph, tmp_path).problem
