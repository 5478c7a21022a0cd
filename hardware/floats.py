"""Populations in floats: what the integers of a chip are measured against.

The equations are those of `euler`, without rounding, saturation or wrap. It walks through time one step at
a time and is meant for calibration and for checking a graph, not for test sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sca_deploy.hardware.frontend import Path, Population
from sca_deploy.hardware.program import INPUT


@dataclass(frozen=True, eq=False)
class FloatRun:
    """Spikes of every population, (samples, steps, *shape), and the last one's final `v`, (samples, neurons)."""

    spikes: dict[str, npt.NDArray[np.bool_]]
    final: npt.NDArray[np.float64]


def run_floats(populations: Sequence[Population], x: npt.NDArray[np.generic]) -> FloatRun:
    """Run samples from rest. x is (samples, steps, *input shape)."""
    samples, steps = x.shape[:2]
    known = {INPUT: torch.from_numpy(np.array(x, dtype=np.float64))}
    for population in populations:
        known[population.name] = torch.zeros(samples, steps, *population.shape, dtype=torch.float64)
    final = torch.zeros(0)
    with torch.inference_mode():
        for population in populations:
            final = _run(population, known)
    spikes = {p.name: known[p.name].bool().numpy() for p in populations}
    return FloatRun(spikes, final.flatten(1).numpy())


def _run(population: Population, known: dict[str, torch.Tensor]) -> torch.Tensor:
    """Fill in the spikes of one population, whose sources are done; returns its last potential."""
    neuron, fired = population.neuron, known[population.name]
    constant = torch.from_numpy(population.bias).reshape(-1, *(1,) * (len(population.shape) - 1))
    u = torch.zeros_like(fired[:, 0])
    v = torch.zeros_like(u)
    for t in range(fired.shape[1]):
        u = neuron.alpha * u + sum(_arriving(path, known[path.source], t) for path in population.paths)
        v = neuron.beta * v + u + constant
        if neuron.threshold is not None:
            fired[:, t] = v >= neuron.threshold if neuron.ties_fire else v > neuron.threshold
            v = v * (1 - fired[:, t])
    return v


def _arriving(path: Path, source: torch.Tensor, t: int) -> torch.Tensor:
    """What one path brings at step t, from what its source sent `delay` steps before."""
    operator, weight = path.operator, torch.from_numpy(path.operator.weight)
    if operator.is_conv:
        return F.conv2d(
            source[:, t], weight, None, operator.stride, operator.padding, operator.dilation, operator.groups
        )
    delay = np.broadcast_to(path.delay, operator.weight.shape)
    total = torch.zeros(len(source), len(weight), dtype=torch.float64)
    for late in np.unique(delay):
        if late <= t:
            total += source[:, t - late].flatten(1) @ (weight * torch.from_numpy(delay == late)).T
    return total
