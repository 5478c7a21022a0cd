"""How many channels every layer keeps, so that the network stays inside a budget.

What is kept of a layer is the share of its score that its best k channels hold; what is sought are the widths

    minimise    sum over layers of 1 / (share of the layer's score that is kept)
    subject to  cost(widths) <= limit, for every limited resource

so a layer's last channels are dear, and none becomes a bottleneck for the others' sake; a channel that costs little
(a narrow kernel, a core with room left, few spikes) stays longer than one that costs much. Cores grow in steps, so a
layer gives up as many channels at once as it takes to save something. The search: from the full widths down, always
what saves most for the score that is lost, until the budget holds; then up, wherever something still fits; then
exchanges between layers, as long as one gains.

No core is spent on nothing: one that adds less than a quarter of the channels that a core of those layers holds in the
mean is given back.

`by_score` and `evenly` share a budget out in the two usual ways, to compare with: the best channels of the whole
network, or the same fraction of every layer, as many as fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sca_deploy.budget import RESOURCES
from sca_deploy.hardware.costs import UNHELD
from sca_deploy.pruning.activity import Floats
from sca_deploy.pruning.cost_model import FRACTION, CostModel

MOVES = 32
"""Widths of a layer, evenly spaced, that are tried at once on the way down."""
HARDLY = 1e-3
"""What a saving that no limit feels yet, a part of a core, counts beside one that it does."""
NOTHING = 0.25
"""The share of what a core holds in the mean below which an additional one is spent on nothing."""
FURTHER = (0.0, 0.02, 0.06, 0.12, 0.25)
"""How far a layer is widened, as shares of its channels, to see whether others should make room."""
PASSES = 4
"""How often exchanges go through all layers, at most."""
CORES = RESOURCES.index("cores")
Widths = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be shared out.

    Args:
        model: says what widths cost.
        scores: of every group's channels, in the order in which they would be kept, (C,).
        least, most: channels that every group keeps at least, and at most.
        limits: of RESOURCES.
    """

    model: CostModel
    scores: Sequence[Floats]
    least: Widths
    most: Widths
    limits: Mapping[str, float]

    def worth(self) -> list[Floats]:
        """Of every group, -1 / (share of its score that k channels hold), for k from 0 to C."""
        return [_worth(score) for score in self.scores]

    def limit_vector(self) -> Floats:
        """The limits as a model's vector, infinite where there is none; every layer has to fit some core."""
        limits = {"cores": UNHELD, **self.limits}
        return np.array([*(float(limits.get(name, math.inf)) for name in RESOURCES), math.inf])

    def possible(self) -> bool:
        """Whether any widths were found that are inside the limits."""
        return _Search(self, self.most).shrink(range(len(self.most)))

    def fits(self, widths: Sequence[int]) -> bool:
        """Whether widths are inside every limit, as the model sees it."""
        return bool((self.model.total(self.model.layers(widths)) <= self.limit_vector()).all())


def by_cost(problem: Problem) -> Widths | None:
    """The widths that keep most of every layer's score inside the limits; None where not even the least fit."""
    search = _Search(problem, problem.most)
    if not search.shrink(range(len(problem.least))):
        return None
    search.grow()
    for _ in range(PASSES):
        if not search.exchange():
            break
    search.give_back()
    return tuple(search.widths)


def by_score(problem: Problem) -> Widths | None:
    """As many of the network's best-scored channels as fit, ranked over all layers together."""
    widths = list(problem.most)
    if problem.fits(widths):
        return tuple(widths)
    scores = [score[:most] for score, most in zip(problem.scores, problem.most, strict=True)]
    ranked = [(float(value), -group, -place) for group, of in enumerate(scores) for place, value in enumerate(of)]
    for _, group, place in sorted(ranked):
        if -place >= problem.least[-group]:
            widths[-group] -= 1
            if problem.fits(widths):
                return tuple(widths)
    return None


def evenly(problem: Problem) -> Widths | None:
    """The largest fraction of every layer's channels that fits."""
    sizes = [len(score) for score in problem.scores]
    # round() goes half up: k channels of n are kept down to a fraction of (k - 1/2) / n.
    changes = {(2 * k - 1) / (2 * size) - 1e-9 for size in sizes for k in range(1, size + 1)}
    bounds = list(zip(sizes, problem.least, problem.most, strict=True))
    for fraction in sorted(changes | {1.0, 0.0}, reverse=True):
        widths = tuple(max(least, min(most, math.floor(fraction * size + 0.5))) for size, least, most in bounds)
        if problem.fits(widths):
            return widths
    return None


ALLOCATED = {"activity": by_cost, "global": by_score, "uniform": evenly}
"""The ways to share a budget out, by the name a config has."""


@dataclass(frozen=True)
class Edge:
    """Where a few channels more or fewer change the cores.

    Args:
        width: channels that the group would have.
        cores: that the network would then take more, or fewer if negative.
    """

    width: int
    cores: int


def edges(problem: Problem, widths: Widths) -> list[tuple[Edge | None, Edge | None]]:
    """For every group, the nearest smaller and the nearest larger width at which the network's cores change."""
    search = _Search(problem, widths)
    now = search.whole[CORES]

    def nearest(group: int, tried: Iterable[int]) -> Edge | None:
        for width in tried:
            change = search.whole_at(group, width)[CORES] - now
            if change:
                return Edge(width, int(change))
        return None

    return [
        (
            nearest(group, range(width - 1, problem.least[group] - 1, -1)),
            nearest(group, range(width + 1, problem.most[group] + 1)),
        )
        for group, width in enumerate(widths)
    ]


class _Search:
    """Widths on the way to good ones, with what every layer costs at them."""

    def __init__(self, problem: Problem, widths: Widths) -> None:
        self.problem, self.widths = problem, list(widths)
        self._worth, self._limits = problem.worth(), problem.limit_vector()
        self._layers = problem.model.layers(widths)
        self.whole = problem.model.total(self._layers)

    def whole_at(self, group: int, width: int) -> Floats:
        """The network's vector with one group at another width."""
        return self.problem.model.total(self._layers_at(group, width))

    def shrink(self, groups: Sequence[int]) -> bool:
        """Take channels away from some groups until every limit holds; whether that was possible."""
        while self._excess(self.whole) > 0:
            best, gain = None, 0.0
            before = self._pressure(self.whole)
            for group in groups:
                for width in self._narrower(group):
                    lost = self._worth[group][self.widths[group]] - self._worth[group][width]
                    saved = before - self._pressure(self.whole_at(group, width))
                    if saved / (lost + 1e-12) > gain:
                        best, gain = (group, width), saved / (lost + 1e-12)
            if best is None:
                return False
            self._set(*best)
        return True

    def grow(self) -> None:
        """Add channels where they still fit, those first that add most score for what they take."""
        while True:
            moves = [
                (self._added(group, width) / self._taken(group, width), group, width)
                for group in range(len(self.widths))
                for width in self._wider(group)
            ]
            if not moves:
                return
            _, group, width = max(moves)
            self._set(group, width)

    def exchange(self) -> bool:
        """Widen one group at the expense of the others, if that keeps more; whether anything was gained."""
        gained = False
        for group in range(len(self.widths)):
            for width in self._steps_up(group):
                trial = _Search(self.problem, tuple(self.widths))
                trial._set(group, width)
                others = [other for other in range(len(self.widths)) if other != group]
                if trial.shrink(others):
                    trial.grow()
                    if trial._kept() > self._kept() + 1e-9:
                        self.widths, self._layers, self.whole = trial.widths, trial._layers, trial.whole
                        gained = True
        return gained

    def give_back(self) -> None:
        """Give back the cores that hold hardly a channel."""
        for group, width in enumerate(self.widths):
            for narrower in range(width - 1, max(self.problem.least[group], math.ceil((1 - NOTHING) * width)) - 1, -1):
                there = self.whole_at(group, narrower)
                saved = self.whole[CORES] - there[CORES]
                nothing = NOTHING * width * saved / self._held(group)
                if saved > 0 and width - narrower <= nothing and self._excess(there) == 0:
                    self._set(group, narrower)
                    break

    def _held(self, group: int) -> float:
        """Cores of the layers that a group's width changes."""
        return sum(float(self._layers[name][CORES]) for name in self.problem.model.touched(group))

    def _set(self, group: int, width: int) -> None:
        self._layers = self._layers_at(group, width)
        self.whole = self.problem.model.total(self._layers)
        self.widths[group] = width

    def _layers_at(self, group: int, width: int) -> dict[str, Floats]:
        widths, model = list(self.widths), self.problem.model
        widths[group] = width
        return self._layers | model.some(model.touched(group), widths)

    def _excess(self, whole: Floats) -> float:
        """How far limits are exceeded, as shares of them."""
        return float(np.maximum(whole / self._limits - 1, 0).sum())

    def _pressure(self, whole: Floats) -> float:
        return self._excess(whole) + HARDLY * float(whole[FRACTION])

    def _kept(self) -> float:
        return sum(float(worth[width]) for worth, width in zip(self._worth, self.widths, strict=True))

    def _narrower(self, group: int) -> Iterator[int]:
        width, least = self.widths[group], self.problem.least[group]
        step = max(1, self.problem.most[group] // MOVES)
        yield from range(width - step, least, -step)
        if width > least:
            yield least

    def _wider(self, group: int) -> Iterator[int]:
        """Some larger widths that fit, and on which no core is spent on nothing.

        Those further by a power of two, so that any is reached in a few moves, and the next power of two itself, which
        may be stored in fewer words than the widths before it.
        """
        width, most = self.widths[group], self.problem.most[group]
        tried = {width + (1 << bit) for bit in range(most.bit_length())} | {1 << width.bit_length(), most}
        for wider in sorted(further for further in tried if width < further <= most):
            there = self.whole_at(group, wider)
            cores = there[CORES] - self.whole[CORES]
            nothing = NOTHING * wider * cores / max(1.0, self._held(group) + cores)
            if self._excess(there) == 0 and wider - width > nothing:
                yield wider

    def _steps_up(self, group: int) -> list[int]:
        """A few larger widths, the next and some further on."""
        width, most = self.widths[group], self.problem.most[group]
        further = {width + max(1, round(share * most)) for share in FURTHER}
        return sorted({min(most, wider) for wider in further} - {width})

    def _added(self, group: int, width: int) -> float:
        return float(self._worth[group][width] - self._worth[group][self.widths[group]])

    def _taken(self, group: int, width: int) -> float:
        """What a wider group takes: the shares of the limits, and a little for its part of a core."""
        more = self.whole_at(group, width) - self.whole
        shares = float(np.maximum(more[:-1] / self._limits[:-1], 0).sum())
        return shares + HARDLY * max(0.0, float(more[FRACTION])) + 1e-9


def _worth(score: Floats) -> Floats:
    """-1 / share of the sum that the first k hold; of scores that are all alike, of the number.

    Some criticalities are negative at rest: such scores are counted from the lowest, so that more are never worth less.
    """
    above = score - min(0.0, float(score.min(initial=0.0)))
    even = above if above.sum() > 0 else np.ones_like(score)
    held = np.concatenate([[0.0], even.cumsum()]) / even.sum()
    worth: Floats = -1 / np.maximum(held, 1e-9)
    return worth
