"""What a narrower network would take: cores against the fraction of channels that is kept.

Every hidden layer keeps the same fraction f of its channels (a dense layer: of its neurons), max(1, round(f n)) of
n; the input and every layer that nothing else reads keep theirs. The range of the weights is kept, so that they
take the bits they take now. Kernels shrink with the channels that they read and make, matrices with the neurons.
A depthwise layer, relays among them, follows the layer it reads; other groups keep their number, their
channels are rounded up to it.

Only sizes are looked at, no network is made: the figures are estimates, for a fraction cut evenly. A pruned
network keeps more in one layer than in another; `map` it to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import Any

from sca_deploy.errors import UsageError
from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.cutting import Population, cut
from sca_deploy.hardware.mapping import smallest_system
from sca_deploy.hardware.program import INPUT, Program
from sca_deploy.hardware.storage import Footprint, Layout


@dataclass(frozen=True)
class Kept:
    """The network with a fraction of its channels.

    Args:
        keep: the fraction.
        cores: that it takes; of dense layers a lower bound.
        compiler_like: that the compiler would take by the inferred rules.
        system: the smallest of the chip's systems that holds it, None if none does.
        channels: of every layer, by name.
        hidden: channels of the hidden layers together.
    """

    keep: float
    cores: int
    compiler_like: int
    system: str | None
    channels: dict[str, int]
    hidden: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `channels` are those of the hidden layers together."""
        return {
            "keep": self.keep,
            "cores": self.cores,
            "compiler_like": self.compiler_like,
            "system": self.system,
            "channels": self.hidden,
        }


@dataclass(frozen=True)
class WhatIf:
    """Cores against the fraction of channels kept.

    Args:
        chip: its name.
        asked: one entry a fraction that was asked for, in that order.
        steps: from the whole network down, one entry wherever either count of cores changes: the largest
            fraction with that count.
    """

    chip: str
    asked: tuple[Kept, ...]
    steps: tuple[Kept, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; what was asked for names the channels of every layer as well."""
        return {
            "chip": self.chip,
            "label": "estimated",
            "asked": [kept.as_dict() | {"layers": kept.channels} for kept in self.asked],
            "steps": [kept.as_dict() for kept in self.steps],
        }


def what_if(program: Program, chip: Chip, fractions: Sequence[float]) -> WhatIf:
    """Cores for each fraction, and every step between the whole network and the smallest of them (or one channel).

    Raises:
        UsageError: for a fraction outside of 0 to 1.
    """
    for keep in fractions:
        if not 0 < keep <= 1:
            raise UsageError(f"{keep:g} of the channels cannot be kept", "give fractions above 0 and up to 1")
    wanted = [Fraction(str(keep)) for keep in fractions]
    narrowed = _Narrowed(program, chip)
    steps: list[Kept] = []
    for fraction in narrowed.changes(min(wanted, default=Fraction(0))):
        kept = narrowed.kept(fraction)
        if not steps or (kept.cores, kept.compiler_like) != (steps[-1].cores, steps[-1].compiler_like):
            steps.append(kept)
    return WhatIf(chip.name, tuple(narrowed.kept(fraction) for fraction in wanted), tuple(steps))


class _Narrowed:
    """The sizes of a Program's layers at any fraction; layers that were cut before are remembered."""

    def __init__(self, program: Program, chip: Chip) -> None:
        self.program, self.chip = program, chip
        layout = Layout.of(chip)
        self.whole = {layer.name: Population.of(program, layer, layout) for layer in program.layers}
        read = {s.source for layer in program.layers for s in layer.synapses if s.source != layer.name}
        self.hidden = {layer.name for layer in program.layers if layer.name in read and not layer.injected}
        self.known: dict[tuple[str, Population], tuple[int, int]] = {}

    def changes(self, least: Fraction) -> list[Fraction]:
        """The fractions, from 1 down to `least`, at which some layer loses a channel: the last that keep it."""
        sizes = {self.whole[name].shape[0] for name in self.hidden}
        # round() goes half up: k channels of n are kept down to a fraction of (k - 1/2) / n.
        last = {Fraction(2 * k - 1, 2 * n) for n in sizes for k in range(2, n + 1)}
        below = {fraction - Fraction(1, 1 << 40) for fraction in last if fraction > least}
        return sorted({Fraction(1), *below}, reverse=True)

    def kept(self, fraction: Fraction) -> Kept:
        """The network with that fraction of its channels."""
        channels = self._channels(fraction)
        cores = compiler_like = 0
        for layer in self.program.layers:
            ours, compilers = self._cores(layer.name, channels)
            cores, compiler_like = cores + ours, compiler_like + compilers
        system = smallest_system(self.chip, cores)
        names = {layer.name: channels[layer.name] for layer in self.program.layers}
        hidden = sum(names[name] for name in self.hidden)
        return Kept(float(fraction), cores, compiler_like, system.name if system else None, names, hidden)

    def _channels(self, fraction: Fraction) -> dict[str, int]:
        channels = {INPUT: self.program.input_shape[0]}
        for layer in self.program.layers:
            whole = layer.shape[0]
            narrow = max(1, floor(fraction * whole + Fraction(1, 2))) if layer.name in self.hidden else whole
            for synapse, size in zip(layer.synapses, self.whole[layer.name].synapses, strict=True):
                if size.depthwise:
                    narrow = channels[synapse.source] * (whole // size.groups)
                elif size.groups > 1:
                    narrow = -(-narrow // size.groups) * size.groups
            channels[layer.name] = narrow
        return channels

    def _cores(self, name: str, channels: dict[str, int]) -> tuple[int, int]:
        """(cores, compiler-like cores) of a layer."""
        layer, whole = self.program[name], self.whole[name]
        synapses = tuple(
            self._narrow(size, self.program.shape_of(synapse.source), channels[synapse.source], channels[name])
            for synapse, size in zip(layer.synapses, whole.synapses, strict=True)
        )
        narrow = replace(whole, shape=(channels[name], *whole.shape[1:]), synapses=synapses)
        if (name, narrow) not in self.known:
            found = cut(narrow, self.chip)
            self.known[name, narrow] = found.cores, found.compiler_like
        return self.known[name, narrow]

    @staticmethod
    def _narrow(size: Footprint, source: tuple[int, ...], inputs: int, outputs: int) -> Footprint:
        """A synapse of the same kind that reads `inputs` channels of the source and makes `outputs`."""
        if not size.conv:
            return replace(size, outputs=outputs, inputs=size.inputs // source[0] * inputs)
        groups = inputs if size.depthwise else size.groups
        return replace(size, outputs=outputs, inputs=-(-inputs // groups), groups=groups)
