"""The simulated chip: a batched simulator that gives Lava's integers, bit for bit.

Samples are independent, so a whole chunk of them and all its time steps go through a layer's
synapses at once; only the neuron's state walks through time. Integers are held in floating point, which
is exact as long as nothing can reach 2^24 (float32) or 2^53 (float64): the dtype is chosen from the
weights and decays of every layer (`_plan`), and overflow is only looked for where it can happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.hardware.arithmetic import decay_, saturate_, state_dtype, wrap, wrap_activation
from sca_deploy.hardware.program import (
    ACTIVATION_LIMIT,
    ALIGNMENT_BITS,
    DECAY_ONE,
    INPUT,
    STATE_LIMIT,
    Conv,
    Layer,
    Program,
    Synapse,
)

RECORDABLE = ("spikes", "u", "v")
CHUNK_VALUES = 1 << 19
"""Neuron values (samples x steps x neurons of the widest layer) worked on at once: what a cache holds."""

Records = dict[str, dict[str, npt.NDArray[np.generic]]]


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a run of a Program gave.

    Args:
        messages: source -> int64 of the source's shape: messages sent, summed over samples and steps;
            the input is the source "input" and sends a message for every non-zero value.
        payload: the same, summing what the messages carried (equal for binary spikes).
        readout: (samples, classes) int64, the final `v` of the read-out; None without a read-out.
        records: layer -> what -> (samples, steps, *layer shape); spikes uint8, u and v int32, the
            values after the step, `v` after the reset.
    """

    program: Program
    samples: int
    steps: int
    messages: dict[str, npt.NDArray[np.int64]]
    payload: dict[str, npt.NDArray[np.int64]]
    readout: npt.NDArray[np.int64] | None
    records: Records


def simulate(
    program: Program,
    x: npt.NDArray[np.generic],
    *,
    record: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Simulation:
    """Run samples through the Program, every one from rest.

    Args:
        program: the integer network.
        x: integers, (samples, steps, *input_shape); binary or graded as `program.input_bits` says. A
            frame repeated over time is best given by `numpy.broadcast_to`: it is then summed once.
        record: any of "spikes", "u", "v", kept for every layer.
        progress: called with the number of samples finished, after every chunk.

    Raises:
        UsageError: if `record` names something else.
        ScaDeployError: if x has a wrong shape, type or range, or sums may leave 25 bits.
    """
    unknown = set(record) - set(RECORDABLE)
    if unknown:
        raise UsageError(f"cannot record {', '.join(sorted(unknown))}", f"choose from {', '.join(RECORDABLE)}")
    check_input(program, x)
    samples, steps = x.shape[:2]
    sources = {INPUT: program.input_shape} | {layer.name: layer.shape for layer in program.layers}
    run = Simulation(
        program=program,
        samples=samples,
        steps=steps,
        messages={name: np.zeros(shape, np.int64) for name, shape in sources.items()},
        payload={name: np.zeros(shape, np.int64) for name, shape in sources.items()},
        readout=np.zeros((samples, program.layers[-1].neurons), np.int64) if program.readout else None,
        records={layer.name: _empty_records(layer, samples, steps, record) for layer in program.layers},
    )
    with torch.inference_mode():
        plans = [_plan(program, layer) for layer in program.layers]
        for chunk in _chunks(program, samples, steps):
            _run_chunk(run, plans, x, chunk)
            if progress is not None:
                progress(chunk.stop - chunk.start)
    return run


def check_input(program: Program, x: npt.NDArray[np.generic]) -> None:
    """Refuse an input that the Program cannot be given.

    Raises:
        ScaDeployError: naming the shape, type or value and what was expected.
    """
    expected = ", ".join(["samples", "steps", *map(str, program.input_shape)])
    if x.ndim != 2 + len(program.input_shape) or x.shape[2:] != program.input_shape:
        raise ScaDeployError(f"input has shape {x.shape}, the network expects ({expected})")
    if x.size == 0:
        raise ScaDeployError(f"input of shape {x.shape} holds no values")
    if program.readout and x.shape[1] > program.steps:
        raise ScaDeployError(
            f"input lasts {x.shape[1]} steps, the read-out has head-room for the {program.steps} it was lowered for",
            f"lower the network again with --steps {x.shape[1]}",
        )
    if x.dtype.kind not in "iub":
        raise ScaDeployError(f"input has type {x.dtype}, the chip takes integers", "round it and use astype('uint8')")
    low, high = int(x.min()), int(x.max())
    if low < 0 or high > program.input_max:
        raise ScaDeployError(f"input holds {low if low < 0 else high}, outside 0 to {program.input_max}")


def _empty_records(layer: Layer, samples: int, steps: int, record: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    shape = (samples, steps, *layer.shape)
    return {what: np.empty(shape, np.uint8 if what == "spikes" else np.int32) for what in record}


def _chunks(program: Program, samples: int, steps: int) -> Iterator[slice]:
    widest = max(layer.neurons for layer in program.layers)
    widest = max(widest, int(np.prod(program.input_shape)))
    size = max(1, CHUNK_VALUES // (widest * steps))
    for start in range(0, samples, size):
        yield slice(start, min(start + size, samples))


@dataclass(frozen=True, eq=False)
class _Plan:
    """How one layer is computed exactly.

    Args:
        weights: one a synapse, already aligned (<< 6).
        bias: aligned, (channels,) or the full shape.
        states: dtype of u and v.
        bound: the largest magnitude a summed input (before alignment) can have.
    """

    layer: Layer
    weights: tuple[torch.Tensor, ...]
    bias: torch.Tensor
    states: torch.dtype
    bound: int


def _plan(program: Program, layer: Layer) -> _Plan:
    bound = sum(_largest_sum(synapse) * program.payload_max(synapse.source) for synapse in layer.synapses)
    if bound >= 4 * STATE_LIMIT:
        raise ScaDeployError(f"layer '{layer.name}': synaptic sums may reach {bound}, beyond 25 bits")
    # Aligned sums are multiples of 64, so float32 holds them exactly up to 2^24 * 64.
    exact = torch.float32 if bound < 1 << 24 else torch.float64
    weights = tuple(torch.tensor(s.weight, dtype=exact) * (1 << ALIGNMENT_BITS) for s in layer.synapses)
    # A decaying current adds its low bits to the aligned sum: 30 bits before it wraps.
    states = state_dtype(layer.v_decay) if layer.u_decay == DECAY_ONE else torch.float64
    bias = torch.tensor(layer.bias, dtype=states) * (1 << ALIGNMENT_BITS)
    return _Plan(layer, weights, bias.reshape(layer.bias.shape + (1,) * (len(layer.shape) - bias.dim())), states, bound)


def _largest_sum(synapse: Synapse) -> int:
    """The largest magnitude of a sum, for payloads of 0 or 1: messages are never negative."""
    weight = synapse.weight.astype(np.int64).reshape(len(synapse.weight), -1)
    swings = weight.clip(min=0).sum(axis=1), -weight.clip(max=0).sum(axis=1)
    return int(np.maximum(*swings).max(initial=0))


def _run_chunk(run: Simulation, plans: list[_Plan], x: npt.NDArray[np.generic], chunk: slice) -> None:
    """All layers for some samples. Tensors are (steps, samples, *shape)."""
    values = _input_tensor(x[chunk])
    spikes: dict[str, torch.Tensor] = {INPUT: values}
    repeats = run.steps // values.shape[0]
    _tally(run, INPUT, (values != 0).sum((0, 1)) * repeats, values.sum((0, 1), dtype=torch.float64) * repeats)
    for plan in plans:
        inputs = zip(plan.weights, plan.layer.synapses, strict=True)
        arrived = reduce(torch.add, (_synapse(w, s, spikes[s.source], plan.bound) for w, s in inputs))
        fired = _neurons(plan, arrived.expand(run.steps, *arrived.shape[1:]), run, chunk)
        spikes[plan.layer.name] = fired
        count = fired.flatten(0, 1).sum(0)
        _tally(run, plan.layer.name, count, count)


def _input_tensor(x: npt.NDArray[np.generic]) -> torch.Tensor:
    """(steps, samples, ...) float32; one step only where every step is the same memory."""
    if x.strides[1] == 0:
        x = x[:, :1]
    return torch.from_numpy(np.ascontiguousarray(x.swapaxes(0, 1), dtype=np.float32))


def _tally(run: Simulation, source: str, messages: torch.Tensor, payload: torch.Tensor) -> None:
    run.messages[source] += messages.to(torch.int64).numpy()
    run.payload[source] += payload.to(torch.int64).numpy()


def _synapse(weight: torch.Tensor, synapse: Synapse, spikes: torch.Tensor, bound: int) -> torch.Tensor:
    """Aligned synaptic input a << 6, (steps, samples, *shape); time is folded into the batch."""
    flat = spikes.flatten(0, 1).to(weight.dtype)
    if isinstance(synapse, Conv):
        a = F.conv2d(flat, weight, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        if bound >= STATE_LIMIT:
            a = wrap_activation(a.double() / (1 << ALIGNMENT_BITS)) * (1 << ALIGNMENT_BITS)
    else:
        a = flat.flatten(1) @ weight.T
    return a.reshape(*spikes.shape[:2], *a.shape[1:])


def _neurons(plan: _Plan, arrived: torch.Tensor, run: Simulation, chunk: slice) -> torch.Tensor:
    """The population's spikes, float32 (steps, samples, *shape), from its aligned input of that shape."""
    layer, records = plan.layer, run.records[plan.layer.name]
    threshold = layer.threshold << ALIGNMENT_BITS
    wraps = plan.bound >= ACTIVATION_LIMIT and bool(arrived.abs().max() >= STATE_LIMIT)
    u = torch.zeros(arrived.shape[1:], dtype=plan.states)
    v = torch.zeros_like(u)
    spikes = torch.empty(arrived.shape, dtype=torch.float32)
    for t in range(run.steps):
        if layer.u_decay != DECAY_ONE:
            u = wrap(decay_(u, layer.u_decay) + arrived[t])
        else:
            u = wrap(arrived[t]) if wraps else arrived[t]
        # In float32 this sum can round beyond 2^24, where it saturates anyway.
        v = saturate_(decay_(v, layer.v_decay).add_(u).add_(plan.bias))
        fired = v > threshold
        v.masked_fill_(fired, 0)
        spikes[t] = fired
        for what, state in (("spikes", fired), ("u", u), ("v", v)):
            if what in records:
                records[what][chunk, t] = state.to(torch.int32).numpy()
    if run.readout is not None and layer is run.program.layers[-1]:
        run.readout[chunk] = v.flatten(1).to(torch.int64).numpy()
    return spikes
