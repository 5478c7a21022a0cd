"""What the channels of a network answer to: per class, and compared with one another.

Tells a rare channel that answers to one class from one of several that answer alike, which a mean over all
samples cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.nn.network import SpikingNetwork

BATCH = 128
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]
Observer = Callable[[str, torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True, eq=False)
class ClassActivity:
    """Means over time, space and a class's samples, (classes, channels) each.

    Args:
        rate: spikes per neuron and step.
        potential: |V| before the reset, in units of the network's weights.
    """

    rate: Array
    potential: Array


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike the channels of a population fire.

    Args:
        cosine: (channels, channels), the cosine of the spike trains of two channels over all samples, steps and
            places, 0 to 1; 0 wherever one of the two is silent, on the diagonal too.
        silent: (channels,), whether the channel never fired.
    """

    cosine: Array
    silent: npt.NDArray[np.bool_]


def per_class_activity(network: SpikingNetwork, x: Pixels, y: Labels) -> dict[str, ClassActivity]:
    """Firing rate and mean |V| by population, class and channel.

    Args:
        x: (N, *input_shape) or (N, T, *input_shape); run in batches.
        y: (N,), 0 to classes - 1.

    Raises:
        ScaDeployError: if a class has no sample.
    """
    classes = network.spec.classes
    samples = np.bincount(y, minlength=classes)
    if not samples.all():
        raise ScaDeployError(
            f"class {int(samples.argmin())} has none of the {len(y)} samples", "take more samples, of every class"
        )
    rate: dict[str, torch.Tensor] = {}
    potential: dict[str, torch.Tensor] = {}
    for start in range(0, len(x), BATCH):
        labels = torch.from_numpy(y[start : start + BATCH])

        def observe(name: str, v: torch.Tensor, spikes: torch.Tensor, labels: torch.Tensor = labels) -> None:
            for sums, values in ((rate, spikes), (potential, v.abs())):
                means = _per_sample(values)
                sums.setdefault(name, means.new_zeros(classes, means.shape[1])).index_add_(0, labels, means)

        with _observed(network, observe):
            network(torch.from_numpy(x[start : start + BATCH]).to(next(network.parameters()).device))
    return {name: ClassActivity(_divided(rate[name], samples), _divided(potential[name], samples)) for name in rate}


def selectivity(rate: Array) -> Array:
    """How much a channel prefers its best class, (channels,): 0 for none of the classes, 1 for one class only.

    (mu_max - mu_rest) / (mu_max + mu_rest), where mu_max is the rate in the class it fires most for and mu_rest
    its mean rate over the other classes (Morcos et al., "On the importance of single directions for
    generalization", ICLR 2018). A silent channel has 0.

    Args:
        rate: (classes, channels), at least two classes.
    """
    best = rate.max(0)
    rest = (rate.sum(0) - best) / (len(rate) - 1)
    total = best + rest
    index: Array = np.divide(best - rest, total, out=np.zeros_like(total), where=total > 0)
    return index


def channel_similarity(network: SpikingNetwork, x: Pixels) -> dict[str, Similarity]:
    """Cosine similarity of the channels' spike trains, by population.

    Spikes are summed up batch by batch as the Gram matrix (channels, channels), so that memory does not grow with
    the samples.

    Args:
        x: (N, *input_shape) or (N, T, *input_shape).
    """
    grams: dict[str, torch.Tensor] = {}

    def observe(name: str, v: torch.Tensor, spikes: torch.Tensor) -> None:
        trains = spikes.transpose(0, 2).flatten(1)  # (C, N T H W)
        gram = (trains @ trains.T).double()  # of zeros and ones: exact in float32 up to 2^24 spikes a batch
        grams[name] = grams[name] + gram if name in grams else gram

    with _observed(network, observe):
        for start in range(0, len(x), BATCH):
            network(torch.from_numpy(x[start : start + BATCH]).to(next(network.parameters()).device))
    return {name: _cosine(gram.cpu().numpy()) for name, gram in grams.items()}


def channel_rows(activity: Mapping[str, ClassActivity], similarity: Mapping[str, Similarity]) -> list[dict[str, Any]]:
    """One row a channel: how rare, how specific, and how much like its nearest neighbour.

    Returns:
        {"layer": population, "channel", "rate", "potential" (means over classes), "preferred_class",
        "selectivity", "silent", "nearest": the most similar other channel, "similarity": its cosine}; the last
        two are None in a population of one channel.
    """
    rows = []
    for layer, seen in activity.items():
        cosine, silent = similarity[layer].cosine.copy(), similarity[layer].silent
        np.fill_diagonal(cosine, -1.0)
        specific = selectivity(seen.rate)
        for channel in range(len(silent)):
            nearest = int(cosine[channel].argmax()) if len(silent) > 1 else None
            rows.append(
                {
                    "layer": layer,
                    "channel": channel,
                    "rate": float(seen.rate[:, channel].mean()),
                    "potential": float(seen.potential[:, channel].mean()),
                    "preferred_class": int(seen.rate[:, channel].argmax()),
                    "selectivity": float(specific[channel]),
                    "silent": bool(silent[channel]),
                    "nearest": nearest,
                    "similarity": None if nearest is None else float(cosine[channel, nearest]),
                }
            )
    return rows


@contextmanager
def _observed(network: SpikingNetwork, observer: Observer) -> Iterator[None]:
    """Inside the block `observer` sees (population, potentials, spikes) of every forward, in evaluation mode."""
    added = []
    for name, neuron in network.neurons().items():

        def observe(v: torch.Tensor, spikes: torch.Tensor, name: str = name) -> None:
            observer(name, v, spikes)

        neuron.observers.append(observe)
        added.append((neuron, observe))
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)
        for neuron, observe in added:
            neuron.observers.remove(observe)


def _per_sample(values: torch.Tensor) -> torch.Tensor:
    """(T, N, C, ...) to the means over time and space, (N, C), in double precision on the CPU."""
    axes = [axis for axis in range(values.dim()) if axis not in (1, 2)]
    return values.mean(axes, dtype=torch.float64).cpu()


def _divided(sums: torch.Tensor, samples: npt.NDArray[np.int64]) -> Array:
    means: Array = sums.numpy() / samples[:, None]
    return means


def _cosine(gram: Array) -> Similarity:
    norm = np.sqrt(gram.diagonal())
    silent = norm == 0
    product = np.outer(norm, norm)
    return Similarity(np.divide(gram, product, out=np.zeros_like(gram), where=product > 0), silent)
