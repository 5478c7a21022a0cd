"""What a pruning method is: a few moments of a training at which it may act.

A method is one file in `pruning/methods`, holding a subclass of `Method`; it is found there by its `name`,
so that adding one touches no other file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch

from sca_deploy.config import PruneConfig
from sca_deploy.errors import ScaDeployError, UsageError, unknown_name
from sca_deploy.oracle import Oracle
from sca_deploy.pruning.group import Network
from sca_deploy.pruning.schedule import Plan

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Calibration:
    """Real training data for a method to look at the network with, between epochs.

    Args:
        batches: given a limit (None for all), inputs and labels in a fixed order, encoded but not augmented.
        loss: the training loss of a batch, with gradients.
        oracle: what the network would be on the chip; there where the config has a budget.
    """

    batches: Callable[[int | None], Iterator[Batch]]
    loss: Callable[[Batch], torch.Tensor]
    oracle: Oracle | None = None

    @property
    def chip(self) -> Oracle:
        """The oracle.

        Raises:
            ScaDeployError: if there is none.
        """
        if self.oracle is None:
            raise ScaDeployError("a budget is to be kept, but the chip is not known")
        return self.oracle


class Method:
    """Prunes a network while it trains. Unless overridden, a moment passes unused.

    Args:
        network: on its device; its masks or weights will be changed in place.
        config: the prune table of the config.
        plan: how long the training is.

    Raises:
        UsageError: if the network has nothing to prune this way, or the config asks for too much.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[frozenset[str]] = frozenset()
    """Keys of the prune table this method reads besides keep and the penalties."""
    prunes_channels: ClassVar[bool] = False
    """Whether a budget can be kept: only channels that are cut out give anything back."""

    def __init__(self, network: Network, config: PruneConfig, plan: Plan) -> None:
        self.network, self.config, self.plan = network, config, plan
        _refuse_unread(self.name, self.options, config)
        if config.budget and not self.prunes_channels:
            fix = "leave the budget out, or choose a method that prunes channels, such as sca"
            raise UsageError(f"method '{self.name}' cuts no channels out, which is what frees a chip's resources", fix)

    @property
    def phases(self) -> tuple[int, ...]:
        """Epochs at which the learning-rate schedule starts from the beginning."""
        return (0,)

    def penalised(self, epoch: int) -> bool:
        """Whether the config's penalties act in this epoch."""
        return True

    def before_step(self, step: int) -> None:
        """Before the forward of a batch; steps count through all epochs."""

    def after_backward(self, step: int) -> None:
        """Gradients are there and will be used next."""

    def after_step(self, step: int) -> None:
        """The optimiser has changed the weights."""

    def after_epoch(self, epoch: int, calibration: Calibration) -> dict[str, Any]:
        """What happened in the epoch, to be logged; {} if nothing is ever pruned."""
        return {}

    def once(self, calibration: Calibration) -> dict[str, Any]:
        """Prune a network that is not trained any more, from what calibration data says; what is to be logged.

        Raises:
            UsageError: if the method prunes only while a network trains.
        """
        raise UsageError(f"method '{self.name}' prunes while it trains", "give --epochs, or choose sca or random")

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors that `load_state_dict` continues from; masks of channels are the network's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""


@cache
def methods() -> dict[str, type[Method]]:
    """Every method by its name."""
    from sca_deploy.pruning import methods as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return {kind.name: kind for kind in _subclasses(Method) if "name" in vars(kind)}


def method(name: str) -> type[Method]:
    """The method of a name.

    Raises:
        UsageError: if there is none.
    """
    if name not in methods():
        raise unknown_name("prune.method", name, methods())
    return methods()[name]


def _subclasses(kind: type[Method]) -> Iterator[type[Method]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _refuse_unread(name: str, read: frozenset[str], config: PruneConfig) -> None:
    """An option that a method would not read is refused: nothing asked for is silently ignored."""
    for key in ("score", "regrow_by"):
        value = getattr(config, key)
        if value and key not in read:
            raise UsageError(f"prune.{key} is '{value}', which method '{name}' does not use", f"leave prune.{key} out")
