"""What a simulated run made the chip do: spikes, synaptic operations, neuron updates, messages.

A synaptic operation is one message meeting one synapse. The direct count takes every message times
its true fan-out: the synapses that exist, so nothing beyond the border of a map. Three ways:

    synops          weight not zero; the chip's own counter appears to skip zeros
    synops_stored   zero weights included, as they lie in memory
    synops_payload  like `synops`, each message counted as often as its payload (equal for binary spikes)

Everything belongs to the layer that owns the synapses and neurons, and is an exact integer.
Compare compacted networks only: on a masked one `synops_stored` still charges what the mask removed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.mapping import LayerMapping, Mapping
from sca_deploy.hardware.program import INPUT, Conv, Layer, Program, Shape, Synapse
from sca_deploy.hardware.simulate import Simulation

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """Events summed over all samples and steps of a run.

    Args:
        spikes: that the neurons sent.
        synops: synaptic operations with non-zero weights.
        synops_stored: synaptic operations, zero weights included.
        synops_payload: non-zero synaptic operations, weighted by the payload of the message.
        updates: neuron updates, neurons x steps x samples.
        messages_in: messages of the sources, once per synapse object that reads them.
    """

    spikes: int = 0
    synops: int = 0
    synops_stored: int = 0
    synops_payload: int = 0
    updates: int = 0
    messages_in: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{key: value + getattr(other, key) for key, value in asdict(self).items()})


@dataclass(frozen=True, eq=False)
class LayerCounts:
    """One layer's tally, and its `synops` and `spikes` by place, so that they can be cut into cores.

    Args:
        name: of the layer.
        tally: the sums.
        synops_by_place: int64 (columns,) of a convolution, (neurons,) of a dense layer; sums to `tally.synops`.
        spikes_by_place: the same for the spikes sent.
    """

    name: str
    tally: Tally
    synops_by_place: Int64
    spikes_by_place: Int64


@dataclass(frozen=True, eq=False)
class Counts:
    """The tallies of a run of `samples` samples of `steps` steps; `input_messages` is what was injected."""

    samples: int
    steps: int
    input_messages: int
    layers: tuple[LayerCounts, ...]

    @property
    def total(self) -> Tally:
        """The sum over the layers."""
        return sum((layer.tally for layer in self.layers), Tally())

    @property
    def per_sample(self) -> dict[str, float]:
        """The total divided by the samples, and the injected messages."""
        whole = {**asdict(self.total), "input_messages": self.input_messages}
        return {key: value / self.samples for key, value in whole.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain data; layers and "total" are sums over the run, "per_sample" is the total over the samples."""
        return {
            "samples": self.samples,
            "steps": self.steps,
            "input_messages": self.input_messages,
            "layers": [{"name": layer.name, **asdict(layer.tally)} for layer in self.layers],
            "total": asdict(self.total),
            "per_sample": self.per_sample,
        }


@dataclass(frozen=True)
class CoreCounts:
    """What one core of a layer did: non-zero synaptic operations, neuron updates and spikes sent over the run."""

    layer: str
    core: int
    synops: int
    updates: int
    spikes: int


def count(simulation: Simulation) -> Counts:
    """Count the events of a run from the messages that every source neuron sent.

    Raises:
        ScaDeployError: if there is no sample, or the messages of a source are missing or not of its shape.
    """
    program = simulation.program
    if simulation.samples < 1:
        raise ScaDeployError(f"the simulation holds {simulation.samples} samples, at least 1 is needed to count")
    for source in (INPUT, *(layer.name for layer in program.layers)):
        _check_shape(simulation, source, program.shape_of(source))
    return Counts(
        samples=simulation.samples,
        steps=simulation.steps,
        input_messages=int(simulation.messages[INPUT].sum()),
        layers=tuple(_count_layer(simulation, layer) for layer in program.layers),
    )


def by_core(counts: Counts, mapping: Mapping) -> tuple[CoreCounts, ...]:
    """The counts of every core; the busiest sets the time of a step, and a sum over the network hides it.

    Conv tiles are those of the mapping. Dense layers are cut evenly in neuron order, as their mapping
    assumes; the compiler's own split is not published.
    """
    placed = (_cut(mapping[layer.name], layer, counts.steps * counts.samples) for layer in counts.layers)
    return tuple(core for cores in placed for core in cores)


def busiest(cores: tuple[CoreCounts, ...], what: str) -> CoreCounts:
    """The core with the most of `what`: "synops", "updates" or "spikes"."""
    return max(cores, key=lambda core: int(getattr(core, what)))


def _check_shape(simulation: Simulation, source: str, shape: Shape) -> None:
    for what, sent in (("messages", simulation.messages), ("payload", simulation.payload)):
        found = sent[source].shape if source in sent else None
        if found != shape:
            raise ScaDeployError(f"the simulation's {what} of '{source}' have shape {found}, expected {shape}")


def _count_layer(simulation: Simulation, layer: Layer) -> LayerCounts:
    program, steps = simulation.program, simulation.steps * simulation.samples
    spikes = simulation.messages[layer.name]
    by_place = np.zeros(layer.shape[-1], dtype=np.int64)
    stored = payload = messages_in = 0
    for synapse in layer.synapses:
        messages = simulation.messages[synapse.source]
        exists = (synapse.weight != 0).astype(np.int64)
        by_place += _operations(program, synapse, exists, messages)
        stored += int(_operations(program, synapse, np.ones_like(exists), messages).sum())
        payload += int(_operations(program, synapse, exists, simulation.payload[synapse.source]).sum())
        messages_in += int(messages.sum())
    tally = Tally(int(spikes.sum()), int(by_place.sum()), stored, payload, layer.neurons * steps, messages_in)
    return LayerCounts(layer.name, tally, by_place, spikes.reshape(-1, layer.shape[-1]).sum(axis=0))


def _operations(program: Program, synapse: Synapse, exists: Int64, messages: Int64) -> Int64:
    """Operations at every column (conv) or neuron (dense): `exists` is 1 where a synapse counts."""
    if isinstance(synapse, Conv):
        _, height, width = synapse.output_shape(program.shape_of(synapse.source))
        return _conv_operations(synapse, exists, messages, height, width)
    return exists @ messages.reshape(-1)


def _conv_operations(synapse: Conv, exists: Int64, messages: Int64, height: int, width: int) -> Int64:
    """Operations at every output column.

    Tap (i, j) of the kernel meets the source position p s + i d - pad at output row p (columns alike), and
    all output channels at once: it does as many operations a message as it has weights that exist.
    """
    outputs, inputs, kernel_height, kernel_width = exists.shape
    fan_out = exists.reshape(synapse.groups, outputs // synapse.groups, inputs, kernel_height, kernel_width).sum(axis=1)
    fan_out = fan_out.reshape(-1, kernel_height, kernel_width)
    by_column = np.zeros(width, dtype=np.int64)
    for i in range(kernel_height):
        _, source_rows = _meeting(synapse, 0, i, height, messages.shape[1])
        rows = messages[:, source_rows].sum(axis=1)
        for j in range(kernel_width):
            output_columns, source_columns = _meeting(synapse, 1, j, width, messages.shape[2])
            by_column[output_columns] += fan_out[:, i, j] @ rows[:, source_columns]
    return by_column


def _meeting(synapse: Conv, axis: int, tap: int, outputs: int, size: int) -> tuple[Int64, Int64]:
    """Output positions where a tap lies inside the source, and the source positions it reads there."""
    position = np.arange(outputs, dtype=np.int64)
    read = position * synapse.stride[axis] + tap * synapse.dilation[axis] - synapse.padding[axis]
    inside = (read >= 0) & (read < size)
    return position[inside], read[inside]


def _cut(placed: LayerMapping, layer: LayerCounts, steps: int) -> list[CoreCounts]:
    places = layer.synops_by_place.size
    neurons_per_place = placed.neurons // places
    if placed.columns is None:
        edges = [core * places // placed.cores for core in range(placed.cores + 1)]
    else:
        edges = [min(core * placed.columns, places) for core in range(placed.cores + 1)]
    return [
        CoreCounts(
            layer=layer.name,
            core=core,
            synops=int(layer.synops_by_place[start:stop].sum()),
            updates=(stop - start) * neurons_per_place * steps,
            spikes=int(layer.spikes_by_place[start:stop].sum()),
        )
        for core, (start, stop) in enumerate(pairwise(edges))
    ]
