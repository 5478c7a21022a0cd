"""From a trained network to the integers it runs on: the scale search, and fine-tuning where they cost too much.

Only training samples are looked at. Fine-tuning trains the float parameters through the chip's own arithmetic
(`nn.integer`) at the scales that were found, and stops as soon as the chip is near enough.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from sca_deploy.config import Config
from sca_deploy.data import Dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.graph import DT, populations_of, to_nir
from sca_deploy.hardware.costs import inside
from sca_deploy.hardware.lower import Rules, lower
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.scales import search_scales
from sca_deploy.hardware.simulate import simulate
from sca_deploy.inputs import inputs_of
from sca_deploy.nn.integer import IntegerNetwork
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.optimization import loss_of
from sca_deploy.oracle import FINAL_SAMPLES, Oracle, measured
from sca_deploy.pruning.group import Network
from sca_deploy.train import accuracy

MEASURED_ON = 2000
"""Training samples, at most, on which the chip's accuracy is compared with the float network's."""
RATE = 0.05
"""The learning rate of fine-tuning, as a share of the training's first one."""

OnStep = Callable[[int, str], None]
"""Called with the units of work done and a remark."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A network, the scale of each of its layers, and how they were found (plain data)."""

    network: Network
    scales: dict[str, float]
    report: dict[str, Any]


def calibrate(network: Network, config: Config, dataset: Dataset, on_step: OnStep | None = None) -> Calibrated:
    """Search the scales of a compacted network and, if the config asks for it, fine-tune it in integers.

    Where the config has a budget, only a network inside it is chosen in the place of the one that was given.

    Returns:
        A network with other parameters only if it was fine-tuned. The report holds "layers", one entry each
        with the scales and spike differences, and where fine-tuning was asked for "drop_before" and "drop" in
        percentage points on training samples, the "epochs" it took and, with a budget, how many of them ended
        "over_budget".

    Raises:
        ScaDeployError: if the network cannot be lowered.
    """
    step = on_step or (lambda units, remark: None)
    inputs = inputs_of(config, dataset)
    scales: dict[str, float] = {}
    report: dict[str, Any] = {"layers": []}
    if config.lower.search:
        shape, populations = populations_of(network)
        x = inputs.over_time(dataset.train_x[: config.lower.samples])
        rules = Rules(config.network.steps, inputs.bits)
        choices = search_scales(shape, populations, rules, x, lambda n: step(n, "scales"))
        scales = {choice.name: choice.chosen for choice in choices}
        report |= {"samples": len(x), "layers": [asdict(choice) for choice in choices]}
    if config.lower.finetune:
        if not isinstance(network, SpikingNetwork):
            raise UsageError("networks brought as a graph cannot be fine-tuned in integers", "leave --finetune out")
        network = _finetune(network, scales, config, dataset, report, step)
    return Calibrated(network, scales, report)


def _finetune(
    network: SpikingNetwork,
    scales: dict[str, float],
    config: Config,
    dataset: Dataset,
    report: dict[str, Any],
    step: OnStep,
) -> SpikingNetwork:
    """Train in integers until the drop is small enough, at most `finetune` epochs; the best network is kept."""
    inputs, limit = inputs_of(config, dataset), config.lower.max_drop

    def lowered(candidate: SpikingNetwork) -> Program:
        steps, bits = config.network.steps, inputs.bits
        return lower(to_nir(candidate), dt=DT, steps=steps, input_bits=bits, scales=scales)

    x, y = dataset.train_x[:MEASURED_ON], dataset.train_y[:MEASURED_ON]
    target = accuracy(network, inputs.fixed(x), y)

    def drop(program: Program) -> float:
        readout = simulate(program, inputs.over_time(x)).readout
        return 0.0 if readout is None else 100 * (target - float((readout.argmax(1) == y).mean()))

    best, least = network, drop(lowered(network))
    report |= {"drop_before": least, "drop": least, "epochs": 0, "measured_on": len(x)}
    if config.prune.budget:
        report["over_budget"] = 0
    if least <= limit:
        return network
    tuned = copy.deepcopy(network).eval()  # batch-norms keep their statistics
    optimizer = torch.optim.Adam(tuned.parameters(), lr=config.train.lr * RATE)
    for epoch in range(config.lower.finetune):
        try:
            _train_epoch(IntegerNetwork(tuned, lowered(tuned)), optimizer, config, dataset, epoch, step)
            program = lowered(tuned)
        except ScaDeployError:  # its weights have grown too small for the scales
            break
        now = drop(program)
        if config.prune.budget and not _in_budget(program, config, dataset):
            report["over_budget"] += 1
        elif now < least:
            best, least = copy.deepcopy(tuned), now
        report |= {"drop": least, "epochs": epoch + 1}
        if least <= limit:
            break
    return best


def _in_budget(program: Program, config: Config, dataset: Dataset) -> bool:
    oracle = Oracle.of(config, dataset, FINAL_SAMPLES)
    return inside(measured(program, oracle.chip, oracle.x, config.prune.budget), config.prune.budget)


def _train_epoch(
    network: IntegerNetwork,
    optimizer: torch.optim.Optimizer,
    config: Config,
    dataset: Dataset,
    epoch: int,
    step: OnStep,
) -> None:
    inputs = inputs_of(config, dataset)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(len(dataset.train_x), generator=generator)
    labels = torch.from_numpy(dataset.train_y)
    for batch in order.split(config.train.batch_size):
        x = inputs.training(torch.from_numpy(dataset.train_x[np.asarray(batch)]), generator)
        logits = network(x, per_step=config.train.loss == "per_step")
        loss = loss_of(config.train.loss, config.network.steps, logits, labels[batch]) / len(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step(1, f"fine-tuning, loss {float(loss.detach()):.3f}")
