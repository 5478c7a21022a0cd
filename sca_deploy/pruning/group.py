"""Channels that are pruned together, whatever kind of network they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sca_deploy.nn.graph_network import Gate, GraphNetwork, GraphNeurons
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.nn.neuron import LIF

Network = SpikingNetwork | GraphNetwork
"""A network that is described by a spec, or brought as a graph."""
Norm = MaskedBatchNorm | Gate
Neurons = LIF | GraphNeurons


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are pruned together.

    Args:
        name: the layer name of the first batch-norm; of a graph, the first population's.
        norms: batch-norms, or gates, that share one mask.
        neurons: the populations whose channels these are; never none.
        weights: of the maps whose outputs the norms normalise, (channels, ...); one may belong to several groups
            where several norms read one stream.
    """

    name: str
    norms: tuple[Norm, ...]
    neurons: tuple[Neurons, ...]
    weights: tuple[nn.Parameter, ...]

    @property
    def channels(self) -> int:
        """How many channels the group has."""
        return len(self.mask)

    @property
    def mask(self) -> torch.Tensor:
        """1 for the channels that are on, else 0, (channels,)."""
        return self.norms[0].mask

    def set_mask(self, mask: torch.Tensor) -> None:
        """Switch channels on and off, by 1 and 0 or by booleans, (channels,)."""
        for norm in self.norms:
            norm.mask.copy_(mask)


def set_masks(groups: Sequence[ChannelGroup], masks: Sequence[torch.Tensor]) -> None:
    """Switch the channels of groups on and off, a mask each."""
    for group, mask in zip(groups, masks, strict=True):
        group.set_mask(mask)
