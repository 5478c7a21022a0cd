"""What a network would take of a chip if its layers had fewer channels: what budgets are shared out by.

Cores and words come from the mapper's own rules (`hardware.narrowing`), so tile widths, chunks of powers of two, weight
bits and the packing of words count as they are. What a narrower network would do is a model of what was measured
(`pruning.activity`), good enough to choose by; what was chosen is then lowered and measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sca_deploy.budget import ACTIVE, RESOURCES
from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.costs import cores_of
from sca_deploy.hardware.narrowing import Narrowing
from sca_deploy.hardware.program import Layer, Program
from sca_deploy.pruning.activity import Activity, Channels, Floats

STEP = RESOURCES.index("step-us")
"""A step takes as long as its slowest layer; of all other resources a network takes the sum over its layers."""
FRACTION = len(RESOURCES)
"""Where a layer's vector says how much of cores it fills, which falls between the steps at which cores do."""


class CostModel:
    """The cost of a network at any widths of its groups.

    Args:
        program: the network as wide as it was at first, masked channels silent in it.
        chip: whose rules and prices apply.
        groups: the channels that can be pruned.
        x: samples to measure activity on, (samples, steps, *input_shape); None where no activity is limited.
    """

    def __init__(
        self, program: Program, chip: Chip, groups: Sequence[Channels], x: npt.NDArray[np.generic] | None
    ) -> None:
        self.groups, self._narrowing = list(groups), Narrowing(program, chip)
        self._limits = (chip.budgets["neurons"].value, chip.budgets["synapse_words"].value)
        self._activity = None if x is None else Activity(program, chip, self.groups, self._narrowing, x)
        self._known: dict[tuple[str, tuple[int, ...]], Floats] = {}
        self._readers = [self._touched(number) for number in range(len(self.groups))]

    def touched(self, group: int) -> tuple[str, ...]:
        """The layers whose cost depends on the width of a group."""
        return self._readers[group]

    def layers(self, widths: Sequence[int]) -> dict[str, Floats]:
        """The vector of every layer, RESOURCES and FRACTION, where the groups have these widths."""
        channels = self._channels(widths)
        return {layer.name: self._vector(layer, channels) for layer in self._narrowing.program.layers}

    def some(self, names: Sequence[str], widths: Sequence[int]) -> dict[str, Floats]:
        """The vectors of some layers."""
        channels = self._channels(widths)
        return {name: self._vector(self._narrowing.program[name], channels) for name in names}

    @staticmethod
    def total(layers: Mapping[str, Floats]) -> Floats:
        """The vector of the network."""
        stacked = np.stack(list(layers.values()))
        whole: Floats = stacked.sum(0)
        whole[STEP] = stacked[:, STEP].max()
        return whole

    def _channels(self, widths: Sequence[int]) -> dict[str, int]:
        pairs = zip(self.groups, widths, strict=True)
        return self._narrowing.channels({name: width for group, width in pairs for name in group.layers})

    def _touched(self, number: int) -> tuple[str, ...]:
        """Layers of other sizes where a group is of another width, and those that read them."""
        whole = [group.size for group in self.groups]
        least = [1 if other == number else size for other, size in enumerate(whole)]
        before, after = self._channels(whole), self._channels(least)
        changed = {name for name in before if before[name] != after[name]}
        layers = self._narrowing.program.layers
        return tuple(s.name for s in layers if s.name in changed or changed & {y.source for y in s.synapses})

    def _vector(self, layer: Layer, channels: Mapping[str, int]) -> Floats:
        key = layer.name, (channels[layer.name], *(channels[synapse.source] for synapse in layer.synapses))
        if key not in self._known:
            found = self._narrowing.cut(layer.name, channels)
            neurons = layer.neurons // layer.shape[0] * channels[layer.name]
            fraction = neurons / self._limits[0] + found.words / self._limits[1]
            active = (0.0,) * len(ACTIVE)
            if self._activity is not None:
                active = self._activity.of(layer, channels, found.cores)
            self._known[key] = np.array([cores_of(found), found.words, *active, fraction])
        return self._known[key]
