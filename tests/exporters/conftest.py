"""A small convolutional spiking network in the portable NIR form, and what it does by its equations alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import nir
import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d

from sca_deploy.exporters.base import Deployable, Probe

DT = 1e-4
BETA = 0.8
THRESHOLD = 1.0
INPUT_SHAPE = (2, 8, 8)
SAMPLES, STEPS = 6, 12


@dataclass(frozen=True)
class Network:
    """Weights in the units of v = beta v + a, before any format scales them."""

    conv1: np.ndarray
    conv1_bias: np.ndarray
    conv2: np.ndarray
    conv2_bias: np.ndarray
    hidden: np.ndarray
    hidden_bias: np.ndarray
    readout: np.ndarray
    readout_bias: np.ndarray

    def run(self, x: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Spikes (N, T, *shape) of each layer and logits (N, classes) by the Euler equations in double precision."""

        def conv(spikes: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
            return conv2d(*(torch.from_numpy(np.float64(a)) for a in (spikes, weight, bias)), padding=1).numpy()

        def lif(v: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            v = BETA * v + current
            spikes = v > THRESHOLD
            return v * (1 - spikes), spikes

        v1, v2, v3 = np.zeros((len(x), 4, 8, 8)), np.zeros((len(x), 6, 4, 4)), np.zeros((len(x), 10))
        recorded: dict[str, list[np.ndarray]] = {"lif1": [], "lif2": [], "lif3": []}
        logits = np.zeros((len(x), 3))
        for t in range(x.shape[1]):
            v1, s1 = lif(v1, conv(x[:, t], self.conv1, self.conv1_bias))
            pooled = 4 * avg_pool2d(torch.from_numpy(np.float64(s1)), 2).numpy()
            v2, s2 = lif(v2, conv(pooled, self.conv2, self.conv2_bias))
            v3, s3 = lif(v3, s2.reshape(len(x), -1) @ np.float64(self.hidden).T + self.hidden_bias)
            logits += s3 @ np.float64(self.readout).T + self.readout_bias
            for name, spikes in zip(recorded, (s1, s2, s3), strict=True):
                recorded[name].append(spikes)
        return {name: np.stack(spikes, axis=1) for name, spikes in recorded.items()}, logits


@pytest.fixture
def network() -> Network:
    """Random weights that keep every layer neither silent nor saturated."""
    rng = np.random.default_rng(26)

    def normal(scale: float, *shape: int) -> np.ndarray:
        return rng.normal(0.0, scale, shape).astype(np.float32)

    return Network(
        normal(0.5, 4, 2, 3, 3), normal(0.1, 4),
        normal(0.2, 6, 4, 3, 3), normal(0.1, 6),
        normal(0.3, 10, 96), normal(0.1, 10),
        normal(0.5, 3, 10), normal(0.1, 3),
    )  # fmt: skip


@pytest.fixture(scope="session")
def x() -> np.ndarray:
    """Random input spikes (N, T, C, H, W)."""
    return (np.random.default_rng(6).random((SAMPLES, STEPS, *INPUT_SHAPE)) < 0.3).astype(np.float32)


class Portable:
    """Builds nodes and graphs in the portable NIR form."""

    def lif(self, *shape: int) -> nir.LIF:
        """LIF neurons with R = 1, so the weights in front carry 1 / (1 - beta)."""
        full = np.ones(shape, np.float32)
        tau = np.full(shape, DT / (1 - BETA), np.float32)
        return nir.LIF(tau=tau, r=full, v_leak=0 * full, v_threshold=THRESHOLD * full, v_reset=0 * full)

    def integrate_and_fire(self, *shape: int) -> nir.IF:
        """IF neurons with R = 1 / dt."""
        full = np.ones(shape, np.float32)
        return nir.IF(r=full / np.float32(DT), v_threshold=THRESHOLD * full, v_reset=0 * full)

    def conv(self, weight: np.ndarray, bias: np.ndarray, size: int) -> nir.Conv2d:
        """A 3x3 convolution that keeps the size."""
        return nir.Conv2d((size, size), weight, stride=1, padding=1, dilation=1, groups=1, bias=bias)

    def pool(self) -> nir.SumPool2d:
        """The sum over 2x2 blocks."""
        return nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))

    def chain(self, *named: tuple[str, nir.NIRNode]) -> nir.NIRGraph:
        """A graph of nodes that follow one another."""
        names = [name for name, _ in named]
        edges = list(pairwise(names))
        return nir.NIRGraph(dict(named), edges, {"dt": DT, "reset": "hard", "T": STEPS})


@pytest.fixture(scope="session")
def portable() -> Portable:
    """Builds nodes and graphs in the portable NIR form."""
    return Portable()


@pytest.fixture
def graph(network: Network, portable: Portable) -> nir.NIRGraph:
    """The network as a portable NIR graph."""
    gain = np.float32(1 / (1 - BETA))
    return portable.chain(
        ("input", nir.Input(np.array(INPUT_SHAPE))),
        ("conv1", portable.conv(network.conv1 * gain, network.conv1_bias * gain, 8)),
        ("lif1", portable.lif(4, 8, 8)),
        ("pool1", portable.pool()),
        ("conv2", portable.conv(network.conv2 * gain, network.conv2_bias * gain, 4)),
        ("lif2", portable.lif(6, 4, 4)),
        ("flatten", nir.Flatten({"input": np.array([6, 4, 4])}, start_dim=-3, end_dim=-1)),
        ("hidden", nir.Affine(network.hidden * gain, network.hidden_bias * gain)),
        ("lif3", portable.lif(10)),
        ("readout", nir.Affine(network.readout, network.readout_bias)),
        ("output", nir.Output(np.array([3]))),
    )


@pytest.fixture
def deployable(graph: nir.NIRGraph, network: Network, x: np.ndarray) -> Deployable:
    """The graph with a probe made by the equations."""
    return Deployable(graph, DT, probe=Probe(x, *network.run(x)), manifest={"seed": 5}, title="small test network")
