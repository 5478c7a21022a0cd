"""Runs the ONNX files of this package with onnxruntime, whatever their form, and says what is in them.

A file is only run if its seal holds (`onnx_seal`), all it needs is in it, and every operator is one of ONNX's own:
onnxruntime is given bytes, never a path or a library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import MissingExtra, ScaDeployError
from sca_deploy.exporters.onnx_seal import EXPORT_AGAIN, unsealed
from sca_deploy.exporters.onnx_step import LOGITS, X, left

if TYPE_CHECKING:
    import onnx

INSTALL = "pip install 'sca-deploy[onnx]'"
SPIKES = "_spikes"
TIMED = ("scan", "unroll")
"""The forms that hold all time steps."""
FORM, READOUT, RANGE = "form", "readout", "input_range"
"""Metadata keys: the file's form; whether the sum of the read-out counts ("sum") or its last; what x may hold."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class OnnxRun:
    """What a file gave.

    Args:
        logits: (samples, classes), over time.
        spikes: of every spiking node, (samples, steps, *shape), bool or, with several a step, their number.
        potentials: of every integrator, (samples, steps, *shape).
    """

    logits: Array
    spikes: dict[str, Array]
    potentials: dict[str, Array]


def run_onnx(path: str | Path, x: Array) -> tuple[Array, dict[str, Array]]:
    """Run a file over time; see `run` for the arguments and errors.

    Returns:
        The logits (samples, classes), over time, and of each spiking node its spikes (samples, steps, *shape).
    """
    result = run(path, x)
    return result.logits, result.spikes


def record_onnx(path: str | Path, x: Array) -> dict[str, Array]:
    """Run a file over time: of every neuron node its spikes, or its potential if it never fires.

    Each is (samples, steps, *shape); see `run` for the arguments and errors.
    """
    result = run(path, x)
    return result.spikes | result.potentials


def run(path: str | Path, x: Array) -> OnnxRun:
    """Run a file over time, in any of its forms.

    Args:
        path: the `.onnx` file.
        x: (samples, steps, *input_shape); integers for the integer form.

    Raises:
        MissingExtra: if onnxruntime is not installed.
        ScaDeployError: if the file is not one of this package, damaged, not self-contained or cannot be run, or if x
            does not have the model's input shape.
    """
    if find_spec("onnxruntime") is None:
        raise MissingExtra("running an ONNX file needs the onnxruntime package", INSTALL)
    path = Path(path)
    content, properties = _opened(path)
    with _one_line(path):
        session = _session(content)
        values = _input(path, x, session, properties)
        timed = properties[FORM] in TIMED
        outputs = _at_once(session, values) if timed else _stepped(session, values, properties[READOUT] == "sum")
    logits = outputs.pop(LOGITS)
    by_sample = {name: value.swapaxes(0, 1) for name, value in outputs.items()}
    spikes = {name.removesuffix(SPIKES): value for name, value in by_sample.items() if name.endswith(SPIKES)}
    others = {name.removesuffix(left("_v")): value for name, value in by_sample.items() if not name.endswith(SPIKES)}
    return OnnxRun(logits, spikes, others)


def describe(path: str | Path) -> dict[str, Any]:
    """What a file holds: its metadata, its inputs and outputs with their shapes, and how many operators.

    Raises:
        ScaDeployError: if the file is not one of this package, damaged or not self-contained.
    """
    content, properties = _opened(Path(path))
    model = _parsed(Path(path), content)
    return {
        **properties,
        "bytes": len(content),
        "opset": model.opset_import[0].version,
        "operators": sum(1 for _ in _operators(model.graph)),
        "inputs": {port.name: _sizes(port) for port in model.graph.input},
        "outputs": {port.name: _sizes(port) for port in model.graph.output},
    }


_NUMPY = {"tensor(float)": np.float32, "tensor(int32)": np.int32}


def _at_once(session: Any, x: Array) -> dict[str, Array]:
    """The outputs of a file that holds all time steps; x is (samples, steps, ...)."""
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, {X: np.ascontiguousarray(x.swapaxes(0, 1))}), strict=True))


def _stepped(session: Any, x: Array, summed: bool) -> dict[str, Array]:
    """The outputs over time, as the other forms give them, of a file that holds one step.

    Args:
        summed: whether the sum of the logits counts, or the last.
    """
    states = {
        port.name: np.zeros((len(x), *port.shape[1:]), _NUMPY[port.type])
        for port in session.get_inputs()
        if port.name != X
    }
    names = [port.name for port in session.get_outputs()]
    recorded: dict[str, list[Array]] = {name: [] for name in names if _recorded(name, names)}
    logits: Any = np.zeros((), np.float32)
    for t in range(x.shape[1]):
        outputs = dict(zip(names, session.run(names, {X: np.ascontiguousarray(x[:, t]), **states}), strict=True))
        states = {name: outputs[left(name)] for name in states}
        with np.errstate(over="ignore", invalid="ignore"):  # as onnxruntime adds in the other forms
            logits = logits + outputs[LOGITS] if summed and t else outputs[LOGITS]
        for name, values in recorded.items():
            values.append(outputs[name])
    return {name: np.stack(values) for name, values in recorded.items()} | {LOGITS: logits}


def _recorded(name: str, names: Sequence[str]) -> bool:
    """Whether an output is worth recording: spikes, and the potentials of what has none."""
    v = left("_v")
    return name.endswith(SPIKES) or (name.endswith(v) and name.removesuffix(v) + SPIKES not in names)


def _opened(path: Path) -> tuple[bytes, dict[str, str]]:
    """The bytes and the metadata of a file that may be run."""
    import onnx

    content = unsealed(path)
    model = _parsed(path, content)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    if {FORM, READOUT} - properties.keys():
        raise ScaDeployError(f"{path} does not say what form it has", EXPORT_AGAIN)
    for node in _operators(model.graph):
        if node.domain not in ("", "ai.onnx"):
            raise ScaDeployError(f"{path} needs the operator {node.domain}.{node.op_type}, not one of ONNX's own")
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ScaDeployError(f"{path} keeps '{tensor.name}' in another file", "export it again")
    return content, properties


def _parsed(path: Path, content: bytes) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.load_model_from_string(content)
    except Exception as error:
        # protobuf's decoding error is of no public type that all its versions share.
        raise ScaDeployError(f"{path} cannot be read as ONNX: {_first_line(error)}", EXPORT_AGAIN) from error


def _operators(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All operators, those of inner graphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _operators(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constants, those of operators and of inner graphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _sizes(port: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in port.type.tensor_type.shape.dim]


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; it would print them as well
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Give whatever onnxruntime raises in one line."""
    try:
        yield
    except ScaDeployError:
        raise
    except Exception as error:
        # It has a dozen types of error, without a common public one.
        raise ScaDeployError(f"onnxruntime cannot run {path}: {_first_line(error)}", EXPORT_AGAIN) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _input(path: Path, x: Array, session: Any, properties: Mapping[str, str]) -> Array:
    """x in the model's type, if the model can be given it."""
    port = next(port for port in session.get_inputs() if port.name == X)
    timed = properties[FORM] in TIMED
    shape, steps = tuple(port.shape[2 if timed else 1 :]), port.shape[0] if timed else ""
    if x.shape[2:] != shape or min(x.shape[:2]) < 1:
        raise ScaDeployError(f"x has shape {x.shape}, {path.name} takes (samples, steps, {_listed(shape)})")
    if isinstance(steps, int) and x.shape[1] != steps:
        fix = "export it with --form scan, or give it so many"
        raise ScaDeployError(f"x lasts {x.shape[1]} steps, {path.name} is written out for {steps}", fix)
    if x.dtype.kind not in "biuf" or not np.isfinite(x).all():
        raise ScaDeployError(f"x holds {x.dtype} that are not all finite numbers")
    if RANGE in properties:
        low, high = (int(limit) for limit in json.loads(properties[RANGE]))
        if np.any(x != np.rint(x)) or x.min() < low or x.max() > high:
            found = f"{x.min():g} to {x.max():g}"
            raise ScaDeployError(f"x holds {found}, {path.name} takes whole numbers from {low} to {high}")
    return x.astype(_NUMPY[port.type])


def _listed(shape: Sequence[Any]) -> str:
    return ", ".join(str(size) for size in shape)
