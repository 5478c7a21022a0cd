"""The forms of an ONNX file: one step, a loop over time, all steps written out. All give the network's spikes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.onnx import OnnxExporter
from sca_deploy.exporters.onnx_running import run_onnx
from sca_deploy.graph import to_nir
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.probe import probe

onnxruntime = pytest.importorskip("onnxruntime")

FORMS = ("step", "scan", "unroll")
STEPS = 12


@pytest.fixture
def paths(deployable: Deployable, tmp_path: Path) -> dict[str, Path]:
    """The small network in every form, by form."""
    return {form: OnnxExporter(form).export(deployable, tmp_path / f"{form}.onnx").path for form in FORMS}


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def digits_network(*middle: dict[str, Any]) -> tuple[SpikingNetwork, np.ndarray]:
    """A network with random weights whose batch-norms have seen digits, and digits."""
    norm, lif = {"type": "batch_norm"}, {"type": "lif", "beta": 0.5}
    conv = {"type": "conv", "channels": 8, "kernel": 3, "padding": 1}
    ends = [{"type": "flatten"}, {"type": "linear", "features": 20}, norm, lif, {"type": "linear", "features": 10}]
    hidden = [conv, norm, lif, *middle, conv, norm, {"type": "if"}, {"type": "max_pool", "kernel": 2}]
    layers = parse_layers([*hidden, *ends], {"surrogate": "sigmoid"})
    torch.manual_seed(0)
    network = SpikingNetwork(NetworkSpec((1, 8, 8), layers, 6, input_scale=1 / 16)).train()
    for norms in network.norms().values():
        torch.nn.init.constant_(norms.weight, 2.0)
    images = load_digits().images[:64, None].astype(np.uint8)
    with torch.no_grad():
        for _ in range(10):
            network(torch.from_numpy(images))
    return network.eval(), np.repeat(images[:, None], 6, axis=1)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_torchs_spikes_on_real_digits(form: str, tmp_path: Path) -> None:
    network, x = digits_network({"type": "avg_pool", "kernel": 2})
    expected = probe(network, x)
    graph = to_nir(network)
    given = Deployable(graph, float(graph.metadata["dt"]), probe=expected)
    exported = OnnxExporter(form).export(given, tmp_path / "digits.onnx")
    logits, spikes = run_onnx(exported.path, x)
    assert spikes.keys() == expected.spikes.keys()
    for name, values in expected.spikes.items():
        assert 0.01 < values.mean() < 0.9, name
        np.testing.assert_array_equal(spikes[name], values, err_msg=name)
    np.testing.assert_allclose(logits, expected.logits, atol=1e-4)
    assert "0 of" in exported.checks[1].detail


def test_all_forms_give_the_same_bits(paths: dict[str, Path], x: np.ndarray) -> None:
    step_logits, step_spikes = run_onnx(paths["step"], x)
    for form in ("scan", "unroll"):
        logits, spikes = run_onnx(paths[form], x)
        np.testing.assert_array_equal(logits, step_logits)
        assert spikes.keys() == step_spikes.keys()
        for name, values in step_spikes.items():
            np.testing.assert_array_equal(spikes[name], values)


def test_a_scan_takes_any_number_of_steps_and_samples(paths: dict[str, Path], network: Any) -> None:
    run = session(paths["scan"])
    assert {port.name: port.shape for port in run.get_inputs()} == {"x": ["steps", "batch", 2, 8, 8]}
    assert {port.name: (port.type, port.shape) for port in run.get_outputs()} == {
        "logits": ("tensor(float)", ["batch", 3]),
        "lif1_spikes": ("tensor(bool)", ["steps", "batch", 4, 8, 8]),
        "lif2_spikes": ("tensor(bool)", ["steps", "batch", 6, 4, 4]),
        "lif3_spikes": ("tensor(bool)", ["steps", "batch", 10]),
    }
    for steps, samples in ((1, 1), (25, 2), (3, 7)):
        x = (np.random.default_rng(steps).random((steps, samples, 2, 8, 8)) < 0.3).astype(np.float32)
        expected, logits = network.run(x.swapaxes(0, 1))
        values = dict(zip([port.name for port in run.get_outputs()], run.run(None, {"x": x}), strict=True))
        np.testing.assert_allclose(values["logits"], logits, atol=1e-5)
        for name, spikes in expected.items():
            np.testing.assert_array_equal(values[f"{name}_spikes"], spikes.swapaxes(0, 1))


def test_what_is_written_out_has_its_steps_and_takes_any_number_of_samples(paths: dict[str, Path]) -> None:
    run = session(paths["unroll"])
    assert {port.name: port.shape for port in run.get_inputs()} == {"x": [STEPS, "batch", 2, 8, 8]}
    shapes = {port.name: port.shape for port in run.get_outputs()}
    assert shapes["lif2_spikes"] == [STEPS, "batch", 6, 4, 4]
    assert shapes["logits"] == ["batch", 3]
    kinds = [node.op_type for node in onnx.load(paths["unroll"]).graph.node]
    assert kinds.count("Where") == STEPS * 3
    assert "Scan" not in kinds


@pytest.mark.parametrize("form", FORMS)
def test_the_reference_implementation_of_onnx_agrees(form: str, tmp_path: Path) -> None:
    """onnx's own evaluator, in numpy, on a recurrent network; potentials far from the threshold."""
    weight = np.array([[0.75, -0.5], [0.25, 1.5]], np.float32)
    full = np.ones(2, np.float32)
    nodes = {
        "input": nir.Input(np.array([2])),
        "w": nir.Affine(weight, 0.125 * full),
        "lif": nir.LIF(2 * full, full, 0 * full, 0.8125 * full, 0 * full),
        "back": nir.Linear(weight.T.copy()),
        "li": nir.LI(2 * full, full, 0 * full),
        "output": nir.Output(np.array([2])),
    }
    edges = [("input", "w"), ("w", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "li"), ("li", "output")]
    graph = nir.NIRGraph(nodes, edges, {"T": 8}, type_check=False)
    path = OnnxExporter(form).export(Deployable(graph, 1.0), tmp_path / "network.onnx").path
    x = np.random.default_rng(0).integers(0, 3, (3, 8, 2)).astype(np.float32)
    logits, spikes = run_onnx(path, x)
    assert 0 < spikes["lif"].mean() < 1
    model = onnx.load(path)
    evaluator, names = ReferenceEvaluator(model), [port.name for port in model.graph.output]
    if form == "step":
        states = {port.name: np.zeros((3, 2), np.float32) for port in model.graph.input if port.name != "x"}
        total, seen = np.zeros((3, 2)), []
        for t in range(8):
            values = dict(zip(names, evaluator.run(None, {"x": x[:, t], **states}), strict=True))
            states = {name: values[f"{name}_out"] for name in states}
            total, seen = total + values["logits"], [*seen, values["lif_spikes"]]
    else:
        values = dict(zip(names, evaluator.run(None, {"x": x.swapaxes(0, 1)}), strict=True))
        total, seen = values["logits"], values["lif_spikes"]
    np.testing.assert_array_equal(total, logits)
    np.testing.assert_array_equal(np.stack(list(seen), axis=1), spikes["lif"])


def test_more_than_sixteen_steps_are_not_written_out(deployable: Deployable, tmp_path: Path) -> None:
    given = replace(deployable, probe=None)
    given.graph.metadata["T"] = 16
    assert OnnxExporter("unroll").export(given, tmp_path / "sixteen.onnx").path.is_file()
    given.graph.metadata["T"] = 17
    with pytest.raises(UsageError, match="17 steps would be written out, at most 16 are") as error:
        OnnxExporter("unroll").export(given, tmp_path / "seventeen.onnx")
    assert error.value.fix == "use --form scan"
    assert not (tmp_path / "seventeen.onnx").exists()


def test_steps_that_nothing_says_are_not_guessed(deployable: Deployable, tmp_path: Path) -> None:
    del deployable.graph.metadata["T"]
    path = OnnxExporter("unroll").export(deployable, tmp_path / "of-the-probe.onnx").path
    assert session(path).get_inputs()[0].shape[0] == STEPS
    with pytest.raises(UsageError, match="how many steps are to be written out is not known"):
        OnnxExporter("unroll").export(replace(deployable, probe=None), tmp_path / "network.onnx")


def test_other_steps_than_those_written_out_are_refused(paths: dict[str, Path], x: np.ndarray) -> None:
    with pytest.raises(ScaDeployError, match=r"x lasts 5 steps, unroll\.onnx is written out for 12") as error:
        run_onnx(paths["unroll"], x[:, :5])
    assert "--form scan" in error.value.fix


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_clean_and_says_what_it_is(paths: dict[str, Path], form: str) -> None:
    onnx.checker.check_model(str(paths[form]), full_check=True)
    model = onnx.load(paths[form])
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["form"] == form
    assert properties["title"] == "small test network"
    assert (properties["dt"], properties["reset"], properties["T"]) == ("0.0001", "hard", "12")
    assert {"versions", "manifest", "sha256"} <= properties.keys()
    assert all(port.doc_string for port in [*model.graph.input, *model.graph.output])
    assert model.doc_string.startswith("small test network. Feed ")


def test_what_the_neurons_do_beside_their_equations_is_recorded(deployable: Deployable, tmp_path: Path) -> None:
    dynamics = Dynamics(deployable.dt, reset="subtract", multi_spike=True, clamp=-1.0, tie="ge")
    given = replace(deployable, dynamics=dynamics, probe=None)
    path = OnnxExporter().export(given, tmp_path / "network.onnx").path
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    told = {key: properties[key] for key in ("reset", "multi_spike", "clamp", "tie")}
    assert told == {"reset": "subtract", "multi_spike": "1", "clamp": "-1.0", "tie": "ge"}


def test_weights_are_stored_once_whatever_the_form(paths: dict[str, Path]) -> None:
    weights = {}
    for form, path in paths.items():
        arrays = [onnx.numpy_helper.to_array(constant) for constant in onnx.load(path).graph.initializer]
        weights[form] = sum(array.size for array in arrays if array.ndim > 1)
    assert weights["step"] == weights["scan"] == weights["unroll"]


def test_an_unknown_form_is_a_wrong_request() -> None:
    with pytest.raises(UsageError, match="unknown form 'scna'") as error:
        OnnxExporter("scna")
    assert error.value.fix == "did you mean 'scan'? known: integer, scan, step, unroll"
