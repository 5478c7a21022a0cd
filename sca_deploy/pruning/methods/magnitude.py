"""Gradual global magnitude pruning of weights on a cubic schedule (Zhu and Gupta, 2017)."""

from __future__ import annotations

from sca_deploy.pruning.weights import WeightMethod


class Magnitude(WeightMethod):
    """Keeps the largest |w| of the network, fewer at every update."""

    name = "magnitude"
    summary = "weights by magnitude, on a cubic schedule"
    options = frozenset()
