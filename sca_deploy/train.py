"""Training with surrogate gradients and a pruning method, resumable at any batch.

What is random in a batch (augmentation, spikes of a rate code, dropout) is drawn from the seed, the epoch and
the batch's number alone, so a checkpoint needs no random state to continue bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.parallel import DistributedDataParallel

from sca_deploy import distributed
from sca_deploy.bringing import brought
from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.config import Config, decisive
from sca_deploy.data import Dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.files import sha256, write_table, write_text
from sca_deploy.inputs import Inputs, inputs_of
from sca_deploy.nn.allocator import keep_freed_memory
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.nn.zoo import layers_of
from sca_deploy.optimization import device_of, loss_of, optimizer_of, rate, set_rate
from sca_deploy.oracle import Oracle
from sca_deploy.pruning.group import Network
from sca_deploy.pruning.method import Batch, Calibration, method
from sca_deploy.pruning.penalties import Penalties
from sca_deploy.pruning.schedule import Plan

EVALUATION_BATCH = 500
CALIBRATION_BATCH = 256
OnEpoch = Callable[[dict[str, Any]], None]
OnBatch = Callable[[int], None]


def network_spec(config: Config, dataset: Dataset) -> NetworkSpec:
    """The config's network for this data set.

    Raises:
        UsageError: if a layer is wrong or the read-out does not fit the classes.
    """
    network = config.network
    if bool(network.name) == bool(network.layers):
        raise UsageError("network.name and network.layers are alternatives", "give exactly one of them")
    layers = network.layers or layers_of(network.name, dataset.classes, dataset.shape)
    spec = NetworkSpec(
        input_shape=dataset.shape,
        layers=parse_layers(layers, network.neuron),
        steps=network.steps,
        input_scale=inputs_of(config, dataset).scale,
    )
    if spec.classes != dataset.classes:
        raise UsageError(
            f"the read-out '{spec.layers[-1].name}' has {spec.classes} features, "
            f"data set '{dataset.name}' has {dataset.classes} classes"
        )
    return spec


def initial_network(config: Config, dataset: Dataset) -> Network:
    """What a training begins with: the config's file, or new weights drawn from torch's seed.

    Raises:
        UsageError: if it cannot be meant, or does not fit the data.
    """
    if not config.network.file:
        return SpikingNetwork(network_spec(config, dataset))
    if config.network.name or config.network.layers:
        raise UsageError("network.file and network.name or network.layers are alternatives", "give one of them")
    return brought(config, dataset)


def train(
    config: Config,
    dataset: Dataset,
    folder: Path,
    *,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Network:
    """Train a network and leave checkpoint.pt, metrics.jsonl and metrics.csv in `folder`.

    A folder that holds a checkpoint of the same config is continued from there; the result is bit for bit
    that of a training without the interruption. Under `torchrun`, the processes share every batch.

    Args:
        on_epoch: called with the log of each finished epoch.
        on_batch: called with 1 after each batch, and with the number of those a checkpoint had done.

    Raises:
        ScaDeployError: if the loss is no longer finite, or the checkpoint is damaged.
        UsageError: if the config cannot be meant, or the checkpoint is of another one.
    """
    keep_freed_memory()
    device = device_of(config.train.device)
    with distributed.group(device):
        training = _Training(config, dataset, folder, device)
        if distributed.rank():
            on_epoch = on_batch = None
        if on_batch is not None:
            on_batch(training.step)
        while training.epoch < config.train.epochs:
            training.run_epoch(on_batch)
            if on_epoch is not None:
                on_epoch(training.log[-1])
        if not config.train.epochs:
            training.prune_once()
    return training.network.cpu().eval()


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


def accuracy(network: Network, x: npt.NDArray[np.uint8], y: npt.NDArray[np.int64]) -> float:
    """Fraction of samples whose largest logit is the label's.

    Args:
        x: encoded (`Inputs.fixed`), (N, *input_shape) or (N, T, *input_shape).
        y: (N,).
    """
    device = next(network.parameters()).device
    was_training, correct = network.training, 0
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(x), EVALUATION_BATCH):
            logits = network(torch.from_numpy(x[start : start + EVALUATION_BATCH]).to(device)).cpu()
            correct += int((logits.argmax(1).numpy() == y[start : start + EVALUATION_BATCH]).sum())
    network.train(was_training)
    return correct / len(x)


class _Training:
    """A training between two batches: everything a checkpoint holds, and the step to the next one."""

    def __init__(self, config: Config, dataset: Dataset, folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device, self._dataset = config, folder, device, dataset
        self._x, self._y = torch.from_numpy(dataset.train_x), torch.from_numpy(dataset.train_y)
        self._inputs: Inputs = inputs_of(config, dataset)
        torch.manual_seed(config.seed)
        self.network = initial_network(config, dataset).to(device)
        if config.train.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = optimizer_of(config.train, self.network)
        self._batches = len(self._order(0))
        plan = Plan(config.train.epochs, self._batches, config.seed)
        self._method = method(config.prune.method)(self.network, config.prune, plan)
        self._penalties = Penalties(self.network, config.prune)
        self.epoch = self._position = 0
        self._sums = torch.zeros(3, dtype=torch.float64)  # loss, correct, samples
        self._seconds = 0.0
        self.log: list[dict[str, Any]] = []
        for left in folder.glob(".checkpoint.pt.*.part") if distributed.rank() == 0 else ():
            left.unlink(missing_ok=True)  # a kill came while it was written
        self._resume()
        self._model = DistributedDataParallel(self.network, broadcast_buffers=False) if distributed.active() else None

    @property
    def step(self) -> int:
        """Batches done since the beginning."""
        return self.epoch * self._batches + self._position

    def run_epoch(self, on_batch: OnBatch | None) -> None:
        """The rest of the current epoch, and what follows an epoch."""
        started, saved = time.perf_counter() - self._seconds, time.monotonic()
        self.network.train()
        order = self._order(self.epoch)
        while self._position < len(order):
            self._train_batch(order[self._position])
            self._position += 1
            if on_batch is not None:
                on_batch(1)
            if time.monotonic() - saved >= self.config.train.checkpoint_seconds and self._position < len(order):
                self._seconds = time.perf_counter() - started
                self._save()
                saved = time.monotonic()
        self._finish_epoch(started)

    def prune_once(self) -> None:
        """Without training: prune from what the method sees of calibration data, and evaluate."""
        if self.log:
            return
        started = time.perf_counter()
        entry: dict[str, Any] = {"epoch": 0}
        if pruning := self._method.once(self._calibration()):
            entry["pruning"] = pruning
        entry["test_accuracy"] = accuracy(self.network, self._test_input, self._dataset.test_y)
        entry["seconds"] = round(time.perf_counter() - started, 3)
        self.log.append(entry)
        self._save()

    def _finish_epoch(self, started: float) -> None:
        loss, correct, samples = distributed.summed([self._sums])[0].tolist()
        entry: dict[str, Any] = {"epoch": self.epoch + 1, "loss": loss / samples, "train_accuracy": correct / samples}
        entry["learning_rate"] = self._optimizer.param_groups[0]["lr"]
        if pruning := self._method.after_epoch(self.epoch, self._calibration()):
            entry["pruning"] = pruning
        if distributed.rank() == 0:
            entry["test_accuracy"] = accuracy(self.network, self._test_input, self._dataset.test_y)
        entry["seconds"] = round(time.perf_counter() - started, 3)
        self.log.append(entry)
        self.epoch, self._position, self._seconds = self.epoch + 1, 0, 0.0
        self._sums.zero_()
        self._save()

    @cached_property
    def _test_input(self) -> npt.NDArray[np.uint8]:
        """The test set encoded, the same in every epoch."""
        return self._inputs.fixed(self._dataset.test_x)

    @cached_property
    def _oracle(self) -> Oracle | None:
        """The config's chip, where there is a budget to keep."""
        return Oracle.of(self.config, self._dataset) if self.config.prune.budget else None

    def _order(self, epoch: int) -> list[torch.Tensor]:
        """The samples of every batch of an epoch; batch-norm cannot normalise a batch of one."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        batches = torch.randperm(len(self._x), generator=generator).split(self.config.train.batch_size)
        return [batch for batch in batches if len(batch) >= max(2, distributed.size())]

    def _train_batch(self, batch: torch.Tensor) -> None:
        set_rate(self._optimizer, rate(self.config.train, self.step / self._batches, self._method.phases))
        config, step, share = self.config.train, self.step, slice(distributed.rank(), None, distributed.size())
        generator = torch.Generator().manual_seed(
            (self.config.seed * 1_000_003 + self.epoch) * 1_000_033 + self._position
        )
        torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=generator)))
        x = self._inputs.training(self._x[batch], generator)[share].to(self.device)
        y = self._y[batch][share].to(self.device)
        penalised = self._method.penalised(self.epoch)
        self._method.before_step(step)
        if penalised:
            self._penalties.attach()
        logits = self._logits(x)
        summed = loss_of(config.loss, self.network.steps, logits, y)
        # The gradients of several processes are averaged, so each sum counts as often as there are processes.
        loss = summed * (distributed.size() / len(batch)) + self._penalties.loss()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if penalised:
            self._penalties.after_backward()
        self._method.after_backward(step)
        self._optimizer.step()
        self._method.after_step(step)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ScaDeployError(f"the loss is {value:g} in epoch {self.epoch + 1}", "lower train.lr")
        answers = (logits.detach().sum(0) if config.loss == "per_step" else logits.detach()).argmax(1)
        self._sums += torch.tensor([float(summed.detach()), float((answers == y).sum()), len(y)])

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        low = self.config.train.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            model = self._model or self.network
            logits: torch.Tensor = model(x, per_step=self.config.train.loss == "per_step")
        return logits.float() if low else logits

    def _calibration(self) -> Calibration:
        def batches(limit: int | None) -> Iterator[Batch]:
            starts = range(0, len(self._x), CALIBRATION_BATCH)
            for start in starts if limit is None else starts[:limit]:
                x = self._inputs.fixed(self._dataset.train_x[start : start + CALIBRATION_BATCH])
                yield torch.from_numpy(x).to(self.device), self._y[start : start + CALIBRATION_BATCH].to(self.device)

        def loss(batch: Batch) -> torch.Tensor:
            name = self.config.train.loss
            logits = self.network(batch[0], per_step=name == "per_step")
            return loss_of(name, self.network.steps, logits, batch[1]) / len(batch[1])

        return Calibration(batches, loss, self._oracle)

    def _save(self) -> None:
        """Write the checkpoint, and the logs that belong to it."""
        if distributed.rank() == 0:
            save_network(
                self.folder / "checkpoint.pt",
                self.network,
                input_bits=self._inputs.bits,
                optimizer=self._optimizer.state_dict(),
                method=self._method.state_dict(),
                position={"epoch": self.epoch, "batch": self._position, "sums": self._sums, "seconds": self._seconds},
                log=self.log,
                identity=_identity(self.config),
            )
            _write_log(self.folder, self.log)
        distributed.wait()

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        _, document = load_network(path)
        if document.get("identity") != _identity(self.config):
            raise UsageError(f"{path} was trained with another config", "choose another --output, or delete the folder")
        try:
            self.network.load_state_dict(document["state"])
            self._optimizer.load_state_dict(document["optimizer"])
            self._method.load_state_dict(document["method"])
            position = document["position"]
            self.epoch, self._position, self._seconds = position["epoch"], position["batch"], position["seconds"]
            self._sums, self.log = position["sums"], document["log"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ScaDeployError(f"{path} cannot be continued ({error})", "delete it and train again") from error
        if distributed.rank() == 0:
            _write_log(self.folder, self.log)  # a kill may have come between the checkpoint and its log


def _write_log(folder: Path, log: list[dict[str, Any]]) -> None:
    write_text(folder / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in log))
    plain = [{k: v for k, v in entry.items() if k != "pruning"} | _kept(entry) for entry in log]
    write_table(folder / "metrics.csv", plain)


def _kept(entry: dict[str, Any]) -> dict[str, int]:
    return {f"kept_{name}": count for name, count in entry.get("pruning", {}).get("kept", {}).items()}


def _identity(config: Config) -> str:
    """What must be equal for a checkpoint to be continued."""
    plain = decisive(config)
    decides = {key: plain[key] for key in ("seed", "data", "network", "train", "prune")}
    if config.network.file:
        decides["file"] = sha256(Path(config.network.file))
    return json.dumps(decides, sort_keys=True)
