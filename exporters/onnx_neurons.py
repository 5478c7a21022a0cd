"""The equations of neurons as ONNX operators, with the coefficients of `hardware.float_nodes`.

i = alpha <node>_i + a                          only where there are synaptic currents; then a is inflow i
v = beta <node>_v + a + drift                   a: the weighted input times the gain
<node>_spikes = v > v_threshold                 >= with tie = "ge"; whole multiples with multi_spike
<node>_v_out = v_reset where it spiked, else v  v - spikes v_threshold with reset = "subtract"; max(clamp, ...)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.exporters.onnx_step import OneStep, left
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_nodes import Coefficients

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Neurons:
    """A population's coefficients, each one number where all neurons share it; None where the equation lacks it."""

    beta: Values
    gain: Values
    drift: Values | None
    alpha: Values | None
    inflow: Values | None
    threshold: Values | None
    reset: Values
    clamp: Values | None


def single(step: Coefficients) -> Neurons:
    """The coefficients as arrays, in double precision, and as one number if all neurons share it."""

    def shared(values: torch.Tensor) -> Values:
        array = values.double().numpy()
        return np.asarray(array.flat[0] if np.ptp(array) == 0 else array)

    def optional(values: torch.Tensor | None) -> Values | None:
        return None if values is None else shared(values)

    firing = step.firing
    return Neurons(
        shared(step.beta),
        shared(step.gain),
        optional(step.drift),
        optional(step.alpha),
        optional(step.inflow),
        None if firing is None else shared(firing.threshold),
        np.asarray(0.0) if firing is None else shared(firing.reset),
        None if firing is None else optional(firing.clamp),
    )


def write_neurons(
    step: OneStep, name: str, shape: tuple[int, ...], current: str, neurons: Neurons, dynamics: Dynamics
) -> str:
    """Write a population's step; returns its spikes as numbers, or its potential if it never fires.

    Args:
        current: the value that holds the weighted input times the gain.
    """
    if neurons.threshold is None:
        doc = f"membrane potential of '{name}' after this time step"
        return _integrated(step, name, shape, current, neurons, step.record(left(f"{name}_v"), shape, doc, "FLOAT"))
    v = _integrated(step, name, shape, current, neurons, f"{name}/v")
    threshold = step.constant(f"{name}/threshold", neurons.threshold)
    if dynamics.multi_spike:
        fired = numbers = _counts(step, name, shape, v, threshold, dynamics)
    else:
        fired, numbers = _spikes(step, name, shape, v, threshold, dynamics)
    after = left(f"{name}_v") if neurons.clamp is None else f"{name}/after"
    if dynamics.reset == "subtract":
        taken = step.operator("Mul", [numbers, threshold], f"{name}/taken")
        step.operator("Sub", [v, taken], after)
    else:
        step.operator("Where", [fired, step.constant(f"{name}/reset", neurons.reset), v], after)
    if neurons.clamp is not None:
        step.operator("Max", [after, step.constant(f"{name}/clamp", neurons.clamp)], left(f"{name}_v"))
    return numbers


def _integrated(step: OneStep, name: str, shape: tuple[int, ...], current: str, neurons: Neurons, output: str) -> str:
    """Write the potential that the threshold sees, as the value called `output`."""
    v = step.state(f"{name}_v", shape, f"membrane potential of '{name}'")
    if neurons.alpha is not None and neurons.inflow is not None:
        i = step.state(f"{name}_i", shape, f"synaptic current of '{name}'")
        decayed = step.operator("Mul", [i, step.constant(f"{name}/alpha", neurons.alpha)], f"{name}/i-decayed")
        i = step.operator("Add", [decayed, current], left(i))
        current = step.operator("Mul", [i, step.constant(f"{name}/inflow", neurons.inflow)], f"{name}/inflowing")
    if np.any(neurons.beta != 1.0):
        v = step.operator("Mul", [v, step.constant(f"{name}/beta", neurons.beta)], f"{name}/decayed")
    if neurons.drift is None:
        return step.operator("Add", [v, current], output)
    total = step.operator("Add", [v, current], f"{name}/arrived-at")
    return step.operator("Add", [total, step.constant(f"{name}/drift", neurons.drift)], output)


def _spikes(
    step: OneStep, name: str, shape: tuple[int, ...], v: str, threshold: str, dynamics: Dynamics
) -> tuple[str, str]:
    """Whether each neuron fires, and the same as numbers."""
    from onnx import TensorProto

    spikes = step.record(f"{name}_spikes", shape, f"whether each neuron of '{name}' spikes", "BOOL")
    step.operator("Greater" if dynamics.tie == "gt" else "GreaterOrEqual", [v, threshold], spikes)
    return spikes, step.operator("Cast", [spikes], f"{name}/out", to=TensorProto.FLOAT)


def _counts(step: OneStep, name: str, shape: tuple[int, ...], v: str, threshold: str, dynamics: Dynamics) -> str:
    """How often each neuron fires: as often as v stays above the threshold, or reaches it, when that is subtracted."""
    fits = step.operator("Div", [v, threshold], f"{name}/fits")
    if dynamics.tie == "ge":
        whole = step.operator("Floor", [fits], f"{name}/whole")
    else:
        up = step.operator("Ceil", [fits], f"{name}/up")
        whole = step.operator("Sub", [up, step.constant("one", 1.0)], f"{name}/whole")
    spikes = step.record(f"{name}_spikes", shape, f"how often each neuron of '{name}' spikes", "FLOAT")
    return step.operator("Max", [whole, step.constant("none", 0.0)], spikes)
