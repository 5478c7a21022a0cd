"""Program -> neurocores: how many cores each layer takes, how full they are, and what fills them.

`storage` knows how synapses lie in memory, `cutting` how a layer is cut into cores; both rules are inferred from
the tables the Loihi 2 compiler printed in the lava-dl tutorials, and reproduce them. Here they are applied to a
whole Program: no two layers share a core, cores are filled in the order of the layers, chip after chip.

The input has no cores where the host sends it as spikes; an injected input is a layer like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from sca_deploy.errors import DoesNotFit, UsageError, unknown_name
from sca_deploy.hardware.budgets import Core, fits, fullest
from sca_deploy.hardware.chip import Chip, System
from sca_deploy.hardware.cutting import Cut, Population, cut
from sca_deploy.hardware.program import Program, Shape
from sca_deploy.hardware.storage import Layout

PUBLISHED_CONV = "tile and word rules reproduce the compiler's published convolutions; AxonMem is not counted"
SPLIT_CONV = "kernel halved over its output channels as in the compiler's table of YOLO-KP; AxonMem is not counted"
HIGH_CONV = "columns of more neurons than a core has are halved in height; no published table needed it"
GROUPED_CONV = "no published table holds a grouped convolution; its words take the groups as stored apart"
DENSE_WHOLE = "word rules reproduce the compiler's published dense layers that one core holds"
DENSE_SPLIT = "these are the fewest cores that hold it; the compiler takes more, compiler_like by an inferred rule"
INPUT_LAYER = "an input layer has no synapses; one axon and one axon map entry a position reproduce PilotNet's"
INPUT_VECTOR = "an input layer has no synapses; no published table holds one that is not a map"
UNCHARGED_DELAYS = "how the chip stores delays is not known: they are not charged"


@dataclass(frozen=True)
class Tile:
    """What one core holds: ranges (start, stop) of the layer's axes, one or three."""

    ranges: tuple[tuple[int, int], ...]

    @property
    def neurons(self) -> int:
        """How many neurons lie in it."""
        count = 1
        for start, stop in self.ranges:
            count *= stop - start
        return count


@dataclass(frozen=True)
class LayerMapping:
    """The cores of one layer.

    Args:
        name: of the layer.
        kind: "conv", "dense", or "input" of an injected layer without synapses.
        neurons: of the whole layer.
        weight_bits: stored bits a weight, the widest of its synapses; 0 where there are none.
        cut: where it is cut, and the core that is fullest.
        channels_fewer: how many channels less would save a core, all else equal; None where none would or where
            they are not free (dense, grouped).
        binding: the budget that keeps the layer from taking fewer cores; on a single core the fullest budget.
        lower_bound: whether `cores` is a lower bound rather than the compiler's own figure.
        basis: why the figures can be believed, or how far, in one line.
    """

    name: str
    kind: str
    neurons: int
    weight_bits: int
    cut: Cut
    channels_fewer: int | None
    binding: str
    lower_bound: bool
    basis: str

    @property
    def shape(self) -> Shape:
        """(channels, height, width) or (neurons,)."""
        return self.cut.shape

    @property
    def cores(self) -> int:
        """How many it takes."""
        return self.cut.cores

    @property
    def compiler_like(self) -> int:
        """How many the compiler would take by the rule inferred from its tables; equal to `cores` of a map."""
        return self.cut.compiler_like

    @property
    def core(self) -> Core:
        """Use of every budget on the fullest core, keyed as the chip's budgets."""
        return self.cut.core

    @property
    def columns(self) -> int | None:
        """Columns of a tile, None where the layer is no map."""
        return self.cut.tile[2] if len(self.cut.tile) == 3 else None

    @property
    def synapse_words_total(self) -> int:
        """Synapse words over all cores of the layer."""
        return self.cut.words

    @property
    def neurons_per_core(self) -> int:
        """Neurons on the fullest core."""
        return self.core["neurons"].used

    @property
    def synapse_words(self) -> int:
        """Synapse words on the fullest core."""
        return self.core["synapse_words"].used

    @property
    def axon_in(self) -> int:
        """Input axons of the fullest core."""
        return self.core["axon_in"].used

    @property
    def fits(self) -> bool:
        """Whether the fullest core keeps every budget."""
        return fits(self.core)

    def tiles(self) -> Iterator[Tile]:
        """What each core holds, in the order of the cores: along the columns, then the rows, then the channels."""
        if len(self.shape) == 1:
            neurons, cores = self.shape[0], self.cores
            for core in range(cores):
                yield Tile(((core * neurons // cores, (core + 1) * neurons // cores),))
            return
        steps = [
            [(start, min(start + step, size)) for start in range(0, size, step)]
            for size, step in zip(self.shape, self.cut.tile, strict=True)
        ]
        for columns, rows, channels in product(*reversed(steps)):
            yield Tile((channels, rows, columns))

    def headroom(self) -> dict[str, Any]:
        """How much more the same cores could hold, and how much less would save one.

        Returns:
            {"unit": "columns" or "neurons", "more", "fewer", "channels_fewer"}; None where nothing would save one.
        """
        return {
            "unit": "neurons" if len(self.shape) == 1 else "columns",
            "more": self.cut.room,
            "fewer": self.cut.excess or None,
            "channels_fewer": self.channels_fewer,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `synapse_words`, `axon_in` and `core` are of the fullest core."""
        return {
            "name": self.name,
            "kind": self.kind,
            "cores": self.cores,
            "compiler_like": self.compiler_like,
            "neurons": self.neurons,
            "neurons_per_core": self.neurons_per_core,
            "weight_bits": self.weight_bits,
            "columns": self.columns,
            "tile": list(self.cut.tile),
            "synapse_words": self.synapse_words,
            "synapse_words_total": self.synapse_words_total,
            "axon_in": self.axon_in,
            "binding": self.binding,
            "binding_fraction": self.core[self.binding].fraction,
            "headroom": self.headroom(),
            "fits": self.fits,
            "lower_bound": self.lower_bound,
            "basis": self.basis,
            "core": {
                resource: {"used": use.used, "max": use.limit, "fraction": use.fraction}
                for resource, use in self.core.items()
            },
        }


@dataclass(frozen=True)
class Mapping:
    """The cores of a Program on a chip.

    Args:
        chip: its name.
        layers: in the order of the Program, in which their cores are filled.
        input_bits: the payload width of its input, 0 for binary.
        cores_per_chip: of the system that holds it, else of the chip.
        system: the smallest of the chip file's systems with enough cores, None where there is none.
        compiler_like_system: the smallest with `compiler_like` cores.
    """

    chip: str
    layers: tuple[LayerMapping, ...]
    input_bits: int
    cores_per_chip: int
    system: str | None
    compiler_like_system: str | None

    @property
    def cores(self) -> int:
        """Cores of all layers; no two layers share one."""
        return sum(layer.cores for layer in self.layers)

    @property
    def compiler_like(self) -> int:
        """Cores the compiler would take by the rules inferred from its tables."""
        return sum(layer.compiler_like for layer in self.layers)

    @property
    def chips(self) -> int:
        """How many chips that is."""
        return -(-self.cores // self.cores_per_chip)

    @property
    def lower_bound(self) -> bool:
        """Whether the core count is a lower bound because that of some layer is."""
        return any(layer.lower_bound for layer in self.layers)

    def __getitem__(self, name: str) -> LayerMapping:
        return next(layer for layer in self.layers if layer.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for reports and `--json`."""
        return {
            "chip": self.chip,
            "cores": self.cores,
            "compiler_like": self.compiler_like,
            "lower_bound": self.lower_bound,
            "chips": self.chips,
            "system": self.system,
            "compiler_like_system": self.compiler_like_system,
            "layers": [layer.as_dict() for layer in self.layers],
        }


def map_program(program: Program, chip: Chip) -> Mapping:
    """Cut every layer into cores. What breaks a budget is visible in the mapping and refused by `check_fits`.

    Raises:
        ScaDeployError: if a layer has no neurons.
    """
    layout = Layout.of(chip)
    layers = tuple(_map_layer(layer.name, Population.of(program, layer, layout), chip) for layer in program.layers)
    system = smallest_system(chip, sum(layer.cores for layer in layers))
    larger = smallest_system(chip, sum(layer.compiler_like for layer in layers))
    return Mapping(
        chip=chip.name,
        layers=layers,
        input_bits=program.input_bits,
        cores_per_chip=system.cores // system.chips if system else chip.cores,
        system=system.name if system else None,
        compiler_like_system=larger.name if larger else None,
    )


def smallest_system(chip: Chip, cores: int) -> System | None:
    """The system of the chip file with the fewest cores that are enough."""
    enough = (system for system in chip.systems.values() if system.cores >= cores)
    return min(enough, key=lambda system: system.cores, default=None)


def _map_layer(name: str, population: Population, chip: Chip) -> LayerMapping:
    found = cut(population, chip)
    neurons = 1
    for size in population.shape:
        neurons *= size
    return LayerMapping(
        name=name,
        kind=("conv" if population.is_map else "dense") if population.synapses else "input",
        neurons=neurons,
        weight_bits=max((synapse.bits for synapse in population.synapses), default=0),
        cut=found,
        channels_fewer=_channels_fewer(population, found, chip),
        binding=_binding(found),
        lower_bound=population.grouped or (found.cores > 1 and not population.is_map and bool(population.synapses)),
        basis=_basis(population, found),
    )


def _basis(population: Population, found: Cut) -> str:
    if not population.synapses:
        return INPUT_LAYER if population.is_map else INPUT_VECTOR
    if not population.is_map:
        basis = DENSE_SPLIT if found.cores > 1 else DENSE_WHOLE
        late = any(synapse.delays for synapse in population.synapses)
        return f"{basis}; {UNCHARGED_DELAYS}" if late else basis
    if population.grouped:
        return GROUPED_CONV
    if found.parts[1] > 1:
        return HIGH_CONV
    return SPLIT_CONV if found.parts[0] > 1 else PUBLISHED_CONV


def _binding(found: Cut) -> str:
    """What the next larger core would break; what is fullest where nothing larger is wanted or nothing fits."""
    return fullest(found.next_larger if found.cores > 1 and fits(found.core) else found.core)


def _channels_fewer(population: Population, found: Cut, chip: Chip) -> int | None:
    channels = population.shape[0]
    if (
        not population.is_map
        or not population.synapses
        or population.grouped
        or found.cores == 1
        or not fits(found.core)
    ):
        return None
    for fewer in range(1, channels):
        synapses = tuple(replace(synapse, outputs=channels - fewer) for synapse in population.synapses)
        smaller = replace(population, shape=(channels - fewer, *population.shape[1:]), synapses=synapses)
        if cut(smaller, chip).cores < found.cores:
            return fewer
    return None


def check_fits(mapping: Mapping, chip: Chip, chips: int | None = None, system: str | None = None) -> None:
    """Refuse a network that the hardware cannot hold.

    Args:
        mapping: the network's.
        chip: the one it was mapped on.
        chips: how many chips there are; a lower bound of the cores has to fit them.
        system: or which of the chip's systems; without either, the largest of them.

    Raises:
        DoesNotFit: naming the layer, the resource, the need and the limit.
        UsageError: if the chip file knows no such system, or both are given.
    """
    payload = chip.limits["message_bits"].value
    if mapping.input_bits > payload:
        raise DoesNotFit(
            f"the input sends graded spikes of {mapping.input_bits} bits, {chip.name} carries {payload}",
            "encode the input as binary spikes or in fewer bits",
        )
    for layer in mapping.layers:
        _check_layer(layer, chip)
    where, present = available(chip, chips, system)
    if mapping.cores > present:
        largest = max(mapping.layers, key=lambda layer: layer.cores)
        least = "at least " if mapping.lower_bound else ""
        larger = "" if mapping.system is None else f", or take a larger system: {mapping.system} holds it"
        raise DoesNotFit(
            f"the network needs {least}{mapping.cores} cores, {where} has {present}; "
            f"layer '{largest.name}' alone takes {largest.cores} ({largest.binding})",
            f"prune more channels, first of all in '{largest.name}'{larger}",
        )


def available(chip: Chip, chips: int | None = None, system: str | None = None) -> tuple[str, int]:
    """(what is there, its cores): so many chips, or a system by its name, or the largest of the chip file.

    Raises:
        UsageError: if the chip file knows no such system, or both are given.
    """
    if chips is not None and system is not None:
        raise UsageError(f"both {chips} chips and the system '{system}' are asked for", "give one of them")
    if chips is not None:
        return (chip.name if chips == 1 else f"{chips} chips of {chip.name}"), chips * chip.cores
    if system is not None and system not in chip.systems:
        raise unknown_name("system", system, chip.systems)
    found = chip.systems[system] if system else max(chip.systems.values(), key=lambda known: known.cores)
    return f"{found.name} ({found.chips} x {chip.name})", found.cores


def _check_layer(layer: LayerMapping, chip: Chip) -> None:
    widest = chip.limits["weight_bits"].value
    if layer.weight_bits > widest:
        raise DoesNotFit(
            f"layer '{layer.name}' has weights of {layer.weight_bits} bits, {chip.name} stores {widest}",
            "lower the network again for this chip",
        )
    if not layer.fits:
        use = layer.core[layer.binding]
        raise DoesNotFit(
            f"layer '{layer.name}': a core holding a single neuron needs {use.used} {layer.binding}, "
            f"{chip.name} has {use.limit} ({chip.budgets[layer.binding].unit})",
            _ADVICE[layer.columns is not None, layer.binding in ("neurons", "axon_map")],
        )


_ADVICE = {
    (True, True): "connect fewer layers to it",
    (True, False): "prune the channels it reads, or take a smaller kernel: a core stores it whole for every channel",
    (False, True): "connect fewer layers to it",
    (False, False): "prune the channels it reads, or shrink the map by max_pool or a stride (avg_pool folds into it)",
}
