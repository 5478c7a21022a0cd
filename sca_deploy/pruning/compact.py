"""Masks become a physically smaller network, which proves that it computes the same.

A masked channel feeds its neurons zero, so they never fire; taking it out of the layer before the
batch-norm and out of everything that reads it changes no spike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.nn.spec import BatchNormSpec, ConvSpec, FlattenSpec, LinearSpec

LOGIT_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Proof:
    """What comparing the compacted network with the masked one on a batch gave."""

    samples: int
    spikes_compared: int
    max_logit_difference: float


def compact(network: SpikingNetwork) -> SpikingNetwork:
    """A new network without the masked channels, in evaluation mode.

    Raises:
        ScaDeployError: if a layer has no channel left.
    """
    keep = _kept_outputs(network)
    spec = network.spec.with_sizes({name: int(on.sum()) for name, on in keep.items()})
    small = SpikingNetwork(spec).to(next(network.parameters()).dtype)
    alive = torch.ones(network.spec.input_shape[0], dtype=torch.bool)
    for layer, shape in zip(network.spec.layers, network.spec.shapes, strict=True):
        source, target = network.layers[layer.name], small.layers[layer.name]
        if isinstance(layer, ConvSpec | LinearSpec):
            outputs = keep.get(layer.name, torch.ones(shape[0], dtype=torch.bool))
            _copy(source, target, {"weight": (outputs, alive), "bias": (outputs,)})
            alive = outputs
        elif isinstance(layer, BatchNormSpec):
            _copy(source, target, dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (alive,)))
        elif isinstance(layer, FlattenSpec):
            alive = alive.repeat_interleave(shape[0] // len(alive))
    return small.eval()


def prove(network: SpikingNetwork, small: SpikingNetwork, x: torch.Tensor) -> Proof:
    """Run both on a real batch in float64 and compare every spike and logit.

    Args:
        x: input integers, as `SpikingNetwork.forward` takes them.

    Raises:
        Mismatch: if a spike differs or a logit differs by more than 1e-5.
    """
    wide, narrow = (_double(n) for n in (network, small))
    with torch.no_grad(), wide.recording() as masked, narrow.recording() as compacted:
        difference = float((wide(x) - narrow(x)).abs().max())
    keep = _kept_outputs(network)
    compared = 0
    for name, spikes in compacted.items():
        reference = masked[name]
        owner = _owner(network, name)
        if owner in keep:
            reference = reference[:, :, keep[owner]]
        wrong = int((spikes != reference).sum())
        if wrong:
            raise Mismatch(f"compaction changed {wrong} of {spikes.numel()} spikes of layer '{name}'")
        compared += spikes.numel()
    if not difference <= LOGIT_TOLERANCE:
        raise Mismatch(f"compaction changed a logit by {difference:g}, more than {LOGIT_TOLERANCE:g}")
    return Proof(len(x), compared, difference)


def _double(network: SpikingNetwork) -> SpikingNetwork:
    twin = SpikingNetwork(network.spec).double().eval()
    twin.load_state_dict(network.state_dict())
    return twin


def _kept_outputs(network: SpikingNetwork) -> dict[str, torch.Tensor]:
    """Boolean mask over the outputs of every convolution and linear layer that a batch-norm follows."""
    keep = {}
    for before, layer in zip(network.spec.layers, network.spec.layers[1:], strict=False):
        norm = network.layers[layer.name]
        if isinstance(norm, MaskedBatchNorm):
            on = norm.mask.cpu() > 0
            if not on.any():
                raise ScaDeployError(f"layer '{layer.name}' has no channel left", "raise prune.floor")
            keep[before.name] = on
    return keep


def _owner(network: SpikingNetwork, population: str) -> str:
    """The convolution or linear layer whose outputs the population's channels are."""
    owner = ""
    for layer in network.spec.layers:
        if isinstance(layer, ConvSpec | LinearSpec):
            owner = layer.name
        if layer.name == population:
            break
    return owner


def _copy(source: nn.Module, target: nn.Module, cuts: dict[str, tuple[torch.Tensor, ...]]) -> None:
    for key, masks in cuts.items():
        values = getattr(source, key)
        if values is None:
            continue
        values = values.detach().cpu()
        for axis, mask in enumerate(masks):
            values = values.index_select(axis, mask.nonzero().flatten())
        getattr(target, key).data.copy_(values)
