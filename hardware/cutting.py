"""Cutting a layer into cores: tiles of a map, runs of neurons of a dense layer.

A map (channels, height, width) is cut into tiles of full height and all channels, a power of two columns wide,
as wide as the budgets allow; a tile must fit at its nominal width even where the map is narrower (PilotNet
conv-4: 20 columns of 128 neurons take two cores of 16 + 4, for 32 x 128 is more than 4095). This gives every
convolution of the PilotNet tables, tile by tile. Where it is not enough:

- A kernel that one core cannot hold is halved over its output channels until a core can. This gives the cores,
  neurons and words of all ten layers of the YOLO-KP table (574 cores), four of which are so cut. The tiles
  there are of the same size but another shape, lower and wider ones: only the count is reproduced.
- A column of more neurons than a core has is halved in height. YOLO-KP's tiles are halved in height too, but in
  no published row was it needed.

A dense layer is cut into runs of neurons of equal size, in the fewest cores whose budgets hold: a lower bound.
The compiler takes more. One rule gives all published dense rows (MNIST, Oxford, PilotNet LIF and SDNN) and the
violations that the compiler logged on its way to them: the capacity of a core starts at its budget of neurons;
while the fullest core breaks a budget, it is divided by the overflow of the worst budget (both rounded: the
overflow up, the capacity down), then the neurons are dealt out, full cores first. PilotNet fc-0, 100 x 2560, under
12,000 words: 4095 -> 682 -> 113 -> 18 -> 9, so eleven cores of 9 and one of 1; MNIST fc-0: 4095 -> 1365 ->
455 -> 151 -> 50. The rule is inferred, and the figure is called compiler-like.

An injected layer without synapses is cut like others of its shape; its one axon and its axon map of one entry a
position follow PilotNet's input layer (13 cores of 16 x 66 x 3).

Axon map: one entry per neuron of the core towards a dense layer (or a host that reads the last layer);
one per position and chunk of channels towards a convolution; summed over the layers that read it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.budgets import Core, core_of, fits, overflow
from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.program import Conv, Layer, Program, Shape
from sca_deploy.hardware.storage import Footprint, Layout, channel_chunks


@dataclass(frozen=True)
class Population:
    """All of a layer that decides how it is cut.

    Args:
        shape: (channels, height, width) or (neurons,).
        synapses: their sizes; none of an injected layer.
        conv_readers, dense_readers: synapses of each kind that read it; of a layer that nothing reads, the host
            reads every neuron.
    """

    shape: Shape
    synapses: tuple[Footprint, ...]
    conv_readers: int
    dense_readers: int

    @classmethod
    def of(cls, program: Program, layer: Layer, layout: Layout) -> Population:
        """Of a Program's layer.

        Raises:
            ScaDeployError: if it has no neurons.
        """
        if 0 in layer.shape:
            raise ScaDeployError(f"layer '{layer.name}' of shape {layer.shape} has no neurons", "remove the layer")
        readers = [s for reader in program.layers for s in reader.synapses if s.source == layer.name]
        convs = sum(isinstance(synapse, Conv) for synapse in readers)
        synapses = tuple(Footprint.of(synapse, layout) for synapse in layer.synapses)
        return cls(layer.shape, synapses, convs, len(readers) - convs)

    @property
    def grouped(self) -> bool:
        """Whether what a core stores depends on which channels it holds, not only on how many."""
        return any(synapse.groups > 1 for synapse in self.synapses)

    @property
    def is_map(self) -> bool:
        """Whether its neurons lie in columns."""
        return len(self.shape) == 3

    def axon_in(self, start: int, stop: int) -> int:
        """Input axons of a core of the channels or neurons `start` to `stop`."""
        return sum(synapse.axons(start, stop) for synapse in self.synapses) if self.synapses else 1

    def axon_map(self, neurons: int, positions: int, channels: int) -> int:
        """Axon map entries of a core of `neurons` neurons: `channels` at each of `positions`."""
        if not self.conv_readers + self.dense_readers:
            return neurons
        chunks = len(channel_chunks(channels)) if self.synapses else 1
        return self.conv_readers * positions * chunks + self.dense_readers * neurons


@dataclass(frozen=True)
class Cut:
    """A layer cut into cores.

    Args:
        shape: of the layer.
        tile: what one core holds at most, (channels, rows, columns) or (neurons,); a dense layer's cores are
            filled evenly, so that some may hold one neuron less.
        core: use of every budget on the fullest core; where not even one neuron fits a core, of such a core.
        next_larger: the same of the next larger tile, which would take fewer cores.
        words: synapse words over all cores.
        compiler_like: cores that the rule above gives.
        room: neurons or columns that the layer could have in addition on the same cores.
        excess: neurons or columns that it would have to lose to save a core; 0 where it never would.
    """

    shape: Shape
    tile: Shape
    core: Core
    next_larger: Core
    words: int
    compiler_like: int
    room: int
    excess: int

    @property
    def parts(self) -> Shape:
        """Cores along each axis of `shape`."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.tile, strict=True))

    @property
    def cores(self) -> int:
        """How many cores it takes."""
        cores = 1
        for parts in self.parts:
            cores *= parts
        return cores


def core_at(population: Population, ranges: tuple[tuple[int, int], ...], layout: Layout, chip: Chip) -> Core:
    """The use of every budget of the core that holds the neurons in `ranges`.

    Args:
        population: the layer.
        ranges: (start, stop) along each axis of its shape, so one of a dense layer and three of a map.
    """
    (start, stop), *across = ranges
    positions = math.prod(high - low for low, high in across)
    neurons = (stop - start) * positions
    return core_of(
        chip,
        neurons=neurons,
        axon_in=population.axon_in(start, stop),
        synapse_words=_words(population, start, stop, layout),
        axon_map=population.axon_map(neurons, positions, stop - start),
    )


def cut(population: Population, chip: Chip) -> Cut:
    """Cut a layer into cores. What breaks a budget is visible in the fullest core."""
    layout = Layout.of(chip)
    return _cut_map(population, layout, chip) if population.is_map else _cut_neurons(population, layout, chip)


def _cut_map(population: Population, layout: Layout, chip: Chip) -> Cut:
    channels, height, width = population.shape

    def core(tile: Shape) -> Core:
        return _tile_core(population, tile, layout, chip)

    alone = core((1, 1, 1))
    tile = (channels, 1, 1)
    while fits(alone) and not fits(core(tile)):
        tile = (-(-tile[0] // 2), 1, 1)
    tile = (tile[0], height, 1)
    while fits(alone) and not fits(core(tile)):
        tile = (tile[0], -(-tile[1] // 2), 1)
    # The nominal width may reach beyond the map, and has to fit all the same.
    widest = 1
    while fits(core((*tile[:2], 2 * widest))):
        widest *= 2
        if widest < 2 * width:
            tile = (*tile[:2], widest)
    shown = (*tile[:2], min(tile[2], width))
    across = -(-width // tile[2])
    found = Cut(
        shape=population.shape,
        tile=tile,
        core=core(shown) if fits(alone) else alone,
        next_larger=core(_doubled(tile, population.shape)),
        words=0,
        compiler_like=0,
        room=across * widest - width if fits(alone) else 0,
        excess=width - (across - 1) * tile[2] if across > 1 else 0,
    )
    rows, columns = found.parts[1:]
    words = rows * columns * _words_of_parts(population, tile[0], layout)
    return replace(found, words=words, compiler_like=found.cores)


def _tile_core(population: Population, tile: Shape, layout: Layout, chip: Chip) -> Core:
    """The core that is nearest to its limits, of those that hold such tiles.

    That need not be one of the most channels: 63 of them are six chunks, 64 are one.
    """
    channels, rows, columns = tile
    runs = _runs(population.shape[0], channels)
    if not population.grouped:
        runs = [runs[0], runs[-1]]
    cores = [core_at(population, (run, (0, rows), (0, columns)), layout, chip) for run in runs]
    return max(cores, key=lambda core: max(use.fraction for use in core.values()))


def _words_of_parts(population: Population, channels: int, layout: Layout) -> int:
    """Words of one tile for all parts of so many channels."""
    whole = population.shape[0]
    if population.grouped:
        return sum(_words(population, start, stop, layout) for start, stop in _runs(whole, channels))
    full, rest = divmod(whole, channels)
    return full * _words(population, 0, channels, layout) + _words(population, 0, rest, layout)


def _doubled(tile: Shape, shape: Shape) -> Shape:
    """The next larger tile: wider if that saves cores, else higher, else of more channels."""
    channels, rows, columns = tile
    if rows == shape[1] and (columns < shape[2] or channels == shape[0]):
        return (channels, rows, 2 * columns)
    return (channels, 2 * rows, columns) if rows < shape[1] else (2 * channels, rows, columns)


def _cut_neurons(population: Population, layout: Layout, chip: Chip) -> Cut:
    (neurons,) = population.shape

    def core(size: int) -> Core:
        return core_at(population, ((0, size),), layout, chip)

    # Every budget grows with the neurons of a core, so the sizes that fit are a prefix of 1, 2, 3, ...
    limit = chip.budgets["neurons"].value
    most = max(1, bisect_right(range(1, limit + 1), False, key=lambda size: not fits(core(size))))
    cores = max(1, -(-neurons // most))
    small, larger = divmod(neurons, cores)
    words = larger * _words(population, 0, small + 1, layout) + (cores - larger) * _words(population, 0, small, layout)
    return Cut(
        shape=population.shape,
        tile=(small + (larger > 0),),
        core=core(small + (larger > 0)),
        next_larger=core(most + 1),
        words=words,
        compiler_like=max(1, -(-neurons // compiler_capacities(population, chip)[-1])),
        room=cores * most - neurons if fits(core(1)) else 0,
        excess=neurons - (cores - 1) * most if cores > 1 else 0,
    )


def compiler_capacities(population: Population, chip: Chip) -> tuple[int, ...]:
    """Neurons a core that the compiler would try on a dense layer, see above; the last one holds."""
    layout, (neurons,) = Layout.of(chip), population.shape
    tried = [chip.budgets["neurons"].value]
    while tried[-1] > 1:
        parts = overflow(core_at(population, ((0, min(neurons, tried[-1])),), layout, chip))
        if parts == 1:
            break
        tried.append(max(1, tried[-1] // parts))
    return tuple(tried)


def _words(population: Population, start: int, stop: int, layout: Layout) -> int:
    return sum(synapse.words(start, stop, layout) for synapse in population.synapses) if stop > start else 0


def _runs(size: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, size)) for start in range(0, size, step)]
