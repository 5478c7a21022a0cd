"""What a narrower network would take: cores against the fraction of channels that is kept.

Every hidden layer keeps the same fraction f of its channels (a dense layer: of its neurons), max(1, round(f n)) of
n; the input and every layer that nothing else reads keep theirs; see `narrowing` for what becomes of the synapses.

Only sizes are looked at, no network is made: the figures are estimates, for a fraction cut evenly. A pruned
network keeps more in one layer than in another; `map` it to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

from sca_deploy.errors import UsageError
from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.mapping import smallest_system
from sca_deploy.hardware.narrowing import Narrowing
from sca_deploy.hardware.program import Program


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
    narrowed = _Evenly(program, chip)
    steps: list[Kept] = []
    for fraction in narrowed.changes(min(wanted, default=Fraction(0))):
        kept = narrowed.kept(fraction)
        if not steps or (kept.cores, kept.compiler_like) != (steps[-1].cores, steps[-1].compiler_like):
            steps.append(kept)
    return WhatIf(chip.name, tuple(narrowed.kept(fraction) for fraction in wanted), tuple(steps))


class _Evenly:
    """A Program of which every hidden layer keeps the same fraction."""

    def __init__(self, program: Program, chip: Chip) -> None:
        self.program, self.chip = program, chip
        self.narrowing = Narrowing(program, chip)

    def changes(self, least: Fraction) -> list[Fraction]:
        """The fractions, from 1 down to `least`, at which some layer loses a channel: the last that keep it."""
        sizes = {self.program[name].shape[0] for name in self.narrowing.hidden}
        # round() goes half up: k channels of n are kept down to a fraction of (k - 1/2) / n.
        last = {Fraction(2 * k - 1, 2 * n) for n in sizes for k in range(2, n + 1)}
        below = {fraction - Fraction(1, 1 << 40) for fraction in last if fraction > least}
        return sorted({Fraction(1), *below}, reverse=True)

    def kept(self, fraction: Fraction) -> Kept:
        """The network with that fraction of its channels."""
        hidden = self.narrowing.hidden
        half_up = {name: floor(fraction * self.program[name].shape[0] + Fraction(1, 2)) for name in hidden}
        channels = self.narrowing.channels({name: max(1, narrow) for name, narrow in half_up.items()})
        cuts = [self.narrowing.cut(layer.name, channels) for layer in self.program.layers]
        cores = sum(found.cores for found in cuts)
        system = smallest_system(self.chip, cores)
        names = {layer.name: channels[layer.name] for layer in self.program.layers}
        return Kept(
            keep=float(fraction),
            cores=cores,
            compiler_like=sum(found.compiler_like for found in cuts),
            system=system.name if system else None,
            channels=names,
            hidden=sum(names[name] for name in hidden),
        )
