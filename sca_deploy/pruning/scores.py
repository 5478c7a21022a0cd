"""How important a channel is: the scores that channels are ranked by, all interchangeable.

From a population's membrane potential V before the reset, which is what the threshold sees, and its
spikes S, averaged over time, samples and space:

    potential      mean |V|                         the SCA paper's importance (Li et al., ICML 2024)
    relu_potential mean max(V, 0)                   without the very negative potentials
    activity       mean S + |V after the reset|     its released code's
    rate           mean S                           the firing rate
    criticality    surrogate derivative at V        mean over time, maximum over space, mean over samples
    criticality_primitive   the same of the surrogate's integral, which grows with V
                                                    (both: Chen et al., arXiv 2311.16141)

From the weights and their gradients:

    gamma          |gamma| of the batch-norm        network slimming (Liu et al., ICCV 2017)
    weight_l1      mean |w| of the filter           (Li et al., ICLR 2017)
    taylor         mean |gamma dL/dgamma + beta dL/dbeta|    (Molchanov et al., CVPR 2019)
    random         drawn once by the seed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sca_deploy.distributed import averaged, size, summed
from sca_deploy.errors import UsageError, unknown_name
from sca_deploy.nn.reduction import channel_mean
from sca_deploy.pruning.group import ChannelGroup, Neurons

Observed = Callable[[torch.Tensor, torch.Tensor, Neurons], torch.Tensor]
Static = Callable[[ChannelGroup], torch.Tensor]


def critical(values: torch.Tensor) -> torch.Tensor:
    """The mean over time, then the maximum over space, then the mean over samples: (T, N, C, ...) to (C,)."""
    over_time = values.mean(0)
    return over_time.flatten(2).amax(2).mean(0) if over_time.dim() > 2 else over_time.mean(0)


def _activity(v: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
    # After the reset a neuron that fired holds 0, so S + |V| is 1 there and |V| elsewhere.
    return spikes + v.abs() * (1 - spikes)


def _primitive(v: torch.Tensor, _: torch.Tensor, neuron: Neurons) -> torch.Tensor:
    # Of the tanh surrogate with sharpness 3, whatever the network was trained with, as in the released code.
    shape = torch.tanh(3.0 * (v - neuron.threshold)) + math.tanh(1.5)
    return critical(shape / (2 * math.tanh(1.5)))


OBSERVED: dict[str, Observed] = {
    "potential": lambda v, s, n: channel_mean(torch.abs, v),
    "relu_potential": lambda v, s, n: channel_mean(torch.relu, v),
    "activity": lambda v, s, n: channel_mean(_activity, v, s),
    "rate": lambda v, s, n: channel_mean(lambda block: block, s),
    "criticality": lambda v, s, n: critical(n.surrogate.derivative(v - n.threshold)),
    "criticality_primitive": _primitive,
}


def _gamma(group: ChannelGroup) -> torch.Tensor:
    return torch.stack([norm.weight.detach().abs() for norm in group.norms]).mean(0)


def _weight_l1(group: ChannelGroup) -> torch.Tensor:
    return torch.stack([weight.detach().abs().flatten(1).mean(1) for weight in group.weights]).mean(0)


def _taylor(group: ChannelGroup) -> torch.Tensor:
    gates = []
    for norm in group.norms:
        from_scale = norm.weight.detach() * _gradient(norm.gamma_gradient, norm.weight)
        gates.append(from_scale + norm.bias.detach() * _gradient(norm.bias.grad, norm.bias))
    return torch.stack(gates).mean(0)


def _gradient(gradient: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


STATIC: dict[str, Static] = {"gamma": _gamma, "weight_l1": _weight_l1}
SCORES = (*OBSERVED, *STATIC, "taylor", "random")


def need_weights(name: str, groups: Sequence[ChannelGroup]) -> None:
    """Refuse a score or signal of weights where a batch-norm normalises spikes and no weights' outputs.

    Raises:
        UsageError: naming the first such batch-norm.
    """
    for group in groups:
        if not group.weights:
            raise UsageError(f"'{name}' needs weights, batch-norm '{group.name}' normalises none", "choose another")


class Meter:
    """A score of every channel, averaged over the samples seen since the last reset (taylor: over batches).

    Args:
        name: one of SCORES.
        groups: the channels; members of a group are averaged.
        seed: what the random score is drawn from.

    Raises:
        UsageError: if there is no score of that name, or it is of weights and a group has none.
    """

    def __init__(self, name: str, groups: Sequence[ChannelGroup], seed: int = 0) -> None:
        if name not in SCORES:
            raise unknown_name("score", name, SCORES)
        if name == "weight_l1":
            need_weights(name, groups)
        self.name, self._groups = name, list(groups)
        self._attached: list[tuple[Neurons, Any]] = []
        generator = torch.Generator().manual_seed(seed)
        self._drawn = [torch.rand(group.channels, generator=generator) for group in self._groups]
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._samples = [0.0] * len(self._groups)
        self._sums = [torch.zeros_like(group.mask) for group in self._groups]

    @property
    def watches(self) -> bool:
        """Whether the score is made of what the network does, and not of its weights."""
        return self.name in OBSERVED or self.name == "taylor"

    def attach(self) -> None:
        """Begin to watch the forwards that follow, if the score needs to."""
        function = OBSERVED.get(self.name)
        if function is None:
            return
        for position, group in enumerate(self._groups):
            for neuron in group.neurons:
                observer = self._observer(function, neuron, position, 1 / len(group.neurons))
                neuron.observers.append(observer)
                self._attached.append((neuron, observer))

    def detach(self) -> None:
        """Stop watching."""
        for neuron, observer in self._attached:
            neuron.observers.remove(observer)
        self._attached = []

    def after_backward(self) -> None:
        """Take what the gradients of a batch say, if the score is made of them."""
        if self.name == "taylor":
            values = averaged([_taylor(group) for group in self._groups])
            for position, value in enumerate(values):
                self._sums[position] += value.abs()
                self._samples[position] += 1.0 / size()

    def values(self) -> list[torch.Tensor]:
        """The score of every group's channels, (C,) each, on the CPU."""
        if self.name == "random":
            return [drawn.clone() for drawn in self._drawn]
        if self.name in STATIC:
            return [STATIC[self.name](group).cpu() for group in self._groups]
        sums = self._sums if self.name == "taylor" else summed(self._sums)
        [samples] = summed([torch.tensor(self._samples)])
        return [total.cpu() / max(1.0, count) for total, count in zip(sums, samples.tolist(), strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """What was seen."""
        return {"samples": list(self._samples), "sums": [total.cpu() for total in self._sums]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self._samples = list(state["samples"])
        for total, value in zip(self._sums, state["sums"], strict=True):
            total.copy_(value)

    def _observer(self, function: Observed, neuron: Neurons, position: int, share: float) -> Any:
        def observe(v: torch.Tensor, spikes: torch.Tensor) -> None:
            samples = v.shape[1]
            with torch.no_grad(), torch.autocast(v.device.type, enabled=False):  # which would round sums
                self._sums[position].add_(function(v.detach(), spikes.detach(), neuron), alpha=share * samples)
            self._samples[position] += share * samples

        return observe
