"""Program -> neurocores: how many cores each layer takes, how full they are, and what fills them.

The rules are inferred from the per-core tables that the Loihi 2 compiler printed in the lava-dl
tutorials (MNIST 784-128-64-10 and PilotNet). The numbers in them come from the chip file.

Memory, in words of 64 bits, every list of synapses behind a prefix of 10 bits:

    dense core of n neurons   inputs * ceil((n (wbits + 12) + 10) / 64)
    conv core                 in_channels kh kw * sum over chunks c of ceil((c wbits + 10) / 64)

where the chunks split the output channels into powers of two (36 = 32 + 4). The kernel is stored once
a core, whatever its tile. Zero weights are stored and charged. `wbits` is what the layer's own integers
need in two's complement after the lowest, always even, bit is dropped: -8..8 is -4..4 and takes 4 bits.

Input axons: a dense core has one per source neuron, a conv core one per chunk.
Axon map: one entry per neuron of the core towards a dense layer (or a host that reads the last layer);
one per position and chunk towards a convolution; summed over the layers that read it.
Total: input axons + neurons + synapse words + axon map entries. The compiler also counts AxonMem, for which no
rule is known (a convolution shows at most 93 words of the 20,000 in the published table): it is left out.

Splitting. A conv layer is cut into tiles of full height and all channels, a power of two columns wide,
as wide as the budgets allow; a tile must fit at its nominal width even where the map is narrower
(PilotNet conv-4: 20 columns of 128 neurons take two cores of 16 + 4, for 32 x 128 is more than 4095).
How the compiler splits a dense layer is not published (12 cores where 7 fit): its cores here are the fewest
that hold it, with the neurons spread evenly, and are marked a lower bound.

A Program has no input neurons, its input is injected; published tables may count cores for an input
layer (13 of PilotNet's 74), which have no counterpart here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sca_deploy.errors import DoesNotFit
from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.program import Conv, Dense, IntArray, Layer, Program

PUBLISHED_CONV = "tile and word rules reproduce the compiler's published convolutions; AxonMem is not counted"
GROUPED_CONV = "no published table holds a grouped convolution; its words take the groups as stored apart"
DENSE_SPLIT = "the compiler's split of dense layers is not published; these are the fewest cores that hold it"


@dataclass(frozen=True)
class Use:
    """How much of one budget of a core is used."""

    used: int
    limit: int

    @property
    def fraction(self) -> float:
        """used / limit; above 1 where it does not fit."""
        return self.used / self.limit


@dataclass(frozen=True)
class LayerMapping:
    """The cores of one layer.

    Args:
        name: of the layer.
        kind: "conv" or "dense".
        cores: how many it takes.
        neurons: of the whole layer.
        weight_bits: stored bits a weight, the widest of its synapses.
        columns: columns of a conv tile, None for a dense layer.
        core: use of every budget on the fullest core, keyed as the chip's budgets.
        synapse_words_total: words over all cores of the layer.
        binding: the budget that keeps the layer from taking fewer cores; on a single core the fullest budget.
        lower_bound: whether `cores` is a lower bound rather than the compiler's own figure.
        basis: why the figures can be believed, or how far, in one line.
    """

    name: str
    kind: str
    cores: int
    neurons: int
    weight_bits: int
    columns: int | None
    core: dict[str, Use]
    synapse_words_total: int
    binding: str
    lower_bound: bool
    basis: str

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
        return _fits(self.core)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `synapse_words`, `axon_in` and `core` are of the fullest core."""
        return {
            "name": self.name,
            "kind": self.kind,
            "cores": self.cores,
            "neurons": self.neurons,
            "neurons_per_core": self.neurons_per_core,
            "weight_bits": self.weight_bits,
            "columns": self.columns,
            "synapse_words": self.synapse_words,
            "synapse_words_total": self.synapse_words_total,
            "axon_in": self.axon_in,
            "binding": self.binding,
            "fits": self.fits,
            "lower_bound": self.lower_bound,
            "basis": self.basis,
            "core": {resource: {"used": use.used, "max": use.limit} for resource, use in self.core.items()},
        }


@dataclass(frozen=True)
class Mapping:
    """The cores of a Program on a chip. `input_bits` is the payload width of its input, 0 for binary."""

    chip: str
    layers: tuple[LayerMapping, ...]
    input_bits: int

    @property
    def cores(self) -> int:
        """Cores of all layers; no two layers share one."""
        return sum(layer.cores for layer in self.layers)

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
            "lower_bound": self.lower_bound,
            "layers": [layer.as_dict() for layer in self.layers],
        }


def map_program(program: Program, chip: Chip) -> Mapping:
    """Cut every layer into cores. Never refuses: what breaks a budget is visible in it, see `check_fits`."""
    layers = tuple(_map_layer(layer, _readers(program, layer), chip) for layer in program.layers)
    return Mapping(chip.name, layers, program.input_bits)


def check_fits(mapping: Mapping, chip: Chip) -> None:
    """Refuse a network that the chip cannot hold.

    Raises:
        DoesNotFit: naming the layer, the resource, the need and the limit.
    """
    payload = chip.limits["message_bits"].value
    if mapping.input_bits > payload:
        raise DoesNotFit(
            f"the input sends graded spikes of {mapping.input_bits} bits, {chip.name} carries {payload}",
            "encode the input as binary spikes or in fewer bits",
        )
    for layer in mapping.layers:
        _check_layer(layer, chip)
    if mapping.cores > chip.cores:
        largest = max(mapping.layers, key=lambda layer: layer.cores)
        least = "at least " if mapping.lower_bound else ""
        raise DoesNotFit(
            f"the network needs {least}{mapping.cores} cores, {chip.name} has {chip.cores}; "
            f"layer '{largest.name}' alone takes {largest.cores} ({largest.binding})",
            f"prune more channels, first of all in '{largest.name}'",
        )


def weight_bits(weight: IntArray, chip: Chip) -> int:
    """Bits a weight takes in memory: two's complement of the layer's own range, without the dropped lowest bits.

    The published PilotNet rows fix it: -8..8 takes 4 bits, -6..6 takes 3, -20..18 takes 5 and -256..254 takes 8.
    """
    if not weight.size:
        return 1
    dropped = chip.storage["dropped_weight_bits"].value
    stored = (int(weight.min()) >> dropped, int(weight.max()) >> dropped)
    return 1 + max((number if number >= 0 else ~number).bit_length() for number in stored)


def dense_words(inputs: int, neurons: int, bits: int, chip: Chip) -> int:
    """Synapse words of a core where each of `inputs` axons has a list of `neurons` synapses of `bits` bits."""
    return inputs * _list_words(neurons, bits + chip.storage["dense_index_bits"].value, chip)


def conv_words(weight: IntArray, groups: int, chip: Chip) -> int:
    """Synapse words of a convolution kernel (out, in / groups, kh, kw) on one core."""
    outputs, inputs, height, width = (int(size) for size in weight.shape)
    bits = weight_bits(weight, chip)
    words_per_tap = sum(_list_words(chunk, bits, chip) for chunk in channel_chunks(outputs // groups))
    return inputs * groups * height * width * words_per_tap


def channel_chunks(channels: int) -> tuple[int, ...]:
    """The powers of two that `channels` is stored in, largest first: 36 is (32, 4)."""
    return tuple(1 << bit for bit in reversed(range(channels.bit_length())) if channels >> bit & 1)


def _list_words(synapses: int, bits: int, chip: Chip) -> int:
    word = chip.storage["word_bits"].value
    return -(-(synapses * bits + chip.storage["list_prefix_bits"].value) // word)


def _readers(program: Program, layer: Layer) -> list[Conv | Dense]:
    return [synapse for reader in program.layers for synapse in reader.synapses if synapse.source == layer.name]


def _map_layer(layer: Layer, readers: Sequence[Conv | Dense], chip: Chip) -> LayerMapping:
    convs = [synapse for synapse in layer.synapses if isinstance(synapse, Conv)]
    # A Program allows no layer of both kinds: their output shapes differ in rank.
    if convs:
        return _map_conv(layer, convs, readers, chip)
    return _map_dense(layer, [synapse for synapse in layer.synapses if isinstance(synapse, Dense)], readers, chip)


def _map_conv(layer: Layer, synapses: Sequence[Conv], readers: Sequence[Conv | Dense], chip: Chip) -> LayerMapping:
    channels, height, width = layer.shape
    words = sum(conv_words(synapse.weight, synapse.groups, chip) for synapse in synapses)
    axons = sum(s.groups * len(channel_chunks(channels // s.groups)) for s in synapses)

    def core(columns: int) -> dict[str, Use]:
        neurons, positions = columns * height * channels, columns * height
        entries = _axon_map(neurons, positions * len(channel_chunks(channels)), readers)
        return _core(chip, neurons=neurons, axon_in=axons, synapse_words=words, axon_map=entries)

    columns = 1
    while columns < width and _fits(core(2 * columns)):
        columns *= 2
    cores = max(1, -(-width // columns))
    grouped = any(synapse.groups > 1 for synapse in synapses)
    fullest = core(min(columns, width))
    return LayerMapping(
        name=layer.name,
        kind="conv",
        cores=cores,
        neurons=layer.neurons,
        weight_bits=max(weight_bits(synapse.weight, chip) for synapse in synapses),
        columns=columns,
        core=fullest,
        synapse_words_total=words * cores,
        binding=_binding(fullest, core(2 * columns), cores),
        lower_bound=grouped,
        basis=GROUPED_CONV if grouped else PUBLISHED_CONV,
    )


def _map_dense(layer: Layer, synapses: Sequence[Dense], readers: Sequence[Conv | Dense], chip: Chip) -> LayerMapping:
    inputs = sum(synapse.weight.shape[1] for synapse in synapses)
    stored = [(synapse.weight.shape[1], weight_bits(synapse.weight, chip)) for synapse in synapses]

    def words(neurons: int) -> int:
        return sum(dense_words(axons, neurons, bits, chip) for axons, bits in stored)

    def core(neurons: int) -> dict[str, Use]:
        entries = _axon_map(neurons, neurons, readers)
        return _core(chip, neurons=neurons, axon_in=inputs, synapse_words=words(neurons), axon_map=entries)

    # Every budget grows with the neurons of a core, so the sizes that fit are a prefix of 1, 2, 3, ...
    most = max(1, bisect_right(range(1, layer.neurons + 1), False, key=lambda neurons: not _fits(core(neurons))))
    cores = max(1, -(-layer.neurons // most))
    small, larger_cores = divmod(layer.neurons, cores)
    fullest = core(small + (larger_cores > 0))
    return LayerMapping(
        name=layer.name,
        kind="dense",
        cores=cores,
        neurons=layer.neurons,
        weight_bits=max(bits for _, bits in stored),
        columns=None,
        core=fullest,
        synapse_words_total=larger_cores * words(small + 1) + (cores - larger_cores) * words(small),
        binding=_binding(fullest, core(most + 1), cores),
        lower_bound=True,
        basis=DENSE_SPLIT,
    )


def _axon_map(neurons: int, chunks: int, readers: Sequence[Conv | Dense]) -> int:
    if not readers:
        return neurons
    return sum(chunks if isinstance(reader, Conv) else neurons for reader in readers)


def _core(chip: Chip, *, neurons: int, axon_in: int, synapse_words: int, axon_map: int) -> dict[str, Use]:
    used = {
        "neurons": neurons,
        "neuron_groups": 1,  # the neurons of a layer differ in nothing but their bias
        "axon_in": axon_in,
        "synapse_words": synapse_words,
        "axon_map": axon_map,
        "total": axon_in + neurons + synapse_words + axon_map,
    }
    return {resource: Use(amount, chip.budgets[resource].value) for resource, amount in used.items()}


def _fits(core: dict[str, Use]) -> bool:
    return all(use.used <= use.limit for use in core.values())


def _binding(fullest: dict[str, Use], next_larger: dict[str, Use], cores: int) -> str:
    """What the next larger core would break; what is fullest where nothing larger is wanted or nothing fits."""
    judged = next_larger if cores > 1 and _fits(fullest) else fullest
    # One group a core, always: it binds nothing, though it is the largest fraction of a tiny layer's core.
    return max(judged, key=lambda resource: 0 if resource == "neuron_groups" else judged[resource].fraction)


def _check_layer(layer: LayerMapping, chip: Chip) -> None:
    widest = chip.limits["weight_bits"].value
    if layer.weight_bits > widest:
        raise DoesNotFit(
            f"layer '{layer.name}' has weights of {layer.weight_bits} bits, {chip.name} stores {widest}",
            "lower the network again for this chip",
        )
    if not layer.fits:
        smallest = "tile of one column" if layer.kind == "conv" else "single neuron"
        use = layer.core[layer.binding]
        raise DoesNotFit(
            f"layer '{layer.name}': a core holding a {smallest} needs {use.used} {layer.binding}, "
            f"{chip.name} has {use.limit} ({chip.budgets[layer.binding].unit})",
            _ADVICE[layer.kind, layer.binding in ("neurons", "axon_map")],
        )


_ADVICE = {
    ("conv", True): "prune its channels or make its map less high: a core takes whole columns of all channels",
    ("conv", False): "prune its channels or those it reads: a core stores the whole kernel",
    ("dense", True): "connect fewer layers to it",
    ("dense", False): "prune the channels it reads, or shrink the map by max_pool or a stride (avg_pool folds into it)",
}
