"""When a network is pruned, and how much of it is left then.

The kept fraction falls from 1 to `keep` on a cubic, fast first (Zhu and Gupta, 2017):

    kept(i) = keep + (1 - keep) (1 - i / n)^3,   i = 1 .. n updates

With `ramp = "constant"` it is `keep` from the first update, and with `fade = false` the share that regrows is the
same at every update (both as in SCA's released code).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from sca_deploy.config import PruneConfig


@dataclass(frozen=True)
class Plan:
    """How long a training is, in epochs and in batches an epoch, and its seed."""

    epochs: int
    batches: int
    seed: int = 0


@dataclass(frozen=True)
class Schedule:
    """Updates between the `start` and `end` fractions of a number of occasions (epochs, or steps).

    At least one occasion follows the last update, if there are two, so that a network learns with its
    final masks.
    """

    config: PruneConfig
    occasions: int
    interval: int = 1

    @cached_property
    def first(self) -> int:
        """The first occasion (from 0) after which masks are updated."""
        return min(math.floor(_as_written(self.config.start) * self.occasions), self.last)

    @cached_property
    def last(self) -> int:
        """The last occasion after which masks are updated, or the end of the interval it lies in."""
        return max(0, min(math.ceil(_as_written(self.config.end) * self.occasions) - 1, self.occasions - 2))

    @cached_property
    def updates(self) -> int:
        """How many updates there are."""
        return (self.last - self.first) // self.interval + 1

    def update(self, occasion: int) -> int:
        """Which update (from 1) follows this occasion; 0 if none does."""
        since = occasion - self.first
        due = since >= 0 and occasion <= self.last and since % self.interval == 0
        return since // self.interval + 1 if due else 0

    def keep(self, update: int) -> float:
        """The fraction that is on after an update."""
        return self.config.keep + (1 - self.config.keep) * self.left(update)

    def left(self, update: int) -> float:
        """How much of what is to go is still there after an update, 1 to 0."""
        return 0.0 if self.config.ramp == "constant" else (1 - update / self.updates) ** 3

    def regrow(self, update: int) -> float:
        """The share of the kept that regrowth chooses; fading, it falls linearly to 0 at the last update."""
        if not self.config.fade:
            return self.config.regrow
        return self.config.regrow * (self.updates - update) / max(1, self.updates - 1)


def _as_written(fraction: float) -> Fraction:
    """The decimal that a config shows: 0.55 of 100 occasions is 55, where floats give a little more."""
    return Fraction(str(fraction))
