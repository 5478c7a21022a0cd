"""RigL: sparse from the start, weights exchanged by gradient (Evci et al., ICML 2020).

The layers' densities follow Erdos and Renyi with the kernel (ERK): proportional to
(in + out + kernel_h + kernel_w) / (in out kernel_h kernel_w), none above 1. At every update each layer drops
the share r / 2 (1 + cos(pi t / t_end)) of its weights that are smallest and grows as many others by |dL/dw|.
"""

from __future__ import annotations

import math

import torch

from sca_deploy.config import PruneConfig
from sca_deploy.pruning.group import Network
from sca_deploy.pruning.schedule import Plan
from sca_deploy.pruning.weights import WeightMethod, best


class RigL(WeightMethod):
    """A fixed number of weights in every layer, exchanged by gradient."""

    name = "rigl"
    summary = "weights sparse from the start, exchanged by gradient"
    options = frozenset()
    own_signal = "weight_gradient"

    def __init__(self, network: Network, config: PruneConfig, plan: Plan) -> None:
        super().__init__(network, config, plan)
        generator = torch.Generator().manual_seed(plan.seed)
        densities = erk({name: weight.shape for name, weight in self.weights.items()}, config.keep)
        for name, weight in self.weights.items():
            drawn = torch.rand(weight.numel(), generator=generator)
            chosen = best(drawn, max(1, round(densities[name] * weight.numel())))
            self.masks[name] = chosen.view(weight.shape).to(weight.device)
        self._zero()

    def choose(self, flat: torch.Tensor, keep: float, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Layer by layer: the smallest go, as many with the largest gradients come."""
        share = self.config.regrow / 2 * (1 + math.cos(math.pi * update / self.schedule.updates))
        sizes = [weight.numel() for weight in self.weights.values()]
        stays, comes = [], []
        split = (values.split(sizes) for values in (flat, *self._signal(update)))
        for mask, weight, signal, ties in zip(self.masks.values(), *split, strict=True):
            on = int(mask.sum())
            grown = min(int(share * on), mask.numel() - on)
            kept = best(weight.abs().masked_fill(~mask.flatten(), -1.0), on - grown)
            stays.append(kept)
            comes.append(best(signal.masked_fill(kept, -torch.inf), grown, ties))
        return torch.cat(stays), torch.cat(comes)


def erk(shapes: dict[str, torch.Size], keep: float) -> dict[str, float]:
    """The density of every layer, weighted mean `keep`; shapes are (out, in, ...)."""
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    raw = {name: sum(shape) / shape.numel() for name, shape in shapes.items()}
    full: set[str] = set()
    while len(full) < len(shapes):
        left = keep * sum(sizes.values()) - sum(sizes[name] for name in full)
        factor = left / sum(raw[name] * sizes[name] for name in shapes if name not in full)
        over = {name for name in shapes if name not in full and factor * raw[name] > 1}
        if not over:
            return {name: 1.0 if name in full else factor * raw[name] for name in shapes}
        full |= over
    return dict.fromkeys(shapes, 1.0)  # keep is 1, but for rounding
