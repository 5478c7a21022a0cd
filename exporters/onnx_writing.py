"""A NIR graph as the ONNX operators of one time step.

Node by node, in the order and with the coefficients of `hardware.float_graph` and `hardware.float_nodes`, in single
precision. A convolution is Conv, a matrix Gemm, a delay a queue among the states, neurons are in `onnx_neurons`. What
a loop brings back is a state as well: the population's spikes of the step before. The gain of a population's input is
folded into the weights in front of it, in double precision, where nothing else reads those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
import torch

from sca_deploy.exporters.onnx_neurons import Neurons, single, write_neurons
from sca_deploy.exporters.onnx_step import LOGITS, Array, OneStep, Port, X, left
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.euler import INTEGRATORS, NEURONS, SPIKING, refuse
from sca_deploy.hardware.float_graph import Walk, plan
from sca_deploy.hardware.float_nodes import coefficients, delay_steps, pair

DELAY_MAX = 1024
"""Steps a Delay may hold values back; they all become states."""


def float_step(graph: nir.NIRGraph, dynamics: Dynamics) -> OneStep:
    """One time step of a graph.

    States are `<node>_v`, `<node>_i` of neurons with synaptic currents, `<node>_spikes_last` of populations that a
    loop leaves, and `<node>_past` of delays, (steps, *shape), the latest first. Recorded are `<node>_spikes`, bool or
    with several spikes a step their number, and of integrators `<node>_v_out`.

    Raises:
        ScaDeployError: naming the node that cannot be carried.
    """
    walk = plan(graph)
    x = Port(X, walk.shapes[walk.input], "FLOAT", "what enters the network at this time step")
    logits = Port(LOGITS, walk.shapes[walk.output], "FLOAT", "the read-out, of which the sum over time counts")
    writer = _Writer(walk, dynamics, OneStep(x, logits))
    for part in walk.parts:
        for name in part:
            writer.write(name)
    for name in sorted({source for source, _ in walk.late}):
        if isinstance(walk.nodes[name], SPIKING):
            writer.step.operator("Identity", [writer.values[name]], left(f"{name}_spikes_last"))
    return writer.step


@dataclass
class _Writer:
    """Collects the operators of one time step.

    Args:
        values: the ONNX value that holds each written node's output.
    """

    walk: Walk
    dynamics: Dynamics
    step: OneStep
    values: dict[str, str] = field(default_factory=dict)
    neurons: dict[str, Neurons] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, node in self.walk.nodes.items():
            _refuse_nan(name, node)
            if isinstance(node, NEURONS):
                self.neurons[name] = single(coefficients(name, node, self.dynamics, torch.float64))
        for name in sorted({source for source, _ in self.walk.late}):
            if isinstance(self.walk.nodes[name], SPIKING):
                self.step.state(f"{name}_spikes_last", self.walk.shapes[name], f"spikes of '{name}'")

    def write(self, name: str) -> None:
        """Write one node; those it reads on time must have been written."""
        node = self.walk.nodes[name]
        self.values[name] = _WRITERS[type(node)](self, name, node)

    def incoming(self, name: str) -> str:
        """The value a node reads: the sum over its edges."""
        values = [self._arriving(source, name) for source in self.walk.sources[name]]
        total = values[0]
        for i, value in enumerate(values[1:]):
            total = self.step.operator("Add", [total, value], f"{name}/sum{i}")
        return total

    def _arriving(self, source: str, target: str) -> str:
        if (source, target) not in self.walk.late:
            return self.values[source]
        return f"{source}_v" if isinstance(self.walk.nodes[source], INTEGRATORS) else f"{source}_spikes_last"

    def shape_read(self, name: str) -> tuple[int, ...]:
        """The shape of what a node reads."""
        return self.walk.shapes[self.walk.sources[name][0]]

    def weights(self, name: str, node: Any) -> tuple[Array, Array | None]:
        """Weight and bias of a synapse node, times the input gain of the neurons that alone read it."""
        readers = [target for target, sources in self.walk.sources.items() if name in sources]
        gain = self.neurons[readers[0]].gain if any(self.folds_gain(reader) for reader in readers) else np.float64(1.0)
        bias = getattr(node, "bias", None)
        weight = np.asarray(node.weight, np.float64) * gain
        return weight, None if bias is None else np.ravel(np.asarray(bias, np.float64)) * gain

    def folds_gain(self, name: str) -> bool:
        """Whether the input gain of `name` goes into the weights in front of it rather than into a Mul."""
        if name not in self.neurons or self.neurons[name].gain.size > 1:
            return False
        sources = self.walk.sources[name]
        read = [source for sources in self.walk.sources.values() for source in sources]
        return all(isinstance(self.walk.nodes[s], _WEIGHTED) and read.count(s) == 1 for s in sources)


def _refuse_nan(name: str, node: nir.NIRNode) -> None:
    for key, value in vars(node).items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            raise refuse(name, node, f"'{key}' holds NaN or infinite values")


def _input(writer: _Writer, name: str, node: nir.Input) -> str:
    return X


def _output(writer: _Writer, name: str, node: nir.Output) -> str:
    return writer.step.operator("Identity", [writer.incoming(name)], LOGITS)


def _neurons(writer: _Writer, name: str, node: nir.NIRNode) -> str:
    current, neurons = writer.incoming(name), writer.neurons[name]
    if not writer.folds_gain(name) and np.any(np.float32(neurons.gain) != 1.0):
        gain = writer.step.constant(f"{name}/gain", neurons.gain)
        current = writer.step.operator("Mul", [current, gain], f"{name}/arrived")
    return write_neurons(writer.step, name, writer.walk.shapes[name], current, neurons, writer.dynamics)


def _conv(writer: _Writer, name: str, node: nir.Conv1d | nir.Conv2d) -> str:
    axes = 2 if isinstance(node, nir.Conv2d) else 1
    if len(writer.shape_read(name)) != axes + 1:
        raise refuse(name, node, f"it reads a value of shape {writer.shape_read(name)}, {axes + 1} sizes are needed")
    weight, bias = writer.weights(name, node)
    constants = [writer.step.constant(f"{name}/weight", weight)]
    constants += [] if bias is None else [writer.step.constant(f"{name}/bias", bias)]
    stride, dilation = (_sides(getattr(node, key), axes) for key in ("stride", "dilation"))
    return writer.step.operator(
        "Conv",
        [writer.incoming(name), *constants],
        f"{name}/out",
        kernel_shape=list(weight.shape[2:]),
        strides=stride,
        pads=_pads(node.padding, axes, [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]),
        dilations=dilation,
        group=int(node.groups),
    )


def _pads(padding: Any, axes: int, reach: list[int]) -> list[int]:
    """Padding before and after, axis by axis; that of 'same', if uneven, has more at the end."""
    word = padding.decode() if isinstance(padding, bytes) else padding if isinstance(padding, str) else ""
    if word == "same":
        return [r // 2 for r in reach] + [r - r // 2 for r in reach]
    return [0] * 2 * axes if word else _sides(padding, axes) * 2


def _sides(value: Any, axes: int) -> list[int]:
    numbers = np.ravel(value)
    return [int(n) for n in np.broadcast_to(numbers if numbers.size == axes else numbers[-1:], (axes,))]


def _pool(writer: _Writer, name: str, node: nir.SumPool2d | nir.AvgPool2d) -> str:
    shape = writer.shape_read(name)
    if len(shape) != 3:
        raise refuse(name, node, f"it reads a value of shape {shape}, not (channels, height, width)")
    kernel, stride, padding = (list(pair(getattr(node, key))) for key in ("kernel_size", "stride", "padding"))
    sides = {"kernel_shape": kernel, "strides": stride, "pads": padding * 2}
    entering = writer.incoming(name)
    if isinstance(node, nir.AvgPool2d):
        return writer.step.operator("AveragePool", [entering], f"{name}/out", count_include_pad=1, **sides)
    # A depthwise convolution with ones adds exactly; AveragePool divides by the area, which does not always undo.
    ones = writer.step.constant(f"{name}/ones", np.ones((shape[0], 1, *kernel)))
    return writer.step.operator("Conv", [entering, ones], f"{name}/out", group=shape[0], **sides)


def _flatten(writer: _Writer, name: str, node: nir.Flatten) -> str:
    shape = writer.walk.shapes[name]
    if len(shape) == 1:
        return writer.step.operator("Flatten", [writer.incoming(name)], f"{name}/out", axis=1)
    target = writer.step.constant(f"{name}/shape", [0, *shape], np.int64)  # 0 keeps the batch
    return writer.step.operator("Reshape", [writer.incoming(name), target], f"{name}/out")


def _matrix(writer: _Writer, name: str, node: nir.Affine | nir.Linear) -> str:
    """A matrix reads a map flattened, unless its last axis fits alone."""
    shape, (weight, bias) = writer.shape_read(name), writer.weights(name, node)
    if weight.ndim != 2:
        raise refuse(name, node, f"its weight has {weight.ndim} dimensions, not 2", "flatten its input")
    step, entering, out = writer.step, writer.incoming(name), f"{name}/out"
    if len(shape) > 1 and shape[-1] == weight.shape[1]:
        product = step.operator("MatMul", [entering, step.constant(f"{name}/weight", weight.T)], f"{name}/product")
        return product if bias is None else step.operator("Add", [product, step.constant(f"{name}/bias", bias)], out)
    if len(shape) > 1:
        entering = step.operator("Flatten", [entering], f"{name}/flat", axis=1)
    constants = [step.constant(f"{name}/weight", weight)]
    constants += [] if bias is None else [step.constant(f"{name}/bias", bias)]
    return step.operator("Gemm", [entering, *constants], out, transB=1)


def _scale(writer: _Writer, name: str, node: nir.Scale) -> str:
    factor = writer.step.constant(f"{name}/scale", _fitted(node.scale, writer.shape_read(name)))
    return writer.step.operator("Mul", [writer.incoming(name), factor], f"{name}/out")


def _threshold(writer: _Writer, name: str, node: nir.Threshold) -> str:
    from onnx import TensorProto

    threshold = writer.step.constant(f"{name}/threshold", _fitted(node.threshold, writer.shape_read(name)))
    over = writer.step.operator("Greater", [writer.incoming(name), threshold], f"{name}/over")
    return writer.step.operator("Cast", [over], f"{name}/out", to=TensorProto.FLOAT)


def _fitted(values: Any, shape: tuple[int, ...]) -> Array:
    """One value for all, or one each in the given shape."""
    given = np.asarray(values)
    return given.reshape(()) if given.size == 1 else given.reshape(shape)


def _delay(writer: _Writer, name: str, node: nir.Delay) -> str:
    """The value of some steps before, from a queue with the latest first; each neuron may have a delay of its own."""
    step, shape, late = writer.step, writer.walk.shapes[name], delay_steps(name, node, writer.dynamics.dt)
    longest, entering = int(late.max()), writer.incoming(name)
    if longest > DELAY_MAX:
        raise refuse(name, node, f"it waits {longest} steps, at most {DELAY_MAX} are carried", "give a larger --dt")
    if longest == 0:
        return entering
    past = step.state(f"{name}_past", (longest, *shape), f"what '{name}' read, the latest first,")
    second = step.constant("second-axis", [1], np.int64)
    newest = step.operator("Unsqueeze", [entering, second], f"{name}/newest")
    known = step.operator("Concat", [newest, past], f"{name}/known", axis=1)

    def cut(first: int, last: int, what: str) -> str:
        ends = [step.constant(f"steps/{n}", [n], np.int64) for n in (first, last)]
        return step.operator("Slice", [known, *ends, second], what)

    cut(0, longest, left(past))
    waits = np.unique(late).tolist()
    out = ""
    for wait in waits:
        value = step.operator("Squeeze", [cut(wait, wait + 1, f"{name}/after{wait}"), second], f"{name}/late{wait}")
        if out:
            chosen = step.constant(f"{name}/waits{wait}", late.reshape(shape) == wait, np.bool_)
            value = step.operator("Where", [chosen, value, out], f"{name}/until{wait}")
        out = value
    return out


_WEIGHTED = (nir.Conv1d, nir.Conv2d, nir.Affine, nir.Linear)
_WRITERS: dict[type[nir.NIRNode], Callable[[_Writer, str, Any], str]] = {
    nir.Input: _input,
    nir.Conv1d: _conv,
    nir.Conv2d: _conv,
    nir.SumPool2d: _pool,
    nir.AvgPool2d: _pool,
    nir.Flatten: _flatten,
    nir.Affine: _matrix,
    nir.Linear: _matrix,
    nir.Scale: _scale,
    nir.Threshold: _threshold,
    nir.Delay: _delay,
    **dict.fromkeys(NEURONS, _neurons),
    nir.Output: _output,
}
