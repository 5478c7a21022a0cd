"""The NIR file: what readers make of it, and what is refused because they would read it differently."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir import NirExporter, check_portable, largest_difference, topological_order, write_nir
from sca_deploy.exporters.profiles.rewriting import rewritten
from sca_deploy.hardware.dynamics import Dynamics

DT = 1e-4


@pytest.fixture
def path(deployable: Deployable, tmp_path: Path) -> Path:
    """The written file."""
    return NirExporter().export(deployable, tmp_path / "network.nir").path


def run_in_norse(path: Path, x: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Spikes of every neuron layer and logits when norse executes the file."""
    norse = pytest.importorskip("norse.torch")
    model = norse.from_nir(nir.read(path), dt=DT)
    recorded: dict[str, list[np.ndarray]] = {}
    for name, module in model.named_children():
        if name.startswith("lif"):
            keep = recorded.setdefault(name, []).append
            module.register_forward_hook(lambda _m, _i, out, keep=keep: keep(out[0].numpy()))
    state, logits = None, torch.zeros(())
    with torch.no_grad():
        for t in range(x.shape[1]):
            step, state = model(torch.from_numpy(x[:, t]), state)
            logits = logits + step
    return {name: np.stack(spikes, axis=1) for name, spikes in recorded.items()}, logits.numpy()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_norse_executes_the_file_spike_for_spike(path: Path, network: Any, x: np.ndarray) -> None:
    expected_spikes, expected_logits = network.run(x)
    spikes, logits = run_in_norse(path, x)
    assert spikes.keys() == expected_spikes.keys() == {"lif1", "lif2", "lif3"}
    for name, expected in expected_spikes.items():
        assert 0.05 < expected.mean() < 0.95
        np.testing.assert_array_equal(spikes[name], expected, err_msg=name)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_norse_adds_the_input_of_if_neurons_exactly(tmp_path: Path, portable: Any) -> None:
    rng = np.random.default_rng(3)
    weight = rng.integers(-4, 8, (5, 7)).astype(np.float32) / 8
    graph = portable.chain(
        ("input", nir.Input(np.array([7]))),
        ("synapse", nir.Affine(weight, np.zeros(5, np.float32))),
        ("lif1", portable.integrate_and_fire(5)),
        ("output", nir.Output(np.array([5]))),
    )
    x = (rng.random((4, 30, 7)) < 0.3).astype(np.float32)
    v, expected = np.zeros((4, 5)), []
    for t in range(30):
        v = v + x[:, t] @ weight.T
        expected.append(v > 1.0)
        v = np.where(v > 1.0, 0.0, v)
    NirExporter().export(Deployable(graph, DT), tmp_path / "if.nir")
    spikes, _ = run_in_norse(tmp_path / "if.nir", x)
    np.testing.assert_array_equal(spikes["lif1"], np.stack(expected, axis=1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_norse_sums_an_identity_skip(tmp_path: Path, portable: Any) -> None:
    rng = np.random.default_rng(4)
    weight, beta = rng.normal(0, 0.6, (6, 6)).astype(np.float32), 0.8
    scaled = weight / np.float32(1 - beta)
    none = np.zeros(6, np.float32)
    nodes = {
        "input": nir.Input(np.array([6])),
        "first": nir.Affine(scaled, none),
        "lif1": portable.lif(6),
        "second": nir.Affine(scaled, none),
        "lif2": portable.lif(6),
        "output": nir.Output(np.array([6])),
    }
    edges = [("input", "first"), ("first", "lif1"), ("lif1", "second"), ("second", "lif2"), ("lif1", "lif2")]
    graph = nir.NIRGraph(nodes, [*edges, ("lif2", "output")])
    x = (rng.random((4, 30, 6)) < 0.4).astype(np.float32)
    v1, v2, expected = np.zeros((4, 6)), np.zeros((4, 6)), []
    for t in range(30):
        v1 = beta * v1 + x[:, t] @ weight.T
        s1 = v1 > 1.0
        v2 = beta * v2 + s1 @ weight.T + (1 - beta) * s1
        expected.append(v2 > 1.0)
        v1, v2 = np.where(s1, 0.0, v1), np.where(v2 > 1.0, 0.0, v2)
    NirExporter().export(Deployable(graph, DT), tmp_path / "skip.nir")
    spikes, _ = run_in_norse(tmp_path / "skip.nir", x)
    np.testing.assert_array_equal(spikes["lif2"], np.stack(expected, axis=1))


def test_the_file_read_back_is_the_graph(path: Path, graph: nir.NIRGraph) -> None:
    read = nir.read(path, type_check=True)
    assert read.edges == graph.edges
    assert read.nodes.keys() == graph.nodes.keys()
    for name in ("conv1", "conv2", "hidden", "readout"):
        np.testing.assert_array_equal(read.nodes[name].weight, graph.nodes[name].weight)
        np.testing.assert_array_equal(read.nodes[name].bias, graph.nodes[name].bias)
    np.testing.assert_array_equal(read.nodes["lif2"].tau, graph.nodes["lif2"].tau)


def test_zero_resets_are_left_out_so_that_older_readers_load_the_file(path: Path) -> None:
    with h5py.File(path) as file:
        for name in ("lif1", "lif2", "lif3"):
            assert set(file[f"node/nodes/{name}"]) == {"type", "tau", "r", "v_leak", "v_threshold"}
    np.testing.assert_array_equal(nir.read(path).nodes["lif3"].v_reset, np.zeros(10))


def test_metadata_says_what_the_format_leaves_open(path: Path) -> None:
    metadata = nir.read(path).metadata
    assert metadata["dt"] == 1e-4
    assert metadata["reset"] == "hard"
    assert metadata["T"] == 12
    assert metadata["title"] == "small test network"
    assert json.loads(metadata["manifest"]) == {"seed": 5}


def test_the_checks_are_reported(deployable: Deployable, tmp_path: Path) -> None:
    exported = NirExporter().export(deployable, tmp_path / "network.nir")
    assert exported.target == "nir"
    assert [str(check) for check in exported.checks] == [
        "portable profile: all 11 nodes are within it",
        "re-read network.nir: maximum difference 0",
    ]


def test_the_same_network_gives_the_same_bytes(deployable: Deployable, path: Path, tmp_path: Path) -> None:
    again = NirExporter().export(deployable, tmp_path / "again.nir").path
    assert again.read_bytes() == path.read_bytes()


def test_a_graph_without_inferred_shapes_is_written_whole_and_left_alone(
    deployable: Deployable, path: Path, tmp_path: Path
) -> None:
    nodes = copy.deepcopy(deployable.graph.nodes)
    for name in ("conv1", "conv2"):
        nodes[name].input_shape = nodes[name].input_type["input"] = nodes[name].output_type["output"] = None
    graph = nir.NIRGraph(nodes, deployable.graph.edges, deployable.graph.metadata, type_check=False)
    again = NirExporter().export(replace(deployable, graph=graph), tmp_path / "again.nir").path
    assert nodes["conv1"].input_shape is nodes["conv2"].input_shape is None
    assert "manifest" not in graph.metadata
    assert again.read_bytes() == path.read_bytes()


def test_a_refused_graph_leaves_the_earlier_file_alone(deployable: Deployable, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ScaDeployError, match=r"built for dt = 0\.0001 s, the export asks for 0\.001 s"):
        NirExporter().export(replace(deployable, dt=1e-3), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "key"),
    [("conv1", "weight"), ("conv2", "bias"), ("conv1", "padding"), ("lif1", "tau"), ("lif3", "v_reset")],
)
def test_a_value_that_comes_back_changed_is_a_mismatch(graph: nir.NIRGraph, name: str, key: str) -> None:
    read = copy.deepcopy(graph)
    value = np.array(getattr(read.nodes[name], key))
    value.flat[-1] += 1
    setattr(read.nodes[name], key, value)
    with pytest.raises(Mismatch, match=rf"node '{name}': {key} .* differs by 1"):
        largest_difference(graph, read)


def test_an_array_that_comes_back_as_another_type_or_shape_is_a_mismatch(graph: nir.NIRGraph) -> None:
    for changed in (graph.nodes["hidden"].weight.astype(np.float64), graph.nodes["hidden"].weight[:, :-1]):
        read = copy.deepcopy(graph)
        read.nodes["hidden"].weight = changed
        with pytest.raises(Mismatch, match="node 'hidden': weight written float32"):
            largest_difference(graph, read)


def test_edges_and_metadata_that_come_back_changed_are_a_mismatch(graph: nir.NIRGraph) -> None:
    read = copy.deepcopy(graph)
    read.edges.reverse()
    with pytest.raises(Mismatch, match="edges written"):
        largest_difference(graph, read)
    read = copy.deepcopy(graph)
    read.metadata["dt"] = 1e-3
    with pytest.raises(Mismatch, match="metadata written"):
        largest_difference(graph, read)


def test_the_portable_graph_is_accepted(graph: nir.NIRGraph) -> None:
    check_portable(graph, DT)


def set_on(name: str, key: str, change: Callable[[np.ndarray], object]) -> Callable[[nir.NIRGraph], None]:
    """An edit of one parameter of one node."""

    def edit(graph: nir.NIRGraph) -> None:
        setattr(graph.nodes[name], key, change(getattr(graph.nodes[name], key)))

    return edit


def rename(old: str, new: str) -> Callable[[nir.NIRGraph], None]:
    """An edit of one node's name."""

    def edit(graph: nir.NIRGraph) -> None:
        graph.nodes = {new if name == old else name: node for name, node in graph.nodes.items()}
        graph.edges = [tuple(new if end == old else end for end in edge) for edge in graph.edges]

    return edit


def insert(name: str, node: nir.NIRNode | str, *edges: tuple[str, str]) -> Callable[[nir.NIRGraph], None]:
    """A further node, or a copy of the one named, and edges, each before what its target feeds."""

    def edit(graph: nir.NIRGraph) -> None:
        graph.nodes[name] = copy.deepcopy(graph.nodes[node] if isinstance(node, str) else node)
        for edge in edges:
            sources = [source for source, _ in graph.edges]
            graph.edges.insert(sources.index(edge[1]) if edge[1] in sources else len(sources), edge)

    return edit


def one_neuron_differs(value: np.ndarray) -> np.ndarray:
    value = value.copy()
    value.flat[0] *= 2
    return value


OUTSIDE = {
    "unsupported node": (
        insert("slow", nir.Threshold(np.ones(3, np.float32)), ("readout", "slow"), ("slow", "output")),
        "node 'slow' is a Threshold",
    ),
    "name with a slash": (rename("conv1", "block/conv1"), "node name 'block/conv1'"),
    "input called otherwise": (rename("input", "image"), "the Input is called 'image'"),
    "output called otherwise": (rename("output", "classes"), "the Output is called 'classes'"),
    "two outputs": (insert("second", nir.Output(np.array([3])), ("readout", "second")), "2 Output nodes"),
    "two inputs": (insert("second", nir.Input(np.array([3])), ("second", "output")), "2 Input nodes"),
    "dangling node": (insert("loose", "lif3", ("lif3", "loose")), "nothing reads node 'loose'"),
    "node without input": (insert("loose", "lif3", ("loose", "readout")), "node 'loose' reads nothing"),
    "two edges into the output": (
        insert("other", "readout", ("lif3", "other"), ("other", "output")),
        "several edges enter the Output",
    ),
    "edges out of order": (lambda g: g.edges.reverse(), "is listed before an edge into"),
    "double precision": (set_on("hidden", "weight", np.float64), "hidden': weight is float64"),
    "scalar parameter": (set_on("lif1", "v_leak", lambda _: np.float32(0.0)), "lif1': v_leak is float32 of shape"),
    "not finite": (set_on("conv1", "bias", lambda b: b * np.float32(np.nan)), "conv1': bias has values that are not"),
    "groups": (set_on("conv2", "groups", lambda _: 2), "convolution 'conv2' has 2 groups"),
    "oblong kernel": (set_on("conv1", "weight", lambda w: w[..., :2]), "convolution 'conv1' has a 3x2 kernel"),
    "padding in words": (set_on("conv1", "padding", lambda _: "same"), "convolution 'conv1' has padding 'same'"),
    "padded pooling": (set_on("pool1", "padding", lambda _: np.array([1, 1])), "pooling 'pool1' is padded"),
    "flatten from the batch": (set_on("flatten", "start_dim", lambda _: 0), "'flatten' flattens 0 to -1"),
    "resistance": (set_on("lif1", "r", lambda r: 2 * r), "neurons 'lif1': r is 2, not 1"),
    "leak potential": (set_on("lif1", "v_leak", lambda v: v + np.float32(0.1)), "neurons 'lif1': v_leak is 0.1, not 0"),
    "reset potential": (set_on("lif2", "v_reset", lambda v: v - 1), "neurons 'lif2': v_reset is -1, not 0"),
    "shorter than a step": (set_on("lif3", "tau", lambda t: t / 100), "neurons 'lif3': tau is 5e-06 s, less than dt"),
    "tau per neuron": (set_on("lif1", "tau", one_neuron_differs), "neurons 'lif1': tau differs from neuron to neuron"),
    "threshold per neuron": (set_on("lif1", "v_threshold", one_neuron_differs), "neurons 'lif1': v_threshold differs"),
    "gain of synapses": (
        lambda g: g.nodes.update(lif3=nir.CubaLIF(*(np.full(10, v, np.float32) for v in (2e-4, 4e-4, 4, 0, 1)))),
        "neurons 'lif3': w_in is 1, not 2",
    ),
    "resistance of IF": (
        lambda g: g.nodes.update(lif3=nir.IF(np.ones(10, np.float32), np.ones(10, np.float32))),
        "neurons 'lif3': r is 1, not 10000",
    ),
    "metadata in folders": (lambda g: g.metadata.update(made={"by": "hand"}), "metadata 'made' is a dict"),
    "another dt in the metadata": (lambda g: g.metadata.update(dt=1e-3), "built for dt = 0.001 s"),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_is_outside_the_portable_profile_is_named(graph: nir.NIRGraph, case: str) -> None:
    edit, message = OUTSIDE[case]
    edit(graph)
    with pytest.raises(ScaDeployError, match=re.escape(message)):
        check_portable(graph, DT)


def test_flattening_what_is_flat_is_accepted(graph: nir.NIRGraph) -> None:
    graph.nodes["flatten"] = nir.Flatten({"input": np.array([96])}, start_dim=-1, end_dim=-1)
    check_portable(graph, DT)


def test_branches_are_accepted_and_the_export_says_who_does_not_add_them_up(
    deployable: Deployable, tmp_path: Path
) -> None:
    insert("side", "conv2", ("side", "lif2"), ("pool1", "side"))(deployable.graph)
    check_portable(deployable.graph, DT)
    checks = NirExporter().export(deployable, tmp_path / "network.nir").checks
    assert [str(check) for check in checks if check.name == "norse"] == [
        "norse: not known to add up branches alike, where neither is a way around the other (lif2)"
    ]


def test_a_rewritten_graph_is_run_against_the_one_given(deployable: Deployable, tmp_path: Path) -> None:
    set_on("lif1", "r", lambda r: 2 * r)(deployable.graph)
    set_on("lif1", "v_threshold", lambda v: 2 * v)(deployable.graph)
    checks = NirExporter().export(deployable, tmp_path / "network.nir").checks
    [line] = [check for check in checks if check.name == "rewriting"]
    assert re.fullmatch(r"0 of [1-9],\d{3} spikes differ on 6 samples of 12 steps of the probe", line.detail)
    assert line.max_difference is not None
    assert line.max_difference < 1e-6


@pytest.mark.parametrize("changed", ["spikes", "output"])
def test_a_rewriting_that_changes_anything_writes_nothing(
    deployable: Deployable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    def wrong(*given: Any) -> Any:
        made = rewritten(*given)
        node = made.graph.nodes["conv2" if changed == "spikes" else "readout"]
        node.weight = node.weight * np.float32(1.01)
        return made

    monkeypatch.setattr("sca_deploy.exporters.nir.rewritten", wrong)
    message = {"spikes": r"changes its spikes: .* limit 0\.01 %", "output": r"changes its output by 0\.0"}[changed]
    with pytest.raises(Mismatch, match=message):
        NirExporter().export(deployable, tmp_path / "network.nir")
    assert not (tmp_path / "network.nir").exists()


def test_metadata_says_how_the_neurons_were_trained(deployable: Deployable, tmp_path: Path) -> None:
    dynamics = Dynamics(DT, "subtract", multi_spike=True, clamp=-1.0, tie="ge")
    write_nir(replace(deployable, dynamics=dynamics), tmp_path / "as_it_is.nir")
    metadata = nir.read(tmp_path / "as_it_is.nir").metadata
    assert dynamics.metadata().items() <= metadata.items()


def test_further_problems_are_counted(graph: nir.NIRGraph) -> None:
    set_on("lif1", "r", lambda r: 2 * r)(graph)
    set_on("lif2", "r", lambda r: 2 * r)(graph)
    with pytest.raises(ScaDeployError, match=r"'lif1'.* \(and 1 more\)$"):
        check_portable(graph, DT)


def test_shapes_that_do_not_fit_are_one_clear_error(deployable: Deployable, portable: Any, tmp_path: Path) -> None:
    deployable.graph.nodes["lif2"] = portable.lif(6, 5, 5)
    with pytest.raises(ScaDeployError, match=r"'lif2' .* neurons of shape \(6, 5, 5\)"):
        NirExporter().export(deployable, tmp_path / "network.nir")
    assert not (tmp_path / "network.nir").exists()


def test_topological_order_puts_every_node_after_what_it_reads(graph: nir.NIRGraph) -> None:
    graph.nodes = {name: graph.nodes[name] for name in sorted(graph.nodes)}
    order = topological_order(graph)
    assert sorted(order) == sorted(graph.nodes)
    for source, target in graph.edges:
        assert order.index(source) < order.index(target)


def test_a_loop_is_refused_by_name(graph: nir.NIRGraph) -> None:
    graph.edges.append(("lif2", "conv2"))
    with pytest.raises(ScaDeployError, match=r"nodes .*conv2.*lif2.* form a loop"):
        topological_order(graph)


def test_an_edge_to_nowhere_is_refused_by_name(graph: nir.NIRGraph) -> None:
    graph.edges.append(("lif2", "nowhere"))
    with pytest.raises(ScaDeployError, match="'nowhere', which is not a node"):
        check_portable(graph, DT)
