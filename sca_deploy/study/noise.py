"""How far accuracy holds when the input or the weights are disturbed.

Every curve uses common random numbers: a seed fixes one draw of standard normal noise, and sigma only
scales it, so that the points of a curve differ by the noise's size alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sca_deploy.errors import UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.pruning.compact import compact
from sca_deploy.train import accuracy

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def input_noise(
    network: SpikingNetwork,
    x: Pixels,
    y: Labels,
    sigmas: Sequence[float],
    seeds: Sequence[int],
    pixel_max: int,
    *,
    encode: Callable[[Pixels], Pixels] | None = None,
) -> list[dict[str, Any]]:
    """Accuracy under Gaussian noise on the pixels.

    A disturbed pixel is clip(round(pixel + sigma pixel_max n), 0, pixel_max), n standard normal: it stays an
    integer that the chip could be given. For sigma well below 1 / (2 pixel_max) rounding therefore removes
    the noise.

    Args:
        network: as trained or compacted; not changed.
        x: pixels (N, ...), 0 to pixel_max.
        y: (N,).
        sigmas: standard deviations as fractions of pixel_max; 0 is the clean accuracy.
        seeds: one noise draw each.
        pixel_max: the largest value a pixel can take.
        encode: turns pixels into the network's input, as `inputs.Inputs.fixed`; without it they are the input.

    Returns:
        {"kind": "input", "sigma", "seed", "accuracy"} for every sigma and seed, sigmas outermost.

    Raises:
        UsageError: if a sigma is negative or not finite.
    """
    found = {}
    for seed in seeds:
        normal = np.random.default_rng(seed).standard_normal(x.shape, dtype=np.float32)
        for sigma in _checked(sigmas):
            noisy = np.clip(np.rint(x + np.float32(sigma * pixel_max) * normal), 0, pixel_max).astype(np.uint8)
            found[sigma, seed] = accuracy(network, encode(noisy) if encode else noisy, y)
    return _rows("input", sigmas, seeds, found)


def parameter_noise(
    network: SpikingNetwork, x: Pixels, y: Labels, sigmas: Sequence[float], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Accuracy under Gaussian noise on the weights of convolutions and linear layers, read-out included.

    A weight becomes w + sigma rms n, n standard normal, rms = sqrt(mean of w^2) of its tensor. Only weights that
    exist count, in the mean too, and get noise: zeros stay zero, being synapses that unstructured pruning took
    out; a network with masked channels is compacted first. Biases and batch-norms are left alone.

    Args:
        network: bit-equal afterwards.
        x: (N, *input_shape) or (N, T, *input_shape), integers.
        y: (N,).
        sigmas: standard deviations as fractions of each tensor's rms; 0 is the clean accuracy.
        seeds: one noise draw each.

    Returns:
        {"kind": "parameter", "sigma", "seed", "accuracy"} for every sigma and seed, sigmas outermost.

    Raises:
        UsageError: if a sigma is negative or not finite.
        ScaDeployError: if masks leave a layer without channels.
    """
    whole = all(bool(norm.mask.all()) for norm in network.norms().values())
    disturbed = network if whole else compact(network).to(next(network.parameters()).device)
    found = {}
    for seed in seeds:
        for sigma in _checked(sigmas):
            with _disturbed(disturbed, sigma, seed):
                # At sigma 0 the network that was given answers: compaction may round a logit differently.
                found[sigma, seed] = accuracy(disturbed if sigma else network, x, y)
    return _rows("parameter", sigmas, seeds, found)


@contextmanager
def _disturbed(network: SpikingNetwork, sigma: float, seed: int) -> Iterator[None]:
    """Inside the block the weights carry noise; afterwards they are what they were."""
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    before = [weight.detach().clone() for weight in weights]
    generator = np.random.default_rng(seed)
    try:
        with torch.no_grad():
            for weight in weights if sigma else []:
                normal = torch.from_numpy(generator.standard_normal(tuple(weight.shape), dtype=np.float32))
                exists = weight != 0
                rms = weight[exists].square().mean().sqrt() if exists.any() else 0.0
                weight += sigma * rms * normal.to(weight) * exists
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def _checked(sigmas: Sequence[float]) -> Sequence[float]:
    for sigma in sigmas:
        if not 0.0 <= sigma < float("inf"):
            raise UsageError(f"noise sigma is {sigma:g}, it must be 0 or a positive number")
    return sigmas


def _rows(
    kind: str, sigmas: Sequence[float], seeds: Sequence[int], found: dict[tuple[float, int], float]
) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "sigma": sigma, "seed": seed, "accuracy": found[sigma, seed]}
        for sigma in sigmas
        for seed in seeds
    ]
