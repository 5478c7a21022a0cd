"""Small problems of sharing a budget out, whose every width can be tried: the cost of each layer is a table."""

import itertools
import math
import random

import numpy as np

from sca_deploy.budget import RESOURCES
from sca_deploy.pruning.allocation import Problem
from sca_deploy.pruning.cost_model import FRACTION, CostModel


class Tables(CostModel):
    """A chain of groups and a read-out whose costs are tables over their own width and that of what they read.

    Args:
        tables: of every layer an array (own width + 1, read width + 1, resources and FRACTION); the first layer reads
            the input, of width 1, and the last is as wide as 1.
    """

    def __init__(self, tables):
        self.tables = tables
        self.names = [f"layer{number}" for number in range(len(tables))]

    def touched(self, group):
        return tuple(self.names[group : group + 2])

    def layers(self, widths):
        return self.some(self.names, widths)

    def some(self, names, widths):
        around = [1, *widths, 1]
        found = {}
        for name in names:
            number = self.names.index(name)
            found[name] = self.tables[number][around[number + 1], around[number]]
        return found


def problem(draw: random.Random, most=8, resources=("cores", "words", "synops", "energy-nj", "step-us"), dips=False):
    """Two or three groups of up to `most` channels, costs that rise with both widths, cores in steps, random limits.

    Args:
        dips: whether a wider layer may take less here and there, as 64 channels take fewer chunks than 63.
    """
    rng = np.random.default_rng(draw.getrandbits(32))
    sizes = [draw.randint(1, most) for _ in range(draw.choice([2, 3]))]
    around = [1, *sizes, 1]
    tables = []
    for number in range(len(around) - 1):
        own, read = around[number + 1], around[number]
        shape = (own + 1, read + 1)
        table = np.zeros((*shape, FRACTION + 1))
        for at in range(FRACTION + 1):
            table[..., at] = rng.random(shape).cumsum(0).cumsum(1) * rng.uniform(0.1, 10)
        if dips:
            table[..., RESOURCES.index("words")] *= rng.choice([0.7, 1.0], shape)
        at = RESOURCES.index("cores")
        table[..., at] = np.ceil(table[..., at] / rng.uniform(0.5, 8))
        tables.append(table)
    model = Tables(tables)
    scores = [np.sort(rng.exponential(size=size) * rng.uniform(0.1, 10))[::-1] for size in sizes]
    if draw.random() < 0.1:
        scores[0] = np.zeros(sizes[0])
    least = tuple(max(1, math.floor(draw.choice([0.0, 0.1, 0.3]) * size)) for size in sizes)
    whole, bottom = (model.total(model.layers(widths)) for widths in (sizes, least))
    chosen = draw.sample(resources, draw.randint(1, min(3, len(resources))))
    limits = {}
    for name in chosen:
        low, high = bottom[RESOURCES.index(name)], whole[RESOURCES.index(name)]
        limits[name] = max(1.0, low + draw.uniform(-0.1, 1.05) * (high - low))
    return Problem(model, scores, least, tuple(sizes), limits)


def all_widths(asked):
    """Every choice of widths there is, from the least up."""
    return itertools.product(*(range(low, high + 1) for low, high in zip(asked.least, asked.most, strict=True)))


def objective(asked, widths):
    """Minus the sum of 1 / share of every layer's score that is kept: larger is better."""
    found = 0.0
    for score, width in zip(asked.scores, widths, strict=True):
        share = sum(score[:width]) / sum(score) if sum(score) > 0 else width / len(score)
        found -= 1 / max(share, 1e-9)
    return found


def cost(asked, widths):
    """The network's cost by resource: sums over layers, the step as long as the slowest."""
    vectors = asked.model.layers(widths).values()
    sums = {name: sum(float(v[at]) for v in vectors) for at, name in enumerate(RESOURCES)}
    return sums | {"step-us": max(float(v[RESOURCES.index("step-us")]) for v in vectors)}


def inside(asked, widths):
    """Whether widths keep every limit."""
    takes = cost(asked, widths)
    return all(takes[name] <= limit for name, limit in asked.limits.items())
