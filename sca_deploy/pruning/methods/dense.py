"""No pruning: what every other method is compared with."""

from __future__ import annotations

from typing import Any

from sca_deploy.pruning.method import Calibration, Method


class Dense(Method):
    """Trains all channels and weights; only the penalties of the config act."""

    name = "dense"
    summary = "no pruning"

    def once(self, calibration: Calibration) -> dict[str, Any]:
        """Nothing."""
        return {}
