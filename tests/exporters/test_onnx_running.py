"""Running ONNX files: only what was written runs, everything else ends in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.onnx import OnnxExporter, build_model
from sca_deploy.exporters.onnx_running import describe, record_onnx, run_onnx
from sca_deploy.exporters.onnx_seal import sealed

pytest.importorskip("onnxruntime")

DT = 1e-4


@pytest.fixture
def path(deployable: Deployable, tmp_path: Path) -> Path:
    """The written file."""
    return OnnxExporter().export(deployable, tmp_path / "network.onnx").path


@pytest.fixture
def model(deployable: Deployable) -> onnx.ModelProto:
    """The model before it is sealed, to be changed by someone who seals it again."""
    return build_model(deployable)


def refused(path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]) -> ScaDeployError:
    """The error that running a file ends in: one line, and nothing else printed."""
    with pytest.raises(ScaDeployError) as error:
        run_onnx(path, x)
    assert len(str(error.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")
    return error.value


def test_truncated_files_are_refused(path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    whole = path.read_bytes()
    for length in [0, 1, 100, *np.linspace(200, len(whole) - 1, 20).astype(int)]:
        path.write_bytes(whole[:length])
        assert "network.onnx" in refused(path, x, capfd).problem


def test_any_flipped_bit_is_found(path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 100):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        assert "network.onnx" in refused(path, x, capfd).problem


def test_bytes_added_or_replaced_are_found(path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    whole = path.read_bytes()
    for changed in (whole + b"\0", whole + whole, b"\0" + whole, whole[:50] + bytes(500) + whole[550:]):
        path.write_bytes(changed)
        assert "damaged, or was changed" in refused(path, x, capfd).problem


def test_a_file_of_other_origin_is_refused(tmp_path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", port[:1], port[1:])
    foreign = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph), foreign)
    error = refused(foreign, x, capfd)
    assert "was not written by sca-deploy" in error.problem
    assert "onnxruntime itself" in error.fix


def test_missing_files_and_folders_are_named(tmp_path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(tmp_path / "nothing.onnx", x, capfd).problem
    assert "cannot read" in refused(tmp_path, x, capfd).problem


def resealed(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "hostile.onnx"
    path.write_bytes(sealed(model))
    return path


def test_weights_in_another_file_are_not_read(
    model: onnx.ModelProto, tmp_path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    weight = next(constant for constant in model.graph.initializer if constant.name == "hidden/weight")
    (tmp_path / "secret").write_bytes(numpy_helper.to_array(weight).tobytes())
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="secret")
    assert "keeps 'hidden/weight' in another file" in refused(resealed(model, tmp_path), x, capfd).problem


def test_constants_of_inner_graphs_are_looked_at_as_well(
    deployable: Deployable, tmp_path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build_model(deployable, "scan")
    [scan] = [node for node in model.graph.node if node.op_type == "Scan"]
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    body.initializer.add(name="outside", data_location=TensorProto.EXTERNAL)
    assert "keeps 'outside' in another file" in refused(resealed(model, tmp_path), x, capfd).problem


def test_operators_that_are_not_onnxs_are_refused(
    model: onnx.ModelProto, tmp_path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    model.graph.node[0].domain = "evil.ops"
    assert "needs the operator evil.ops.Conv" in refused(resealed(model, tmp_path), x, capfd).problem


def spoil_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nonsense"


def spoil_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] += 1


def spoil_ports(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "y"


def spoil_type(model: onnx.ModelProto) -> None:
    for port in model.graph.input:
        port.type.tensor_type.elem_type = TensorProto.STRING


def spoil_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


@pytest.mark.parametrize("spoil", [spoil_operator, spoil_shape, spoil_ports, spoil_type, spoil_graph])
def test_whatever_onnxruntime_says_is_one_line(
    spoil: Any, model: onnx.ModelProto, tmp_path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(model)
    assert "onnxruntime cannot run" in refused(resealed(model, tmp_path), x, capfd).problem


def test_a_file_without_a_form_is_refused(
    model: onnx.ModelProto, tmp_path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    del model.metadata_props[:]
    assert "does not say what form it has" in refused(resealed(model, tmp_path), x, capfd).problem


def test_a_seal_inside_the_network_is_not_mistaken_for_the_files(
    deployable: Deployable, path: Path, tmp_path: Path, x: np.ndarray
) -> None:
    """The manifest of one file may quote another."""
    model = build_model(deployable)
    model.metadata_props.add(key="quoted", value=path.read_bytes().decode("latin-1"))
    np.testing.assert_array_equal(run_onnx(resealed(model, tmp_path), x)[0], run_onnx(path, x)[0])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (lambda x: x[:, :, :1], r"x has shape \(6, 12, 1, 8, 8\), network\.onnx takes \(samples, steps, 2, 8, 8\)"),
        (lambda x: x[0], r"x has shape \(12, 2, 8, 8\)"),
        (lambda x: x[:0], r"x has shape \(0, 12, 2, 8, 8\)"),
        (lambda x: x[:, :0], r"x has shape \(6, 0, 2, 8, 8\)"),
        (lambda x: x[0, 0, 0, 0], r"x has shape \(8,\)"),
        (lambda x: x[0, 0, 0, 0, 0], r"x has shape \(\)"),
        (lambda x: x.astype(str), "that are not all finite numbers"),
        (lambda x: x.astype(complex), "that are not all finite numbers"),
        (lambda x: x * np.nan, "that are not all finite numbers"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(path: Path, x: np.ndarray, changed: Any, problem: str) -> None:
    with pytest.raises(ScaDeployError, match=problem):
        run_onnx(path, changed(x))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float64])
def test_any_type_of_number_will_do(path: Path, x: np.ndarray, kind: type) -> None:
    np.testing.assert_array_equal(run_onnx(path, x.astype(kind))[0], run_onnx(path, x)[0])


@pytest.mark.parametrize("form", ["step", "scan", "unroll"])
def test_every_neuron_node_is_recorded_by_its_name(form: str, tmp_path: Path) -> None:
    """Spikes of what fires, potentials of what does not; those of graphs inside the graph too."""
    full = np.ones(2, np.float32)
    lif = nir.LIF(2 * full, 2 * full, 0 * full, full, 0 * full)
    ends = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    inner = nir.NIRGraph(ends | {"lif": lif}, [("input", "lif"), ("lif", "output")])
    nodes = ends | {"part": inner, "sum": nir.I(full), "readout": nir.Affine(np.eye(2, dtype=np.float32), full)}
    edges = [("input", "part"), ("part", "sum"), ("sum", "readout"), ("readout", "output")]
    graph = nir.NIRGraph(nodes, edges, {"T": 4}, type_check=False)
    path = OnnxExporter(form).export(Deployable(graph, 1.0), tmp_path / "network.onnx").path
    x = np.array([[[2, 0], [0.5, 0.5], [2, 2], [2, 0]]], np.float32)
    recorded = record_onnx(path, x)
    assert recorded.keys() == {"part.lif", "sum"}
    # v = v / 2 + x: 2, 0.5, 2.25, 2 and 0, 0.5, 2.25, 0; both zero again after a spike.
    np.testing.assert_array_equal(recorded["part.lif"], [[[1, 0], [0, 0], [1, 1], [1, 0]]])
    np.testing.assert_array_equal(recorded["sum"], [[[1, 0], [1, 0], [2, 1], [3, 1]]])
    np.testing.assert_array_equal(run_onnx(path, x)[0], [[1 + 1 + 2 + 3 + 4, 0 + 0 + 1 + 1 + 4]])


def test_a_file_says_what_it_holds(path: Path) -> None:
    found = describe(path)
    assert (found["form"], found["title"], found["dt"], found["opset"]) == ("step", "small test network", "0.0001", 17)
    assert found["bytes"] == path.stat().st_size
    assert found["inputs"]["x"] == ["batch", 2, 8, 8]
    assert found["outputs"]["lif3_spikes"] == ["batch", 10]
    assert found["operators"] == len(onnx.load(path).graph.node)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ScaDeployError, match="or is incomplete"):
        describe(path)
