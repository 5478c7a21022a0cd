"""GraNet: magnitude pruning whose smallest survivors are exchanged by gradient (Liu et al., NeurIPS 2021)."""

from __future__ import annotations

from sca_deploy.pruning.weights import WeightMethod


class GraNet(WeightMethod):
    """Magnitude pruning on a cubic schedule; a share of the kept regrows by |dL/dw|."""

    name = "granet"
    summary = "weights by magnitude, on a cubic schedule, regrown by gradient"
    own_signal = "weight_gradient"
