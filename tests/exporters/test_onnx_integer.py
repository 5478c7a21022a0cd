"""The integer form: the chip's own integers in onnxruntime, bit for bit."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from sklearn.datasets import load_digits

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.exporters.base import Deployable, Probe
from sca_deploy.exporters.onnx import OnnxExporter
from sca_deploy.exporters.onnx_running import run_onnx
from sca_deploy.hardware.program import BIAS_MAX, INPUT, NEVER, Conv, Dense, Layer, Program
from sca_deploy.hardware.simulate import simulate
from tests.hardware.programs import brute_force, programs

onnxruntime = pytest.importorskip("onnxruntime")

DT = 1e-4


def deployable(program: Program, x: np.ndarray | None = None) -> Deployable:
    """A Program beside a graph that the integer form does not look at."""
    nodes = {"input": nir.Input(np.array([1])), "output": nir.Output(np.array([1]))}
    graph = nir.NIRGraph(nodes, [("input", "output")])
    probe = None if x is None else Probe(x, {}, np.zeros((len(x), 1)))
    return Deployable(graph, DT, program=program, probe=probe)


def written(program: Program, folder: Path, x: np.ndarray | None = None) -> Path:
    return OnnxExporter("integer").export(deployable(program, x), folder / "integers.onnx").path


def dense(weight: Any, **changes: Any) -> Layer:
    """Neurons of one fully connected synapse from the input."""
    weight = np.array(weight, np.int32)
    fields = {"v_decay": 0, "threshold": 100, "bias": np.zeros(len(weight), np.int32)} | changes
    return Layer("layer", (len(weight),), (Dense(INPUT, weight),), **fields)


def states_over_time(path: Path, x: np.ndarray) -> list[dict[str, np.ndarray]]:
    """All outputs of every step, the caller's loop in its plainest form."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [port.name for port in session.get_outputs()]
    state = {
        port.name: np.zeros((len(x), *port.shape[1:]), np.int32) for port in session.get_inputs() if port.name != "x"
    }
    results = []
    for t in range(x.shape[1]):
        values = dict(zip(outputs, session.run(outputs, {"x": x[:, t].astype(np.int32), **state}), strict=True))
        state = {name: values[f"{name}_out"] for name in state}
        results.append(values)
    return results


@settings(max_examples=100, deadline=None)
@given(programs())
def test_every_spike_and_potential_of_any_program_is_that_of_a_loop_in_whole_numbers(
    case: tuple[Program, np.ndarray],
) -> None:
    program, x = case
    expected = brute_force(program, x)
    with tempfile.TemporaryDirectory() as folder:
        results = states_over_time(written(program, Path(folder)), x)
    for layer in program.layers:
        for what, port in (("spikes", "spikes"), ("v", "v_out"), ("u", "u_out")):
            name = f"{layer.name}_{port}"
            if name in results[0]:
                values = np.stack([step[name] for step in results], axis=1)
                np.testing.assert_array_equal(values, expected[layer.name][what], err_msg=name)
        assert f"{layer.name}_spikes" in results[0]
        assert (f"{layer.name}_u_out" in results[0]) == (layer.u_decay < 4096)


@pytest.mark.parametrize("bits", [7, 8, 14, 16])
def test_graded_messages_of_any_width_are_summed_exactly(bits: int, tmp_path: Path) -> None:
    """The largest messages through the largest weights, where products of 8 bits would not add up within 16."""
    rng = np.random.default_rng(0)
    top = (1 << bits) - 1
    shape = (2, 3, 3)
    large = max(2, min(254, (1 << 23) // (64 * top * 2) // 2 * 2))
    weight = large * np.array([[1, 1], [-1, -1], [1, -1]], np.int32)[:, :, None, None]
    layer = Layer("layer", (3, 3, 3), (Conv(INPUT, weight),), 4096, 0, np.zeros(3, np.int32))
    program = Program(shape, bits, 2, (layer,), readout=False)
    x = rng.choice([top, top, top - 1, 0], (2, 2, *shape))
    results = states_over_time(written(program, tmp_path), x)
    expected = brute_force(program, x)["layer"]
    for t, values in enumerate(results):
        np.testing.assert_array_equal(values["layer_spikes"], expected["spikes"][:, t])
        np.testing.assert_array_equal(values["layer_v_out"], expected["v"][:, t])
    assert (np.abs(expected["v"]) > 64 * top).any()


def test_potentials_saturate_and_a_read_out_gives_its_last(tmp_path: Path) -> None:
    bias = np.full(2, BIAS_MAX, np.int32) * np.array([1, -1], np.int32)
    layer = dense([[254], [-256]], threshold=NEVER, bias=bias)
    program = Program((1,), 0, 40, (layer,), readout=True)
    x = np.ones((1, 40, 1), np.int32)
    logits, spikes = run_onnx(written(program, tmp_path), x)
    # 40 x 64 x (254 + 4095) and 40 x 64 x -(256 + 4095): beyond 2^23 - 1 both.
    np.testing.assert_array_equal(logits, [[2**23 - 1, 1 - 2**23]])
    assert not spikes["layer"].any()


def test_without_a_read_out_the_last_layers_spikes_are_counted(tmp_path: Path) -> None:
    program = Program((2,), 0, 5, (dense([[200, 0], [0, 40]]),), readout=False)
    x = np.ones((1, 5, 2), np.int32)
    # 200 > 100 at every step; 40, 80, 120 > 100, then from 0 again.
    np.testing.assert_array_equal(run_onnx(written(program, tmp_path), x)[0], [[5, 1]])


def test_the_digits_network_gives_the_chips_integers(digits_run: Path, tmp_path: Path) -> None:
    program = Program.load(digits_run / "pruned" / "program.npz")
    pictures = load_digits().images[:32, None, None].astype(np.int64)
    x = np.broadcast_to(pictures, (32, program.steps, *program.input_shape))
    expected = simulate(program, x, record=("spikes",))
    logits, spikes = run_onnx(written(program, tmp_path, x), x)
    np.testing.assert_array_equal(logits, expected.readout)
    assert spikes.keys() == expected.records.keys()
    for name, values in spikes.items():
        np.testing.assert_array_equal(values, expected.records[name]["spikes"])
        assert values.any() or name == program.layers[-1].name


def test_all_arithmetic_is_in_integers(tmp_path: Path) -> None:
    shape = (2, 4, 4)
    weight = np.full((2, 2, 3, 3), 4, np.int32)
    layer = Layer("layer", shape, (Conv(INPUT, weight, padding=(1, 1)),), 1000, 30, np.ones(2, np.int32), u_decay=77)
    path = written(Program(shape, 0, 3, (layer,), readout=False), tmp_path)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    kinds = {value.type.tensor_type.elem_type for value in [*inferred.graph.value_info, *inferred.graph.output]}
    kinds |= {constant.data_type for constant in inferred.graph.initializer}
    names = {onnx.TensorProto.DataType.Name(kind) for kind in kinds}
    assert names <= {"INT32", "INT8", "UINT8", "BOOL", "INT64"}
    assert "ConvInteger" in {node.op_type for node in inferred.graph.node}


def test_what_the_chip_could_not_be_given_is_refused(tmp_path: Path) -> None:
    path = written(Program((2,), 4, 3, (dense([[2, 2]]),), readout=False), tmp_path)
    for value, found in ((16, "0 to 16"), (-1, "-1 to 0"), (0.5, "0 to 0.5")):
        x = np.zeros((1, 3, 2))
        x[0, 0, 0] = value
        with pytest.raises(ScaDeployError, match=rf"x holds {found}, .* whole numbers from 0 to 15"):
            run_onnx(path, x)


def test_sums_beyond_32_bits_are_refused_by_name(tmp_path: Path) -> None:
    weight = np.full((1, 300), 254, np.int32)
    program = Program((300,), 16, 1, (dense(weight),), readout=False)
    with pytest.raises(ScaDeployError, match=r"layer 'layer': its .* may reach .*, ONNX's integers hold 32 bits"):
        written(program, tmp_path)


def test_a_network_that_was_not_lowered_has_no_integers(tmp_path: Path) -> None:
    program = Program((2,), 0, 3, (dense([[2, 2]]),), readout=False)
    with pytest.raises(ScaDeployError, match="was not lowered to integers"):
        OnnxExporter("integer").export(replace(deployable(program), program=None), tmp_path / "integers.onnx")


def test_integers_that_differ_are_a_mismatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program((1,), 0, 3, (dense([[40]], v_decay=1024, threshold=60),), readout=False)
    monkeypatch.setattr("sca_deploy.exporters.onnx_integer.DECAY_ONE", 2048)
    # A quarter decays on the chip: 40, 70 > 60, 40. Here a half does: 40, 60, 70 > 60.
    with pytest.raises(Mismatch, match=r"onnxruntime and the simulated chip differ in 2 of 3 integers"):
        written(program, tmp_path, np.ones((1, 3, 1)))
    assert list(tmp_path.iterdir()) == []


def test_the_exporter_asks_for_integers_only_for_this_form() -> None:
    assert OnnxExporter("integer").integers
    assert not OnnxExporter().integers
