"""What the structured methods share: ranking channels over all layers, and masks that follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sca_deploy.config import PruneConfig
from sca_deploy.errors import UsageError
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.oracle import Oracle
from sca_deploy.pruning.budgeted import Budgeted, Ranking
from sca_deploy.pruning.group import Network, set_masks
from sca_deploy.pruning.groups import channel_groups
from sca_deploy.pruning.method import Calibration, Method
from sca_deploy.pruning.regrowth import Regrowth
from sca_deploy.pruning.schedule import Plan, Schedule
from sca_deploy.pruning.scores import Meter


def select(
    scores: Sequence[torch.Tensor], signals: Sequence[torch.Tensor], keep: int, regrow: int, floor: float
) -> tuple[list[torch.Tensor], int]:
    """Which channels are on, ranked over all layers together.

    Args:
        scores: per layer (C,), higher is more important.
        signals: per layer (C,), what regrowth ranks the channels by that the scores leave out.
        keep: channels on in the end, over all layers.
        regrow: how many of them the signals choose.
        floor: fraction of its channels that a layer keeps by score, at least one.

    Returns:
        Boolean masks per layer, `keep` true values in all, and how many channels the signals chose.

    Raises:
        UsageError: if the floors alone need more than `keep` channels.
    """
    sizes = [len(s) for s in scores]
    flat, signal = torch.cat(list(scores)), torch.cat(list(signals))
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


ONCE_BATCHES = 8
"""Calibration batches that a network is pruned from where it is not trained any more."""
WATCHED_EVERY = 2
"""Reading all potentials of a batch again costs 3 % of a training step."""


@dataclass(frozen=True)
class Wanted:
    """What an update of the masks asks for.

    Args:
        update: which one it is, from 1.
        left: how much of what is to go may still be there, 1 to 0.
        keep: the fraction of all channels that is on.
        regrow: the share of these that the signal of regrowth chooses.
    """

    update: int
    left: float
    keep: float
    regrow: float


class ChannelMethod(Method):
    """Ranks all channels of the network together by a score, and lets a signal bring some back.

    A subclass sets the score and signal it uses by default and says after which epochs masks change.
    """

    own_score = "potential"
    own_signal = "none"
    options = frozenset({"score", "regrow_by"})
    prunes_channels = True
    signal_batches: int | None = 8
    """Calibration batches a signal looks at; None for all of them."""

    def __init__(self, network: Network, config: PruneConfig, plan: Plan) -> None:
        super().__init__(network, config, plan)
        self._groups = channel_groups(network)
        if not self._groups:
            graph = isinstance(network, GraphNetwork)
            lacks = "population that a mask would silence" if graph else "batch-norm before neurons"
            raise UsageError(f"the network has no {lacks}, so no channel can be pruned")
        self.schedule = Schedule(config, plan.epochs)
        self.meter = Meter(config.score or self.own_score, self._groups, plan.seed)
        signal = config.regrow_by or self.own_signal
        self.regrowth = Regrowth(signal, network, self._groups, plan.seed, self.signal_batches)
        self._budget = Budgeted(network, self._groups, config) if config.budget else None
        if self._budget is None:
            self._check_floor()

    def before_step(self, step: int) -> None:
        """Watch the forward of every second batch: half the samples say as much, for half the time."""
        if step % WATCHED_EVERY == 0 or self.plan.batches < WATCHED_EVERY:
            self.meter.attach()

    def after_backward(self, step: int) -> None:
        """Take what the gradients say."""
        self.meter.detach()
        self.meter.after_backward()
        self.regrowth.after_backward()

    def wanted(self, epoch: int) -> Wanted | None:
        """What is asked for after this epoch; None for no update."""
        update, schedule = self.schedule.update(epoch), self.schedule
        return Wanted(update, schedule.left(update), schedule.keep(update), schedule.regrow(update)) if update else None

    def after_epoch(self, epoch: int, calibration: Calibration) -> dict[str, Any]:
        """Update the masks if this epoch is due."""
        scores, wanted = self.meter.values(), self.wanted(epoch)
        log: dict[str, Any] = {"updated": wanted is not None, "regrown": 0}
        if wanted is not None:
            share = 0.0 if self.regrowth.name == "none" else wanted.regrow
            signals = self.regrowth.values(calibration, wanted.update)
            if self._budget is not None:
                ranking = Ranking(scores, signals, share)
                log["regrown"] = self._budget.update(ranking, wanted.left, calibration.chip)
            else:
                on = round(wanted.keep * sum(len(s) for s in scores))
                masks, log["regrown"] = select(scores, signals, on, round(share * on), self.config.floor)
                set_masks(self._groups, masks)
        if self._budget is not None:
            log |= self._watched(self._budget, epoch, scores, calibration.chip)
        self.meter.reset()
        self.regrowth.reset()
        return log | self._masks() | {"scores": self._rounded(scores)}

    def _watched(self, budget: Budgeted, epoch: int, scores: Sequence[torch.Tensor], oracle: Oracle) -> dict[str, Any]:
        """What the network takes after this epoch; after the last update it is held to the budget."""
        costs, updated = oracle.costs(self.network, budget.budget), self.wanted(epoch) is not None
        if epoch > self.schedule.last and not budget.keeps(costs):
            budget.settle(Ranking(scores, returns=False), oracle, lambda: oracle.costs(self.network, budget.budget))
            costs, updated = oracle.costs(self.network, budget.budget), True
        return {"updated": updated, "takes": {name: round(costs[name].value, 3) for name in budget.budget}}

    def once(self, calibration: Calibration) -> dict[str, Any]:
        """Rank the channels once, by what the network does on calibration data; nothing regrows.

        Raises:
            UsageError: if the score tells no channel from another.
        """
        gradients = self.meter.name == "taylor"
        for batch in calibration.batches(ONCE_BATCHES if self.meter.watches else 0):
            self.meter.attach()
            with torch.set_grad_enabled(gradients):
                loss = calibration.loss(batch)
                if gradients:
                    loss.backward()
            self.meter.detach()
            self.meter.after_backward()
        scores = self.meter.values()
        if all(float(score.max()) == float(score.min()) for score in scores):
            raise UsageError(
                f"score '{self.meter.name}' is the same for all channels of every layer",
                "choose another --score, or give --epochs, in which channels come to differ",
            )
        if self._budget is not None:
            self._budget.update(Ranking(scores), 0.0, calibration.chip)
        else:
            on = round(self.config.keep * sum(len(s) for s in scores))
            masks, _ = select(scores, scores, on, 0, self.config.floor)
            set_masks(self._groups, masks)
        return {"updated": True, "regrown": 0} | self._masks() | {"scores": self._rounded(scores)}

    def state_dict(self) -> dict[str, Any]:
        """What the score and the signal have seen of this epoch."""
        return {"meter": self.meter.state_dict(), "regrowth": self.regrowth.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.meter.load_state_dict(state["meter"])
        self.regrowth.load_state_dict(state["regrowth"])

    def _rounded(self, scores: Sequence[torch.Tensor]) -> dict[str, Any]:
        return self._named([[round(v, 6) for v in score.tolist()] for score in scores])

    def _masks(self) -> dict[str, Any]:
        masks = [group.mask for group in self._groups]
        bits = ["".join("1" if on else "0" for on in mask.tolist()) for mask in masks]
        return {"kept": self._named([int(mask.sum()) for mask in masks]), "masks": self._named(bits)}

    def _named(self, values: list[Any]) -> dict[str, Any]:
        return {group.name: value for group, value in zip(self._groups, values, strict=True)}

    def _check_floor(self) -> None:
        """Find out before the training, not after the first update, that the floors leave too much."""
        sizes = [torch.zeros(group.channels) for group in self._groups]
        select(sizes, sizes, round(self.config.keep * sum(map(len, sizes))), 0, self.config.floor)


class OneShot(ChannelMethod):
    """Trains under an L1 penalty on gamma, prunes once at `end`, and fine-tunes with the schedule begun anew."""

    own_score = "gamma"

    @property
    def phases(self) -> tuple[int, ...]:
        """The pruning starts a second phase."""
        return (0, self.schedule.last + 1) if self.schedule.last + 1 < self.plan.epochs else (0,)

    def penalised(self, epoch: int) -> bool:
        """Penalties act before the pruning only."""
        return epoch <= self.schedule.last

    def wanted(self, epoch: int) -> Wanted | None:
        """All at once."""
        return Wanted(1, 0.0, self.config.keep, self.config.regrow) if epoch == self.schedule.last else None
