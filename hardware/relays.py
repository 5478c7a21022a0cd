"""Relays: neurons that repeat a spike one step later, where a convolution must wait for a longer path.

A relay has no memory and a threshold below its one weight, so it fires exactly when its source did. In the
aligned time of a Program it changes nothing; on the chip it holds the spikes of one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sca_deploy.hardware.program import DECAY_ONE, INPUT, Conv, Layer, Synapse, stages

WEIGHT = 2


def with_relays(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers with a chain of relays before every convolution that would have to wait; readers share them.

    The relays of a layer are called `<layer>_relay1`, `<layer>_relay2` and so on.
    """
    stage = stages(layers)
    sources = {layer.name: layer for layer in layers}
    relays: dict[tuple[str, int], Layer] = {}
    result: list[Layer] = []
    for layer in layers:
        synapses: list[Synapse] = []
        for synapse in layer.synapses:
            read = synapse.source
            if isinstance(synapse, Conv) and read != INPUT:
                for number in range(1, stage[layer.name] - stage[synapse.source]):
                    if (synapse.source, number) not in relays:
                        name = _free(f"{synapse.source}_relay{number}", sources)
                        relays[synapse.source, number] = _relay(name, read, sources[synapse.source])
                        result.append(relays[synapse.source, number])
                    read = relays[synapse.source, number].name
            synapses.append(replace(synapse, source=read))
        result.append(replace(layer, synapses=tuple(synapses)))
    return tuple(result)


def _free(name: str, taken: dict[str, Layer]) -> str:
    while name in taken:
        name += "_"
    return name


def _relay(name: str, read: str, source: Layer) -> Layer:
    channels = source.shape[0]
    weight = np.full((channels, 1, 1, 1), WEIGHT, np.int32)
    return Layer(
        name=name,
        shape=source.shape,
        synapses=(Conv(read, weight, groups=channels),),
        v_decay=DECAY_ONE,
        threshold=WEIGHT - 1,
        bias=np.zeros(channels, np.int32),
    )
