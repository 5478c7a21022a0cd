"""Every score of every channel of a trained network, on real training data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.pruning.groups import channel_groups
from sca_deploy.pruning.method import Batch
from sca_deploy.pruning.scores import SCORES, Meter


def channel_scores(network: SpikingNetwork, batches: Iterable[Batch], seed: int = 0) -> dict[str, list[float]]:
    """Score name -> one number a channel, the groups one after another.

    The network is looked at in evaluation mode, and not changed.

    Args:
        batches: encoded inputs and labels; Taylor scores take the gradient of their mean-logit cross-entropy.
        seed: of the random score.
    """
    groups = channel_groups(network)
    meters = {name: Meter(name, groups, seed) for name in SCORES}
    network.eval()
    for x, y in batches:
        for meter in meters.values():
            meter.attach()
        loss = F.cross_entropy(network(x) / network.spec.steps, y)
        network.zero_grad(set_to_none=True)
        loss.backward()
        for meter in meters.values():
            meter.detach()
            meter.after_backward()
    network.zero_grad(set_to_none=True)
    return {name: torch.cat(meter.values()).tolist() for name, meter in meters.items()}
