"""The ONNX file: one time step that does what the equations say, and is checked after it was written."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnx
import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d

from sca_deploy.errors import Mismatch, MissingExtra, ScaDeployError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.onnx import OnnxExporter, run_onnx

onnxruntime = pytest.importorskip("onnxruntime")

DT = 1e-4


@pytest.fixture
def path(deployable: Deployable, tmp_path: Path) -> Path:
    """The written file."""
    return OnnxExporter().export(deployable, tmp_path / "network.onnx").path


def write(graph: nir.NIRGraph, folder: Path, dt: float = DT) -> Path:
    """Write a graph without a probe."""
    return OnnxExporter().export(Deployable(graph, dt), folder / "network.onnx").path


def linear(*middle: tuple[str, nir.NIRNode], size: int, out: int) -> nir.NIRGraph:
    """A chain of nodes between an input of `size` and an output of `out` values."""
    named = [("input", nir.Input(np.array([size]))), *middle, ("output", nir.Output(np.array([out])))]
    names = [name for name, _ in named]
    return nir.NIRGraph(dict(named), list(pairwise(names)))


def spatial(node: nir.NIRNode, shape: tuple[int, ...], out: tuple[int, ...]) -> nir.NIRGraph:
    """One node between an input and an output of images; for kernels whose shape NIR infers wrongly."""
    nodes = {"input": nir.Input(np.array(shape)), "node": node, "output": nir.Output(np.array(out))}
    node.input_type = {"input": np.array(shape)}
    return nir.NIRGraph(nodes, [("input", "node"), ("node", "output")], type_check=False)


def test_onnxruntime_executes_the_file_spike_for_spike(path: Path, network: Any, x: np.ndarray) -> None:
    expected_spikes, expected_logits = network.run(x)
    logits, spikes = run_onnx(path, x)
    assert spikes.keys() == expected_spikes.keys()
    for name, expected in expected_spikes.items():
        assert 0.05 < expected.mean() < 0.95
        np.testing.assert_array_equal(spikes[name], expected, err_msg=name)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)


def test_the_step_is_a_function_of_input_and_potentials_for_any_batch(path: Path, x: np.ndarray) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {port.name: port.shape for port in session.get_inputs()} == {
        "x": ["batch", 2, 8, 8],
        "lif1_v": ["batch", 4, 8, 8],
        "lif2_v": ["batch", 6, 4, 4],
        "lif3_v": ["batch", 10],
    }
    assert {port.name: (port.type, port.shape) for port in session.get_outputs()} == {
        "logits": ("tensor(float)", ["batch", 3]),
        "lif1_spikes": ("tensor(bool)", ["batch", 4, 8, 8]),
        "lif2_spikes": ("tensor(bool)", ["batch", 6, 4, 4]),
        "lif3_spikes": ("tensor(bool)", ["batch", 10]),
        "lif1_v_out": ("tensor(float)", ["batch", 4, 8, 8]),
        "lif2_v_out": ("tensor(float)", ["batch", 6, 4, 4]),
        "lif3_v_out": ("tensor(float)", ["batch", 10]),
    }
    potentials = {
        name: np.random.default_rng(1).normal(0, 1, (6, *shape)).astype(np.float32)
        for name, shape in {"lif1_v": (4, 8, 8), "lif2_v": (6, 4, 4), "lif3_v": (10,)}.items()
    }
    together = session.run(None, {"x": x[:, 0], **potentials})
    for i in range(6):
        alone = session.run(None, {"x": x[i : i + 1, 0], **{n: v[i : i + 1] for n, v in potentials.items()}})
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], all_of_them[i], atol=1e-6)


def test_every_parameter_of_a_neuron_enters_its_euler_step(tmp_path: Path) -> None:
    """tau dv/dt = v_leak - v + R i, with tau, R, threshold and reset different for every neuron."""
    rng = np.random.default_rng(2)
    tau, r, threshold, reset = (
        rng.uniform(*span, 5).astype(np.float32) for span in ((2, 9), (1, 3), (0.5, 1), (-1, 0))
    )
    weight, bias = rng.normal(0.4, 0.6, (5, 3)).astype(np.float32), rng.normal(0, 0.1, 5).astype(np.float32)
    neurons = nir.LIF(tau=tau * DT, r=r, v_leak=np.zeros(5, np.float32), v_threshold=threshold, v_reset=reset)
    graph = linear(("synapse", nir.Affine(weight, bias)), ("lif", neurons), size=3, out=5)
    x = rng.uniform(0, 2, (4, 40, 3)).astype(np.float32)
    v, expected = np.zeros((4, 5)), []
    for t in range(40):
        v = v + (r * (x[:, t] @ np.float64(weight).T + bias) - v) / np.float64(tau)
        expected.append(v > threshold)
        v = np.where(v > threshold, reset, v)
    assert 0.05 < np.mean(expected) < 0.95
    _, spikes = run_onnx(write(graph, tmp_path), x)
    np.testing.assert_array_equal(spikes["lif"], np.stack(expected, axis=1))


def test_neurons_without_memory_forget_exactly(tmp_path: Path) -> None:
    """tau = dt in single precision is not dt in double; what is left of beta = 0 must not show."""
    full = np.ones(3, np.float32)
    neurons = nir.LIF(tau=full * np.float32(DT), r=full, v_leak=0 * full, v_threshold=5 * full, v_reset=0 * full)
    path = write(
        linear(("synapse", nir.Affine(np.eye(3, dtype=np.float32), 0 * full)), ("lif", neurons), size=3, out=3),
        tmp_path,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    [v] = session.run(["lif_v_out"], {"x": x, "lif_v": np.full((1, 3), 1e6, np.float32)})
    np.testing.assert_array_equal(v, x)


def test_the_input_gain_is_folded_into_the_weights(path: Path, network: Any) -> None:
    model = onnx.load(path)
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    np.testing.assert_allclose(constants["conv2/weight"], network.conv2, rtol=3e-7)
    np.testing.assert_allclose(constants["hidden/bias"], network.hidden_bias, rtol=3e-7)
    np.testing.assert_array_equal(constants["readout/weight"], network.readout)
    assert constants["lif1/beta"] == np.float32(0.8)
    assert [node.op_type for node in model.graph.node if node.name.startswith("lif3")] == [
        "Mul", "Add", "Greater", "Cast", "Where",
    ]  # fmt: skip


def test_if_neurons_add_their_input_and_do_not_spike_on_the_threshold(tmp_path: Path, portable: Any) -> None:
    weight = np.diag([0.25, 0.5, 1.0]).astype(np.float32)
    graph = linear(("synapse", nir.Affine(weight, np.zeros(3, np.float32))), ("if", portable.integrate_and_fire(3)),
                   size=3, out=3)  # fmt: skip
    counts, spikes = run_onnx(write(graph, tmp_path), np.ones((1, 10, 3), np.float32))
    # From 0 in steps of 1/4, 1/2 and 1, above 1 for the first time at step 5, 3 and 2.
    assert [list(np.flatnonzero(spikes["if"][0, :, n])) for n in range(3)] == [[4, 9], [2, 5, 8], [1, 3, 5, 7, 9]]
    np.testing.assert_array_equal(counts, [[2, 3, 5]])


def test_edges_into_one_node_are_summed_before_its_gain(tmp_path: Path, portable: Any) -> None:
    rng = np.random.default_rng(4)
    weight, beta, none = rng.normal(0, 0.6, (6, 6)).astype(np.float32), 0.8, np.zeros(6, np.float32)
    scaled = weight / np.float32(1 - beta)
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
    _, spikes = run_onnx(write(graph, tmp_path), x)
    np.testing.assert_array_equal(spikes["lif2"], np.stack(expected, axis=1))


def test_weights_read_by_two_layers_keep_their_value_for_both(tmp_path: Path, portable: Any) -> None:
    """One affine feeds LIF neurons, whose gain is 0.2, and IF neurons, whose gain is 1."""
    weight = np.eye(2, dtype=np.float32)
    nodes = {
        "input": nir.Input(np.array([2])),
        "shared": nir.Affine(weight, np.zeros(2, np.float32)),
        "lif": portable.lif(2),
        "if": portable.integrate_and_fire(2),
        "sum": nir.Affine(weight, np.zeros(2, np.float32)),
        "output": nir.Output(np.array([2])),
    }
    edges = [("input", "shared"), ("shared", "lif"), ("shared", "if"), ("lif", "sum"), ("if", "sum")]
    graph = nir.NIRGraph(nodes, [*edges, ("sum", "output")])
    _, spikes = run_onnx(write(graph, tmp_path), np.full((1, 3, 2), 2.0, np.float32))
    # IF: 2 > 1 at every step. LIF: 0.4, 0.72, 0.976, all below 1.
    assert spikes["if"].all()
    assert not spikes["lif"].any()


@pytest.mark.parametrize(
    ("shape", "stride", "padding", "dilation", "groups"),
    [
        ((4, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1),
        ((4, 1, 2, 5), (2, 3), (1, 2), (1, 1), 2),
        ((6, 2, 3, 1), (1, 2), (2, 0), (2, 1), 1),
    ],
)
def test_a_convolution_is_torchs(
    tmp_path: Path, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    rng = np.random.default_rng(7)
    weight, bias = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[0]).astype(np.float32)
    x = rng.normal(size=(2, 3, 2, 9, 11)).astype(np.float32)
    expected = conv2d(
        torch.from_numpy(x.sum(axis=1)).double(),
        torch.from_numpy(weight).double(),
        None,
        stride,
        padding,
        dilation,
        groups,
    ).numpy() + 3.0 * bias.reshape(1, -1, 1, 1)
    node = nir.Conv2d((9, 11), weight, stride, padding, dilation, groups, bias)
    logits, _ = run_onnx(write(spatial(node, (2, 9, 11), expected.shape[1:]), tmp_path), x)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [((3, 3), (3, 3), (0, 0)), ((3, 2), (2, 1), (1, 0))])
def test_sum_pooling_adds_integers_exactly(tmp_path: Path, kernel: Any, stride: Any, padding: Any) -> None:
    x = np.random.default_rng(8).integers(0, 1 << 16, (2, 1, 3, 9, 9)).astype(np.float32)
    average = avg_pool2d(torch.from_numpy(x[:, 0]).double(), kernel, stride, padding).numpy()
    expected = np.rint(average * kernel[0] * kernel[1])
    node = nir.SumPool2d(np.array(kernel), np.array(stride), np.array(padding))
    logits, _ = run_onnx(write(spatial(node, (3, 9, 9), expected.shape[1:]), tmp_path), x)
    np.testing.assert_array_equal(logits, expected)


def test_the_file_passes_onnxs_strict_checker_and_names_its_conventions(path: Path) -> None:
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert model.opset_import[0].version == 17
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["dt"] == "0.0001"
    assert properties["T"] == "12"
    assert properties["reset"] == "hard"
    assert json.loads(properties["manifest"]) == {"seed": 5}
    assert model.producer_name == "sca-deploy"
    assert "zeros" in model.doc_string
    assert all(port.doc_string for port in [*model.graph.input, *model.graph.output])


def test_the_same_network_gives_the_same_bytes(deployable: Deployable, path: Path, tmp_path: Path) -> None:
    again = OnnxExporter().export(deployable, tmp_path / "again.onnx").path
    assert again.read_bytes() == path.read_bytes()


def test_the_probe_is_run_and_counted(deployable: Deployable, tmp_path: Path) -> None:
    exported = OnnxExporter().export(deployable, tmp_path / "network.onnx")
    checker, run = exported.checks
    assert str(checker) == "onnx checker on network.onnx: operators, types and shapes hold, opset 17"
    assert run.name == "6 samples in onnxruntime"
    assert run.max_difference is not None
    assert 0 <= run.max_difference < 1e-5
    # 6 samples x 12 steps x (256 + 96 + 10) neurons
    assert run.detail == "0 of 26,064 spikes differ, predictions agree"


def changed_logits(deployable: Deployable, change: float) -> Deployable:
    """The probe of a network that gives the second class of sample 0 `change` more than the first."""
    assert deployable.probe is not None
    logits = deployable.probe.logits.copy()
    second, best = np.argsort(logits[0])[-2:]
    logits[0, second] = logits[0, best] + change
    return replace(deployable, probe=replace(deployable.probe, logits=logits))


def test_a_differing_prediction_is_an_error_and_leaves_no_file(deployable: Deployable, tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match="predicts otherwise for 1 of 6 probe samples"):
        OnnxExporter().export(changed_logits(deployable, 0.01), tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


def test_classes_that_only_rounding_separates_are_one_prediction(deployable: Deployable, tmp_path: Path) -> None:
    OnnxExporter().export(changed_logits(deployable, 1e-6), tmp_path / "network.onnx")


@pytest.mark.parametrize(("value", "shown"), [(3e38, "inf"), (-3e38, "inf")])
def test_logits_that_are_not_finite_are_an_error_though_the_largest_is_where_it_was(
    deployable: Deployable, tmp_path: Path, value: float, shown: str
) -> None:
    """A bias that single precision holds, but not its sum over the steps."""
    probe = deployable.probe
    assert probe is not None
    first = replace(probe, x=probe.x[:1], logits=probe.logits[:1], spikes={k: v[:1] for k, v in probe.spikes.items()})
    chosen = first.logits[0].argmax() if value > 0 else first.logits[0].argmin()
    deployable.graph.nodes["readout"].bias[chosen] = value
    with pytest.raises(Mismatch, match=f"logits differ by up to {shown}"):
        OnnxExporter().export(replace(deployable, probe=first), tmp_path / "network.onnx")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_parameter_that_is_not_finite_is_refused_by_name(
    deployable: Deployable, tmp_path: Path, value: float
) -> None:
    deployable.graph.nodes["readout"].bias[0] = value
    with pytest.raises(ScaDeployError, match="node 'readout' \\(Affine\\): 'bias' holds NaN or infinite values"):
        OnnxExporter().export(deployable, tmp_path / "network.onnx")


def changed_spikes(deployable: Deployable, count: int) -> Deployable:
    """The probe with `count` spikes of 'lif2' turned."""
    assert deployable.probe is not None
    spikes = {name: array.copy() for name, array in deployable.probe.spikes.items()}
    spikes["lif2"].flat[:count] ^= True
    return replace(deployable, probe=replace(deployable.probe, spikes=spikes))


def test_differing_spikes_are_counted(deployable: Deployable, tmp_path: Path) -> None:
    run = OnnxExporter().export(changed_spikes(deployable, 7), tmp_path / "network.onnx").checks[1]
    assert run.detail == "7 of 26,064 spikes differ, predictions agree"


def test_a_prediction_that_turns_with_one_spike_in_ten_thousand_is_reported(
    deployable: Deployable, tmp_path: Path
) -> None:
    close = changed_spikes(changed_logits(deployable, 0.01), 2)
    run = OnnxExporter().export(close, tmp_path / "network.onnx").checks[1]
    assert run.detail == "2 of 26,064 spikes differ, 1 of 6 predictions turn with them"


def test_a_prediction_that_turns_with_more_spikes_is_an_error(deployable: Deployable, tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match=r"predicts otherwise for 1 of 6 .* 3 of 26,064 spikes differ"):
        OnnxExporter().export(changed_spikes(changed_logits(deployable, 0.01), 3), tmp_path / "network.onnx")


def test_a_probe_of_other_neurons_is_a_mismatch(deployable: Deployable, tmp_path: Path) -> None:
    assert deployable.probe is not None
    probe = replace(deployable.probe, spikes={"lif1": deployable.probe.spikes["lif1"]})
    with pytest.raises(Mismatch, match=r"neurons \['lif1', 'lif2', 'lif3'\], the probe \['lif1'\]"):
        OnnxExporter().export(replace(deployable, probe=probe), tmp_path / "network.onnx")


def test_without_a_probe_the_check_says_that_it_was_not_run(deployable: Deployable, tmp_path: Path) -> None:
    run = OnnxExporter().export(replace(deployable, probe=None), tmp_path / "network.onnx").checks[1]
    assert str(run) == "onnxruntime: not run: there is no probe batch"
    assert run.max_difference is None


def test_without_onnxruntime_the_file_is_written_and_the_check_says_so(
    deployable: Deployable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.util.find_spec
    monkeypatch.setattr(
        "sca_deploy.exporters.onnx.find_spec", lambda name: None if name == "onnxruntime" else installed(name)
    )
    monkeypatch.setattr(
        "sca_deploy.exporters.onnx_running.find_spec", lambda name: None if name == "onnxruntime" else installed(name)
    )
    exported = OnnxExporter().export(deployable, tmp_path / "network.onnx")
    assert str(exported.checks[1]) == "onnxruntime: not run: onnxruntime is not installed"
    with pytest.raises(MissingExtra, match="onnxruntime") as error:
        run_onnx(exported.path, np.zeros((1, 1, 2, 8, 8)))
    assert error.value.fix == "pip install 'sca-deploy[onnx]'"


def test_shapes_that_do_not_fit_are_one_clear_error(deployable: Deployable, portable: Any, tmp_path: Path) -> None:
    deployable.graph.nodes["lif2"] = portable.lif(6, 5, 5)
    with pytest.raises(ScaDeployError, match=r"node 'lif2' \(LIF\): it has neurons of shape \(6, 5, 5\) and reads"):
        OnnxExporter().export(deployable, tmp_path / "network.onnx")
    assert not (tmp_path / "network.onnx").exists()


def test_exporting_leaves_the_given_graph_alone(deployable: Deployable, tmp_path: Path) -> None:
    before = copy.deepcopy(deployable.graph.to_dict())
    OnnxExporter().export(deployable, tmp_path / "network.onnx")
    np.testing.assert_equal(deployable.graph.to_dict(), before)
