"""NIR graph in floats -> integer Program: one free scale a layer, every bit width checked.

A layer computes the same spikes when its weights, biases and threshold are multiplied by one number.
Each layer therefore gets the largest scale at which everything still fits: even weights of 9 bits,
a threshold of 17 bits, biases of 13 bits and, whatever spikes arrive, a sum that cannot wrap the
24-bit current in `steps` steps. The read-out is a neuron that cannot fire; its scale also leaves the head-room
that so many steps of the worst input need. The potential `v` of other neurons saturates: one that is inhibited for long
enough to get there forgets some of it, on the chip as in the simulator.

The largest scale is a safe choice, not always the best one: `scales` searches for better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.euler import Neuron
from sca_deploy.hardware.frontend import Path, Population, read_populations
from sca_deploy.hardware.operators import FloatArray
from sca_deploy.hardware.program import (
    ACTIVATION_LIMIT,
    BIAS_MAX,
    DECAY_ONE,
    INPUT,
    MESSAGE_BITS_MAX,
    THRESHOLD_MAX,
    WAIT_MAX,
    WEIGHT_MAX,
    Conv,
    Dense,
    IntArray,
    Layer,
    Program,
    Shape,
    Synapse,
)
from sca_deploy.hardware.relays import with_relays

WORST = "sums of the worst input"
LEAK_ERROR = 0.1
"""How far, as a share of it, a leak may be off by rounding it to 12 bits."""
MIN_LEVELS = 2.0
"""A layer whose largest weight or threshold keeps fewer integer steps than this computes nothing useful."""


def lower(
    graph: nir.NIRGraph, *, dt: float, steps: int, input_bits: int, scales: Mapping[str, float] | None = None
) -> Program:
    """The Program that runs `graph` on Loihi 2.

    Args:
        graph: neuron populations and linear maps; see `hardware.frontend` for what can be carried.
        dt: time step in seconds of the graph's time constants.
        steps: time steps a sample lasts.
        input_bits: 0 for a binary input, b for graded input spikes of 0 to 2^b - 1.
        scales: of layers by name; the others get their largest.

    Raises:
        ScaDeployError: naming the node or layer and the limit it breaks.
    """
    if not 0 < dt < math.inf:
        raise ScaDeployError(f"the time step is {dt:g} s, it must be positive", "give --dt SECONDS, e.g. --dt 1e-4")
    if not 0 <= input_bits <= MESSAGE_BITS_MAX:
        raise ScaDeployError(f"input of {input_bits} bits, the chip's messages carry 0 to {MESSAGE_BITS_MAX}")
    input_shape, populations = read_populations(graph, dt)
    return assemble(input_shape, populations, Rules(steps, input_bits), scales)


@dataclass(frozen=True)
class Rules:
    """What the integers of a whole Program depend on: steps a sample, bits of a graded input."""

    steps: int
    input_bits: int

    def payload(self, source: str) -> int:
        """The largest payload of a message from a source."""
        return (1 << self.input_bits) - 1 if source == INPUT and self.input_bits else 1


def assemble(
    input_shape: Shape, populations: Sequence[Population], rules: Rules, scales: Mapping[str, float] | None = None
) -> Program:
    """The Program of some populations, each at its scale in `scales`, else at its largest.

    Raises:
        ScaDeployError: naming the layer and the limit it breaks.
    """
    chosen = scales or {}
    unknown = chosen.keys() - {p.name for p in populations}
    if unknown:
        raise ScaDeployError(f"scales are given for '{min(unknown)}', which is no layer of the network")
    layers = [lower_population(p, rules, chosen.get(p.name)) for p in populations]
    return Program(
        input_shape=input_shape,
        input_bits=rules.input_bits,
        steps=rules.steps,
        layers=with_relays(layers),
        readout=populations[-1].neuron.threshold is None,
    )


def lower_population(population: Population, rules: Rules, scale: float | None = None) -> Layer:
    """The integer layer of a population at a scale, or at its largest.

    A larger scale than the largest clips the weights and biases that do not fit, which pays where a few
    weights are far from the others; what could overflow is never exceeded: the scale is lowered until sums fit.

    Raises:
        ScaDeployError: if so few steps are left that rounding would decide what the layer computes.
    """
    neuron = population.neuron
    _refuse_slow(population)
    largest, binding = largest_scale(population, rules)
    why = f"its {binding} fill the chip's integers while" if scale is None else f"at the given scale {scale:.4g}"
    scale = largest if scale is None else scale
    if neuron.threshold is not None:
        scale = min(scale, THRESHOLD_MAX / neuron.threshold)
    weights, bias = _rounded(population, scale)
    _refuse_coarse(population, scale, why)
    while (over := _overflow(population, weights, bias, rules)) > 1:
        scale, why = scale * 0.999 / over, f"its {WORST} fill the chip's integers while"
        weights, bias = _rounded(population, scale)
        _refuse_coarse(population, scale, why)
    return Layer(
        name=population.name,
        shape=population.shape,
        synapses=tuple(_synapse(path, weight) for path, weight in zip(population.paths, weights, strict=True)),
        v_decay=_integer_decay(neuron.beta),
        u_decay=_integer_decay(neuron.alpha),
        threshold=_whole_threshold(neuron, scale),
        bias=bias,
        scale=scale,
    )


def largest_scale(population: Population, rules: Rules) -> tuple[float, str]:
    """The scale at which the first of these meets its limit, and which one that is."""
    weights = [path.operator.weight for path in population.paths]
    biggest = max(np.abs(weight).max(initial=0.0) for weight in weights)
    largest = {
        "weights": (WEIGHT_MAX, biggest),
        "biases": (BIAS_MAX, np.abs(population.bias).max(initial=0.0)),
        "threshold": (THRESHOLD_MAX, population.neuron.threshold or 0.0),
        WORST: (
            1.0,
            _overflow(population, [path.operator.weight for path in population.paths], population.bias, rules),
        ),
    }
    limits = {what: float(limit / value) for what, (limit, value) in largest.items() if value > 0}
    binding = min(limits, key=limits.__getitem__, default="")
    return limits.get(binding, 1.0), binding


def _whole_threshold(neuron: Neuron, scale: float) -> int:
    """Rounded down: a whole potential exceeds both or neither. Rounded up, it would miss the spike of one that ties.

    A threshold that is whole but for a rounding error stays; where a tie fires, it is the whole number below.
    """
    if neuron.threshold is None:
        return THRESHOLD_MAX
    threshold = neuron.threshold * scale
    return math.ceil(threshold - 1e-6) - 1 if neuron.ties_fire else math.floor(threshold + 1e-6)


def _integer_decay(keeps: float) -> int:
    return round((1.0 - keeps) * DECAY_ONE)


def _refuse_slow(population: Population) -> None:
    """Refuse decays so near to none that 12 bits make others of them."""
    for what, keeps in (("potential", population.neuron.beta), ("current", population.neuron.alpha)):
        exact = (1.0 - keeps) * DECAY_ONE
        # float32 time constants leave a trace of a leak where none was meant.
        if exact > 1e-3 and abs(_integer_decay(keeps) - exact) > LEAK_ERROR * exact:
            raise ScaDeployError(
                f"layer '{population.name}': its {what} loses {exact:.2f} / {DECAY_ONE} a step, the chip's 12 bits "
                f"make {_integer_decay(keeps)} of it",
                f"use a time constant below {DECAY_ONE * LEAK_ERROR * 2:.0f} steps, or no leak (IF)",
            )


def _overflow(
    population: Population, weights: Sequence[npt.NDArray[Any]], bias: npt.NDArray[Any], rules: Rules
) -> float:
    """How far the worst input drives the current, and the potential of a read-out, as a share of what it may reach.

    The worst input makes all synapses of one sign fire at every step of a sample.
    """
    neuron, steps = population.neuron, rules.steps
    pairs = zip(population.paths, weights, strict=True)
    swing = sum(rules.payload(path.source) * _swing(weight) for path, weight in pairs)
    keeps_u, keeps_v = (1.0 - _integer_decay(keeps) / DECAY_ONE for keeps in (neuron.alpha, neuron.beta))
    current = swing * _piled(keeps_u, steps) / (ACTIVATION_LIMIT - 1)
    if neuron.threshold is not None:
        return float(current)
    potential = swing * _response(keeps_u, keeps_v, steps) + np.abs(bias).max(initial=0) * _piled(keeps_v, steps)
    return float(max(current, potential / THRESHOLD_MAX))


def _piled(keeps: float, steps: int) -> float:
    """What an input of 1 at every step adds up to where a step keeps so much of what was there."""
    return float(steps) if keeps == 1.0 else (1.0 - keeps**steps) / (1.0 - keeps)


def _response(keeps_u: float, keeps_v: float, steps: int) -> float:
    """The potential after an input of 1 at every step, by way of the current."""
    currents = np.cumsum(keeps_u ** np.arange(steps, dtype=np.float64))
    return float(currents @ keeps_v ** np.arange(steps - 1, -1, -1, dtype=np.float64))


def _swing(weight: npt.NDArray[Any]) -> float:
    """The largest sum of equal-signed weights into one neuron: what its input can swing to."""
    flat = weight.reshape(weight.shape[0], -1)
    positive = np.where(flat > 0, flat, 0).sum(axis=1).max(initial=0)
    negative = np.where(flat < 0, -flat, 0).sum(axis=1).max(initial=0)
    return float(max(positive, negative))


def _rounded(population: Population, scale: float) -> tuple[list[IntArray], IntArray]:
    weights = [_even(path.operator.weight, scale) for path in population.paths]
    return weights, np.rint(population.bias * scale).clip(-BIAS_MAX, BIAS_MAX).astype(np.int32)


def _even(weight: FloatArray, scale: float) -> IntArray:
    return 2 * np.rint(weight * (scale / 2)).clip(-WEIGHT_MAX // 2, WEIGHT_MAX // 2).astype(np.int32)


def _refuse_coarse(population: Population, scale: float, why: str) -> None:
    """Refuse a layer whose weights or threshold keep so few steps that rounding decides what it computes."""
    largest = [(path.source, np.abs(path.operator.weight).max(initial=0.0)) for path in population.paths]
    sizes = [(f"largest weight from '{source}'", weight / 2) for source, weight in largest]
    for what, size in [*sizes, ("threshold", population.neuron.threshold or 0.0)]:
        if size > 0 and size * scale < MIN_LEVELS:
            raise ScaDeployError(
                f"layer '{population.name}': {why} its {what} keeps {size * scale:.2g} steps, "
                f"at least {MIN_LEVELS:g} are needed",
                "train with smaller biases, fewer input bits or a threshold nearer to the weights",
            )


def _synapse(path: Path, weight: IntArray) -> Synapse:
    operator = path.operator
    if operator.is_conv:
        return Conv(path.source, weight, operator.stride, operator.padding, operator.dilation, operator.groups)
    delay = path.delay
    if delay.max() > 2 * WAIT_MAX:  # what a Program refuses, before it no longer fits 32 bits
        raise ScaDeployError(
            f"'{path.source}' is read {delay.max()} steps late, the chip holds spikes back by {WAIT_MAX}",
            "give a larger --dt, or train with shorter delays",
        )
    return Dense(path.source, weight, int(delay.flat[0]) if np.ptp(delay) == 0 else delay.astype(np.int32))
