"""What a simulated run made the chip do: spikes, synaptic operations, neuron updates, messages.

A synaptic operation is one message meeting one synapse. The direct count takes every message times
its true fan-out: the synapses that exist, so nothing beyond the border of a map. Three ways:

    synops          weight not zero; the chip's own counter appears to skip zeros
    synops_stored   zero weights included, as they lie in memory
    synops_payload  like `synops`, each message counted as often as its payload (equal for binary spikes)

A message is counted when it is sent, once per synapse object that reads it, whatever its delay: a core looks
up the synapses of a spike when it arrives and only keeps its effect for later. So what a sample sends in its
last steps counts, even where a delay would let it be felt after the end. Spikes of a recurrent layer meet its
own synapses like any other. The steps in which the layers of a run fill and drain (`Program.stages`) are left out.

An injected input is no spike: the host writes a bias into every neuron of the layer at every step, counted
as `injections`; no synaptic operation comes of it.

Everything belongs to the layer that owns the synapses and neurons, and is an exact integer.
Compare compacted networks only: on a masked one `synops_stored` still charges what the mask removed
(`hardware/masked.py` finds them).
"""

from __future__ import annotations

from collections import abc
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.mapping import LayerMapping, Mapping
from sca_deploy.hardware.program import INPUT, Conv, Layer, Shape, Synapse
from sca_deploy.hardware.simulate import Simulation

Int64 = npt.NDArray[np.int64]
PART_BITS = 26
ROW_BLOCK = 1 << 22
"""Weights of a fully connected synapse that are looked at together."""


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
        injections: biases that the host wrote, neurons of an injected layer x steps x samples.
    """

    spikes: int = 0
    synops: int = 0
    synops_stored: int = 0
    synops_payload: int = 0
    updates: int = 0
    messages_in: int = 0
    injections: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{key: value + getattr(other, key) for key, value in asdict(self).items()})


@dataclass(frozen=True, eq=False)
class LayerCounts:
    """One layer's tally, and its `synops` and `spikes` neuron by neuron, so that they can be cut into cores.

    A place is what `placement` routes together: a column of a map, all channels and rows, or a neuron of a
    fully connected layer.

    Args:
        name: of the layer.
        tally: the sums.
        synops_by_neuron: int64 of the layer's shape; sums to `tally.synops`.
        spikes_by_neuron: the same for the spikes sent.
    """

    name: str
    tally: Tally
    synops_by_neuron: Int64
    spikes_by_neuron: Int64

    @property
    def synops_by_place(self) -> Int64:
        """Synaptic operations of every place, int64 (places,)."""
        return _by_place(self.synops_by_neuron)

    @property
    def spikes_by_place(self) -> Int64:
        """Spikes sent by every place, int64 (places,)."""
        return _by_place(self.spikes_by_neuron)


@dataclass(frozen=True, eq=False)
class Counts:
    """The tallies of a run of `samples` samples of `steps` steps.

    `input_messages` are the spikes the host sent, each once, however many layers read it; none where the input
    is injected as a bias.
    """

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
        """The total divided by the samples, and the messages of the input."""
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
    """What one core of a layer did over the run.

    Args:
        layer: whose neurons it holds.
        core: counted from 0 within the layer.
        synops: synaptic operations with non-zero weights.
        updates: neuron updates.
        spikes: that its neurons fired.
        messages: that it sent, one for every core a spike goes to.
    """

    layer: str
    core: int
    synops: int
    updates: int
    spikes: int
    messages: int


def count(simulation: Simulation) -> Counts:
    """Count the events of a run from the messages that every source neuron sent.

    Raises:
        ScaDeployError: if there is no sample, or the messages of a source are missing or not of its shape.
    """
    program = simulation.program
    if simulation.samples < 1:
        raise ScaDeployError(f"the simulation holds {simulation.samples} samples, at least 1 is needed to count")
    inputs = () if program.injected else (INPUT,)
    for source in (*inputs, *(layer.name for layer in program.layers)):
        _check_shape(simulation, source, program.shape_of(source))
    return Counts(
        samples=simulation.samples,
        steps=simulation.steps,
        input_messages=sum(int(simulation.messages[source].sum()) for source in inputs),
        layers=tuple(_count_layer(simulation, layer) for layer in program.layers),
    )


def by_synapse(simulation: Simulation) -> dict[tuple[str, int], int]:
    """Synaptic operations with non-zero weights of every synapse, by its layer and its place among the layer's."""
    return {
        (layer.name, number): int(_operations(synapse, simulation.messages[synapse.source]).sum())
        for layer in simulation.program.layers
        for number, synapse in enumerate(layer.synapses)
    }


def together(parts: Sequence[Counts]) -> Counts:
    """The counts of one run that was made in parts, of the same Program."""
    first = parts[0]
    return Counts(
        samples=sum(part.samples for part in parts),
        steps=first.steps,
        input_messages=sum(part.input_messages for part in parts),
        layers=tuple(
            LayerCounts(
                name=same[0].name,
                tally=sum((layer.tally for layer in same), Tally()),
                synops_by_neuron=np.sum([layer.synops_by_neuron for layer in same], axis=0),
                spikes_by_neuron=np.sum([layer.spikes_by_neuron for layer in same], axis=0),
            )
            for same in zip(*(part.layers for part in parts), strict=True)
        ),
    )


def by_core(counts: Counts, mapping: Mapping, fanout: abc.Mapping[str, Int64] | None = None) -> tuple[CoreCounts, ...]:
    """The counts of every core; the busiest sets the time of a step, and a sum over the network hides it.

    Cores are those of the mapping, neuron for neuron; where it is a lower bound, so is their number.

    Args:
        counts: of the run.
        mapping: of its Program.
        fanout: layer -> cores a spike of each place goes to, `Traffic.fanout`; without it every spike is one message.
    """
    steps = counts.steps * counts.samples
    return tuple(
        core
        for layer in counts.layers
        for core in _cut(mapping[layer.name], layer, None if fanout is None else fanout[layer.name], steps)
    )


def busiest(cores: tuple[CoreCounts, ...], what: str) -> CoreCounts:
    """The core with the most of `what`: "synops", "updates", "spikes" or "messages"."""
    return max(cores, key=lambda core: int(getattr(core, what)))


def _check_shape(simulation: Simulation, source: str, shape: Shape) -> None:
    for what, sent in (("messages", simulation.messages), ("payload", simulation.payload)):
        found = sent[source].shape if source in sent else None
        if found != shape:
            raise ScaDeployError(f"the simulation's {what} of '{source}' have shape {found}, expected {shape}")


def _count_layer(simulation: Simulation, layer: Layer) -> LayerCounts:
    steps, spikes = simulation.steps * simulation.samples, simulation.messages[layer.name]
    by_neuron = np.zeros(layer.shape, dtype=np.int64)
    updates = layer.neurons * steps
    stored = payload = messages_in = 0
    for synapse in layer.synapses:
        messages = simulation.messages[synapse.source]
        by_neuron += _operations(synapse, messages)
        stored += int(_operations(synapse, messages, zeros=True).sum())
        payload += int(_operations(synapse, simulation.payload[synapse.source]).sum())
        messages_in += int(messages.sum())
    tally = Tally(
        spikes=int(spikes.sum()),
        synops=int(by_neuron.sum()),
        synops_stored=stored,
        synops_payload=payload,
        updates=updates,
        messages_in=messages_in,
        injections=updates if layer.injected else 0,
    )
    return LayerCounts(layer.name, tally, by_neuron, spikes)


def _operations(synapse: Synapse, messages: Int64, zeros: bool = False) -> Int64:
    """Operations at every neuron: the messages that meet a weight there, one that is 0 only with `zeros`."""
    if isinstance(synapse, Conv):
        return _conv_operations(synapse, messages, zeros)
    flat, outputs = messages.reshape(-1), len(synapse.weight)
    if zeros:
        return np.full(outputs, flat.sum())
    rows = max(1, ROW_BLOCK // max(1, flat.size))
    blocks = (synapse.weight[start : start + rows] != 0 for start in range(0, outputs, rows))
    return np.concatenate([block.astype(np.int64) @ flat for block in blocks])


def _conv_operations(synapse: Conv, messages: Int64, zeros: bool) -> Int64:
    """The convolution of the messages with 1 wherever a synapse counts.

    A neuron meets a source neuron once, so in float64, which is exact to 2^53, messages of 26 bits leave room for
    2^27 sources; the bits above these are counted apart.
    """
    weight = torch.from_numpy(np.ones_like(synapse.weight) if zeros else synapse.weight != 0).double()
    found = np.zeros(synapse.output_shape(messages.shape), np.int64)
    for shift in range(0, int(messages.max(initial=0)).bit_length(), PART_BITS):
        part = torch.from_numpy(messages >> shift & ((1 << PART_BITS) - 1)).double()
        met = F.conv2d(part[None], weight, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        found += met[0].to(torch.int64).numpy() << shift
    return found


def _by_place(by_neuron: Int64) -> Int64:
    by_place: Int64 = by_neuron.reshape(-1, by_neuron.shape[-1]).sum(axis=0)
    return by_place


def _cut(placed: LayerMapping, layer: LayerCounts, fanout: Int64 | None, steps: int) -> Iterator[CoreCounts]:
    for core, tile in enumerate(placed.tiles()):
        part = tuple(slice(start, stop) for start, stop in tile.ranges)
        spikes = _by_place(layer.spikes_by_neuron[part])
        yield CoreCounts(
            layer=layer.name,
            core=core,
            synops=int(layer.synops_by_neuron[part].sum()),
            updates=tile.neurons * steps,
            spikes=int(spikes.sum()),
            messages=int(spikes.sum() if fanout is None else spikes @ fanout[part[-1]]),
        )
