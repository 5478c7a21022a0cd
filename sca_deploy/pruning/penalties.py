"""What the loss is charged for besides errors: weights, batch-norm scales, potentials, spikes."""

from __future__ import annotations

from typing import Any, cast

import nir
import torch
from torch import nn

from sca_deploy.config import PruneConfig
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.pruning.group import Network, Neurons


class Penalties:
    """The L1 penalties of a config on a network.

    Those on potentials and spikes are terms of the loss: l1 times the mean over time, samples and neurons
    of |V| before the reset, or of S, summed over populations. Those on convolution weights and batch-norm
    scales are added to the gradients as l1 sign(x), their subgradient.
    """

    def __init__(self, network: Network, config: PruneConfig) -> None:
        self._config = config
        self._populations: list[Neurons] = list(network.neurons().values())
        self._shrunk = [(weight, config.l1_weights) for weight in _kernels(network)]
        self._shrunk += [(norm.weight, config.l1_gamma) for norm in network.norms().values()]
        self._attached: list[tuple[Neurons, Any]] = []
        self._terms: list[torch.Tensor] = []

    def attach(self) -> None:
        """Watch the next forward, if a term of the loss needs it."""
        if not (self._config.l1_potential or self._config.l1_spikes):
            return
        for neuron in self._populations:
            neuron.observers.append(self._observe)
            self._attached.append((neuron, self._observe))

    def loss(self) -> torch.Tensor | float:
        """The terms of the forwards watched since `attach`; stops watching."""
        for neuron, observer in self._attached:
            neuron.observers.remove(observer)
        terms, self._terms, self._attached = self._terms, [], []
        return sum(terms) if terms else 0.0

    def after_backward(self) -> None:
        """Add the subgradients of the penalties on weights and scales."""
        for parameter, l1 in self._shrunk:
            if l1 and parameter.grad is not None:
                parameter.grad.add_(parameter.detach().sign(), alpha=l1)

    def _observe(self, v: torch.Tensor, spikes: torch.Tensor) -> None:
        if self._config.l1_potential:
            self._terms.append(self._config.l1_potential * v.abs().mean())
        if self._config.l1_spikes:
            self._terms.append(self._config.l1_spikes * spikes.mean())


def _kernels(network: Network) -> list[torch.Tensor]:
    """The weights of all convolutions."""
    if isinstance(network, GraphNetwork):
        convolutions = [n for n, node in network.walk.nodes.items() if isinstance(node, nir.Conv1d | nir.Conv2d)]
        return [cast(torch.Tensor, network.part(name).weight) for name in convolutions]
    return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
