"""What the unstructured methods share: masks on single weights, ranked over all layers together.

A masked weight is 0 after every step and its gradient is withheld from the optimiser, but the gradient
itself lives: the weight stands in the graph with value 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sca_deploy.config import PruneConfig
from sca_deploy.errors import UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.pruning.group import ChannelGroup, Network
from sca_deploy.pruning.groups import channel_groups
from sca_deploy.pruning.method import Calibration, Method
from sca_deploy.pruning.schedule import Plan, Schedule
from sca_deploy.pruning.scores import Meter

SIGNALS = ("weight_gradient", "criticality", "random", "none")


def best(ranking: torch.Tensor, count: int, ties: torch.Tensor | None = None) -> torch.Tensor:
    """A mask over exactly `count` of the highest values, found without sorting millions of them.

    Args:
        ranking: (N,).
        count: 0 to N.
        ties: (N,), of equal values those of the highest ties are taken; without them the first.
    """
    if count == 0:
        return torch.zeros(len(ranking), dtype=torch.bool, device=ranking.device)
    last = ranking.kthvalue(len(ranking) - count + 1).values
    mask = ranking > last
    equal = (ranking == last).nonzero().flatten()
    if ties is not None:
        equal = equal[ties[equal].argsort(descending=True, stable=True)]
    mask[equal[: count - int(mask.sum())]] = True
    return mask


class WeightMethod(Method):
    """Masks weights of convolutions and linear layers at certain steps of the training.

    A subclass says which are on after an update (`choose`). The read-out takes part in the ranking but
    never regrows, as in the criticality paper's code.
    """

    own_signal = "none"
    options = frozenset({"regrow_by"})

    def __init__(self, network: Network, config: PruneConfig, plan: Plan) -> None:
        super().__init__(network, config, plan)
        if not isinstance(network, SpikingNetwork):
            raise UsageError(
                f"method '{self.name}' masks single weights, which networks brought as a graph do not have masks for",
                "choose a method that prunes channels, such as sca",
            )
        layers = {n: m for n, m in network.layers.items() if isinstance(m, nn.Conv2d | nn.Linear)}
        self.weights: dict[str, torch.Tensor] = {name: layer.weight for name, layer in layers.items()}
        self.readout = list(self.weights)[-1]
        self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        total = sum(weight.numel() for weight in self.weights.values())
        if round(config.keep * total) < len(self.weights):
            raise UsageError(
                f"keeping {config.keep:g} of {total:,} weights leaves layers without any", "raise prune.keep"
            )
        self.signal = config.regrow_by or self.own_signal
        if self.signal not in SIGNALS:
            raise UsageError(f"prune.regrow_by is '{self.signal}', weights regrow by {', '.join(SIGNALS)}")
        self._groups = channel_groups(network) if self.signal == "criticality" else []
        self.meter = Meter("criticality", self._groups)
        self.schedule = Schedule(config, plan.epochs * plan.batches, config.interval or plan.batches)
        self._regrown = 0

    def before_step(self, step: int) -> None:
        """Watch the forward of a batch after which weights regrow."""
        if self.schedule.update(step):
            self.meter.reset()
            self.meter.attach()

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Choose anew if the step is due, and withhold the gradients of what is masked."""
        self.meter.detach()
        if update := self.schedule.update(step):
            flat = torch.cat([weight.detach().flatten() for weight in self.weights.values()])
            kept, grown = self.choose(flat, self.schedule.keep(update), update)
            sizes = [weight.numel() for weight in self.weights.values()]
            parts = zip(self.weights.items(), kept.split(sizes), grown.split(sizes), strict=True)
            for (name, weight), stays, comes in parts:
                self.masks[name] = (stays | comes).view_as(weight)
                weight.mul_(stays.view_as(weight))  # what comes back begins at 0
            self._regrown += int(grown.sum())
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.masks[name])

    def after_step(self, step: int) -> None:
        """Momentum must not move what is masked."""
        self._zero()

    def choose(self, flat: torch.Tensor, keep: float, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of all weights, flattened in the order of `weights`, stay, and which regrow: `keep` of them together.

        The largest magnitudes stay. Of those that would, the smallest outside the read-out make room for as
        many that regrow by the signal: G = int((K - K_readout) r), r = config.regrow.
        """
        count = round(keep * len(flat))
        kept = best(flat.abs(), count)
        if self.signal == "none":
            return kept, torch.zeros_like(kept)
        readout = self.is_readout()
        inner = int((kept & ~readout).sum())
        regrow = int(inner * self.config.regrow)
        kept &= readout | best(flat.abs().masked_fill(readout, -1.0), inner - regrow)
        signal, ties = self._signal(update)
        return kept, best(signal.masked_fill(kept | readout, -torch.inf), regrow, ties)

    def is_readout(self) -> torch.Tensor:
        """A mask over all weights that marks those of the last layer."""
        parts = [torch.full((w.numel(),), n == self.readout, device=w.device) for n, w in self.weights.items()]
        return torch.cat(parts)

    def after_epoch(self, epoch: int, calibration: Calibration) -> dict[str, Any]:
        """What is on."""
        kept = {name: int(mask.sum()) for name, mask in self.masks.items()}
        regrown, self._regrown = self._regrown, 0
        steps = range(epoch * self.plan.batches, (epoch + 1) * self.plan.batches)
        return {"updated": any(map(self.schedule.update, steps)), "regrown": regrown, "kept": kept}

    def state_dict(self) -> dict[str, Any]:
        """The masks."""
        return {"masks": {name: mask.cpu() for name, mask in self.masks.items()}, "regrown": self._regrown}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.masks = {name: state["masks"][name].to(mask.device) for name, mask in self.masks.items()}
        self._regrown = state["regrown"]

    def _signal(self, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What masked weights regrow by, and by what equal values are told apart: at random, by the seed."""
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + update)
        parts = []
        scores = _by_weight(self._groups, self.meter.values()) if self.signal == "criticality" else {}
        for weight in self.weights.values():
            if self.signal == "weight_gradient":
                part = torch.zeros_like(weight) if weight.grad is None else weight.grad.abs()
            elif self.signal == "criticality":
                per_output = scores.get(id(weight), torch.zeros(len(weight))).to(weight.device)
                part = per_output.view(-1, *(1,) * (weight.dim() - 1)).expand_as(weight)
            else:
                part = torch.zeros_like(weight)
            parts.append(part.flatten())
        flat = torch.cat(parts)
        return flat, torch.rand(len(flat), generator=generator).to(flat.device)

    @torch.no_grad()
    def _zero(self) -> None:
        for name, weight in self.weights.items():
            weight.mul_(self.masks[name])


def _by_weight(groups: list[ChannelGroup], scores: list[torch.Tensor]) -> dict[int, torch.Tensor]:
    """The score of every output channel of a weight, by the identity of the weight."""
    found: dict[int, list[torch.Tensor]] = {}
    for group, score in zip(groups, scores, strict=True):
        for weight in group.weights:
            found.setdefault(id(weight), []).append(score)
    return {key: torch.stack(values).mean(0) for key, values in found.items()}
