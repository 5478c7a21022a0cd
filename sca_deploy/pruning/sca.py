"""SCA: pruning and regrowth of channels by spiking channel activity (Li et al., ICML 2024).

After an epoch, all prunable channels of the network are ranked together by their score. The best are
kept; of the others, those with the largest |dL/d gamma| are regrown; the rest are masked.

Where this differs from the authors' released code: masks act in every forward, not once an epoch;
pruned weights stay, so that |dL/d gamma| of a masked channel is a live signal (see
`nn.network.MaskedBatchNorm`), summed over the batches of the epoch; no layer falls below a floor; the
kept fraction ramps down, and the masks of the last epochs are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sca_deploy.config import PruneConfig
from sca_deploy.errors import UsageError
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.pruning.scores import score


@dataclass(frozen=True)
class Schedule:
    """Which epochs update the masks, and how many channels they leave.

    The kept fraction falls on a cubic (Zhu and Gupta, 2017), fast first; regrowth falls linearly to 0.
    """

    config: PruneConfig
    epochs: int

    @property
    def first(self) -> int:
        """The first epoch (from 0) after which masks are updated."""
        return min(math.floor(self.config.start * self.epochs), self.last)

    @property
    def last(self) -> int:
        """The last epoch after which masks are updated; at least one epoch follows, if there are two."""
        return max(0, min(math.ceil(self.config.end * self.epochs) - 1, self.epochs - 2))

    def updates(self, epoch: int) -> bool:
        """Whether masks are updated after this epoch."""
        return self.first <= epoch <= self.last

    def keep(self, epoch: int) -> float:
        """Fraction of channels that are on after this epoch's update."""
        return self.config.keep + (1 - self.config.keep) * (1 - self._progress(epoch)) ** 3

    def regrow(self, epoch: int) -> float:
        """Fraction of channels regrown in this epoch's update."""
        return self.config.regrow * (self.last - epoch) / max(1, self.last - self.first)

    def _progress(self, epoch: int) -> float:
        return (epoch - self.first + 1) / (self.last - self.first + 1)


def select(
    scores: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], keep: int, regrow: int, floor: float
) -> tuple[list[torch.Tensor], int]:
    """Which channels are on, ranked over all layers together.

    Args:
        scores: per layer (C,), higher is more important.
        gradients: per layer (C,), |dL/d gamma|, for the channels that the scores leave out.
        keep: channels on in the end, over all layers.
        regrow: how many of them the gradients choose.
        floor: fraction of its channels that a layer keeps by score, at least one.

    Returns:
        Boolean masks per layer, `keep` true values in all, and how many channels the gradients chose.

    Raises:
        UsageError: if the floors alone need more than `keep` channels.
    """
    sizes = [len(s) for s in scores]
    flat, signal = torch.cat(list(scores)), torch.cat(list(gradients))
    mask = torch.zeros(len(flat), dtype=torch.bool)
    for layer, offset in zip(scores, torch.tensor([0, *sizes[:-1]]).cumsum(0), strict=True):
        least = max(1, math.floor(floor * len(layer)))
        mask[offset + layer.argsort(descending=True, stable=True)[:least]] = True
    if int(mask.sum()) > keep:
        raise UsageError(
            f"keeping {keep} of {len(flat)} channels is less than the {int(mask.sum())} that the floor of "
            f"{floor:g} a layer needs",
            "raise prune.keep or lower prune.floor",
        )
    regrown = min(regrow, keep - int(mask.sum()))
    _switch_on(mask, flat, keep - regrown)
    _switch_on(mask, signal, keep)
    return list(mask.split(sizes)), regrown


def _switch_on(mask: torch.Tensor, ranking: torch.Tensor, total: int) -> None:
    """Set the best-ranked channels that are off until `total` are on."""
    order = ranking.masked_fill(mask, -math.inf).argsort(descending=True, stable=True)
    mask[order[: total - int(mask.sum())]] = True


class SCA:
    """Watches a network in training and updates its masks after each epoch.

    Args:
        network: its batch-norms that feed neurons are prunable.
        config: fractions, score and schedule.
        epochs: length of the training.
    """

    def __init__(self, network: SpikingNetwork, config: PruneConfig, epochs: int) -> None:
        self.schedule = Schedule(config, epochs)
        self.config = config
        self._score = score(config.score)
        self._layers = prunable(network)
        if not self._layers:
            raise UsageError("the network has no batch-norm before neurons, so no channel can be pruned")
        self._weights = [m.weight for m in network.layers.values() if isinstance(m, torch.nn.Conv2d)]
        self._check_floor()
        for name, (_, neuron) in self._layers.items():
            network.neurons()[neuron].observers.append(self._observer(name))
        self._reset()

    def after_backward(self) -> None:
        """Collect this batch's |dL/d gamma|, and add the L1 penalty's gradient if there is one."""
        for name, (norm, _) in self._layers.items():
            if norm.gamma_gradient is not None:
                self._gradients[name] += norm.gamma_gradient.abs()
        if self.config.l1:
            for weight in self._weights:
                if weight.grad is not None:
                    weight.grad.add_(weight.sign(), alpha=self.config.l1)

    def after_epoch(self, epoch: int) -> dict[str, Any]:
        """Update the masks if this epoch is due; what happened, to be logged."""
        scores = [self._sums[name] / max(1, self._batches) for name in self._layers]
        gradients = list(self._gradients.values())
        log: dict[str, Any] = {"updated": self.schedule.updates(epoch), "regrown": 0}
        if log["updated"]:
            total = sum(len(s) for s in scores)
            keep = round(self.schedule.keep(epoch) * total)
            regrow = round(self.schedule.regrow(epoch) * total)
            masks, log["regrown"] = select(
                [s.cpu() for s in scores], [g.cpu() for g in gradients], keep, regrow, self.config.floor
            )
            for (norm, _), mask in zip(self._layers.values(), masks, strict=True):
                norm.mask.copy_(mask)
        log["kept"] = {name: int(norm.mask.sum()) for name, (norm, _) in self._layers.items()}
        log["masks"] = {name: _bits(norm.mask) for name, (norm, _) in self._layers.items()}
        log["scores"] = {n: [round(v, 6) for v in s.tolist()] for n, s in zip(self._layers, scores, strict=True)}
        self._reset()
        return log

    def _check_floor(self) -> None:
        """Find out before the training, not after the first update, that the floors leave too much."""
        sizes = [torch.zeros_like(norm.mask, device="cpu") for norm, _ in self._layers.values()]
        select(sizes, sizes, round(self.config.keep * sum(map(len, sizes))), 0, self.config.floor)

    def _observer(self, name: str) -> Any:
        norm, _ = self._layers[name]

        def observe(v: torch.Tensor, spikes: torch.Tensor) -> None:
            if norm.training:
                self._sums[name] += self._score(v.detach(), spikes.detach())
                self._batches += name == next(iter(self._layers))

        return observe

    def _reset(self) -> None:
        self._batches = 0
        self._sums = {name: torch.zeros_like(norm.mask) for name, (norm, _) in self._layers.items()}
        self._gradients = {name: torch.zeros_like(norm.mask) for name, (norm, _) in self._layers.items()}


def prunable(network: SpikingNetwork) -> dict[str, tuple[MaskedBatchNorm, str]]:
    """Batch-norms whose channels can go, each with the name of the population it feeds."""
    names, layers = list(network.layers), network.norms()
    return {name: (norm, names[names.index(name) + 1]) for name, norm in layers.items()}


def _bits(mask: torch.Tensor) -> str:
    return "".join("1" if on else "0" for on in mask.tolist())
