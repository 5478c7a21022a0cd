"""Training with surrogate gradients, with or without SCA, resumable epoch by epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.config import Config, TrainConfig
from sca_deploy.data import Dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.files import write_text
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.sca import SCA

EVALUATION_BATCH = 500
Progress = Callable[[dict[str, Any]], None]


def network_spec(config: Config, dataset: Dataset) -> NetworkSpec:
    """The config's network for this data set.

    Raises:
        UsageError: if a layer is wrong or the read-out does not fit the classes.
    """
    spec = NetworkSpec(
        input_shape=tuple(dataset.train_x.shape[1:]),
        layers=parse_layers(config.network.layers, config.network.neuron),
        steps=config.network.steps,
        input_scale=1.0 / dataset.pixel_max,
    )
    if spec.classes != dataset.classes:
        raise UsageError(
            f"the read-out '{spec.layers[-1].name}' has {spec.classes} features, "
            f"data set '{dataset.name}' has {dataset.classes} classes"
        )
    return spec


def train(
    config: Config, dataset: Dataset, folder: Path, *, prune: bool, progress: Progress | None = None
) -> SpikingNetwork:
    """Train a network and leave checkpoint.pt and metrics.jsonl in `folder`.

    A folder that holds a checkpoint of the same config is continued after its last whole epoch; the
    result is the same as without the interruption.

    Args:
        prune: whether SCA masks channels meanwhile.
        progress: called with the log of each finished epoch.

    Raises:
        ScaDeployError: if the loss is no longer finite, or a checkpoint is of another config.
    """
    spec = network_spec(config, dataset)
    torch.manual_seed(config.seed)
    network = SpikingNetwork(spec)
    device = _device(config.train.device)
    optimizer = _optimizer(config.train, network.to(device))
    pruner = SCA(network, config.prune, config.train.epochs) if prune else None
    identity = _identity(config, prune)
    path, log = folder / "checkpoint.pt", []
    if path.exists():
        log = _resume(path, network, optimizer, identity)
        _write_log(folder, log)  # a kill may have come between the checkpoint and its log
    x, y = torch.from_numpy(dataset.train_x), torch.from_numpy(dataset.train_y)
    for epoch in range(len(log), config.train.epochs):
        started = time.perf_counter()
        _set_rate(optimizer, config.train, epoch)
        entry: dict[str, Any] = {"epoch": epoch + 1, **_train_epoch(network, optimizer, pruner, x, y, config, epoch)}
        if pruner is not None:
            entry["sca"] = pruner.after_epoch(epoch)
        entry["test_accuracy"] = accuracy(network, dataset.test_x, dataset.test_y)
        entry["seconds"] = round(time.perf_counter() - started, 3)
        log.append(entry)
        save_network(
            path,
            network,
            input_bits=dataset.bits,
            optimizer=optimizer.state_dict(),
            log=log,
            identity=identity,
        )
        _write_log(folder, log)
        if progress is not None:
            progress(entry)
    return network.cpu().eval()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """What `train` logged in its folder, one entry an epoch.

    Raises:
        ScaDeployError: if there is no log, or it is damaged.
    """
    path = folder / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ScaDeployError(f"{path} is not a readable log ({error})", "repeat the training command") from error


def _write_log(folder: Path, log: list[dict[str, Any]]) -> None:
    write_text(folder / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in log))


def accuracy(network: SpikingNetwork, x: npt.NDArray[np.uint8], y: npt.NDArray[np.int64]) -> float:
    """Fraction of samples whose largest logit is the label's; x (N, *input_shape), y (N,)."""
    correct = sum(int((logits.argmax(1).numpy() == labels).sum()) for logits, labels in _evaluate(network, x, y))
    return correct / len(x)


def _evaluate(
    network: SpikingNetwork, x: npt.NDArray[np.uint8], y: npt.NDArray[np.int64]
) -> Iterator[tuple[torch.Tensor, npt.NDArray[np.int64]]]:
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(x), EVALUATION_BATCH):
            batch = torch.from_numpy(x[start : start + EVALUATION_BATCH]).to(device)
            yield network(batch).cpu(), y[start : start + EVALUATION_BATCH]
    network.train(was_training)


def _train_epoch(
    network: SpikingNetwork,
    optimizer: torch.optim.Optimizer,
    pruner: SCA | None,
    x: torch.Tensor,
    y: torch.Tensor,
    config: Config,
    epoch: int,
) -> dict[str, float]:
    # Seeding by epoch makes a resumed epoch draw what the uninterrupted one would have drawn.
    torch.manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(len(x))
    device = next(network.parameters()).device
    network.train()
    total, correct, seen = 0.0, 0, 0
    for batch in order.split(config.train.batch_size):
        if len(batch) < 2:  # batch-norm cannot normalise a single sample
            continue
        images, labels = x[batch].to(device), y[batch].to(device)
        logits = network(images)
        loss = F.cross_entropy(logits / network.spec.steps, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if pruner is not None:
            pruner.after_backward()
        optimizer.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ScaDeployError(f"the loss is {value:g} in epoch {epoch + 1}", "lower train.lr")
        total += value * len(batch)
        correct += int((logits.detach().argmax(1) == labels).sum())
        seen += len(batch)
    return {"loss": total / seen, "train_accuracy": correct / seen}


def _optimizer(config: TrainConfig, network: SpikingNetwork) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    return torch.optim.Adam(network.parameters(), config.lr, weight_decay=config.weight_decay)


def _set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: int) -> None:
    rate = config.lr * 0.5 * (1 + np.cos(np.pi * epoch / config.epochs))
    for group in optimizer.param_groups:
        group["lr"] = float(rate)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"train.device '{name}' is not available here", "use cpu, cuda or auto") from error
    return device


def _identity(config: Config, prune: bool) -> str:
    """What must be equal for a checkpoint to be continued."""
    plain = config.to_plain()
    parts = {key: plain[key] for key in ("seed", "data", "network", "train", "prune" if prune else "train")}
    return json.dumps(parts, sort_keys=True)


def _resume(
    path: Path, network: SpikingNetwork, optimizer: torch.optim.Optimizer, identity: str
) -> list[dict[str, Any]]:
    _, document = load_network(path)
    if document.get("identity") != identity:
        raise UsageError(f"{path} was trained with another config", "choose another --output, or delete the folder")
    network.load_state_dict(document["state"])
    optimizer.load_state_dict(document["optimizer"])
    log: list[dict[str, Any]] = document["log"]
    return log
