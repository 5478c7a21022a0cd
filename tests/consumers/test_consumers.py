"""Presets against the frameworks they are named after, and networks written here run by other frameworks."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from sca_deploy.conventions import PRESETS, Asked, settled
from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir import NirExporter
from sca_deploy.graph import to_nir
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from tests.consumers.conftest import Play
from tests.consumers.frameworks import CannotRun

DT = 1e-4
SIZE = 12


def chain(*nodes: nir.NIRNode, size: tuple[int, ...] = (SIZE,), out: tuple[int, ...] = (SIZE,)) -> nir.NIRGraph:
    """Nodes n0, n1, ... one after the other."""
    named = {"input": nir.Input(np.array(size)), **{f"n{i}": node for i, node in enumerate(nodes)}}
    named["output"] = nir.Output(np.array(out))
    return nir.NIRGraph(named, list(pairwise(named)), type_check=False)


def affine(seed: int = 0) -> nir.Affine:
    rng = np.random.default_rng(seed)
    return nir.Affine(*(rng.normal(0.3, 0.5, shape).astype(np.float32) for shape in ((SIZE, SIZE), (SIZE,))))


def events(*size: int, samples: int = 8, steps: int = 40) -> np.ndarray:
    return (np.random.default_rng(1).random((samples, steps, *(size or (SIZE,)))) < 0.3).astype(np.float32)


def various(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(2).uniform(low, high, SIZE).astype(np.float32)


Values = float | np.ndarray


def full(**values: Values) -> dict[str, np.ndarray]:
    """Parameters, one value a neuron."""
    return {key: np.broadcast_to(np.float32(value), SIZE).copy() for key, value in values.items()}


def lif(tau: Values = 1e-3, r: Values = 1, rest: Values = 0, threshold: Values = 0.5, reset: Values = 0) -> nir.LIF:
    return nir.LIF(**full(tau=tau, r=r, v_leak=rest, v_threshold=threshold, v_reset=reset))


def integrating(r: Values = 1, threshold: Values = 4, reset: Values = 0) -> nir.IF:
    return nir.IF(**full(r=r, v_threshold=threshold, v_reset=reset))


def cuba(
    r: Values = 8, w_in: Values = 5, syn: Values = 5e-4, mem: Values = 8e-4, rest: Values = 0, reset: Values = 0
) -> nir.CubaLIF:
    return nir.CubaLIF(**full(tau_syn=syn, tau_mem=mem, r=r, v_leak=rest, v_threshold=12, v_reset=reset, w_in=w_in))


def leaking(tau: Values = 1e-3, r: Values = 1) -> nir.LI:
    return nir.LI(**full(tau=tau, r=r, v_leak=0))


def compare(framework: str, graph: nir.NIRGraph, x: np.ndarray, play: Play) -> dict[str, np.ndarray]:
    """What the framework makes of a graph, after comparing it with what its preset says, value for value."""
    played = play(framework, graph, x, DT)
    fixed = framework in ("snntorch", "sinabs")
    read, dynamics = settled(graph, Asked(preset=framework, dt=None if fixed else DT), "graph")
    found = run_graph(read, dynamics, x, torch.float32)
    for name, values in played.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    return played


RUN_ALIKE = {
    "norse: R of a LIF is taken for 1": ("norse", lif(r=7)),
    "norse: a value a neuron": ("norse", lif(various(3e-4, 3e-3), 1, various(-0.3, 0.1), various(0.3, 0.7))),
    "norse: R of an IF is taken for 1 / dt": ("norse", integrating(0.2, various(2, 6))),
    "norse: R and w_in of a CubaLIF count": ("norse", cuba(various(6, 9), various(3, 6), various(2e-4, 1e-3))),
    "snntorch: R of a LIF counts": ("snntorch", lif(r=1.5)),
    "snntorch: a tau a neuron, if the gain is one": (
        "snntorch",
        lif(various(3e-4, 3e-3), various(3e-4, 3e-3) / DT / 10),
    ),
    "snntorch: w_in of a CubaLIF counts": ("snntorch", cuba(w_in=4)),
    "spikingjelly: R of 1": ("spikingjelly", lif(rest=-0.2, reset=-0.2)),
    "spikingjelly: R of tau / dt": ("spikingjelly", lif(r=10, threshold=4)),
    "spikingjelly: IF that begin at their reset": ("spikingjelly", integrating(1e4, reset=-1.5)),
    "spikingjelly: CubaLIF that begin at their reset": ("spikingjelly", cuba(reset=-2)),
    "sinabs: R of an IF is taken for 1 / dt": ("sinabs", integrating(3, various(2, 6))),
    "sinabs: tau in steps, R of a LIF is no matter": ("sinabs", lif(various(3, 30), 7, threshold=various(2, 6))),
}


@pytest.mark.parametrize(("framework", "neurons"), RUN_ALIKE.values(), ids=RUN_ALIKE)
def test_a_preset_is_what_the_framework_computes(framework: str, neurons: nir.NIRNode, play: Play) -> None:
    spikes = compare(framework, chain(affine(), neurons), events(), play)["n1"]
    assert 0.02 < (spikes > 0).mean() < 0.9
    assert (spikes.max() > 1) == (framework == "sinabs")


def test_sinabs_integrators_leak_by_the_exponential(play: Play) -> None:
    graph = chain(affine(), leaking(various(3, 30)))
    x = events()
    played = play("sinabs", graph, x)
    read, dynamics = settled(graph, Asked(preset="sinabs"), "graph")
    np.testing.assert_allclose(run_graph(read, dynamics, x)["n1"], played["n1"], rtol=1e-5, atol=1e-5)


TIES = {"norse": integrating(1.0), "spikingjelly": integrating(1e4), "sinabs": integrating()}


@pytest.mark.parametrize("framework", TIES)
def test_whole_numbers_that_meet_the_threshold_do_as_the_framework_does(framework: str, play: Play) -> None:
    weight = np.random.default_rng(3).integers(-2, 4, (SIZE, SIZE)).astype(np.float32)
    graph = chain(nir.Affine(weight, np.zeros(SIZE, np.float32)), TIES[framework])
    spikes = compare(framework, graph, events(), play)["n1"]
    read, dynamics = settled(graph, Asked(preset=framework, dt=DT), "graph")
    other = {"gt": "ge", "ge": "gt"}[dynamics.tie]
    opposite = Dynamics(DT, dynamics.reset, dynamics.multi_spike, dynamics.clamp, other)
    assert (run_graph(read, opposite, events())["n1"] != spikes).any()


def test_a_leaky_neuron_of_snntorch_that_meets_its_threshold_is_silent(play: Play) -> None:
    graph = chain(nir.Affine(np.eye(SIZE, dtype=np.float32), np.zeros(SIZE, np.float32)), lif(r=10.0, threshold=1.0))
    x = np.zeros((2, 3, SIZE), np.float32)
    x[0, 0], x[1, 0] = 1.0, 1.0001
    spikes = compare("snntorch", graph, x, play)["n1"]
    assert not spikes[0].any()
    assert spikes[1, 0].all()


REFUSED = {
    "norse ignores v_reset": ("norse", lif(reset=0.2)),
    "norse lets the synapses leak towards v_leak": ("norse", cuba(rest=0.1)),
    "norse does not run nodes of this type": ("norse", leaking()),
    "snntorch ignores v_reset": ("snntorch", lif(reset=0.2)),
    "snntorch refuses v_leak": ("snntorch", lif(rest=0.1)),
    "snntorch takes one v_threshold": ("snntorch", lif(threshold=various(0.3, 0.7))),
    "snntorch takes one R dt / tau": ("snntorch", lif(tau=various(3e-4, 3e-3))),
    "snntorch runs r = tau_mem / dt only": ("snntorch", cuba(r=7.0)),
    "snntorch does not run nodes of this type": ("snntorch", integrating()),
    "spikingjelly takes one tau": ("spikingjelly", lif(tau=various(3e-4, 3e-3))),
    "spikingjelly runs tau > dt only": ("spikingjelly", lif(tau=1e-4)),
    "spikingjelly runs r = 1 or tau / dt only": ("spikingjelly", lif(r=2.0)),
    "spikingjelly runs v_leak = v_reset only": ("spikingjelly", lif(rest=0.1)),
    "spikingjelly runs r = 1 / dt only": ("spikingjelly", integrating()),
    "spikingjelly runs w_in = tau_syn / dt only": ("spikingjelly", cuba(w_in=4.0)),
    "spikingjelly refuses v_leak": ("spikingjelly", cuba(rest=0.1)),
    "spikingjelly does not run nodes of this type": ("spikingjelly", leaking()),
    "sinabs refuses v_leak": ("sinabs", lif(rest=0.1)),
    "sinabs runs r = 1 only": ("sinabs", leaking(3, 2)),
    "sinabs does not run nodes of this type": ("sinabs", cuba()),
}


@pytest.mark.parametrize(("framework", "neurons"), REFUSED.values(), ids=REFUSED)
def test_a_preset_refuses_by_name_what_the_framework_fails_on_or_gets_wrong(
    framework: str, neurons: nir.NIRNode, play: Play, request: pytest.FixtureRequest
) -> None:
    graph, x = chain(affine(), neurons), events()
    with pytest.raises(ScaDeployError) as raised:
        settled(graph, Asked(preset=framework, dt=DT), "graph")
    assert raised.value.problem.startswith(f"node 'n1' ({type(neurons).__name__}): {request.node.callspec.id}")
    meant = run_graph(graph, Dynamics(DT), x)
    try:
        played = play(framework, graph, x)
    except CannotRun:
        return
    assert any(not np.array_equal(meant[name], values) for name, values in played.items())


def maps(kind: type) -> tuple[nir.NIRNode, tuple[int, ...]]:
    """A node without memory, and the shape it reads."""
    rng, wide = np.random.default_rng(6), (2, 8, 8)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32)

    made = {
        nir.Affine: lambda: (nir.Affine(normal(4, 6), normal(4)), (6,)),
        nir.Linear: lambda: (nir.Linear(normal(4, 6)), (6,)),
        nir.Scale: lambda: (nir.Scale(normal(6)), (6,)),
        nir.Threshold: lambda: (nir.Threshold(normal(6)), (6,)),
        nir.Delay: lambda: (nir.Delay(np.full(6, 2 * DT)), (6,)),
        nir.Conv1d: lambda: (nir.Conv1d(8, normal(3, 2, 3), 2, 1, 1, 1, normal(3)), (2, 8)),
        nir.Conv2d: lambda: (nir.Conv2d((8, 8), normal(3, 2, 3, 3), (2, 1), (1, 1), (1, 2), 1, normal(3)), wide),
        nir.SumPool2d: lambda: (nir.SumPool2d(np.array([3, 3]), np.array([2, 2]), np.array([0, 0])), wide),
        nir.AvgPool2d: lambda: (nir.AvgPool2d(np.array([3, 3]), np.array([2, 2]), np.array([1, 1])), wide),
        nir.Flatten: lambda: (nir.Flatten({"input": np.array(wide)}, 0, -1), wide),
    }
    return made[kind]()


MAPS = (
    *(nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d, nir.SumPool2d, nir.AvgPool2d, nir.Flatten),
    *(nir.Scale, nir.Threshold, nir.Delay),
)


@pytest.mark.parametrize("framework", ["norse", "snntorch", "spikingjelly", "sinabs"])
@pytest.mark.parametrize("kind", MAPS, ids=lambda kind: kind.__name__)
def test_a_framework_runs_the_nodes_that_its_preset_lets_through(framework: str, kind: type, play: Play) -> None:
    node, shape = maps(kind)
    x = events(*shape, samples=3, steps=5)
    graph = chain(node, size=shape)
    expected = run_graph(graph, Dynamics(DT), x)["output"]
    graph.nodes["output"] = nir.Output(np.array(expected.shape[2:]))
    try:
        found = play(framework, graph, x)["output"]
    except CannotRun as error:
        # sinabs writes one-dimensional convolutions, and then stumbles over reading them.
        written = (
            framework == "sinabs" and kind is nir.Conv1d and "'numpy.ndarray' object has no attribute" in str(error)
        )
        assert written or kind not in PRESETS[framework].runs
        return
    alike = found.shape == expected.shape and np.allclose(found, expected, atol=1e-5)
    assert alike == (kind in PRESETS[framework].runs)


CONV = {"type": "conv", "channels": 6, "kernel": 3, "padding": 1}
NORM = {"type": "batch_norm"}
STEPS = 12


def module(layers: list[dict]) -> SpikingNetwork:
    """A network on (2, 10, 10) whose batch-norms have seen data."""
    torch.manual_seed(0)
    network = SpikingNetwork(NetworkSpec((2, 10, 10), parse_layers(layers, {}), steps=STEPS))
    for norm in network.norms().values():
        torch.nn.init.uniform_(norm.bias, -0.1, 0.7)
    network.train()
    for _ in range(10):
        network((torch.rand(16, STEPS, 2, 10, 10) < 0.2).float())
    return network.eval()


def convolutional(neuron: str) -> SpikingNetwork:
    spikes, pool = {"type": neuron}, {"kernel": 2}
    first = [CONV, NORM, spikes, {"type": "avg_pool", **pool}, CONV, NORM, spikes, {"type": "max_pool", **pool}]
    return module(
        [
            *first,
            {"type": "flatten"},
            {"type": "linear", "features": 20},
            NORM,
            spikes,
            {"type": "linear", "features": 5},
        ]
    )


def residual() -> SpikingNetwork:
    """A block whose shortcut is a convolution."""
    stem = [CONV, NORM, {"type": "lif", "name": "stem"}]
    block = [CONV, NORM, {"type": "lif"}, CONV, NORM | {"name": "main"}]
    shortcut = [CONV | {"kernel": 1, "padding": 0, "from": "stem"}, NORM | {"name": "shortcut"}]
    total = [{"type": "sum", "of": ["main", "shortcut"]}, {"type": "lif", "name": "after"}]
    return module([*stem, *block, *shortcut, *total, {"type": "flatten"}, {"type": "linear", "features": 5}])


def neurons_like(*shape: int, threshold: float) -> nir.LIF:
    one = np.ones(shape, np.float32)
    return nir.LIF(tau=5e-4 * one, r=one, v_leak=0 * one, v_threshold=threshold * one, v_reset=0 * one)


def spikes_around() -> nir.NIRGraph:
    """A residual block around which the spikes go as they are."""
    rng, map_of = np.random.default_rng(4), (6, 10, 10)

    def conv(inputs: int, mean: float, spread: float) -> nir.Conv2d:
        weight = rng.normal(mean, spread, (6, inputs, 3, 3)).astype(np.float32)
        return nir.Conv2d((10, 10), weight, 1, 1, 1, 1, np.zeros(6, np.float32))

    nodes = {
        "input": nir.Input(np.array([2, 10, 10])),
        "conv1": conv(2, 0.3, 2.0),
        "stem": neurons_like(*map_of, threshold=1.0),
        "conv2": conv(6, 0.2, 1.0),
        "inner": neurons_like(*map_of, threshold=1.0),
        "conv3": conv(6, 0.1, 1.0),
        "after": neurons_like(*map_of, threshold=1.0),
        "flatten": nir.Flatten({"input": np.array(map_of)}, -3, -1),
        "readout": nir.Affine(rng.normal(0, 1, (5, 600)).astype(np.float32), np.zeros(5, np.float32)),
        "output": nir.Output(np.array([5])),
    }
    return nir.NIRGraph(nodes, [*pairwise(nodes), ("stem", "after")], {"dt": DT})


def recurrent() -> nir.NIRGraph:
    """A population that reads itself through a matrix."""
    rng = np.random.default_rng(5)
    nodes = {
        "input": nir.Input(np.array([10])),
        "into": nir.Affine(rng.normal(1, 2, (SIZE, 10)).astype(np.float32), np.full(SIZE, 0.2, np.float32)),
        "lif": neurons_like(SIZE, threshold=1.0),
        "readout": nir.Affine(rng.normal(0, 1, (3, SIZE)).astype(np.float32), np.zeros(3, np.float32)),
        "output": nir.Output(np.array([3])),
        "loop": nir.Affine(rng.normal(0, 1.5, (SIZE, SIZE)).astype(np.float32), np.full(SIZE, 0.1, np.float32)),
    }
    edges = [*pairwise(list(nodes)[:5]), ("lif", "loop"), ("loop", "lif")]
    return nir.NIRGraph(nodes, edges, {"dt": DT}, type_check=False)


def export(
    graph: nir.NIRGraph, folder: Path, profile: str = "portable", dynamics: Dynamics | None = None
) -> tuple[Path, str]:
    """The file of a graph, and what the exporter says of it."""
    done = NirExporter(profile).export(Deployable(graph, DT, dynamics=dynamics), folder / "network.nir")
    return done.path, "; ".join(str(check) for check in done.checks)


def ours(graph: nir.NIRGraph, x: np.ndarray, dynamics: Dynamics | None = None) -> dict[str, np.ndarray]:
    """The spikes of a graph's populations before it is written, in double precision."""
    run = run_graph(graph, dynamics or Dynamics(DT), x)
    found = {name: run[name] for name, node in graph.nodes.items() if isinstance(node, (nir.LIF, nir.IF))}
    assert all(0.02 < spikes.mean() < 0.6 for spikes in found.values())
    return found


def expect_same(spikes: dict[str, np.ndarray], played: dict[str, np.ndarray]) -> None:
    """Every population fires alike; a recurrent one is in a graph of its own, which has its name."""
    for name, expected in spikes.items():
        found = played[name if name in played else f"{name}.neurons"]
        np.testing.assert_array_equal(found, expected, err_msg=name)


ALIKE = ("norse", "snntorch", "spikingjelly")
EXACT = [
    *(("a convolutional network", framework) for framework in ALIKE),
    *(("integrate-and-fire", framework) for framework in ("norse", "spikingjelly")),
    *(("a shortcut of spikes", framework) for framework in ALIKE),
    *(("a shortcut with a convolution", framework) for framework in ("snntorch", "spikingjelly")),
    *(("a recurrent population", framework) for framework in ALIKE),
]
GRAPHS = {
    "a convolutional network": lambda: to_nir(convolutional("lif")),
    "integrate-and-fire": lambda: to_nir(convolutional("if")),
    "a shortcut of spikes": spikes_around,
    "a shortcut with a convolution": lambda: to_nir(residual()),
    "a recurrent population": recurrent,
}


@pytest.mark.parametrize(("what", "framework"), EXACT)
def test_a_written_network_fires_alike_in_other_frameworks(
    what: str, framework: str, tmp_path: Path, play: Play
) -> None:
    graph = GRAPHS[what]()
    x = events(*graph.nodes["input"].output_type["output"])
    spikes = ours(graph, x)
    file, _ = export(graph, tmp_path)
    expect_same(spikes, play(framework, file, x))
    read, dynamics = settled(nir.read(file, type_check=False), Asked(preset=framework), file.name)
    expect_same(spikes, run_graph(read, dynamics, x))


NETWORKS = {"lif": lambda: convolutional("lif"), "if": lambda: convolutional("if"), "residual": residual}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_graph_that_is_written_is_the_torch_module(network: Callable[[], SpikingNetwork]) -> None:
    net, x = network(), events(2, 10, 10, steps=STEPS)
    with torch.no_grad(), net.recording() as recorded:
        net(torch.from_numpy(x))
    found = run_graph(to_nir(net), Dynamics(DT), x)
    for name, spikes in recorded.items():
        np.testing.assert_array_equal(found[name], spikes.numpy(), err_msg=name)


def test_integrate_and_fire_is_not_for_snntorch(tmp_path: Path, play: Play) -> None:
    file, _ = export(to_nir(convolutional("if")), tmp_path)
    with pytest.raises(ScaDeployError, match="'if1'.*snntorch does not run nodes of this type"):
        settled(nir.read(file), Asked(preset="snntorch"), file.name)
    with pytest.raises(CannotRun, match="r != 1 not supported"):
        play("snntorch", file, events(2, 10, 10))


def test_a_shortcut_with_a_convolution_is_not_for_norse_and_the_export_says_so(tmp_path: Path, play: Play) -> None:
    graph, x = to_nir(residual()), events(2, 10, 10)
    file, said = export(graph, tmp_path)
    assert "norse: not known to add up branches alike" in said
    assert "(after)" in said
    assert (play("norse", file, x)["after"] != ours(graph, x)["after"]).any()


def test_a_loop_that_is_not_a_graph_of_its_own_is_not_for_snntorch(tmp_path: Path, play: Play) -> None:
    graph, x = recurrent(), events(10)
    # In the first step, where the loop brings nothing yet, its bias is left out by some.
    graph.nodes["loop"].bias[:] = 0
    expected = run_graph(graph, Dynamics(DT), x)
    for framework in ("norse", "spikingjelly"):
        expect_same(ours(graph, x), play(framework, graph, x))
    assert not np.allclose(play("snntorch", graph, x)["output"], expected["output"], atol=0.1)


def test_the_profile_of_sinabs_is_what_sinabs_computes(tmp_path: Path, play: Play) -> None:
    dynamics = Dynamics(DT, "subtract", multi_spike=True, clamp="threshold", tie="ge")
    layers = [
        CONV,
        NORM,
        {"type": "if"},
        {"type": "avg_pool", "kernel": 2},
        CONV,
        NORM,
        {"type": "if"},
        {"type": "flatten"},
    ]
    graph, x = to_nir(module([*layers, {"type": "linear", "features": 5}])), events(2, 10, 10)
    spikes = {name: values for name, values in run_graph(graph, dynamics, x).items() if name in ("if1", "if2")}
    assert any(values.max() > 1 for values in spikes.values())
    file, _ = export(graph, tmp_path, "sinabs", dynamics)
    expect_same(spikes, play("sinabs", file, x))
    read, understood = settled(nir.read(file), Asked(), file.name)
    assert (understood.reset, understood.multi_spike, understood.clamp, understood.tie) == (
        "subtract",
        True,
        "threshold",
        "ge",
    )
    expect_same(spikes, run_graph(read, understood, x))


def test_the_profile_of_spikingjelly_keeps_ties_that_the_portable_one_leaves_to_its_readers(
    tmp_path: Path, play: Play
) -> None:
    weight = np.random.default_rng(3).integers(-2, 4, (SIZE, SIZE)).astype(np.float32)
    graph, x = chain(nir.Affine(weight, np.zeros(SIZE, np.float32)), integrating(1e4)), events()
    spikes = ours(graph, x)
    portable, _ = export(graph, tmp_path)
    assert (play("spikingjelly", portable, x)["n1"] != spikes["n1"]).any()
    theirs, _ = export(graph, tmp_path, "spikingjelly")
    expect_same(spikes, play("spikingjelly", theirs, x))
