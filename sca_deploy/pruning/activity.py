"""What the layers of a network would do if they had fewer channels, from what they do now.

The network as it is runs on the simulated chip. A narrower one is taken to fire as its remaining channels do now:

    spikes(a)           the sum of the measured rates of a's remaining channels
    operations(a -> b)  those measured, times spikes(a) / spikes(a) now, times channels(b) / channels(b) now
    messages(a)         those measured, times spikes(a) / spikes(a) now
    work of a core      that of the layer over its cores, times how far the busiest is above their mean now

A masked channel never fires; once it is back it is taken to fire as the mean of its layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.costs import NANOSECONDS_PER_MICROSECOND
from sca_deploy.hardware.counts import CoreCounts, Counts, Int64, by_core, by_synapse, count
from sca_deploy.hardware.energy import Events, price
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.narrowing import Narrowing
from sca_deploy.hardware.placement import routes
from sca_deploy.hardware.program import INPUT, Conv, Layer, Program
from sca_deploy.hardware.simulate import simulate
from sca_deploy.hardware.traffic import Messages, Traffic, route

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of one group, which are pruned together, in the order in which they would be kept.

    Args:
        layers: the populations of the Program whose channels they are.
        order: their numbers, the one to be kept longest first, (C,).
        on: which of them are on now, by their numbers, (C,).
    """

    layers: tuple[str, ...]
    order: Int64
    on: npt.NDArray[np.bool_]

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.order)


class Activity:
    """What was measured of a Program, and what is expected of narrower ones.

    Args:
        program: the network as wide as it was at first, masked channels silent in it.
        chip: whose prices and times apply.
        groups: the channels that can be pruned.
        narrowing: of the program.
        x: samples, (samples, steps, *input_shape).
    """

    def __init__(
        self,
        program: Program,
        chip: Chip,
        groups: Sequence[Channels],
        narrowing: Narrowing,
        x: npt.NDArray[np.generic],
    ) -> None:
        self._chip, self._steps, self._samples = chip, x.shape[1], len(x)
        run = simulate(program, x)
        counts, mapping = count(run), map_program(program, chip)
        traffic = route(counts, routes(program, mapping, chip))
        on = {name: max(1, int(group.on.sum())) for group in groups for name in group.layers}
        self._now = narrowing.channels(on)
        self._operations = {key: found / self._samples for key, found in by_synapse(run).items()}
        self._messages = {layer.name: _sent(traffic, layer.name) for layer in program.layers}
        self._spikes = self._curves(counts, groups)
        cores = by_core(counts, mapping, traffic.fanout)
        self._above_mean = {layer.name: self._unevenness(cores, layer.name) for layer in program.layers}

    def of(self, layer: Layer, channels: Mapping[str, int], cores: int) -> tuple[float, float, float]:
        """(synaptic operations, nJ) a sample and us a step of a layer, where every layer has so many channels.

        Args:
            cores: that the layer then takes at least, as `hardware.counts.by_core` cuts it.
        """
        synops = sum(self._met(layer, number, channels) for number in range(len(layer.synapses)))
        spikes, share = self._fired(layer.name, channels), self._share(layer.name, channels)
        updates = layer.neurons // layer.shape[0] * channels[layer.name] * self._steps
        sent = self._messages[layer.name]
        events = Events(
            synops=synops,
            updates=updates,
            spikes=min(spikes, updates),
            messages=share * sent.messages / self._samples,
            hops_east_west=share * sent.hops_east_west / self._samples,
            hops_north_south=share * sent.hops_north_south / self._samples,
        )
        work = self._nanoseconds(synops, updates) / self._steps / cores * self._above_mean[layer.name]
        step = (work + self._chip.time["barrier"].typical) / NANOSECONDS_PER_MICROSECOND
        return synops, price(events, self._chip).typical, step

    def _met(self, layer: Layer, number: int, channels: Mapping[str, int]) -> float:
        """Operations of one synapse object."""
        synapse = layer.synapses[number]
        depthwise = isinstance(synapse, Conv) and synapse.groups > 1 and synapse.weight.shape[1] == 1
        wider = 1.0 if depthwise else channels[layer.name] / self._now[layer.name]
        return self._operations[layer.name, number] * self._share(synapse.source, channels) * wider

    def _share(self, source: str, channels: Mapping[str, int]) -> float:
        """Spikes of a layer over those it fires now."""
        if source == INPUT:
            return 1.0
        now = float(self._spikes[source][self._now[source]])
        return self._fired(source, channels) / now if now > 0 else 0.0

    def _fired(self, name: str, channels: Mapping[str, int]) -> float:
        return float(self._spikes[name][channels[name]])

    def _curves(self, counts: Counts, groups: Sequence[Channels]) -> dict[str, Floats]:
        """Of every layer, spikes a sample by its channels, from none to all of them."""
        of = {name: group for group in groups for name in group.layers}
        curves = {}
        for layer in counts.layers:
            sent, size = layer.spikes_by_neuron / self._samples, len(layer.spikes_by_neuron)
            rates = np.full(size, sent.sum() / self._now[layer.name])
            if layer.name in of:
                group, measured = of[layer.name], sent.reshape(size, -1).sum(1)
                mean = measured[group.on].mean() if group.on.any() else 0.0
                rates = np.where(group.on, measured, mean)[group.order]
            curves[layer.name] = np.concatenate([[0.0], rates.cumsum()])
        return curves

    def _unevenness(self, cores: Sequence[CoreCounts], name: str) -> float:
        work = [self._nanoseconds(core.synops, core.updates) for core in cores if core.layer == name]
        return max(work) * len(work) / sum(work) if sum(work) else 1.0

    def _nanoseconds(self, synops: float, updates: float) -> float:
        """What so much work takes one core; a silent neuron's update is timed as a firing one's, its typical time."""
        time = self._chip.time
        return synops * time["synaptic_operation"].typical + updates * time["neuron_update_active"].typical


def _sent(traffic: Traffic, source: str) -> Messages:
    return sum((found for (start, _), found in traffic.edges.items() if start == source), Messages())
