"""Which of the channels that a ranking left out come back: the signals of regrowth.

    gamma_gradient   mean |dL/dgamma| over the epoch's batches, alive for masked channels too (SCA)
    weight_gradient  mean |dL/dw| of the filter          (the signal of RigL, Evci et al., ICML 2020)
    criticality      the surrogate derivative at V       (Chen et al., arXiv 2311.16141)
    random           drawn anew at every update
    none             nothing comes back

The filters and potentials of a masked channel are dead, so `weight_gradient` and `criticality` look at
real training batches with every channel switched on, in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sca_deploy.distributed import averaged
from sca_deploy.errors import unknown_name
from sca_deploy.pruning.group import ChannelGroup, Network
from sca_deploy.pruning.method import Calibration
from sca_deploy.pruning.scores import Meter, need_weights

SIGNALS = ("gamma_gradient", "weight_gradient", "criticality", "random", "none")


class Regrowth:
    """A signal for every channel of some groups.

    Args:
        name: one of SIGNALS.
        batches: how many calibration batches to look at where the signal needs them; None for all.

    Raises:
        UsageError: if there is no signal of that name, or it is of weights and a group has none.
    """

    def __init__(
        self, name: str, network: Network, groups: Sequence[ChannelGroup], seed: int, batches: int | None = 8
    ) -> None:
        if name not in SIGNALS:
            raise unknown_name("prune.regrow_by", name, SIGNALS)
        if name == "weight_gradient":
            need_weights(name, groups)
        self.name, self._network, self._groups, self._batches = name, network, list(groups), batches
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget the gradients that were seen."""
        self._gradients = [torch.zeros_like(group.mask) for group in self._groups]

    def after_backward(self) -> None:
        """Collect |dL/dgamma| of a batch, averaged over the norms of a group."""
        if self.name != "gamma_gradient":
            return
        found = [[n.gamma_gradient for n in group.norms if n.gamma_gradient is not None] for group in self._groups]
        means = averaged([torch.stack(gradients) for gradients in found if gradients])
        totals = [total for total, gradients in zip(self._gradients, found, strict=True) if gradients]
        for total, gradient in zip(totals, means, strict=True):
            total += gradient.abs().mean(0)

    def values(self, calibration: Calibration, update: int) -> list[torch.Tensor]:
        """The signal of every group's channels, (C,) each, on the CPU."""
        if self.name == "weight_gradient":
            return self._weight_gradients(calibration)
        if self.name == "criticality":
            return self._criticality(calibration)
        if self.name == "random":
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + update)
            return [torch.rand(group.channels, generator=generator) for group in self._groups]
        return [total.cpu() for total in self._gradients]

    def state_dict(self) -> dict[str, Any]:
        """The gradients that were seen."""
        return {"gradients": [total.cpu() for total in self._gradients]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        for total, value in zip(self._gradients, state["gradients"], strict=True):
            total.copy_(value)

    def _criticality(self, calibration: Calibration) -> list[torch.Tensor]:
        meter = Meter("criticality", self._groups)
        with all_on(self._network, self._groups), torch.no_grad():
            meter.attach()
            for x, _ in calibration.batches(self._batches):
                self._network(x)
            meter.detach()
        # Every process has looked at the same batches.
        return meter.values()

    def _weight_gradients(self, calibration: Calibration) -> list[torch.Tensor]:
        weights = [weight for group in self._groups for weight in group.weights]
        totals = [torch.zeros_like(weight) for weight in weights]
        with all_on(self._network, self._groups):
            for batch in calibration.batches(self._batches):
                # Not backward(): the gradients of the training stay as they are.
                for total, gradient in zip(totals, torch.autograd.grad(calibration.loss(batch), weights), strict=True):
                    total += gradient.abs()
        of = dict(zip(map(id, weights), totals, strict=True))
        return [
            torch.stack([of[id(w)].flatten(1).mean(1) for w in group.weights]).mean(0).cpu() for group in self._groups
        ]


@contextmanager
def all_on(network: Network, groups: Sequence[ChannelGroup]) -> Iterator[None]:
    """Inside the block, the network is in evaluation mode and no channel is masked."""
    norms = [norm for group in groups for norm in group.norms]
    masks, training = [norm.mask.clone() for norm in norms], network.training
    network.eval()
    try:
        for norm in norms:
            norm.mask.fill_(1)
        yield
    finally:
        for norm, mask in zip(norms, masks, strict=True):
            norm.mask.copy_(mask)
        network.train(training)
