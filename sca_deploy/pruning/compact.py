"""Masks become a physically smaller network, which proves that it computes the same.

A masked channel feeds its neurons zero, so they never fire. From the input on, `_alive` follows which
channels are not constantly zero; from the read-out back, `_cut` follows which of them anything still
needs. What a reader does not need of a value that another reader does is left out by a `select`. A
channel that is off, but stands in a sum beside one that is on, stays, masked as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import nn

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import (
    INPUT,
    BatchNormSpec,
    ConvSpec,
    FlattenSpec,
    LayerSpec,
    LinearSpec,
    NetworkSpec,
    SelectSpec,
    SumSpec,
)
from sca_deploy.pruning.graph_channels import compact_graph, kept_channels
from sca_deploy.pruning.group import Network

LOGIT_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Proof:
    """What comparing the compacted network with the masked one on a batch gave."""

    samples: int
    spikes_compared: int
    max_logit_difference: float


@dataclass(frozen=True)
class _Cut:
    """Boolean masks (channels,): what is kept of each value, and what each reader takes of it.

    Args:
        kept: by the value's name.
        taken: by (reader, value); never more than is kept.
    """

    kept: dict[str, torch.Tensor]
    taken: dict[tuple[str, str], torch.Tensor]

    def positions(self, value: str, channels: torch.Tensor) -> tuple[int, ...]:
        """Where original channels of a value are found among those kept."""
        return tuple((self.kept[value].cumsum(0) - 1)[channels].tolist())


@overload
def compact(network: SpikingNetwork) -> SpikingNetwork: ...
@overload
def compact(network: GraphNetwork) -> GraphNetwork: ...
def compact(network: Network) -> Network:
    """A new network without the channels that masks made superfluous, in evaluation mode.

    Raises:
        ScaDeployError: if a layer has no channel left.
    """
    if isinstance(network, GraphNetwork):
        return compact_graph(network)
    cut = _cut(network)
    small = SpikingNetwork(_smaller(network.spec, cut)).to(next(network.parameters()).dtype)
    for layer, (source, *_) in zip(network.spec.layers, network.spec.sources, strict=True):
        old, new, kept = network.layers[layer.name], small.layers[layer.name], cut.kept[layer.name]
        if isinstance(layer, ConvSpec | LinearSpec):
            _copy(old, new, {"weight": (kept, cut.taken[layer.name, source]), "bias": (kept,)})
        elif isinstance(layer, BatchNormSpec):
            _copy(old, new, dict.fromkeys(("weight", "bias", "running_mean", "running_var", "mask"), (kept,)))
    return small.eval()


def prove(network: Network, small: Network, x: torch.Tensor) -> Proof:
    """Run both on a real batch in float64 and compare every spike and logit.

    Args:
        x: input integers, as `SpikingNetwork.forward` takes them.

    Raises:
        Mismatch: if a spike differs or a logit differs by more than 1e-5.
    """
    wide, narrow = (n.twin(torch.float64) for n in (network, small))
    with torch.no_grad(), wide.recording() as masked, narrow.recording() as compacted:
        difference = float((wide(x) - narrow(x)).abs().max())
    kept = kept_channels(network) if isinstance(network, GraphNetwork) else _cut(network).kept
    compared = 0
    for name, spikes in compacted.items():
        wrong = int((spikes != masked[name][:, :, kept[name]]).sum())
        if wrong:
            raise Mismatch(f"compaction changed {wrong} of {spikes.numel()} spikes of layer '{name}'")
        compared += spikes.numel()
    if not difference <= LOGIT_TOLERANCE:
        raise Mismatch(f"compaction changed a logit by {difference:g}, more than {LOGIT_TOLERANCE:g}")
    return Proof(len(x), compared, difference)


def _alive(network: SpikingNetwork) -> dict[str, torch.Tensor]:
    """For each value, which channels are not zero whatever the input."""
    spec = network.spec
    alive = {INPUT: torch.ones(spec.input_shape[0], dtype=torch.bool)}
    for layer, sources, shape in zip(spec.layers, spec.sources, spec.shapes, strict=True):
        read = alive[sources[0]]
        if isinstance(layer, ConvSpec | LinearSpec):
            read = torch.ones(shape[0], dtype=torch.bool)
        elif isinstance(layer, BatchNormSpec):
            read = network.norms()[layer.name].mask.cpu() > 0
            if not read.any():
                raise _vanished(layer)
        elif isinstance(layer, SumSpec):
            read = torch.stack([alive[source] for source in sources]).any(0)
        elif isinstance(layer, SelectSpec):
            read = read[list(layer.channels)]
        elif isinstance(layer, FlattenSpec):
            read = read.repeat_interleave(shape[0] // len(read))
        alive[layer.name] = read
    return alive


def _cut(network: SpikingNetwork) -> _Cut:
    """What is kept, decided from the read-out back.

    Raises:
        ScaDeployError: if a layer has no channel left.
    """
    spec, alive = network.spec, _alive(network)
    cut = _Cut({name: torch.zeros_like(channels) for name, channels in alive.items()}, {})
    cut.kept[INPUT][:] = True
    cut.kept[spec.layers[-1].name][:] = True
    for layer, sources in reversed(list(zip(spec.layers, spec.sources, strict=True))):
        for source in sources:
            taken = _needed(layer, cut.kept[layer.name], alive[source])
            cut.kept[source] |= taken
            cut.taken[layer.name, source] = taken
            if isinstance(layer, FlattenSpec):  # which cannot tell the features of a channel apart
                cut.kept[layer.name] = taken.repeat_interleave(len(cut.kept[layer.name]) // len(taken))
    for layer in spec.layers:
        if not cut.kept[layer.name].any():
            raise _vanished(layer)
    return cut


def _needed(layer: LayerSpec, kept: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
    """The channels that a layer needs of a value it reads, to give the channels `kept`."""
    if isinstance(layer, ConvSpec | LinearSpec):
        return alive
    if isinstance(layer, FlattenSpec):
        return kept.view(len(alive), -1).any(1)
    if isinstance(layer, SelectSpec):
        needed = torch.zeros_like(alive)
        needed[torch.tensor(layer.channels)[kept]] = True
        return needed
    return kept


def _vanished(layer: LayerSpec) -> ScaDeployError:
    return ScaDeployError(f"layer '{layer.name}' has no channel left", "raise prune.floor")


def _smaller(spec: NetworkSpec, cut: _Cut) -> NetworkSpec:
    """The spec with the kept channels only, and a select wherever a reader takes fewer than are kept."""
    taken_names = {layer.name for layer in spec.layers}
    layers: list[LayerSpec] = []
    for layer, sources in zip(spec.layers, spec.sources, strict=True):
        reads = {}
        for source in sources:
            taken, reads[source] = cut.taken[layer.name, source], source
            if not isinstance(layer, SelectSpec) and not torch.equal(taken, cut.kept[source]):
                name = f"{source}_for_{layer.name}"
                while name in taken_names:
                    name += "_"
                taken_names.add(name)
                reads[source] = name
                channels = cut.positions(source, taken)
                layers.append(SelectSpec(name, channels, source=_from(source, layers)))
        layers.append(_resized(layer, cut, sources, reads, layers))
    return replace(spec, layers=tuple(layers))


def _resized(
    layer: LayerSpec, cut: _Cut, sources: tuple[str, ...], reads: Mapping[str, str], before: list[LayerSpec]
) -> LayerSpec:
    """The layer with the sizes that the cut leaves it, reading what took the place of its sources."""
    kept = cut.kept[layer.name]
    if isinstance(layer, SumSpec):
        return replace(layer, of=tuple(reads[source] for source in sources))
    layer = replace(layer, source=_from(reads[sources[0]], before))
    if isinstance(layer, ConvSpec):
        return replace(layer, channels=int(kept.sum()))
    if isinstance(layer, LinearSpec):
        return replace(layer, features=int(kept.sum()))
    if isinstance(layer, SelectSpec):
        return replace(layer, channels=cut.positions(sources[0], torch.tensor(layer.channels)[kept]))
    return layer


def _from(source: str, before: list[LayerSpec]) -> str:
    """How a layer written after those `before` says that it reads `source`."""
    return "" if source == (before[-1].name if before else INPUT) else source


def _copy(source: nn.Module, target: nn.Module, cuts: dict[str, tuple[torch.Tensor, ...]]) -> None:
    for key, masks in cuts.items():
        values = getattr(source, key)
        if values is None:
            continue
        values = values.detach().cpu()
        for axis, mask in enumerate(masks):
            values = values.index_select(axis, mask.nonzero().flatten())
        getattr(target, key).data.copy_(values)
