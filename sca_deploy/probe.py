"""A small real batch through the float network, for exporters to check themselves against."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sca_deploy.exporters.base import Probe
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.pruning.group import Network

SAMPLES = 16


def probe(network: Network, x: npt.NDArray[np.uint8]) -> Probe:
    """What the network makes of samples over time, (N, T, *input_shape).

    It runs in float64, so that a formats' rounding is not mixed with ours. The OR neurons that stand for a
    max-pooling in the graph are included under their graph names.
    """
    twin, steps = network.twin(torch.float64), network.steps
    pooled: dict[str, torch.Tensor] = {}
    for name, module in twin.layers.items() if isinstance(twin, SpikingNetwork) else ():
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(
                lambda _m, _i, out, key=f"{name}_or": pooled.__setitem__(key, out.unflatten(0, (steps, -1)))
            )
    with torch.no_grad(), twin.recording() as recorded:
        logits = twin(torch.tensor(x))
    spikes = {name: value.numpy() > 0 for name, value in recorded.items()}
    spikes |= {name: value.transpose(0, 1).numpy() > 0 for name, value in pooled.items()}
    return Probe(x=np.array(x), spikes=spikes, logits=logits.numpy())
