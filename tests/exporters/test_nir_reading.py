"""Foreign `.nir` files: what a writer may leave out or add, what `nir.read` makes of the same file, what is refused.

The files are made here with h5py as writers made them since nir 0.1, or by `nir.write`.
"""

import json
import logging
import struct
import zlib
from itertools import pairwise

import h5py
import nir
import numpy as np
import pytest

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters import nir_members
from sca_deploy.exporters.nir_reading import read_nir

RNG = np.random.default_rng(3)


def values(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def full(value, *shape):
    return np.full(shape, value, np.float32)


def affine(outputs=3, inputs=4, **more):
    return {"type": "Affine", "weight": values(outputs, inputs), "bias": values(outputs)} | more


def conv(**more):
    """2 channels to 4, a 3 x 3 kernel."""
    sides = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1, "input_shape": [8, 8]}
    return {"type": "Conv2d", "weight": values(4, 2, 3, 3), "bias": values(4)} | sides | more


def lif(*shape, **more):
    neutral = {"v_leak": full(0, *shape), "v_threshold": full(1, *shape)}
    return {"type": "LIF", "tau": full(0.01, *shape), "r": full(1, *shape)} | neutral | more


def integrate_and_fire(*shape, **more):
    return {"type": "IF", "r": full(1, *shape), "v_threshold": full(1, *shape)} | more


def pool(**more):
    return {"type": "SumPool2d", "kernel_size": [2, 2], "stride": [2, 2], "padding": [0, 0]} | more


def end(kind, *shape):
    return {"type": kind, "shape": list(shape)}


def graph(edges=(), metadata=None, **nodes):
    found = {"type": "NIRGraph", "nodes": nodes, "edges": np.array(edges, object).reshape(-1, 2)}
    return found | ({"metadata": metadata} if metadata else {})


def chain(metadata=None, **nodes):
    names = list(nodes)
    return graph(list(pairwise(names)), metadata, **nodes)


def fill(group, members):
    for name, value in members.items():
        if isinstance(value, dict):
            fill(group.create_group(name), value)
        elif isinstance(value, np.ndarray) and value.dtype == object:
            group.create_dataset(name, data=value, dtype=h5py.string_dtype())
        elif value is not None:
            group[name] = value


def write(path, node):
    with h5py.File(path, "w") as file:
        fill(file.create_group("node"), node)
    return path


def read(tmp_path, node):
    return read_nir(write(tmp_path / "a.nir", node))


def refused(tmp_path, node):
    """The one line that reading such a file gives."""
    with pytest.raises(ScaDeployError) as error:
        read(tmp_path, node)
    problem = error.value.problem
    assert problem.startswith(str(tmp_path / "a.nir"))
    assert "\n" not in problem
    assert len(problem) - len(str(tmp_path)) < 300
    return problem


def small(**nodes):
    """Input -> a -> n -> Output, of 4 to 3; `nodes` take the place of those of their name."""
    usual = {"input": end("Input", 4), "a": affine(), "n": lif(3), "output": end("Output", 3)}
    return chain(**(usual | nodes))


def assert_same(ours, theirs):
    """Equal node for node, in types, parameters, their dtypes, and edges in their order."""
    assert (list(ours.nodes), ours.edges) == (list(theirs.nodes), theirs.edges)
    for name, node in theirs.nodes.items():
        if isinstance(node, nir.NIRGraph):
            assert_same(ours.nodes[name], node)
            continue
        left, right = ours.nodes[name].to_dict(), node.to_dict()
        assert left.keys() == right.keys()
        assert left["type"] == right["type"]
        for key in left.keys() - {"metadata", "type"}:
            if not isinstance(left[key], str):
                assert np.asarray(left[key]).dtype == np.asarray(right[key]).dtype, f"{name} {key}"
            np.testing.assert_array_equal(left[key], right[key], err_msg=f"{name} {key}")
        for port in ("input_type", "output_type"):
            (ours_says,), (theirs_says,) = getattr(ours.nodes[name], port).values(), getattr(node, port).values()
            np.testing.assert_array_equal(ours_says, theirs_says, err_msg=f"{name} {port}")


# Sound files: the graph is the one that nir.read gives.


def every_node():
    """One node of every type of nir 1.0.8, each as its class makes it; a recurrent graph inside."""
    n = (5,)
    cuba = {key: values(*n) ** 2 + 1 for key in ("tau_syn", "tau_mem", "r", "v_leak")}
    firing = {"v_threshold": full(1, *n), "v_reset": full(-0.5, *n)}
    two = np.array([2, 2])
    inner = nir.NIRGraph(
        {"input": nir.Input(np.array(n)), "l": nir.LIF(full(0.1, *n), values(*n), values(*n), **firing),
         "w": nir.Linear(values(5, 5)), "output": nir.Output(np.array(n))},
        [("input", "l"), ("l", "w"), ("w", "l"), ("l", "output")],
    )  # fmt: skip
    nodes = {
        "in": nir.Input(np.array(n)), "out": nir.Output(np.array(n)),
        "affine": nir.Affine(values(5, 5), values(5)), "linear": nir.Linear(values(5, 5).astype(np.float64)),
        "scale": nir.Scale(values(5)), "threshold": nir.Threshold(values(5)), "delay": nir.Delay(values(5) ** 2),
        "conv1d": nir.Conv1d(9, values(4, 2, 3), 2, 1, 1, 1, values(4)),
        "same": nir.Conv1d(9, values(4, 2, 3), 1, "same", 1, 1, values(4)),
        "conv2d": nir.Conv2d((8, 9), values(4, 2, 3, 3), (2, 1), 1, 1, 1, values(4)),
        "valid": nir.Conv2d((8, 9), values(4, 2, 3, 3), 1, "valid", (1, 1), 1, values(4)),
        "sum": nir.SumPool2d(two, two, two * 0), "avg": nir.AvgPool2d(two, two, two * 0),
        "flatten": nir.Flatten({"input": np.array([2, 3, 4])}, 0, -1),
        "i": nir.I(values(5)), "if": nir.IF(values(5), **firing), "li": nir.LI(full(0.1, 5), values(5), values(5)),
        "lif": nir.LIF(full(0.1, 5).astype(np.float64), values(5), values(5), **firing),
        "cubali": nir.CubaLI(**cuba, w_in=values(5)), "cubalif": nir.CubaLIF(**cuba, w_in=values(5), **firing),
        "inner": inner,
    }  # fmt: skip
    edges = [("in", "lif"), ("lif", "inner"), ("inner", "out"), ("in", "inner")]
    return nir.NIRGraph(nodes, edges, {"dt": 1e-4}, type_check=False)


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_a_graph_of_every_node_type_is_the_one_that_nir_reads(compression, tmp_path):
    nir.write(tmp_path / "a.nir", every_node(), compression=compression)
    assert_same(read_nir(tmp_path / "a.nir"), nir.read(tmp_path / "a.nir", type_check=False))


@pytest.mark.parametrize("form", ["earliest", "latest"])
def test_the_older_and_the_newer_form_of_hdf5_hold_the_same_graph(form, tmp_path):
    nir.write(tmp_path / "a.nir", every_node())
    with h5py.File(tmp_path / "a.nir") as old, h5py.File(tmp_path / "b.nir", "w", libver=form) as new:
        for name in old:
            old.copy(name, new)
    assert_same(read_nir(tmp_path / "b.nir"), nir.read(tmp_path / "a.nir", type_check=False))


@pytest.mark.parametrize("name", ["lif_norse.nir", "cnn_sinabs.nir"])
def test_real_files_of_other_tools_are_the_graphs_that_nir_reads(name, shared_data):
    path = shared_data / "nir" / name
    graph = read_nir(path)
    assert_same(graph, nir.read(path, type_check=False))
    assert graph.metadata == {}


@pytest.mark.parametrize("chunks", [None, (2, 3)])
def test_values_that_were_never_written_are_not_taken_for_zeros(chunks, tmp_path):
    write(tmp_path / "a.nir", small(a=affine(weight=None)))
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        weight = file.create_dataset("node/nodes/a/weight", (3, 4), "f4", chunks=chunks)
        if chunks:
            weight[2, 3] = 1.5
    with pytest.raises(ScaDeployError, match="/node/nodes/a/weight has values that were never written"):
        read_nir(tmp_path / "a.nir")


@pytest.mark.parametrize("packing", [{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}])
def test_edges_may_lie_in_packed_chunks(packing, tmp_path):
    node = small()
    write(tmp_path / "a.nir", node | {"edges": None})
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        file.create_dataset("node/edges", data=node["edges"], dtype=h5py.string_dtype(), chunks=(2, 1), **packing)
    assert read_nir(tmp_path / "a.nir").edges == [("input", "a"), ("a", "n"), ("n", "output")]


# What a writer may leave out or say in its own way.


def test_a_file_needs_no_version_and_its_text_may_have_a_fixed_length(tmp_path):
    node = small(a=affine(type=np.bytes_("Affine")))
    node["edges"] = np.array([[b"input", b"a"], [b"a", b"n"], [b"n", b"output"]])
    read_graph = read(tmp_path, node)
    assert isinstance(read_graph.nodes["a"], nir.Affine)
    assert read_graph.edges == [("input", "a"), ("a", "n"), ("n", "output")]


def test_a_missing_leak_and_reset_are_zero_and_a_missing_input_weight_one(tmp_path):
    times = {"tau_syn": full(0.1, 3), "tau_mem": full(0.2, 3), "r": full(1, 3), "v_threshold": full(1, 3)}
    node = read(tmp_path, small(n={"type": "CubaLIF"} | times)).nodes["n"]
    for key, value in (("v_leak", 0), ("v_reset", 0), ("w_in", 1)):
        np.testing.assert_array_equal(getattr(node, key), full(value, 3))


@pytest.mark.parametrize("single", [np.float32(0.01), full(0.01, 1)])
def test_single_numbers_stand_for_the_whole_population(single, tmp_path):
    node = read(tmp_path, small(n=lif(3, tau=single))).nodes["n"]
    np.testing.assert_array_equal(node.tau, full(0.01, 3))
    assert node.tau.dtype == np.float32


def test_a_population_of_single_numbers_only_keeps_one_axis(tmp_path):
    parameters = {key: np.float32(1) for key in ("tau", "r", "v_leak", "v_threshold")}
    node = read(tmp_path, small(n={"type": "LIF"} | parameters)).nodes["n"]
    assert [value.shape for value in (node.tau, node.r, node.v_leak, node.v_threshold, node.v_reset)] == [(1,)] * 5


@pytest.mark.parametrize(("stored", "read_as"), [("f8", "f8"), ("f4", "f4"), ("f2", "f4"), ("i4", "f4"), (">f8", "f8")])
def test_weights_are_float32_or_float64_whatever_they_were(stored, read_as, tmp_path):
    weight = np.arange(12).reshape(3, 4).astype(stored)
    found = read(tmp_path, small(a=affine(weight=weight))).nodes["a"].weight
    assert found.dtype == np.dtype(read_as)
    np.testing.assert_array_equal(found, np.arange(12).reshape(3, 4))


def test_a_missing_bias_is_zero(tmp_path):
    nodes = read(tmp_path, graph(a=affine(bias=None), c=conv(bias=None))).nodes
    np.testing.assert_array_equal(nodes["a"].bias, full(0, 3))
    np.testing.assert_array_equal(nodes["c"].bias, full(0, 4))


def test_a_convolution_needs_no_input_shape_and_one_side_stands_for_both(tmp_path):
    node = read(tmp_path, graph(c=conv(input_shape=None, stride=2, padding=1, dilation=None, groups=None))).nodes["c"]
    assert (node.input_shape, node.groups) == (None, 1)
    for key, both in (("stride", [2, 2]), ("padding", [1, 1]), ("dilation", [1, 1])):
        np.testing.assert_array_equal(getattr(node, key), both)


def test_sides_of_a_pool_may_be_one_number(tmp_path):
    node = read(tmp_path, graph(p=pool(kernel_size=2, stride=2, padding=0))).nodes["p"]
    for key, both in (("kernel_size", [2, 2]), ("stride", [2, 2]), ("padding", [0, 0])):
        np.testing.assert_array_equal(getattr(node, key), both)


def test_a_convolution_in_groups_with_an_oblong_kernel_says_its_true_shapes(tmp_path):
    """torch: 4 channels of 8 x 9 in 2 groups, kernel 3 x 2, stride 2 x 1 give 6 channels of 4 x 8."""
    torch = pytest.importorskip("torch")
    weight = values(6, 2, 3, 2)
    expected = torch.nn.functional.conv2d(torch.zeros(1, 4, 8, 9), torch.from_numpy(weight), None, (2, 1), (1, 0), 1, 2)
    more = {"stride": [2, 1], "padding": [1, 0], "groups": 2, "input_shape": [8, 9], "bias": values(6)}
    node = read(tmp_path, graph(c=conv(weight=weight, **more))).nodes["c"]
    np.testing.assert_array_equal(node.input_type["input"], [4, 8, 9])
    np.testing.assert_array_equal(node.output_type["output"], expected.shape[1:])


@pytest.mark.parametrize("key", ["shape", "input_type", "output_type"])
def test_the_shape_of_an_end_goes_by_any_of_its_names(key, tmp_path):
    found = read(tmp_path, small(input={"type": "Input", key: [4]})).nodes["input"]
    np.testing.assert_array_equal(found.input_type["input"], [4])
    found = read(tmp_path, small(output={"type": "Output", key: {"whatever": [3]}})).nodes["output"]
    np.testing.assert_array_equal(found.output_type["output"], [3])


def test_unknown_members_are_not_looked_at(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        read(tmp_path, small(a=affine(colour=np.nan, history={"of": "it"})))
    assert "/node/nodes/a/colour is not read, Affine nodes have no such member" in caplog.text


def test_an_edge_named_twice_is_one_and_the_order_stays(tmp_path):
    node = small()
    node["edges"] = np.array([["n", "output"], ["input", "a"], ["n", "output"], ["a", "n"]], object)
    assert read(tmp_path, node).edges == [("n", "output"), ("input", "a"), ("a", "n")]


def test_a_graph_may_have_no_edges(tmp_path):
    assert read(tmp_path, {"type": "NIRGraph", "nodes": {"n": lif(3)}, "edges": []}).edges == []


def test_loops_are_read_as_they_are(tmp_path):
    edges = [("input", "n"), ("n", "w"), ("w", "n"), ("n", "output")]
    found = read(tmp_path, graph(edges, input=end("Input", 3), n=lif(3), w=affine(3, 3), output=end("Output", 3)))
    assert found.edges == edges


def test_nodes_may_have_any_name(tmp_path):
    names = ["a b", "é", "0", "node", "type", "..x", "\u2028", "-" * 200]
    found = read(tmp_path, chain(**{name: lif(3) for name in names}))
    assert set(found.nodes) == set(names)
    assert found.edges == list(pairwise(names))


def test_graphs_lie_in_graphs_sixteen_deep_and_no_deeper(tmp_path):
    node = small()
    for _ in range(16):
        node = chain(input=end("Input", 4), inner=node, output=end("Output", 3))
    found = read(tmp_path, node)
    for _ in range(16):
        found = found.nodes["inner"]
    assert isinstance(found.nodes["n"], nir.LIF)
    assert "lies deeper than 16" in refused(tmp_path, chain(inner=node))


def test_a_single_node_comes_between_an_input_and_an_output(tmp_path):
    found = read(tmp_path, affine(metadata={"dt": 1e-3}))
    assert found.edges == [("input", "node"), ("node", "output")]
    assert [list(found.nodes[name].input_type["input"]) for name in found.nodes] == [[4], [4], [3]]
    assert found.metadata["dt"] == 1e-3
    assert "does not say its shape" in refused(tmp_path, pool())


# Metadata.


def test_metadata_are_plain_values_however_deep(tmp_path):
    given = {"dt": np.float64(1e-4), "T": np.int64(5), "name": "é" * 9000, "on": np.bool_(True), "old": np.bytes_("x")}
    given |= {"list": np.array([1, 2]), "words": np.array(["a", ""], object), "deep": {"er": {"x": np.float32(0.5)}}}
    found = read(tmp_path, small() | {"metadata": given}).metadata
    assert found == {
        "dt": 1e-4, "T": 5, "name": "é" * 9000, "on": True, "old": "x",
        "list": [1, 2], "words": ["a", ""], "deep": {"er": {"x": 0.5}},
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    assert [type(found[key]) for key in ("dt", "T", "on", "name")] == [float, int, bool, str]


def test_nodes_and_inner_graphs_keep_their_own_metadata(tmp_path):
    inner = chain({"note": "inside"}, input=end("Input", 4), n=lif(4, metadata={"id": 7}), output=end("Output", 4))
    found = read(tmp_path, small(a=inner))
    assert (found.metadata, found.nodes["a"].metadata) == ({}, {"note": "inside"})
    assert found.nodes["a"].nodes["n"].metadata == {"id": 7}


def test_a_reset_potential_says_that_the_reset_is_hard(tmp_path):
    hard = lif(3, v_reset=full(0, 3))
    assert read(tmp_path, small(n=hard)).metadata == {"reset": "hard"}
    inner = chain(input=end("Input", 4), n=lif(4, v_reset=full(0, 4)), output=end("Output", 4))
    assert read(tmp_path, small(n=inner)).metadata == {"reset": "hard"}
    assert read(tmp_path, small(n=hard) | {"metadata": {"reset": "subtract"}}).metadata == {"reset": "subtract"}
    assert "reset" not in read(tmp_path, small()).metadata


# Batch dimensions: gone where the nodes around show them, otherwise kept.


def test_a_batch_before_maps_goes(tmp_path):
    nodes = {"input": end("Input", 1, 2, 8, 8), "c": conv(), "n": lif(1, 4, 8, 8), "m": lif(1, 4, 8, 8), "p": pool()}
    nodes |= {"f": {"type": "Flatten", "start_dim": 1, "end_dim": -1, "input_type": [1, 4, 4, 4]}}
    nodes |= {"a": affine(3, 64), "k": lif(1, 3), "output": end("Output", 1, 3)}
    found = read(tmp_path, chain(**nodes)).nodes
    assert list(found["input"].input_type["input"]) == [2, 8, 8]
    assert {found[name].tau.shape for name in "nm"} == {(4, 8, 8)}
    assert (list(found["f"].input_type["input"]), found["f"].start_dim) == ([4, 4, 4], 0)
    assert list(found["f"].output_type["output"]) == [64]
    assert found["k"].tau.shape == (3,)
    assert list(found["output"].output_type["output"]) == [3]


def test_a_batch_before_rows_and_lines_goes(tmp_path):
    line = {"type": "Conv1d", "weight": values(4, 2, 3), "stride": 1, "padding": 1, "dilation": 1, "groups": 1}
    nodes = {"input": end("Input", 1, 2, 9), "c": line, "n": lif(1, 4, 9), "output": end("Output", 1, 4, 9)}
    found = read(tmp_path, chain(**nodes)).nodes
    assert (list(found["input"].input_type["input"]), found["n"].tau.shape) == ([2, 9], (4, 9))
    assert list(found["output"].output_type["output"]) == [4, 9]


def test_a_single_channel_is_no_batch(tmp_path):
    nodes = {"input": end("Input", 1, 8, 8), "c": conv(weight=values(1, 1, 3, 3), bias=values(1))}
    nodes |= {"n": lif(1, 8, 8), "output": end("Output", 1, 8, 8)}
    found = read(tmp_path, chain(**nodes)).nodes
    assert list(found["input"].input_type["input"]) == [1, 8, 8]
    assert found["n"].tau.shape == (1, 8, 8)
    assert list(found["output"].output_type["output"]) == [1, 8, 8]


def test_an_axis_of_one_that_nothing_explains_stays(tmp_path):
    found = read(tmp_path, chain(input=end("Input", 1, 5), n=lif(1, 5), output=end("Output", 1, 5))).nodes
    assert (list(found["input"].input_type["input"]), found["n"].tau.shape) == ([1, 5], (1, 5))


@pytest.mark.parametrize("shape", [[4, 4, 4], None])
def test_a_flatten_before_a_matrix_that_counted_the_batch_is_counted_without(shape, tmp_path):
    flatten = {"type": "Flatten", "start_dim": 1, "end_dim": 3, "input_type": shape}
    node = read(tmp_path, chain(f=flatten, a=affine(3, 64))).nodes["f"]
    assert (node.start_dim, node.end_dim) == (0, 2)


@pytest.mark.parametrize(("start", "end_"), [(0, -1), (-3, -1)])
def test_a_flatten_that_did_not_count_it_stays(start, end_, tmp_path):
    flatten = {"type": "Flatten", "start_dim": start, "end_dim": end_, "input_type": [4, 4, 4]}
    node = read(tmp_path, chain(f=flatten, a=affine(3, 64))).nodes["f"]
    assert (node.start_dim, node.end_dim) == (start, end_)


# Graphs inside graphs that name their boundary in edges only.


def test_an_inner_input_by_another_name_is_found(tmp_path, caplog):
    edges = [("input", "n"), ("n", "w"), ("w", "n"), ("n", "rnn.output")]
    inner = graph(
        edges, **{"rnn.input": end("Input", 4), "n": lif(4), "w": affine(4, 4), "rnn.output": end("Output", 4)}
    )
    found = read(tmp_path, chain(input=end("Input", 4), rnn=inner, output=end("Output", 4))).nodes["rnn"]
    assert found.edges == [("rnn.input", "n"), ("n", "w"), ("w", "n"), ("n", "rnn.output")]
    assert "/node/nodes/rnn has edges of 'input', which it does not hold: taken for its Input" in caplog.text


def test_an_inner_graph_without_ends_gets_those_of_its_edges(tmp_path, caplog):
    inner = graph([("input", "n"), ("n", "w"), ("w", "n"), ("n", "output")], n=lif(4), w=affine(4, 4))
    found = read(tmp_path, chain(input=end("Input", 4), rnn=inner, output=end("Output", 4))).nodes["rnn"]
    assert found.edges == [("input", "n"), ("n", "w"), ("w", "n"), ("n", "output")]
    assert list(found.nodes["input"].input_type["input"]) == list(found.nodes["output"].input_type["input"]) == [4]
    assert caplog.text.count("taken for its") == 2


def test_other_missing_nodes_are_refused_in_inner_graphs_and_outside(tmp_path):
    inner = graph([("input", "n"), ("fc1", "n")], input=end("Input", 4), n=lif(4))
    assert "/node/nodes/rnn has an edge 'fc1' -> 'n', and no node 'fc1'" in refused(tmp_path, chain(rnn=inner))
    outside = graph([("input", "n")], n=lif(4))
    assert "/node has an edge 'input' -> 'n', and no node 'input'" in refused(tmp_path, outside)


# What is refused, by its place.


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (small(n=lif(3, r=None)), "/node/nodes/n/r is missing, LIF nodes need it"),
        (small(n=lif(3, tau=None)), "/node/nodes/n/tau is missing, LIF nodes need it"),
        (small(n=lif(3, v_threshold=None)), "/node/nodes/n/v_threshold is missing, LIF nodes need it"),
        (small(n=lif(3, tau=full(0, 3))), "/node/nodes/n/tau holds 0, a time constant is positive"),
        (small(n=lif(3, tau=full(-1, 1))), "/node/nodes/n/tau holds -1, a time constant is positive"),
        (small(n=lif(3, tau=full(1, 2))), "/node/nodes/n/tau has shape (2,), other parameters (3,)"),
        (small(n=lif(3, r=full(np.nan, 3))), "/node/nodes/n/r holds NaN or infinite values"),
        (small(a=affine(weight=full(np.inf, 3, 4))), "/node/nodes/a/weight holds NaN or infinite values"),
        (small(a=affine(weight=values(12))), "/node/nodes/a/weight has shape (12,), expected (outputs, inputs)"),
        (small(a=affine(weight=None)), "/node/nodes/a/weight is missing, Affine nodes need it"),
        (small(a=affine(weight=np.zeros((3, 0)))), "/node/nodes/a/weight of shape (3, 0) holds no values"),
        (small(a=affine(weight="3 x 4")), "/node/nodes/a/weight has type object, expected plain numbers"),
        (small(a=affine(weight=np.full((3, 4), b"1"))), "/node/nodes/a/weight has type |S1, expected numbers"),
        (small(a=affine(weight=values(3, 4) * 1j)), "/node/nodes/a/weight has type complex64"),
        (small(a=affine(weight=np.zeros(3, [("x", "f4")]))), "/node/nodes/a/weight has type [('x', '<f4')]"),
        (small(a=affine(weight={"x": 1})), "/node/nodes/a/weight is not a dataset"),
        (small(a=affine(bias=values(4))), "/node/nodes/a/bias has shape (4,), other parameters (3,)"),
        (small(a=affine(type="Surprise")), "/node/nodes/a is of type 'Surprise'"),
        (small(a=affine(type=None)), "/node/nodes/a/type is missing"),
        (small(a=affine(type=7)), "/node/nodes/a/type is not one string"),
        (graph(c=conv(weight=values(4, 2, 3))), "/node/nodes/c/weight has shape (4, 2, 3), expected 4 axes"),
        (graph(c=conv(groups=3)), "/node/nodes/c has 4 output channels, not divisible into 3 groups"),
        (graph(c=conv(stride=0)), "/node/nodes/c/stride is [0], outside 1 to 65536"),
        (graph(c=conv(stride=None)), "/node/nodes/c/stride is missing, Conv2d nodes need it"),
        (graph(c=conv(padding=-1)), "/node/nodes/c/padding is [-1], outside 0 to 65536"),
        (graph(c=conv(padding="full")), "/node/nodes/c/padding is 'full', expected 'same', 'valid' or numbers"),
        (graph(c=conv(dilation=[1, 1, 1])), "/node/nodes/c/dilation has 3 values, expected 1 or 2"),
        (graph(c=conv(stride=0.5)), "/node/nodes/c/stride holds 0.5, which is not an integer"),
        (graph(p=pool(kernel_size=0)), "/node/nodes/p/kernel_size is [0], outside 1 to 65536"),
        (graph(f={"type": "Flatten", "start_dim": [0, 1], "end_dim": -1}), "/node/nodes/f/start_dim is [0, 1]"),
        (graph(d={"type": "Delay", "delay": full(-1, 3)}), "/node/nodes/d/delay holds -1 s, a delay is 0 or more"),
        (small(input={"type": "Input"}), "/node/nodes/input/shape is missing, Input nodes need it"),
        (small(input=end("Input", 4, -1)), "/node/nodes/input says the shape (4, -1)"),
        (small(input=end("Input", 1 << 20, 1 << 20)), "/node/nodes/input says the shape (1048576, 1048576)"),
        ({"type": "NIRGraph", "edges": []}, "/node/nodes is missing"),
        ({"type": "NIRGraph", "nodes": {}}, "/node/edges is missing"),
        (small() | {"edges": np.zeros((3, 2))}, "/node/edges are not names of nodes"),
        (small() | {"edges": np.array(["input", "a"], object)}, "/node/edges has shape (2,)"),
        (graph(node={"type": "NIRNode"}), "/node/nodes/node is of type 'NIRNode'"),
    ],
)  # fmt: skip
def test_what_no_node_can_mean_is_refused_by_its_place(node, problem, tmp_path):
    assert problem in refused(tmp_path, node)


def test_an_unknown_type_is_answered_with_those_that_are_known(tmp_path):
    with pytest.raises(ScaDeployError) as error:
        read(tmp_path, small(a=affine(type="MaxPool2d")))
    assert "Affine, Linear, Scale" in error.value.fix


def test_more_nodes_than_a_network_has_are_refused_before_they_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr(nir_members, "COUNT_MAX", 40)
    many = {f"n{index}": lif(3) for index in range(41)}
    assert "/node/nodes holds 41 members, more than 40" in refused(tmp_path, graph(**many))
    assert "brings the members of the file to more than 40" in refused(tmp_path, graph(**dict(list(many.items())[:39])))
    edges = [("a", "b")] * 41
    assert "/node/edges has shape (41, 2), expected up to 40 pairs" in refused(tmp_path, graph(edges))


# Files that lead elsewhere, or in a circle.


ELSEWHERE = ["soft", "external", "external storage", "virtual"]


@pytest.mark.parametrize(
    ("name", "kind"), [("colour", kind) for kind in ELSEWHERE[:2]] + [("weight", k) for k in ELSEWHERE]
)
def test_nothing_that_lives_elsewhere_is_read(name, kind, tmp_path):
    path = write(tmp_path / "a.nir", small(a=affine(weight=None)))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = values(3, 4)
    with h5py.File(path, "r+") as file:
        node = file["node/nodes/a"]
        if kind == "soft":
            node[name] = h5py.SoftLink("/node/nodes/a/bias")
        elif kind == "external":
            node[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        elif kind == "external storage":
            node.create_dataset(name, (3, 4), "f4", external=[(str(tmp_path / "other.h5"), 0, 48)])
        else:
            layout = h5py.VirtualLayout((3, 4), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (3, 4))
            node.create_virtual_dataset(name, layout)
    with pytest.raises(ScaDeployError, match=f"/node/nodes/a/{name} (is a link|keeps its data outside the file)"):
        read_nir(path)


@pytest.mark.parametrize("place", ["node", "node/nodes", "node/nodes/a", "node/metadata"])
def test_links_are_refused_wherever_they_are(place, tmp_path):
    path = write(tmp_path / "a.nir", small() | {"metadata": {"dt": 1e-4}})
    with h5py.File(path, "r+") as file:
        file[f"{place}/more"] = h5py.SoftLink("/node/nodes/n")
    with pytest.raises(ScaDeployError, match=f"/{place}/more is a link"):
        read_nir(path)


@pytest.mark.parametrize(("inside", "name"), [("node/nodes", "again"), ("node/metadata", "deep"), ("node/nodes", "n2")])
def test_a_group_that_holds_itself_or_is_held_twice_is_refused(inside, name, tmp_path):
    path = write(tmp_path / "a.nir", small() | {"metadata": {"dt": 1e-4}})
    with h5py.File(path, "r+") as file:
        file[f"{inside}/{name}"] = file[{"again": "node", "deep": inside, "n2": "node/nodes/n"}[name]]
    with pytest.raises(ScaDeployError, match=r"/node.* is /node.* once more"):
        read_nir(path)


@pytest.mark.parametrize("chunks", [None, (1 << 10, 1 << 10)])
def test_a_claim_that_the_file_cannot_hold_is_refused_without_reading(chunks, tmp_path):
    path = write(tmp_path / "a.nir", small(a=affine(weight=None)))
    with h5py.File(path, "r+") as file:
        file.create_dataset("node/nodes/a/weight", (1 << 13, 1 << 14), "f4", chunks=chunks)
    with pytest.raises(ScaDeployError, match=r"/node/nodes/a/weight claims 536870912 bytes, more than the \d+ that"):
        read_nir(path)


def test_a_chunk_that_unpacks_to_more_than_it_says_is_refused(tmp_path):
    path = write(tmp_path / "a.nir", small(a=affine(weight=None)))
    with h5py.File(path, "r+") as file:
        weight = file.create_dataset("node/nodes/a/weight", (3, 4), "f4", chunks=(3, 4), compression="gzip")
        weight.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 24)))
    with pytest.raises(ScaDeployError, match="a chunk of 48 bytes unpacks to 49"):
        read_nir(path)


def test_filters_that_would_load_code_are_refused_by_number(tmp_path):
    path = write(tmp_path / "a.nir", small(a=affine(weight=None)))
    with h5py.File(path, "r+") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((3, 4))
        layout.set_filter(32008, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((3, 4))
        h5py.h5d.create(file["node/nodes/a"].id, b"weight", h5py.h5t.IEEE_F32LE, space, layout)
    with pytest.raises(ScaDeployError, match="/node/nodes/a/weight is packed by filter 32008"):
        read_nir(path)


def free_places_in_a_circle(content):
    """The first heap's list of free places, whose head is 16 bytes into it, goes on where it begins."""
    heap = content.index(b"HEAP")
    free, start = struct.unpack_from("<QQ", content, heap + 16)
    struct.pack_into("<Q", content, start + free, free)


def a_tree_in_its_own_branch(content):
    """The first tree's first child, 8 bytes behind its head of 24, is itself, one level below."""
    tree = content.index(b"TREE")
    content[tree + 5] = 1
    struct.pack_into("<Q", content, tree + 32, tree)


def more_entries_than_fit(content):
    struct.pack_into("<H", content, content.index(b"SNOD") + 6, 5000)


def a_name_outside_its_heap(content):
    struct.pack_into("<Q", content, content.index(b"SNOD") + 8, 1 << 40)


@pytest.mark.parametrize(
    "damage", [free_places_in_a_circle, a_tree_in_its_own_branch, more_entries_than_fit, a_name_outside_its_heap]
)
def test_damaged_groups_are_found_before_libhdf5_walks_through_them(damage, tmp_path):
    content = bytearray(write(tmp_path / "a.nir", small()).read_bytes())
    damage(content)
    (tmp_path / "a.nir").write_bytes(content)
    with pytest.raises(ScaDeployError, match=r"the group \S+ is damaged"):
        read_nir(tmp_path / "a.nir")


def test_a_file_may_begin_behind_what_a_user_put_before_it(tmp_path):
    nir.write(tmp_path / "a.nir", every_node())
    with h5py.File(tmp_path / "a.nir") as plain, h5py.File(tmp_path / "b.nir", "w", userblock_size=1024) as behind:
        for name in plain:
            plain.copy(name, behind)
    assert_same(read_nir(tmp_path / "b.nir"), nir.read(tmp_path / "a.nir", type_check=False))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(ScaDeployError, match="no such file"):
        read_nir(tmp_path / "a.nir")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04" * 400])
def test_what_is_not_hdf5_is_refused(content, tmp_path):
    (tmp_path / "a.nir").write_bytes(content)
    with pytest.raises(ScaDeployError, match="not an HDF5 file|damaged"):
        read_nir(tmp_path / "a.nir")
