"""How weights are updated: the optimiser, its learning rate over the epochs, the loss, the device."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from sca_deploy.config import TrainConfig
from sca_deploy.errors import UsageError
from sca_deploy.pruning.group import Network


def optimizer_of(config: TrainConfig, network: Network) -> torch.optim.Optimizer:
    """The optimiser over all parameters of the network."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    return torch.optim.Adam(network.parameters(), config.lr, weight_decay=config.weight_decay)


def rate(config: TrainConfig, epoch: float, phases: Sequence[int] = (0,)) -> float:
    """The learning rate after so many epochs; the schedule runs once through every phase, which begin at `phases`."""
    first = max(start for start in phases if start <= epoch)
    length = min((start for start in phases if start > epoch), default=config.epochs) - first
    done = (epoch - first) / length
    if config.rate == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * done))
    if config.rate == "step":
        return config.lr * float(0.1 ** sum(done >= milestone for milestone in config.milestones))
    return config.lr


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Make all parameters learn at this rate."""
    for group in optimizer.param_groups:
        group["lr"] = value


def loss_of(name: str, steps: int, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy of a batch.

    Args:
        name: "mean_logits" or "per_step".
        steps: time steps T.
        logits: (N, classes), summed over time; for "per_step" (T, N, classes), of each step.
        labels: (N,).
    """
    if name == "per_step":
        repeated = labels.expand(steps, *labels.shape)
        return F.cross_entropy(logits.flatten(0, 1), repeated.flatten(), reduction="sum") / steps
    return F.cross_entropy(logits / steps, labels, reduction="sum")


def device_of(name: str) -> torch.device:
    """The device of a config; "auto" is CUDA where there is one, else the CPU.

    Raises:
        UsageError: if it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # torchrun numbers the processes of a machine; each takes the GPU of its number.
        device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"train.device '{name}' is not available here", "use cpu, cuda or auto") from error
    return device
