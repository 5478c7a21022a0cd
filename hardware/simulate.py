"""The simulated chip: a batched simulator that gives Lava's integers, bit for bit.

Samples are independent, so a whole chunk of them and all its time steps go through a layer's synapses at
once (`hardware.synapses`); only the neurons walk through time (`hardware.neurons`). Integers are held in
floating point, which is exact as long as nothing can leave 24 bits (float32) or 53 (float64): the type is chosen
from the weights, decays and payloads of every layer. Any number of samples streams through in the
memory of a few chunks, one a processor core.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.hardware.arithmetic import SINGLE_LIMIT, exact_kernels
from sca_deploy.hardware.neurons import Observer, Population, Reach
from sca_deploy.hardware.program import BIAS_MAX, BIAS_MIN, INPUT, Layer, Program, Shape, Synapse

RECORDABLE = ("spikes", "u", "v")
CHUNK_VALUES = 1 << 22
"""Neuron values (samples x steps x neurons of the widest layer) worked on at once: what a cache holds."""

Records = dict[str, dict[str, npt.NDArray[np.generic]]]
Int64 = npt.NDArray[np.int64]
Sent = dict[str, tuple[Int64, Int64]]
"""Messages and payload of every source, (neurons,) in (H, W, C) order."""


@dataclass(frozen=True)
class FreeRun:
    """A run as the chip runs: step r is the chip's r-th, not the layer's answer to step r of the input.

    A message takes one step from layer to layer and the waits of `Program.wait`; spikes sent at step r are read
    at r + 1 or later, an injected input acts at r.

    Args:
        reset_interval: u and v of a layer are set to 0 before each step r with (r - stage) mod reset_interval = 0;
            what is on its way is not lost. None: no resets.

    Raises:
        UsageError: if the interval is no number of steps.
    """

    reset_interval: int | None = None

    def __post_init__(self) -> None:
        if self.reset_interval is not None and self.reset_interval < 1:
            raise UsageError(f"the reset interval is {self.reset_interval}, at least 1 step is needed")

    def resets(self, stage: int, steps: int) -> frozenset[int]:
        """The steps before which a layer of that stage rests."""
        if self.reset_interval is None:
            return frozenset()
        return frozenset(range(stage % self.reset_interval, steps, self.reset_interval))


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a run of a Program gave.

    Args:
        messages: source -> int64 of the source's shape: messages sent, summed over samples and steps;
            the input is the source "input" and sends a message for every non-zero value, none if it is injected.
        payload: the same, summing what the messages carried (equal for binary spikes).
        readout: (samples, classes) int64, the final `v` of the read-out; None without a read-out.
        records: layer -> what -> (samples, steps, *layer shape); spikes uint8, u and v int32, the
            values after the step, `v` after the reset.
    """

    program: Program
    samples: int
    steps: int
    messages: dict[str, Int64]
    payload: dict[str, Int64]
    readout: Int64 | None
    records: Records


def simulate(
    program: Program,
    x: npt.NDArray[np.generic],
    *,
    record: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
    free_run: FreeRun | None = None,
) -> Simulation:
    """Run samples through the Program, every one from rest, on as many threads as torch may use.

    Args:
        program: the integer network.
        x: integers, (samples, steps, *input_shape); binary or graded as `program.input_bits` says, or what is
            added to a bias where the input is injected. A memory map is read chunk by chunk. A frame repeated
            over time is best given by `numpy.broadcast_to`: it is then summed once.
        record: any of "spikes", "u", "v", kept for every layer, or for those in `layers`.
        layers: names of layers; None for all.
        progress: called with the number of samples finished, after every chunk.
        free_run: run as the chip does, layer after layer; without it step t of every layer answers step t of the input.

    Raises:
        UsageError: if `record` names something else.
        ScaDeployError: if x has a wrong shape, type or range, or sums may leave 25 bits.
    """
    unknown = set(record) - set(RECORDABLE)
    if unknown:
        raise UsageError(f"cannot record {', '.join(sorted(unknown))}", f"choose from {', '.join(RECORDABLE)}")
    check_input(program, x, free_run)
    samples, steps = x.shape[:2]
    shapes = {INPUT: program.input_shape} | {layer.name: layer.shape for layer in program.layers}
    run = Simulation(
        program=program,
        samples=samples,
        steps=steps,
        messages={name: np.zeros(shape, np.int64) for name, shape in shapes.items()},
        payload={name: np.zeros(shape, np.int64) for name, shape in shapes.items()},
        readout=np.zeros((samples, program.layers[-1].neurons), np.int64) if program.readout else None,
        records={
            layer.name: _empty_records(layer, samples, steps, record if layers is None or layer.name in layers else ())
            for layer in program.layers
        },
    )
    with exact_kernels():
        populations = _populations(program, steps, free_run)
        for chunk, sent in _in_threads(lambda chunk: _run_chunk(run, populations, x, chunk), _chunks(run)):
            for source, (messages, payload) in sent.items():
                run.messages[source] += _shaped(messages, shapes[source])
                run.payload[source] += _shaped(payload, shapes[source])
            if progress is not None:
                progress(chunk.stop - chunk.start)
    return run


def check_input(program: Program, x: npt.NDArray[np.generic], free_run: FreeRun | None = None) -> None:
    """Refuse an input that the Program cannot be given.

    Raises:
        ScaDeployError: naming the shape, type or value and what was expected.
    """
    expected = ", ".join(["samples", "steps", *map(str, program.input_shape)])
    if x.ndim != 2 + len(program.input_shape) or x.shape[2:] != program.input_shape:
        raise ScaDeployError(f"input has shape {x.shape}, the network expects ({expected})")
    if x.size == 0:
        raise ScaDeployError(f"input of shape {x.shape} holds no values")
    lasts = x.shape[1]
    if free_run is not None and free_run.reset_interval is not None:
        lasts = min(lasts, free_run.reset_interval)
    if lasts > program.steps:
        _check_duration(program, lasts)
    if x.dtype.kind not in "iub":
        raise ScaDeployError(f"input has type {x.dtype}, the chip takes integers", "round it and use astype('uint8')")
    seen = _once(x)
    low, high = int(seen.min()), int(seen.max())
    if low < program.input_min or high > program.input_max:
        worst = low if low < program.input_min else high
        raise ScaDeployError(f"input holds {worst}, outside {program.input_min} to {program.input_max}")
    for layer in program.layers:
        if layer.injected:
            _check_bias(layer, seen)


def _check_duration(program: Program, lasts: int) -> None:
    """Refuse a longer sample than the Program was lowered for where something could overflow that was kept from it."""
    for layer in program.layers:
        reads_out = program.readout and layer is program.layers[-1]
        piles_up = Reach(program, layer, lasts).wraps and not Reach(program, layer, program.steps).wraps
        if reads_out or piles_up:
            what = "the read-out" if reads_out else f"the current of '{layer.name}'"
            raise ScaDeployError(
                f"input lasts {lasts} steps, {what} has head-room for the {program.steps} it was lowered for",
                f"lower the network again with --steps {lasts}",
            )


def _check_bias(layer: Layer, x: npt.NDArray[np.generic]) -> None:
    """Refuse values that leave a bias's bits when they are added to it."""
    for most in (x.min(axis=(0, 1)), x.max(axis=(0, 1))):
        bias = most.astype(np.int64) + layer.full_bias()
        if bias.min() < BIAS_MIN or bias.max() > BIAS_MAX:
            worst = int(bias.min() if bias.min() < BIAS_MIN else bias.max())
            raise ScaDeployError(
                f"layer '{layer.name}': its bias with the input is {worst}, outside {BIAS_MIN} to {BIAS_MAX}",
                "scale the input down",
            )


def _once(x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """One step of what is the same memory at every step."""
    return x[:, :1] if x.strides[1] == 0 else x


def _empty_records(layer: Layer, samples: int, steps: int, record: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    """Arrays (samples, steps, *shape), whose channels lie together in memory as they do while a layer runs."""
    arrays = {}
    for what in record:
        values = np.empty((samples, steps, layer.neurons), np.uint8 if what == "spikes" else np.int32)
        arrays[what] = _shaped(values, layer.shape)
    return arrays


def _as_run(record: npt.NDArray[np.generic]) -> torch.Tensor:
    """A record (samples, steps, *shape) as (steps, samples, neurons) in (H, W, C) order, the same memory."""
    flat = (np.moveaxis(record, 2, -1) if record.ndim == 5 else record).reshape(*record.shape[:2], -1)
    return torch.from_numpy(flat).transpose(0, 1)


def _populations(program: Program, steps: int, free_run: FreeRun | None) -> list[Population]:
    def lag(layer: Layer, synapse: Synapse) -> int:
        if free_run is None or synapse.source == layer.name:
            return 0
        return 1 + program.wait(layer, synapse)

    def resets(layer: Layer) -> frozenset[int]:
        return frozenset() if free_run is None else free_run.resets(program.stages[layer.name], steps)

    return [Population(program, layer, steps, lag, resets(layer)) for layer in program.layers]


def _chunks(run: Simulation) -> Iterator[slice]:
    widest = max(sent.size for sent in run.messages.values())
    share = -(-run.samples // torch.get_num_threads())
    size = min(max(1, CHUNK_VALUES // (widest * run.steps)), share)
    for start in range(0, run.samples, size):
        yield slice(start, min(start + size, run.samples))


def _in_threads(work: Callable[[slice], Sent], chunks: Iterator[slice]) -> Iterator[tuple[slice, Sent]]:
    """The chunks and what `work` makes of them, in order; each on one of as many threads as torch has."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield from ((chunk, work(chunk)) for chunk in chunks)
        return
    waiting: deque[tuple[slice, Future[Sent]]] = deque()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for chunk in chunks:
                waiting.append((chunk, pool.submit(work, chunk)))
                if len(waiting) > threads:
                    first, done = waiting.popleft()
                    yield first, done.result()
            while waiting:
                first, done = waiting.popleft()
                yield first, done.result()
    finally:
        # What a thread sets holds for all threads to come.
        torch.set_num_threads(threads)


@torch.inference_mode()
def _run_chunk(run: Simulation, populations: list[Population], x: npt.NDArray[np.generic], chunk: slice) -> Sent:
    """All layers for some samples: what every source sent, messages and payload, in (H, W, C) order."""
    program, samples = run.program, chunk.stop - chunk.start
    values = input_tensor(x[chunk], program.input_shape)
    sent: Sent = {}
    if not program.injected:
        sent[INPUT] = _count(values, program.input_max, run.steps)
    sources = {INPUT: values}
    read = [set(population.sources) for population in populations]
    for number, population in enumerate(populations):
        layer = population.layer
        injected = values if layer.injected else None
        spikes = population.run(sources, samples, injected, _observer(run, layer, chunk))
        sources[layer.name] = spikes
        sent[layer.name] = _count(spikes, 1, run.steps)
        if "spikes" in run.records[layer.name]:
            _as_run(run.records[layer.name]["spikes"][chunk]).copy_(spikes)
        for name in set(sources).difference(*read[number + 1 :]):
            del sources[name]
    return sent


def _count(values: torch.Tensor, largest: int, steps: int) -> tuple[Int64, Int64]:
    """Messages and payload of every neuron, for values up to `largest` that stay the same if they have one step."""
    repeats = steps // len(values)
    exact = torch.float32 if largest * values[:, :, 0].numel() < SINGLE_LIMIT else torch.float64
    payload = values.sum((0, 1), dtype=exact).to(torch.int64).numpy() * repeats
    if largest == 1:
        return payload, payload
    return torch.count_nonzero(values, (0, 1)).numpy() * repeats, payload


def input_tensor(x: npt.NDArray[np.generic], shape: Shape) -> torch.Tensor:
    """(steps, samples, neurons) float32; one step only where every step is the same memory."""
    x = _once(x).swapaxes(0, 1)
    if len(shape) == 3:
        x = x.transpose(0, 1, 3, 4, 2)
    values = torch.empty((*x.shape[:2], int(np.prod(shape))), dtype=torch.float32)
    np.copyto(values.numpy().reshape(x.shape), x, casting="unsafe")
    return values


def _shaped(array: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """(..., neurons) in (H, W, C) order as (..., *shape)."""
    if len(shape) == 3:
        return np.moveaxis(array.reshape(*array.shape[:-1], *shape[1:], shape[0]), -1, -3)
    return array.reshape(*array.shape[:-1], *shape)


def _observer(run: Simulation, layer: Layer, chunk: slice) -> Observer | None:
    """What keeps the states that are asked for, if any."""
    records, last = run.records[layer.name], layer is run.program.layers[-1]
    kept = {what: _as_run(record[chunk]) for what, record in records.items() if what != "spikes"}
    readout = run.readout[chunk] if run.readout is not None and last else None
    if not kept and readout is None:
        return None

    def observe(t: int, block: slice, u: torch.Tensor, v: torch.Tensor) -> None:
        for what, record in kept.items():
            record[t, block] = u if what == "u" else v
        if readout is not None and t == run.steps - 1:
            readout[block] = _shaped(v.numpy(), layer.shape).reshape(len(v), -1)

    return observe
