"""Where the cores lie on the mesh, and how far every spike has to travel.

Cores are placed in the order of the layers, tile after tile along a serpentine over the mesh of a chip, so that
neighbours in the network are neighbours on the mesh; then on the next chip. This is a plausible placement, not
the compiler's, which is not published.

Chips continue one another's mesh in four directions (Davies et al. 2018). How boards wire them is not in the chip
files: they are taken to lie in a square, along a serpentine as well. A message makes as many hops as the two
tiles are apart, east-west first (Manhattan distance); none within a tile. Where the way leads over the border of a
chip, the message is counted in `off_chip` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.mapping import LayerMapping, Mapping
from sca_deploy.hardware.program import INPUT, Conv, Program

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Places:
    """Positions of cores: int64 (cores,) each. x and y are tiles on the mesh of all chips, y downwards."""

    chip: Int64
    x: Int64
    y: Int64

    def __getitem__(self, cores: slice | Int64) -> Places:
        return Places(self.chip[cores], self.x[cores], self.y[cores])


@dataclass(frozen=True, eq=False)
class Route:
    """How the spikes of one layer reach the cores of a layer that reads it.

    Every array is int64 (places,); a place is a column of a map, or a neuron of a dense layer. Sums are over the
    cores that a spike of the place is sent to. Where the neurons of a column lie on several cores, or are heard by
    different ones (a map cut over its channels or rows), the figures are their mean, rounded.

    Args:
        fanout: cores a spike of the place is sent to.
        hops_x, hops_y: hops east-west and north-south from the core that holds the place.
        off_chip: how many of these cores lie on another chip.
    """

    fanout: Int64
    hops_x: Int64
    hops_y: Int64
    off_chip: Int64


def place(mapping: Mapping, chip: Chip) -> dict[str, Places]:
    """The positions of every layer's cores, in the order of `LayerMapping.tiles`."""
    cores = np.arange(mapping.cores, dtype=np.int64)
    columns, rows, per_tile = (chip.limits[key].value for key in ("mesh_columns", "mesh_rows", "cores_per_tile"))
    chips, core = np.divmod(cores, mapping.cores_per_chip)
    tile_x, tile_y = _serpentine(core // per_tile, columns)
    chip_x, chip_y = _serpentine(chips, math.isqrt(max(0, mapping.chips - 1)) + 1)
    places = Places(chips, chip_x * columns + tile_x, chip_y * rows + tile_y)
    ends = np.cumsum([layer.cores for layer in mapping.layers])
    return {
        layer.name: places[slice(int(end) - layer.cores, int(end))]
        for layer, end in zip(mapping.layers, ends, strict=True)
    }


def routes(program: Program, mapping: Mapping, chip: Chip) -> dict[tuple[str, str], Route]:
    """The route of every (source layer, reading layer). The input is sent by the host and has none.

    A core is told of a spike once, however many synapses of the layer read it. Zero weights are stored and reached.
    """
    places = place(mapping, chip)
    ends = {layer.name: _End(layer, places[layer.name]) for layer in mapping.layers}
    found = {}
    for reader in program.layers:
        for source in dict.fromkeys(synapse.source for synapse in reader.synapses if synapse.source != INPUT):
            kernels = [s for s in reader.synapses if isinstance(s, Conv) and s.source == source]
            found[source, reader.name] = _route(ends[source], ends[reader.name], kernels)
    return found


@dataclass(frozen=True, eq=False)
class _End:
    """A layer that sends or reads, cut and placed."""

    mapped: LayerMapping
    at: Places


def _serpentine(index: Int64, width: int) -> tuple[Int64, Int64]:
    """(x, y) of the index-th field, every second row from right to left."""
    y, x = np.divmod(index, width)
    return np.where(y % 2, width - 1 - x, x), y


def _route(source: _End, reader: _End, kernels: Sequence[Conv]) -> Route:
    if kernels:
        return _to_map(source, reader, kernels)
    to_all, tiles = _to_all(source.at, reader.at), list(source.mapped.tiles())
    if len(source.mapped.shape) == 1:
        return Route(*(np.repeat(total, [tile.neurons for tile in tiles]) for total in to_all))
    channel_tiles, row_tiles, column_tiles = source.mapped.cut.parts
    neurons = np.array([tile.neurons for tile in tiles]).reshape(column_tiles, row_tiles * channel_tiles)
    column = np.arange(source.mapped.shape[2]) // source.mapped.cut.tile[2]
    means = [(total.reshape(neurons.shape) * neurons).sum(axis=1) / neurons.sum(axis=1) for total in to_all]
    return Route(*(np.rint(mean).astype(np.int64)[column] for mean in means))


def _to_all(source: Places, reader: Places) -> tuple[Int64, Int64, Int64, Int64]:
    """(cores, hops x, hops y, other chips) summed over all cores of the reader, for every core of the source."""
    cores = np.full(source.x.shape, reader.x.size, np.int64)
    off_chip = _summed(source.chip, reader.chip, lambda here, there: here != there)
    hops = [_summed(getattr(source, k), getattr(reader, k), lambda here, there: abs(here - there)) for k in ("x", "y")]
    return cores, hops[0], hops[1], off_chip


def _summed(here: Int64, there: Int64, distance: Callable[[Int64, Int64], npt.NDArray[Any]]) -> Int64:
    """For every `here` the distance to all of `there`: few values are different, so these are multiplied out."""
    values, which = np.unique(here, return_inverse=True)
    others, counts = np.unique(there, return_counts=True)
    return np.asarray(distance(values[:, None], others) @ counts, np.int64)[which]


def _single(source: Places, reader: Places) -> tuple[Int64, Int64, Int64, Int64]:
    """(1, hops x, hops y, whether to another chip) from the cores of the source to those of the reader."""
    off_chip = (source.chip != reader.chip).astype(np.int64)
    return np.ones_like(off_chip), abs(source.x - reader.x), abs(source.y - reader.y), off_chip


def _to_map(source: _End, reader: _End, kernels: Sequence[Conv]) -> Route:
    """Every column sends to the tiles whose receptive field holds it.

    The tiles that hear a neuron are those that hear its channel, its row and its column. How many neurons of a
    column hear which is counted along each axis on its own, and multiplied.
    """
    shape, from_tile, to_tile = source.mapped.shape, source.mapped.cut.tile, reader.mapped.cut.tile
    columns, column_tiles = _heard(kernels, 1, shape[2], reader.mapped.shape[2], to_tile[2])
    rows = _counted(*_heard(kernels, 0, shape[1], reader.mapped.shape[1], to_tile[1]), from_tile[1])
    channels = _heard_channels(kernels, shape[0], reader.mapped.shape[0], from_tile[0], to_tile[0])
    sums = np.zeros((4, shape[2]))
    for (row_from, row_to), row_count in rows.items():
        for channel_from, channel_counts in enumerate(channels):
            (channels_to,) = channel_counts.nonzero()
            start = _core(source.mapped, columns // from_tile[2], row_from, np.int64(channel_from))
            stop = _core(reader.mapped, column_tiles[:, None], row_to, channels_to)
            shares = row_count * channel_counts[channels_to] / (shape[0] * shape[1])
            for total, single in zip(sums, _single(source.at[start[:, None]], reader.at[stop]), strict=True):
                total += np.bincount(columns, single @ shares, shape[2])
    return Route(*(np.rint(total).astype(np.int64) for total in sums))


def _core(mapped: LayerMapping, column_tile: Int64, row_tile: int, channel_tile: Int64 | np.int64) -> Int64:
    """The number of a core within its layer, see `LayerMapping.tiles`."""
    channel_tiles, row_tiles, _ = mapped.cut.parts
    return np.asarray((column_tile * row_tiles + row_tile) * channel_tiles + channel_tile, np.int64)


def _heard(kernels: Sequence[Conv], axis: int, size: int, reader_size: int, step: int) -> tuple[Int64, Int64]:
    """Which position of the source, along one axis, is read by which tile: two arrays of pairs, each pair once."""
    position = np.arange(size, dtype=np.int64)
    pairs = []
    for kernel in kernels:
        for tap in range(kernel.weight.shape[2 + axis]):
            # Tap j at output x reads position x stride + j dilation - padding.
            read = position + kernel.padding[axis] - tap * kernel.dilation[axis]
            output, rest = np.divmod(read, kernel.stride[axis])
            inside = (rest == 0) & (output >= 0) & (output < reader_size)
            pairs.append(np.stack([position[inside], output[inside] // step]))
    heard = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return heard[0], heard[1]


def _heard_channels(kernels: Sequence[Conv], size: int, reader_size: int, step: int, reader_step: int) -> Int64:
    """(tiles of the source, tiles of the reader): how many channels of the one are read by the other."""
    heard = np.zeros((size, -(-reader_size // reader_step)), bool)
    channel = np.arange(size)
    for kernel in kernels:
        group, per_group = channel * kernel.groups // size, reader_size // kernel.groups
        first, last = group * per_group // reader_step, ((group + 1) * per_group - 1) // reader_step
        tile = np.arange(heard.shape[1])
        heard |= (first[:, None] <= tile) & (tile <= last[:, None])
    return np.asarray(np.add.reduceat(heard, np.arange(0, size, step), dtype=np.int64))


def _counted(positions: Int64, tiles: Int64, step: int) -> dict[tuple[int, int], int]:
    """(tile of the source, tile of the reader) -> how many positions of the one are read by the other."""
    pairs, counts = np.unique(np.stack([positions // step, tiles]), axis=1, return_counts=True)
    return {(int(a), int(b)): int(count) for (a, b), count in zip(pairs.T, counts, strict=True)}
