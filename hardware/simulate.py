"""The simulated chip: a batched simulator that gives Lava's integers, bit for bit.

Samples are independent, so a whole chunk of them and all its time steps go through a layer's
synapses at once; only the neuron's state walks through time. Synaptic sums are computed in floating
point, which is exact as long as no partial sum can reach 2^24 (float32) or 2^53 (float64); the
format is chosen by that bound for every synapse.
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
from sca_deploy.hardware.arithmetic import decay, saturate_, wrap, wrap_activation
from sca_deploy.hardware.program import (
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
CHUNK_VALUES = 1 << 22
"""Neuron values (samples x steps x neurons of the widest layer) that are in memory at once."""

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
    kernels = {id(s): _exact_weight(program, layer, s) for layer in program.layers for s in layer.synapses}
    with torch.inference_mode():
        for chunk in _chunks(program, samples, steps):
            _run_chunk(run, kernels, x, chunk)
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


def _exact_weight(program: Program, layer: Layer, synapse: Synapse) -> torch.Tensor:
    """The weights in the narrowest float format whose sums are exact."""
    fan_in = np.abs(synapse.weight).astype(np.int64).reshape(synapse.weight.shape[0], -1).sum(axis=1)
    bound = int(fan_in.max(initial=0)) * program.payload_max(synapse.source)
    if bound >= 4 * STATE_LIMIT:
        raise ScaDeployError(f"layer '{layer.name}': synaptic sums may reach {bound}, beyond 25 bits")
    dtype = torch.float32 if bound < 1 << 24 else torch.float64
    return torch.tensor(synapse.weight, dtype=dtype)


def _run_chunk(
    run: Simulation, kernels: dict[int, torch.Tensor], x: npt.NDArray[np.generic], chunk: slice
) -> None:
    """All layers for some samples. Tensors are (steps, samples, *shape)."""
    steps = run.steps
    values = _input_tensor(x[chunk])
    spikes: dict[str, torch.Tensor] = {INPUT: values}
    repeats = steps // values.shape[0]
    _tally(run, INPUT, (values != 0).sum((0, 1)) * repeats, values.sum((0, 1), dtype=torch.float64) * repeats)
    for layer in run.program.layers:
        a = reduce(torch.add, (_synapse(kernels[id(s)], s, spikes[s.source]) for s in layer.synapses))
        fired = _neurons(layer, a.expand(steps, *a.shape[1:]), run, chunk)
        spikes[layer.name] = fired
        count = fired.sum((0, 1), dtype=torch.float64)
        _tally(run, layer.name, count, count)


def _input_tensor(x: npt.NDArray[np.generic]) -> torch.Tensor:
    """(steps, samples, ...) float32; one step only where every step is the same memory."""
    if x.strides[1] == 0:
        x = x[:, :1]
    return torch.from_numpy(np.ascontiguousarray(x.swapaxes(0, 1), dtype=np.float32))


def _tally(run: Simulation, source: str, messages: torch.Tensor, payload: torch.Tensor) -> None:
    run.messages[source] += messages.to(torch.int64).numpy()
    run.payload[source] += payload.to(torch.int64).numpy()


def _synapse(weight: torch.Tensor, synapse: Synapse, spikes: torch.Tensor) -> torch.Tensor:
    """Summed synaptic input a, int32 (steps, samples, *shape); time is folded into the batch."""
    flat = spikes.flatten(0, 1).to(weight.dtype)
    if isinstance(synapse, Conv):
        a = F.conv2d(flat, weight, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        a = wrap_activation(a.to(torch.int32))
    else:
        a = (flat.flatten(1) @ weight.T).to(torch.int32)
    return a.unflatten(0, spikes.shape[:2])


def _neurons(layer: Layer, a: torch.Tensor, run: Simulation, chunk: slice) -> torch.Tensor:
    """The population's spikes, float32 (steps, samples, *shape), from its input a of that shape."""
    records = run.records[layer.name]
    bias = torch.tensor(layer.full_bias()) << ALIGNMENT_BITS
    threshold = layer.threshold << ALIGNMENT_BITS
    u = torch.zeros(a.shape[1:], dtype=torch.int32)
    v = torch.zeros_like(u)
    spikes = torch.empty(a.shape, dtype=torch.float32)
    for t in range(run.steps):
        arrived = a[t] << ALIGNMENT_BITS
        u = wrap(arrived if layer.u_decay == DECAY_ONE else decay(u, layer.u_decay) + arrived)
        v = saturate_(decay(v, layer.v_decay) + u + bias)
        fired = v > threshold
        v.masked_fill_(fired, 0)
        spikes[t] = fired
        for what, state in (("spikes", fired), ("u", u), ("v", v)):
            if what in records:
                records[what][chunk, t] = state.numpy()
    if run.readout is not None and layer is run.program.layers[-1]:
        run.readout[chunk] = v.flatten(1).numpy()
    return spikes
