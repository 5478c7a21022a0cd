"""Which channels can be pruned, and which only together.

Where normalised values meet in a sum, their channels meet elementwise: a channel of the sum is gone
only when it is gone from every operand, so their batch-norms share one mask. Neurons and pooling hand
channels on; convolutions, linear layers and batch-norms start new ones.

A stream of sums that nothing normalises (pre-activation networks, He et al. 2016) cannot be masked
itself. Each batch-norm that reads it masks its own view of it; compaction then cuts that reader with a
`select`, and the stream loses the channels that no reader is left with.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.network import SpikingNetwork, Sum
from sca_deploy.nn.spec import INPUT, BatchNormSpec, LayerSpec, LIFSpec, NetworkSpec
from sca_deploy.pruning.graph_channels import graph_groups
from sca_deploy.pruning.group import ChannelGroup, Network

_STARTS = ("conv", "linear", "flatten", "select")
"""Layers whose output channels no batch-norm has normalised, or which are not those of what they read."""


def channel_groups(network: Network) -> list[ChannelGroup]:
    """The groups of a network in the order of their first batch-norms, or gates.

    Only groups that compaction can take out whole: not those that meet a value without batch-norm in a
    sum, nor those that another batch-norm reads through a sum, nor those without neurons.
    """
    if isinstance(network, GraphNetwork):
        return graph_groups(network)
    spec = network.spec
    owner = _meeting(spec)
    open_ended = {owner[INPUT]} | {owner[layer.name] for layer in spec.layers if layer.type in _STARTS}
    for layer, sources in zip(spec.layers, spec.sources, strict=True):
        if isinstance(layer, BatchNormSpec):
            open_ended.add(owner[sources[0]])
    members: dict[str, list[LayerSpec]] = {}
    for layer in spec.layers:
        members.setdefault(owner[layer.name], []).append(layer)
    groups = (_group(network, layers) for key, layers in members.items() if key not in open_ended)
    order = list(network.layers)
    return sorted((group for group in groups if group.neurons), key=lambda group: order.index(group.name))


def _meeting(spec: NetworkSpec) -> dict[str, str]:
    """For each value, one name that stands for all whose channels are the same."""
    owner = {name: name for name in (INPUT, *(layer.name for layer in spec.layers))}
    for layer, sources in zip(spec.layers, spec.sources, strict=True):
        if layer.type in _STARTS or isinstance(layer, BatchNormSpec):
            continue
        joined = {owner[source] for source in sources}
        owner = {name: owner[sources[0]] if value in joined else value for name, value in owner.items()}
        owner[layer.name] = owner[sources[0]]
    return owner


def _group(network: SpikingNetwork, members: list[LayerSpec]) -> ChannelGroup:
    norms = [layer.name for layer in members if isinstance(layer, BatchNormSpec)]
    weights = dict.fromkeys(weight for name in norms for weight in _weights(network, name))
    return ChannelGroup(
        name=norms[0],
        norms=tuple(network.norms()[name] for name in norms),
        neurons=tuple(network.neurons()[layer.name] for layer in members if isinstance(layer, LIFSpec)),
        weights=tuple(weights),
    )


def _weights(network: SpikingNetwork, name: str) -> list[nn.Parameter]:
    """Weights of the convolutions and linear layers that a layer reads, directly or through sums."""
    names = [layer.name for layer in network.spec.layers]
    found: list[nn.Parameter] = []
    for source in network.spec.sources[names.index(name)]:
        module = network.layers[source] if source != INPUT else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            found.append(cast(nn.Parameter, module.weight))
        elif isinstance(module, Sum):
            found += _weights(network, source)
    return found
