"""Every core of a mapped Program: where it lies on its chip, what it holds, and how full that makes it.

`mapping` says what the fullest core of a layer uses. Cores at the border of a map, and the last parts of a kernel,
hold less; here each is worked out on its own by the rule of `cutting`, and placed where `placement` puts it. Both are
estimates: the compiler's own placement is not published.

Cores are listed one by one on the first chips only (`LISTED_CHIPS`): what nobody can look at is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from sca_deploy.hardware.budgets import Core, fullest
from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.cutting import Population, core_at
from sca_deploy.hardware.mapping import LayerMapping, Mapping
from sca_deploy.hardware.placement import place
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.storage import Layout

LISTED_CHIPS = 4
"""Chips whose cores are listed one by one."""


@dataclass(frozen=True)
class PlacedCore:
    """One core.

    Args:
        layer: whose neurons it holds; no two layers share a core.
        index: of the core within the layer, in the order of `LayerMapping.tiles`.
        chip: counted from 0.
        x, y: its tile on that chip's mesh, y downwards.
        slot: its place within the tile.
        neurons: how many it holds.
        use: of every budget.
        binding: the budget it uses most of, neuron groups apart.
    """

    layer: str
    index: int
    chip: int
    x: int
    y: int
    slot: int
    neurons: int
    use: Core
    binding: str

    @property
    def fill(self) -> float:
        """The fraction used of the binding budget; above 1 where not even one neuron fits a core."""
        return self.use[self.binding].fraction

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `use` is (used, max) of every budget."""
        return {
            "layer": self.layer,
            "index": self.index,
            "chip": self.chip,
            "x": self.x,
            "y": self.y,
            "slot": self.slot,
            "neurons": self.neurons,
            "fill": self.fill,
            "binding": self.binding,
            "use": {budget: [use.used, use.limit] for budget, use in self.use.items()},
        }


@dataclass(frozen=True)
class LayerFill:
    """How full the cores of one layer are, those that are not listed included.

    Args:
        name: of the layer.
        cores: how many it takes.
        least, most: `PlacedCore.fill` of its emptiest and of its fullest core.
        binding: of the fullest.
    """

    name: str
    cores: int
    least: float
    most: float
    binding: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "cores": self.cores, "fill": [self.least, self.most], "binding": self.binding}


@dataclass(frozen=True)
class FloorPlan:
    """The cores of a Program, placed on chips.

    Args:
        chip, title: its short name, and the one a person reads.
        columns, rows: of the mesh of tiles of one chip.
        cores_per_tile, cores_per_chip: how many there are to use.
        chips: how many the network takes.
        used: cores it takes, over all chips.
        lower_bound: whether that is a lower bound because the cores of some layer are.
        layers: how full the cores of each are.
        cores: those of the first chips, in the order in which they are filled.
    """

    chip: str
    title: str
    columns: int
    rows: int
    cores_per_tile: int
    cores_per_chip: int
    chips: int
    used: int
    lower_bound: bool
    layers: tuple[LayerFill, ...]
    cores: tuple[PlacedCore, ...]

    @property
    def truncated(self) -> int:
        """Cores beyond the first chips, which are not listed."""
        return self.used - len(self.cores)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for reports and `--json`."""
        return {
            "chip": self.chip,
            "title": self.title,
            "columns": self.columns,
            "rows": self.rows,
            "cores_per_tile": self.cores_per_tile,
            "cores_per_chip": self.cores_per_chip,
            "chips": self.chips,
            "used": self.used,
            "lower_bound": self.lower_bound,
            "layers": [layer.as_dict() for layer in self.layers],
            "cores": [core.as_dict() for core in self.cores],
            "truncated": self.truncated,
        }


def floor_plan(program: Program, mapping: Mapping, chip: Chip) -> FloorPlan:
    """Place every core of the first chips, and say what it uses.

    Args:
        program: the network.
        mapping: the same network's on `chip`, see `map_program`.
        chip: the one it was mapped on.
    """
    layout = Layout.of(chip)
    populations = {layer.name: Population.of(program, layer, layout) for layer in program.layers}
    listed = _placed(mapping, populations, layout, chip)
    return FloorPlan(
        chip=chip.name,
        title=chip.title,
        columns=chip.limits["mesh_columns"].value,
        rows=chip.limits["mesh_rows"].value,
        cores_per_tile=chip.limits["cores_per_tile"].value,
        cores_per_chip=mapping.cores_per_chip,
        chips=mapping.chips,
        used=mapping.cores,
        lower_bound=mapping.lower_bound,
        layers=tuple(_filled(mapped, populations[mapped.name], layout, chip) for mapped in mapping.layers),
        cores=tuple(islice(listed, LISTED_CHIPS * mapping.cores_per_chip)),
    )


def _placed(mapping: Mapping, populations: dict[str, Population], layout: Layout, chip: Chip) -> Iterator[PlacedCore]:
    columns, rows, per_tile = (chip.limits[key].value for key in ("mesh_columns", "mesh_rows", "cores_per_tile"))
    places, number = place(mapping, chip), 0
    for mapped in mapping.layers:
        population, at = populations[mapped.name], places[mapped.name]
        for index, tile in enumerate(mapped.tiles()):
            use = core_at(population, tile.ranges, layout, chip)
            yield PlacedCore(
                layer=mapped.name,
                index=index,
                chip=int(at.chip[index]),
                # `place` counts tiles on the mesh of all chips.
                x=int(at.x[index]) % columns,
                y=int(at.y[index]) % rows,
                slot=number % mapping.cores_per_chip % per_tile,
                neurons=tile.neurons,
                use=use,
                binding=fullest(use),
            )
            number += 1


def _filled(mapped: LayerMapping, population: Population, layout: Layout, chip: Chip) -> LayerFill:
    uses = [core_at(population, ranges, layout, chip) for ranges in _different(mapped, population)]
    fills = [use[fullest(use)].fraction for use in uses]
    most = max(range(len(uses)), key=lambda i: fills[i])
    return LayerFill(mapped.name, mapped.cores, min(fills), fills[most], fullest(uses[most]))


def _different(mapped: LayerMapping, population: Population) -> Iterator[tuple[tuple[int, int], ...]]:
    """The ranges of a layer's cores, of those that are alike only some: what a core uses depends on its size alone.

    Of grouped channels it also depends on which they are, so all their runs are looked at.
    """
    if len(mapped.shape) == 1:
        yield from {((0, mapped.neurons // mapped.cores),), ((0, -(-mapped.neurons // mapped.cores)),)}
        return
    runs = [
        [(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(mapped.shape, mapped.cut.tile, strict=True)
    ]
    ends = [{axis[0], axis[-1]} for axis in runs]
    yield from product(runs[0] if population.grouped else ends[0], *ends[1:])
