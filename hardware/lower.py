"""NIR graph in floats -> integer Program: one free scale a layer, every bit width checked.

A layer computes the same spikes when its weights, biases and threshold are multiplied by one number.
Each layer therefore gets the largest scale at which everything still fits: even weights of 9 bits,
a threshold of 17 bits, biases of 13 bits and, whatever spikes arrive, a sum that cannot wrap the
24-bit current. The read-out is a neuron without leak that cannot fire; its scale also leaves the
head-room that `steps` steps of the worst input need. The potential `v` of other neurons saturates: one that
is inhibited for long enough to get there forgets some of it, on the chip as in the simulator.
"""

from __future__ import annotations

import math
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.frontend import Operator, Population, read_populations
from sca_deploy.hardware.program import (
    ACTIVATION_LIMIT,
    BIAS_MAX,
    DECAY_ONE,
    INPUT,
    MESSAGE_BITS_MAX,
    THRESHOLD_MAX,
    WEIGHT_MAX,
    Conv,
    Dense,
    IntArray,
    Layer,
    Program,
    Synapse,
)

MIN_LEVELS = 2.0
"""A layer whose largest weight or threshold keeps fewer integer steps than this computes nothing useful."""


def lower(graph: nir.NIRGraph, *, dt: float, steps: int, input_bits: int) -> Program:
    """The Program that runs `graph` on Loihi 2.

    Args:
        graph: a chain of neuron populations; see `hardware.frontend` for what can be carried.
        dt: time step in seconds of the graph's time constants.
        steps: time steps a sample lasts.
        input_bits: 0 for a binary input, b for graded input spikes of 0 to 2^b - 1.

    Raises:
        ScaDeployError: naming the node or layer and the limit it breaks.
    """
    if not 0 < dt < math.inf:
        raise ScaDeployError(f"the time step is {dt:g} s, it must be positive", "give --dt SECONDS, e.g. --dt 1e-4")
    if not 0 <= input_bits <= MESSAGE_BITS_MAX:
        raise ScaDeployError(f"input of {input_bits} bits, the chip's messages carry 0 to {MESSAGE_BITS_MAX}")
    input_shape, populations = read_populations(graph, dt)
    input_max = (1 << input_bits) - 1 if input_bits else 1
    layers = [_lower(p, input_max if p.source == INPUT else 1, steps) for p in populations]
    return Program(
        input_shape=input_shape,
        input_bits=input_bits,
        steps=steps,
        layers=tuple(layers),
        readout=populations[-1].threshold is None,
    )


def _lower(population: Population, payload: int, steps: int) -> Layer:
    operator = population.operator
    reading_out = population.threshold is None
    limit = THRESHOLD_MAX // steps if reading_out else ACTIVATION_LIMIT - 1
    scale, binding = _largest_scale(population, payload)
    weight, bias = _rounded(operator, scale)
    while (sum_ := _largest_sum(weight, bias if reading_out else None, payload)) > limit:
        scale, binding = scale * 0.999 * limit / sum_, "sums of the worst input"
        weight, bias = _rounded(operator, scale)
    _refuse_coarse(population, scale, binding)
    return Layer(
        name=population.name,
        shape=population.shape,
        synapses=(_synapse(population.source, weight, operator),),
        v_decay=round((1.0 - population.beta) * DECAY_ONE),
        threshold=THRESHOLD_MAX if population.threshold is None else round(population.threshold * scale),
        bias=bias,
        scale=scale,
    )


def _largest_scale(population: Population, payload: int) -> tuple[float, str]:
    """The scale at which the first of these meets its limit, and which one that is."""
    operator = population.operator
    largest = {
        "weights": (WEIGHT_MAX, np.abs(operator.weight).max(initial=0.0)),
        "biases": (BIAS_MAX, np.abs(operator.bias).max(initial=0.0)),
        "threshold": (THRESHOLD_MAX, population.threshold or 0.0),
        "sums of the worst input": (ACTIVATION_LIMIT - 1, payload * _signed_sums(operator.weight)),
    }
    limits = {what: float(limit / value) for what, (limit, value) in largest.items() if value > 0}
    binding = min(limits, key=limits.__getitem__, default="")
    return limits.get(binding, 1.0), binding


def _signed_sums(weight: npt.NDArray[Any]) -> float:
    """The largest sum of equal-signed weights into one neuron: what its input can swing to."""
    flat = weight.reshape(weight.shape[0], -1)
    positive = np.where(flat > 0, flat, 0).sum(axis=1).max(initial=0)
    negative = np.where(flat < 0, -flat, 0).sum(axis=1).max(initial=0)
    return float(max(positive, negative))


def _largest_sum(weight: IntArray, bias: IntArray | None, payload: int) -> int:
    largest_bias = 0 if bias is None else int(np.abs(bias).max(initial=0))
    return int(_signed_sums(weight.astype(np.int64))) * payload + largest_bias


def _rounded(operator: Operator, scale: float) -> tuple[IntArray, IntArray]:
    weight = 2 * np.rint(operator.weight * (scale / 2)).astype(np.int32)
    return weight, np.rint(operator.bias * scale).astype(np.int32)


def _refuse_coarse(population: Population, scale: float, binding: str) -> None:
    """Refuse a layer whose weights or threshold keep so few steps that rounding decides what it computes."""
    kept = {
        "largest weight": np.abs(population.operator.weight).max(initial=0.0) * scale / 2,
        "threshold": (population.threshold or 0.0) * scale,
    }
    for what, steps in kept.items():
        if 0 < steps < MIN_LEVELS:
            raise ScaDeployError(
                f"layer '{population.name}': its {binding} fill the chip's integers while its {what} keeps "
                f"{steps:.2g} steps, at least {MIN_LEVELS:g} are needed",
                "train with smaller biases, fewer input bits or a threshold nearer to the weights",
            )


def _synapse(source: str, weight: IntArray, operator: Operator) -> Synapse:
    if operator.is_conv:
        return Conv(source, weight, operator.stride, operator.padding, operator.dilation, operator.groups)
    return Dense(source, weight)
