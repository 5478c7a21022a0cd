"""How synapses lie in the memory of a core: words, axons and bits a weight.

The rules are inferred from the per-core tables that the Loihi 2 compiler printed in the lava-dl tutorials
("mnist", "oxford", "pilotnet_snn", "pilotnet_sdnn", "yolo_kp"); the numbers in them come from the chip file.
Memory, in words of 64 bits, every list of synapses behind a prefix of 10 bits:

    dense core of n neurons   inputs * ceil((n (wbits + 12) + 10) / 64)
    conv core                 in_channels kh kw * sum over chunks c of ceil((c wbits + 10) / 64)

where the chunks split the output channels of the core into powers of two (36 = 32 + 4). A kernel is stored
once a core, whatever its tile. Zero weights are stored and charged. `wbits` is what the layer's own integers
need in two's complement after the lowest, always even, bit is dropped: -8..8 is -4..4 and takes 4 bits.

Input axons: a dense core has one per source neuron, a conv core one per chunk.
How the chip stores delays is not known: they are not charged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.program import Dense, IntArray, Synapse


@dataclass(frozen=True)
class Layout:
    """The chip's storage rules as plain numbers, see `STORAGE` in chip.py."""

    word_bits: int
    prefix_bits: int
    index_bits: int
    dropped_bits: int

    @classmethod
    def of(cls, chip: Chip) -> Layout:
        """The rules of a chip."""
        names = ("word_bits", "list_prefix_bits", "dense_index_bits", "dropped_weight_bits")
        return cls(*(chip.storage[name].value for name in names))

    def list_words(self, synapses: int, bits: int) -> int:
        """Words of one list of `synapses` synapses of `bits` bits each."""
        return -(-(synapses * bits + self.prefix_bits) // self.word_bits)


@dataclass(frozen=True)
class Footprint:
    """The size of a synapse object: all that its storage depends on.

    Args:
        conv: whether a kernel is stored, else a full matrix.
        outputs: channels (conv) or neurons (dense) of the layer it feeds.
        inputs: source channels of one group, or source neurons.
        taps: positions of the kernel; 1 of a dense synapse.
        groups: of a convolution.
        bits: stored bits a weight.
        delays: the longest delay in steps.
    """

    conv: bool
    outputs: int
    inputs: int
    taps: int
    groups: int
    bits: int
    delays: int = 0

    @classmethod
    def of(cls, synapse: Synapse, layout: Layout) -> Footprint:
        """The size of a Program's synapse."""
        bits = weight_bits(synapse.weight, layout)
        outputs, inputs = synapse.weight.shape[:2]
        if isinstance(synapse, Dense):
            return cls(False, outputs, inputs, 1, 1, bits, synapse.delay_range[1])
        return cls(True, outputs, inputs, int(np.prod(synapse.weight.shape[2:])), synapse.groups, bits)

    @property
    def depthwise(self) -> bool:
        """Whether every source channel has kernels of its own."""
        return self.groups > 1 and self.inputs == 1

    def words(self, start: int, stop: int, layout: Layout) -> int:
        """Synapse words of a core that holds the outputs `start` to `stop`."""
        if not self.conv:
            return self.inputs * layout.list_words(stop - start, self.bits + layout.index_bits)
        return sum(
            count * self.inputs * self.taps * sum(layout.list_words(c, self.bits) for c in channel_chunks(channels))
            for channels, count in self._runs(start, stop)
        )

    def axons(self, start: int, stop: int) -> int:
        """Input axons of a core that holds the outputs `start` to `stop`."""
        if not self.conv:
            return self.inputs
        return sum(count * len(channel_chunks(channels)) for channels, count in self._runs(start, stop))

    def _runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(output channels, how often): what the core holds of every group; a border may cut the first and last."""
        size = self.outputs // self.groups
        first, last = start // size, (stop - 1) // size
        if first == last:
            return [(stop - start, 1)]
        return [((first + 1) * size - start, 1), (size, last - first - 1), (stop - last * size, 1)]


def weight_bits(weight: IntArray, layout: Layout) -> int:
    """Bits a weight takes in memory: two's complement of the layer's own range, without the dropped lowest bits.

    The published PilotNet rows fix it: -8..8 takes 4 bits, -6..6 takes 3, -20..18 takes 5 and -256..254 takes 8.
    """
    if not weight.size:
        return 1
    stored = (int(weight.min()) >> layout.dropped_bits, int(weight.max()) >> layout.dropped_bits)
    return 1 + max((number if number >= 0 else ~number).bit_length() for number in stored)


def channel_chunks(channels: int) -> tuple[int, ...]:
    """The powers of two that `channels` is stored in, largest first: 36 is (32, 4)."""
    return tuple(1 << bit for bit in reversed(range(channels.bit_length())) if channels >> bit & 1)
