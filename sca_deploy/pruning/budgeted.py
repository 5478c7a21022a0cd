"""Masks that keep a budget: widths by what channels cost, channels by their score.

While a network is pruned step by step, every update chooses the widths that the budget leaves room for, and goes part
of the way there from the whole network, on the cubic of `pruning.schedule`: every layer narrows steadily, and none has
to give up much at the end. At the last step, and whenever more than the budget is measured afterwards, the masks are
settled: chosen by the cost model, lowered and measured, and chosen again under tighter limits until what was measured
fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sca_deploy.budget import ACTIVE, STRUCTURAL, amount, number
from sca_deploy.config import PruneConfig
from sca_deploy.errors import DoesNotFit
from sca_deploy.hardware.costs import Cost, inside, unheld
from sca_deploy.oracle import Oracle
from sca_deploy.pruning.activity import Channels
from sca_deploy.pruning.allocation import ALLOCATED, Edge, Problem, Widths, edges
from sca_deploy.pruning.cost_model import CostModel
from sca_deploy.pruning.group import ChannelGroup, Network, set_masks

ROUNDS = 12
"""How often masks are chosen, at most, until what is measured fits."""
TIGHTER = 0.99
"""What a limit that was exceeded is multiplied by, at most, for the next choice."""
Measure = Callable[[], dict[str, Cost]]


@dataclass(frozen=True, eq=False)
class Ranking:
    """What channels are kept by.

    Args:
        scores: per group (C,), higher is more important.
        signals: per group (C,), what brings back channels that the scores leave out.
        regrow: share of a group's kept channels that the signals choose.
        returns: whether channels that are masked may come back at all.
    """

    scores: Sequence[torch.Tensor]
    signals: Sequence[torch.Tensor] = ()
    regrow: float = 0.0
    returns: bool = True


class Budgeted:
    """The masks of a network's groups under a budget; they are set in place.

    Args:
        network: that is pruned.
        groups: its channels.
        config: budget, allocation, floor and ramp.
    """

    def __init__(self, network: Network, groups: Sequence[ChannelGroup], config: PruneConfig) -> None:
        self._network, self._groups, self._config = network, list(groups), config
        names = {id(module): name for name, module in network.neurons().items()}
        self._layers = [tuple(names[id(neuron)] for neuron in group.neurons) for group in groups]

    @property
    def budget(self) -> dict[str, float]:
        """The limits by resource."""
        return self._config.budget

    @property
    def names(self) -> list[str]:
        """Of every group, its first population."""
        return [layers[0] for layers in self._layers]

    @property
    def widths(self) -> Widths:
        """Channels of every group that are on."""
        return tuple(int(group.mask.sum()) for group in self._groups)

    def update(self, ranking: Ranking, left: float, oracle: Oracle) -> int:
        """Set masks part of the way to the budget; at its end they are settled.

        Args:
            ranking: what channels are kept by.
            left: how much of the way to the budget is left, from 1 to 0.
            oracle: knows the chip.

        Returns:
            How many channels the signals chose.

        Raises:
            DoesNotFit: if no widths would keep the limits of cores and words.
        """
        model = self._model(ranking, oracle)
        self._refuse_impossible(model, ranking, oracle)
        if left == 0:
            return self._settle(model, ranking, lambda: oracle.costs(self._network, self.budget))
        target = self._widths(self._problem(model, ranking, self.budget))
        pairs = zip(self._groups, target, strict=True)
        widths = tuple(width + math.floor(left * (group.channels - width)) for group, width in pairs)
        return self._apply(widths, ranking, self._masks())

    def settle(self, ranking: Ranking, oracle: Oracle, measure: Measure) -> int:
        """Set masks that are measured to be inside the budget, or the smallest that the floors allow.

        Args:
            ranking: what channels are kept by.
            oracle: for the cost model.
            measure: lowers the network as its masks are, and gives its costs.

        Returns:
            How many channels the signals chose.
        """
        return self._settle(self._model(ranking, oracle), ranking, measure)

    def _settle(self, model: CostModel, ranking: Ranking, measure: Measure) -> int:
        limits, before, least = dict(self.budget), self._masks(), self._problem(model, ranking, {}).least
        for _ in range(ROUNDS):
            widths = self._widths(self._problem(model, ranking, limits))
            regrown = self._apply(widths, ranking, before)
            costs = measure()
            if self.keeps(costs) or widths == least:
                return regrown
            for name, limit in self.budget.items():
                if costs[name].upper > limit:
                    limits[name] *= min(TIGHTER, limit / costs[name].upper)
        return self._apply(least, ranking, before)

    def keeps(self, costs: Mapping[str, Cost]) -> bool:
        """Whether costs are inside the budget, on other samples too, and every layer fits some core."""
        return inside(costs, self.budget)

    def refuse(self, costs: Mapping[str, Cost]) -> DoesNotFit:
        """The error of a network that is as small as it gets, and takes more than the budget."""
        if (cost := unheld(costs)) is not None:
            return DoesNotFit(
                f"the budget cannot be kept: no core can hold layer '{cost.layer}' of the smallest network that was "
                f"reached ({cost.why})",
                "lower prune.floor, or make what it reads smaller",
            )
        over = {name: costs[name] for name, limit in self.budget.items() if costs[name].upper > limit}
        name, cost = max(over.items(), key=lambda item: item[1].upper / self.budget[item[0]])
        taken = amount(name, cost.upper)
        floor = f"{self._config.floor:g} of every layer's channels (prune.floor)"
        return DoesNotFit(
            f"the budget {name}={number(self.budget[name])} cannot be kept: the smallest network that was reached, "
            f"{sum(self.widths)} channels with {floor}, takes {taken}; "
            f"layer '{cost.layer}' takes most ({cost.why})",
            f"allow {name}={math.ceil(cost.upper)}, lower prune.floor, or make '{cost.layer}' smaller",
        )

    def edges(self, ranking: Ranking, oracle: Oracle) -> list[tuple[str, int, Edge | None, Edge | None]]:
        """Of every group its first population, its width, and the nearest widths at which the cores change."""
        problem = self._problem(self._model(ranking, oracle), ranking, self.budget)
        found = zip(self.names, self.widths, edges(problem, self.widths), strict=True)
        return [(name, width, fewer, more) for name, width, (fewer, more) in found]

    def _refuse_impossible(self, model: CostModel, ranking: Ranking, oracle: Oracle) -> None:
        limits = {name: limit for name, limit in self.budget.items() if name in STRUCTURAL}
        problem = self._problem(model, ranking, limits)
        if limits and not problem.possible():
            before = self._masks()
            self._apply(problem.least, ranking, before)
            costs = oracle.costs(self._network, self.budget)
            if not self.keeps(costs):
                raise self.refuse(costs)
            set_masks(self._groups, before)

    def _model(self, ranking: Ranking, oracle: Oracle) -> CostModel:
        groups = []
        for group, layers, score in zip(self._groups, self._layers, ranking.scores, strict=True):
            on = group.mask.cpu().numpy() > 0
            values = score.double().numpy()
            if not ranking.returns:
                values = np.where(on, values, -np.inf)
            groups.append(Channels(layers, np.argsort(-values, kind="stable"), on))
        x = oracle.x if self.budget.keys() & set(ACTIVE) else None
        return CostModel(oracle.program(self._network), oracle.chip, groups, x)

    def _problem(self, model: CostModel, ranking: Ranking, limits: Mapping[str, float]) -> Problem:
        """What is to be shared out; a masked channel is taken to be worth what the least of those on is."""
        scores = []
        for channels, score in zip(model.groups, ranking.scores, strict=True):
            values = score.double().numpy()
            if self._config.allocation == "activity" and channels.on.any():
                values = np.where(channels.on, values, np.maximum(values, values[channels.on].min()))
            scores.append(values[channels.order])
        most = tuple(c.size if ranking.returns else int(c.on.sum()) for c in model.groups)
        least = (max(1, math.floor(self._config.floor * c.size)) for c in model.groups)
        return Problem(model, scores, tuple(map(min, least, most)), most, limits)

    def _widths(self, problem: Problem) -> Widths:
        return ALLOCATED[self._config.allocation](problem) or problem.least

    def _apply(self, widths: Widths, ranking: Ranking, before: Sequence[torch.Tensor]) -> int:
        """Set masks of these widths; how many channels the signals chose.

        Args:
            widths: of every group.
            ranking: what channels are kept by.
            before: the masks that were there first; where nothing returns, only their channels are kept.
        """
        masks, regrown = [], 0
        for position, (group, width) in enumerate(zip(self._groups, widths, strict=True)):
            score, mask = ranking.scores[position], torch.zeros(group.channels)
            score = score if ranking.returns else score.masked_fill(before[position] == 0, -math.inf)
            least = min(width, max(1, math.floor(self._config.floor * group.channels)))
            back = min(round(ranking.regrow * width), width - least)
            mask[score.argsort(descending=True, stable=True)[: width - back]] = 1
            if back:
                signal = ranking.signals[position].masked_fill(mask > 0, -math.inf)
                mask[signal.argsort(descending=True, stable=True)[:back]] = 1
            masks.append(mask)
            regrown += back
        set_masks(self._groups, masks)
        return regrown

    def _masks(self) -> list[torch.Tensor]:
        return [group.mask.cpu().clone() for group in self._groups]
