"""No pruning: what every other method is compared with."""

from __future__ import annotations

from sca_deploy.pruning.method import Method


class Dense(Method):
    """Trains all channels and weights; only the penalties of the config act."""

    name = "dense"
    summary = "no pruning"
