"""ONNX: one time step of the network, with every membrane potential as an explicit input and output.

The model is written operator by operator from the NIR graph. For each time step the caller feeds `x` and the membrane
potentials `<node>_v` (zeros before the first step), takes `<node>_v_out` to the next step and sums `logits`:

    v = beta <node>_v + a        a: the weighted input, beta = 1 - dt / tau (1 for IF)
    <node>_spikes = v > v_threshold
    <node>_v_out = v_reset where the neuron spiked, else v

which is one Euler step of NIR's LIF, tau dv/dt = v_leak - v + R i with v_leak = 0, and of NIR's IF, dv/dt = R i.
The input gain dt R / tau (dt R for IF) is folded into the weights in front, in double precision. The batch size is
left open; writing one step keeps the file small for any number of steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy import __version__
from sca_deploy.errors import Mismatch, MissingExtra, ScaDeployError
from sca_deploy.exporters.base import Check, Deployable, Exported, Probe
from sca_deploy.exporters.nir import topological_order
from sca_deploy.files import atomic_path

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8
INSTALL = "pip install 'sca-deploy[onnx]'"
ROUNDING_SHARE = 1e-4
"""A spike whose potential comes within single precision of the threshold may turn, and a close prediction with it.
In convolutional networks of 58 to 72 million spikes fewer than one in a million did."""

Array = npt.NDArray[Any]


class OnnxExporter:
    """Writes `.onnx` files."""

    name = "onnx"
    summary = "ONNX model of one time step with explicit membrane potentials, for onnxruntime and compilers"
    suffix = ".onnx"
    integers = False
    probes = True

    def export(self, deployable: Deployable, output: Path) -> Exported:
        """Write the model, check it, and run the probe through onnxruntime where that is installed.

        Raises:
            ScaDeployError: if the graph has a node ONNX is not written for, or the file cannot be written.
            Mismatch: if onnxruntime and the float network predict different classes for a probe sample and
                rounding does not account for it.
        """
        model = build_model(deployable)
        with atomic_path(output) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
            checks = (_check_file(temporary, output.name), _check_run(temporary, deployable.probe))
        return Exported(self.name, output, checks)


def build_model(deployable: Deployable) -> onnx.ModelProto:
    """The ONNX model of one time step of `deployable.graph`.

    Raises:
        ScaDeployError: naming the node that cannot be written.
    """
    from onnx import helper

    writer = _Writer(deployable.graph, deployable.dt)
    for name in topological_order(deployable.graph):
        writer.write(name)
    title = "".join(c if c.isalnum() else "_" for c in deployable.title)
    body = helper.make_graph(writer.nodes, title, writer.inputs, writer.outputs, writer.constants)
    body.doc_string = f"{deployable.title}: one time step of a spiking network."
    model = helper.make_model(
        body,
        producer_name="sca-deploy",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string="Feed zeros as every '<node>_v' before the first time step, '<node>_v_out' afterwards; "
        "the prediction is the largest sum of 'logits' over the time steps.",
    )
    helper.set_model_props(model, _properties(deployable))
    return model


def _properties(deployable: Deployable) -> dict[str, str]:
    recorded = {key: str(value) for key, value in deployable.graph.metadata.items()}
    manifest = json.dumps(dict(deployable.manifest), allow_nan=False)
    return recorded | {"title": deployable.title, "dt": repr(deployable.dt), "reset": "hard", "manifest": manifest}


@dataclass
class _Writer:
    """Collects the ONNX operators of one time step, node by node of the NIR graph."""

    graph: nir.NIRGraph
    dt: float
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    """The ONNX value that holds each written NIR node's output."""

    def write(self, name: str) -> None:
        """Write one NIR node; the nodes it reads must have been written."""
        node = self.graph.nodes[name]
        kind = type(node)
        if kind not in _WRITERS:
            known = ", ".join(sorted(known.__name__ for known in _WRITERS))
            raise ScaDeployError(f"node '{name}' is a {kind.__name__}, not written as ONNX", f"known: {known}")
        self.values[name] = _WRITERS[kind](self, name, node)

    def sources(self, name: str) -> list[str]:
        """The nodes that node `name` reads."""
        return [source for source, target in self.graph.edges if target == name]

    def incoming(self, name: str) -> str:
        """The value node `name` reads: the sum over its edges."""
        values = [self.values[source] for source in self.sources(name)]
        if not values:
            raise ScaDeployError(f"node '{name}' reads nothing")
        total = values[0]
        for i, value in enumerate(values[1:]):
            total = self.operator("Add", [total, value], f"{name}/sum{i}")
        return total

    def operator(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one ONNX operator; returns the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """Store a float32 constant; returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
        return name

    def port(self, into: list[onnx.ValueInfoProto], name: str, shape: tuple[int, ...], doc: str, kind: str) -> str:
        """Declare an input or output of shape (batch, *shape)."""
        from onnx import TensorProto, helper

        element = TensorProto.DataType.Value(kind)
        into.append(helper.make_tensor_value_info(name, element, ["batch", *shape], doc_string=doc))
        return name

    def weights(self, name: str, node: nir.Conv2d | nir.Affine) -> tuple[str, str]:
        """Store weight and bias of a synapse node, times the input gain of the neurons that alone read it."""
        readers = [target for source, target in self.graph.edges if source == name]
        folds = any(self.folds_gain(reader) for reader in readers)
        gain = _gain(self.graph.nodes[readers[0]], self.dt) if folds else np.float64(1.0)
        weight = self.constant(f"{name}/weight", np.multiply(node.weight, gain, dtype=np.float64))
        return weight, self.constant(f"{name}/bias", np.multiply(node.bias, gain, dtype=np.float64))

    def folds_gain(self, name: str) -> bool:
        """Whether the input gain of `name` goes into the weights in front of it rather than into a Mul."""
        node = self.graph.nodes[name]
        private = all(
            isinstance(self.graph.nodes[source], nir.Conv2d | nir.Affine)
            and sum(edge[0] == source for edge in self.graph.edges) == 1
            for source in self.sources(name)
        )
        return isinstance(node, nir.LIF | nir.IF) and private and _gain(node, self.dt).size == 1


def _input(writer: _Writer, name: str, node: nir.Input) -> str:
    return writer.port(writer.inputs, "x", _shape(node.input_type), "the input of this time step", "FLOAT")


def _output(writer: _Writer, name: str, node: nir.Output) -> str:
    doc = "the read-out of this time step; the caller sums it over time"
    port = writer.port(writer.outputs, "logits", _shape(node.output_type), doc, "FLOAT")
    return writer.operator("Identity", [writer.incoming(name)], port)


def _shape(declared: Mapping[str, Array]) -> tuple[int, ...]:
    return tuple(int(size) for size in next(iter(declared.values())))


def _conv(writer: _Writer, name: str, node: nir.Conv2d) -> str:
    if isinstance(node.padding, str) and node.padding != "valid":
        raise ScaDeployError(f"convolution '{name}' has padding '{node.padding}'", "give the padding in numbers")
    weight, bias = writer.weights(name, node)
    padding = 0 if isinstance(node.padding, str) else node.padding
    return writer.operator(
        "Conv",
        [writer.incoming(name), weight, bias],
        f"{name}/out",
        kernel_shape=[int(size) for size in node.weight.shape[2:]],
        strides=_pair(node.stride),
        pads=_pair(padding) * 2,
        dilations=_pair(node.dilation),
        group=int(node.groups),
    )


def _sum_pool(writer: _Writer, name: str, node: nir.SumPool2d) -> str:
    # A depthwise convolution with ones adds exactly; AveragePool divides by the area, which does not always undo.
    channels, kernel = int(node.input_type["input"][0]), _pair(node.kernel_size)
    return writer.operator(
        "Conv",
        [writer.incoming(name), writer.constant(f"{name}/ones", np.ones((channels, 1, *kernel)))],
        f"{name}/out",
        kernel_shape=kernel,
        strides=_pair(node.stride),
        pads=_pair(node.padding) * 2,
        group=channels,
    )


def _pair(value: Any) -> list[int]:
    return [int(size) for size in np.broadcast_to(value, (2,))]


def _flatten(writer: _Writer, name: str, node: nir.Flatten) -> str:
    rank = len(_shape(node.input_type))
    if node.start_dim not in (0, -rank) or node.end_dim not in (-1, rank - 1):
        raise ScaDeployError(
            f"'{name}' flattens dimensions {node.start_dim} to {node.end_dim} of {rank}, not all of a sample",
            "use Flatten(-3, -1)",
        )
    return writer.operator("Flatten", [writer.incoming(name)], f"{name}/out", axis=1)


def _affine(writer: _Writer, name: str, node: nir.Affine) -> str:
    if node.weight.ndim != 2:
        raise ScaDeployError(f"'{name}' has a weight of {node.weight.ndim} dimensions, not 2", "flatten its input")
    weight, bias = writer.weights(name, node)
    return writer.operator("Gemm", [writer.incoming(name), weight, bias], f"{name}/out", transB=1)


def _neurons(writer: _Writer, name: str, node: nir.LIF | nir.IF) -> str:
    """The neurons' equation for one step; returns the spikes as numbers."""
    from onnx import TensorProto

    if isinstance(node, nir.LIF) and np.any(node.v_leak):
        raise ScaDeployError(f"neurons '{name}' have v_leak {np.ravel(node.v_leak)[0]:g}, not 0")
    shape = tuple(int(size) for size in node.v_threshold.shape)
    doc = f"membrane potential of '{name}'"
    v = writer.port(writer.inputs, f"{name}_v", shape, f"{doc} before this time step; zeros at first", "FLOAT")
    current = writer.incoming(name)
    if not writer.folds_gain(name) and np.any(np.float32(_gain(node, writer.dt)) != 1.0):
        gain = writer.constant(f"{name}/gain", _gain(node, writer.dt))
        current = writer.operator("Mul", [current, gain], f"{name}/current")
    if isinstance(node, nir.LIF):
        beta = writer.constant(f"{name}/beta", _beta(node, writer.dt))
        v = writer.operator("Mul", [v, beta], f"{name}/decayed")
    v = writer.operator("Add", [v, current], f"{name}/v")
    threshold = writer.constant(f"{name}/threshold", _uniform(node.v_threshold))
    reset = writer.constant(f"{name}/reset", _uniform(node.v_reset))
    spikes = writer.port(writer.outputs, f"{name}_spikes", shape, f"whether each neuron of '{name}' spikes", "BOOL")
    after = writer.port(writer.outputs, f"{name}_v_out", shape, f"{doc} after this time step", "FLOAT")
    writer.operator("Greater", [v, threshold], spikes)
    writer.operator("Where", [spikes, reset, v], after)
    return writer.operator("Cast", [spikes], f"{name}/out", to=TensorProto.FLOAT)


def _gain(node: nir.LIF | nir.IF, dt: float) -> npt.NDArray[np.float64]:
    """By how much one time step multiplies the input current: dt R / tau for LIF, dt R for IF."""
    resistance = dt * _uniform(node.r)
    return np.asarray(resistance / _uniform(node.tau) if isinstance(node, nir.LIF) else resistance)


def _beta(node: nir.LIF, dt: float) -> npt.NDArray[np.float64]:
    """What one time step leaves of the membrane potential: 1 - dt / tau."""
    beta = 1.0 - dt / _uniform(node.tau)
    # tau comes in single precision: of neurons without memory (tau = dt) it leaves a remainder of either sign.
    return np.where(np.abs(beta) < 1e-6, 0.0, beta)


def _uniform(parameter: Array) -> npt.NDArray[np.float64]:
    """In double precision, and as one number if all neurons share it."""
    values = np.float64(parameter)
    return np.asarray(values.flat[0] if np.ptp(values) == 0 else values)


_WRITERS: dict[type[nir.NIRNode], Callable[[_Writer, str, Any], str]] = {
    nir.Input: _input,
    nir.Conv2d: _conv,
    nir.SumPool2d: _sum_pool,
    nir.Flatten: _flatten,
    nir.Affine: _affine,
    nir.LIF: _neurons,
    nir.IF: _neurons,
    nir.Output: _output,
}


def _check_file(path: Path, name: str) -> Check:
    """Check operators, types and shapes of a written file with ONNX's own strict checker."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
        onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ScaDeployError(f"ONNX's checker refuses the network: {reason}") from error
    return Check(f"onnx checker on {name}", None, f"operators, types and shapes hold, opset {OPSET}")


def _check_run(path: Path, probe: Probe | None) -> Check:
    """Run the probe through onnxruntime and compare with the float network."""
    if probe is None:
        return Check("onnxruntime", None, "not run: there is no probe batch")
    if find_spec("onnxruntime") is None:
        return Check("onnxruntime", None, "not run: onnxruntime is not installed")
    logits, spikes = run_onnx(path, probe.x)
    if spikes.keys() != probe.spikes.keys():
        raise Mismatch(f"the file has neurons {sorted(spikes)}, the probe {sorted(probe.spikes)}")
    differing = sum(int(np.sum(spikes[name] != probe.spikes[name])) for name in spikes)
    total = sum(array.size for array in spikes.values())
    difference = float(np.max(np.abs(logits - probe.logits), initial=0.0))
    wrong = int(np.sum(_predicts_otherwise(logits, np.asarray(probe.logits))))
    counted = f"{differing:,} of {total:,} spikes differ"
    by_rounding = 0 < differing <= ROUNDING_SHARE * total
    if not np.isfinite(logits).all() or (wrong and not by_rounding):
        raise Mismatch(
            f"onnxruntime predicts otherwise for {wrong} of {len(logits)} probe samples; "
            f"logits differ by up to {difference:g}, {counted}"
        )
    verdict = f"{wrong} of {len(logits)} predictions turn with them" if wrong else "predictions agree"
    return Check(f"{len(logits)} samples in onnxruntime", difference, f"{counted}, {verdict}")


def _predicts_otherwise(logits: Array, reference: Array) -> npt.NDArray[np.bool_]:
    """Whether each sample's largest logit falls on a class the reference does not hold largest.

    Classes the reference itself separates by no more than rounding are one prediction.
    """
    best = reference.max(axis=1)
    chosen = np.take_along_axis(reference, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    otherwise: npt.NDArray[np.bool_] = best - chosen > 1e-5 * np.maximum(1.0, np.abs(reference).max(axis=1))
    return otherwise


def run_onnx(path: str | Path, x: Array) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[np.bool_]]]:
    """Run a written model over time with onnxruntime.

    Args:
        path: the `.onnx` file.
        x: (samples, steps, *input_shape).

    Returns:
        The logits (samples, classes), summed over time, and for each neuron node its spikes
        (samples, steps, *shape).

    Raises:
        MissingExtra: if onnxruntime is not installed.
        ScaDeployError: if x does not have the model's input shape.
    """
    if find_spec("onnxruntime") is None:
        raise MissingExtra("running an ONNX file needs the onnxruntime package", INSTALL)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shapes = {port.name: tuple(port.shape[1:]) for port in session.get_inputs()}
    if x.shape[2:] != shapes["x"] or x.shape[1] < 1:
        raise ScaDeployError(f"x has shape {x.shape}, the model takes (samples, steps, *{shapes['x']})")
    state = {name: np.zeros((len(x), *shape), np.float32) for name, shape in shapes.items() if name != "x"}
    names = [port.name for port in session.get_outputs()]
    logits = np.float32(0.0)
    steps: dict[str, list[npt.NDArray[np.bool_]]] = {name.removesuffix("_v"): [] for name in state}
    for t in range(x.shape[1]):
        inputs = {"x": np.asarray(x[:, t], dtype=np.float32), **state}
        values = dict(zip(names, session.run(names, inputs), strict=True))
        logits = logits + values["logits"]
        state = {name: values[f"{name}_out"] for name in state}
        for name, spikes in steps.items():
            spikes.append(values[f"{name}_spikes"])
    return np.asarray(logits), {name: np.stack(spikes, axis=1) for name, spikes in steps.items()}
