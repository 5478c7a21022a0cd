"""NeuroBench counts the same synaptic operations on networks of binary spikes.

Its "Effective_ACs" are, as here, spikes times non-zero weights that they meet inside the map. NeuroBench takes
an input of several spikes a step for one of reals and counts differently; so all inputs here are binary. The
networks run in our simulator; NeuroBench's hooks see the spikes that each layer received, step by step.

    pip install --no-deps neurobench==2.3.0 snntorch==1.0.0
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sca_deploy.hardware.counts import count
from sca_deploy.hardware.program import INPUT, Conv, Dense, IntArray, Layer, Program, Synapse
from sca_deploy.hardware.simulate import simulate

pytest.importorskip("snntorch")
hooks = pytest.importorskip("neurobench.hooks.layer")
metrics = pytest.importorskip("neurobench.metrics.workload.synaptic_operations")

SAMPLES, STEPS = 3, 6


def even(rng: np.random.Generator, *shape: int) -> IntArray:
    return 2 * rng.integers(-60, 90, shape, dtype=np.int32)


def lif(name: str, shape: tuple[int, ...], synapse: Synapse) -> Layer:
    return Layer(name, shape, (synapse,), v_decay=400, threshold=60, bias=np.zeros(shape[:1], np.int32))


def network(
    rng: np.random.Generator, channels: int = 6, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Program:
    """Two convolutions and two fully connected layers, on 2 x 12 x 9 binary inputs."""
    sides = {"stride": (stride, stride), "padding": (padding, padding), "dilation": (dilation, dilation)}
    first = Conv(INPUT, even(rng, channels, 2, 3, 3), **sides)
    one = first.output_shape((2, 12, 9))
    second = Conv("a", even(rng, channels, channels // groups, 3, 3), padding=(1, 1), groups=groups)
    two = second.output_shape(one)
    layers = (
        lif("a", one, first),
        lif("b", two, second),
        lif("c", (10,), Dense("b", even(rng, 10, int(np.prod(two))))),
        lif("d", (4,), Dense("c", even(rng, 4, 10))),
    )
    return Program((2, 12, 9), 0, STEPS, layers, readout=False)


def masked(rng: np.random.Generator) -> Program:
    """Three of six channels pruned but still stored, and half of the other weights zero."""
    program = network(rng, stride=2, padding=1)
    for layer in program.layers:
        for synapse in layer.synapses:
            synapse.weight[: len(synapse.weight) // 2] = 0
            synapse.weight[rng.random(synapse.weight.shape) < 0.5] = 0
    return program


NETWORKS = {
    "dense": lambda rng: network(rng),
    "pruned to half the channels": lambda rng: network(rng, channels=3),
    "masked and not compacted": masked,
    "strided and padded": lambda rng: network(rng, stride=2, padding=2),
    "dilated": lambda rng: network(rng, padding=1, dilation=2),
    "grouped": lambda rng: network(rng, groups=3),
}


def as_torch(synapse: Synapse) -> torch.nn.Module:
    """The synapse as the PyTorch layer that NeuroBench knows, in double precision for exact sums."""
    weight = torch.from_numpy(synapse.weight).double()
    outputs, inputs = weight.shape[:2]
    module: torch.nn.Conv2d | torch.nn.Linear
    if isinstance(synapse, Conv):
        module = torch.nn.Conv2d(
            inputs * synapse.groups,
            outputs,
            (weight.shape[2], weight.shape[3]),
            synapse.stride,
            synapse.padding,
            synapse.dilation,
            synapse.groups,
            bias=False,
        )
    else:
        module = torch.nn.Linear(inputs, outputs, bias=False)
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return module


def neurobench(synapse: Synapse, spikes: npt.NDArray[np.uint8]) -> dict[str, float]:
    """NeuroBench's synaptic operations a sample for spikes of (samples, steps, *source shape)."""
    module = as_torch(synapse)
    hook = hooks.LayerHook(module)
    for step in range(spikes.shape[1]):
        x = torch.from_numpy(spikes[:, step].astype(np.float64))
        module(x if isinstance(synapse, Conv) else x.flatten(1))
    metric = metrics.SynapticOperations()
    found: dict[str, float] = metric(SimpleNamespace(connection_hooks=[hook]), None, (torch.from_numpy(spikes),))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_synaptic_operations_of_every_layer_are_neurobenchs(name: str) -> None:
    rng = np.random.default_rng(11)
    program = NETWORKS[name](rng)
    x = (rng.random((SAMPLES, STEPS, 2, 12, 9)) < 0.2).astype(np.uint8)
    run = simulate(program, x, record=["spikes"])
    spikes = {INPUT: x} | {layer.name: run.records[layer.name]["spikes"] for layer in program.layers}
    for layer, counted in zip(program.layers, count(run).layers, strict=True):
        (synapse,) = layer.synapses
        theirs = neurobench(synapse, spikes[synapse.source])
        assert theirs["Effective_MACs"] == 0  # the input is binary for NeuroBench too
        assert theirs["Effective_ACs"] * SAMPLES == pytest.approx(counted.tally.synops, abs=1e-6)
        assert counted.tally.synops > 0
