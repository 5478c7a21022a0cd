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
    """The layers with a chain of relays before every convolution that would have to wait; readers share them."""
    stage = stages(layers)
    known = {layer.name: layer for layer in layers}
    result: list[Layer] = []
    for layer in layers:
        synapses: list[Synapse] = []
        for synapse in layer.synapses:
            source = synapse.source
            if isinstance(synapse, Conv) and source != INPUT:
                for _ in range(stage[layer.name] - stage[source] - 1):
                    relay = _relay(known[source])
                    if relay.name not in known:
                        known[relay.name] = relay
                        result.append(relay)
                    source = relay.name
            synapses.append(replace(synapse, source=source))
        result.append(replace(layer, synapses=tuple(synapses)))
    return tuple(result)


def _relay(source: Layer) -> Layer:
    channels = source.shape[0]
    weight = np.full((channels, 1, 1, 1), WEIGHT, np.int32)
    return Layer(
        name=f"{source.name}_relay",
        shape=source.shape,
        synapses=(Conv(source.name, weight, groups=channels),),
        v_decay=DECAY_ONE,
        threshold=WEIGHT - 1,
        bias=np.zeros(channels, np.int32),
    )
