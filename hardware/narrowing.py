"""A Program whose layers have fewer channels: what each layer would take, without making the network.

Only sizes are looked at. The range of the weights is kept, so that they take the bits they take now. Kernels shrink
with the channels that they read and make, matrices with the neurons. A depthwise layer, relays among them, follows
the layer it reads; other groups keep their number, their channels are rounded up to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.cutting import Cut, Population, cut
from sca_deploy.hardware.program import INPUT, Program
from sca_deploy.hardware.storage import Footprint, Layout


class Narrowing:
    """The sizes of a Program's layers at any number of channels; layers that were cut before are remembered.

    Args:
        program: as wide as it can be.
        chip: whose cores it is cut into.

    Attributes:
        hidden: layers that another one reads, by name, in their order; only these can have fewer channels.
    """

    def __init__(self, program: Program, chip: Chip) -> None:
        self.program, self.chip = program, chip
        layout = Layout.of(chip)
        self._whole = {layer.name: Population.of(program, layer, layout) for layer in program.layers}
        read = {s.source for layer in program.layers for s in layer.synapses if s.source != layer.name}
        self.hidden = tuple(layer.name for layer in program.layers if layer.name in read and not layer.injected)
        self._known: dict[tuple[str, Population], Cut] = {}

    def channels(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """The channels of the input and every layer, where hidden layers have those chosen; the others keep theirs."""
        channels = {INPUT: self.program.input_shape[0]}
        for layer in self.program.layers:
            whole = layer.shape[0]
            narrow = chosen.get(layer.name, whole)
            for synapse, size in zip(layer.synapses, self._whole[layer.name].synapses, strict=True):
                if size.depthwise:
                    narrow = channels[synapse.source] * (whole // size.groups)
                elif size.groups > 1:
                    narrow = -(-narrow // size.groups) * size.groups
            channels[layer.name] = narrow
        return channels

    def cut(self, name: str, channels: Mapping[str, int]) -> Cut:
        """A layer cut into cores, where every layer has so many channels."""
        layer, whole = self.program[name], self._whole[name]
        synapses = tuple(
            _narrow(size, self.program.shape_of(synapse.source), channels[synapse.source], channels[name])
            for synapse, size in zip(layer.synapses, whole.synapses, strict=True)
        )
        narrow = replace(whole, shape=(channels[name], *whole.shape[1:]), synapses=synapses)
        if (name, narrow) not in self._known:
            self._known[name, narrow] = cut(narrow, self.chip)
        return self._known[name, narrow]


def _narrow(size: Footprint, source: tuple[int, ...], inputs: int, outputs: int) -> Footprint:
    """A synapse of the same kind that reads `inputs` channels of the source and makes `outputs`."""
    if not size.conv:
        return replace(size, outputs=outputs, inputs=size.inputs // source[0] * inputs)
    groups = inputs if size.depthwise else size.groups
    return replace(size, outputs=outputs, inputs=-(-inputs // groups), groups=groups)
