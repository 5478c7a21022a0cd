"""Small NIR graphs of every architecture that people bring, with weights at random, and how their neurons step."""

from itertools import pairwise

import nir
import numpy as np

from sca_deploy.hardware.dynamics import Dynamics

DT = 1e-4
STEPS = 5
MAPS = (2, 6, 6)
PLAIN = Dynamics(DT)
SINABS = Dynamics(DT, "subtract", True, "threshold", "ge")


class Made:
    """Nodes with numbers at random, of one type of floats."""

    def __init__(self, seed=0, dtype=np.float64):
        self.rng, self.dtype = np.random.default_rng(seed), dtype

    def full(self, shape, value):
        return np.full(shape, value, self.dtype)

    def between(self, low, high, *shape):
        return self.rng.uniform(low, high, shape).astype(self.dtype)

    def lif(self, *shape, beta=0.75):
        tau = DT / (1 - beta)
        full = self.full
        return nir.LIF(full(shape, tau), full(shape, tau / DT), full(shape, 0), full(shape, 1), full(shape, 0))

    def integrate(self, *shape):
        return nir.IF(self.full(shape, 1 / DT), self.full(shape, 1), self.full(shape, 0))

    def cuba(self, *shape):
        full = self.full
        tau_syn, tau_mem = 2 * DT, 4 * DT
        return nir.CubaLIF(full(shape, tau_syn), full(shape, tau_mem), full(shape, 4), full(shape, 0), full(shape, 1),
                           full(shape, 0), w_in=full(shape, 2))  # fmt: skip

    def varied(self, *shape):
        """LIF neurons of which no two are alike."""
        tau = self.between(1.5 * DT, 6 * DT, *shape)
        return nir.LIF(tau, tau / self.dtype(DT), self.full(shape, 0), self.between(0.5, 1.5, *shape),
                       self.between(-0.3, 0.3, *shape))  # fmt: skip

    def conv(self, outputs, inputs, kernel=3, stride=1, groups=1, bias=True):
        fan_in = inputs // groups * kernel * kernel
        weight = self.between(-1.5, 2.0, outputs, inputs // groups, kernel, kernel) / self.dtype(np.sqrt(fan_in))
        shift = self.between(-0.1, 0.3, outputs) if bias else self.full(outputs, 0)
        return nir.Conv2d(None, weight, stride, kernel // 2, 1, groups, shift)

    def affine(self, outputs, inputs):
        weight = self.between(-1.5, 2.0, outputs, inputs) / self.dtype(np.sqrt(inputs))
        return nir.Affine(weight, self.between(-0.1, 0.3, outputs))

    def linear(self, outputs, inputs):
        return nir.Linear(self.between(-1.5, 2.0, outputs, inputs) / self.dtype(np.sqrt(inputs)))


def graph_of(shape, classes, nodes, edges):
    """A graph from `input` to `output`; edges are named as words in a row, "input conv lif"."""
    pairs = []
    for chain in edges:
        pairs += pairwise(chain.split())
    ends = {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": np.array([classes])})}
    return nir.NIRGraph(ends | nodes, list(dict.fromkeys(pairs)), metadata={}, type_check=False)


def pool():
    return nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))


def flatten(*shape):
    return nir.Flatten({"input": np.array(shape)}, 0, -1)


def feed_forward(made, neurons="lif", bias=True):
    """Two convolutions, of which the first has as many channels as a pool has sides, and two matrices."""
    population = getattr(made, neurons)
    nodes = {
        "conv1": made.conv(2, 2), "n1": population(2, 6, 6), "pool": pool(),
        "conv2": made.conv(5, 2), "n2": population(5, 3, 3), "flat": flatten(5, 3, 3),
        "fc1": made.affine(7, 45), "n3": population(7), "fc2": made.affine(3, 7),
    }  # fmt: skip
    for name in () if bias else ("conv1", "conv2", "fc1"):
        nodes[name].bias[:] = 0
    return graph_of(MAPS, 3, nodes, ["input conv1 n1 pool conv2 n2 flat fc1 n3 fc2 output"])


def residual(made, projected):
    """A skip around two convolutions: as it is, or through a convolution."""
    nodes = {
        "stem": made.conv(4, 2), "n0": made.lif(4, 6, 6),
        "conv1": made.conv(5, 4), "n1": made.lif(5, 6, 6), "conv2": made.conv(4, 5), "n2": made.lif(4, 6, 6),
        "pool": pool(), "flat": flatten(4, 3, 3), "fc": made.affine(3, 36),
    }  # fmt: skip
    edges = ["input stem n0 conv1 n1 conv2 n2 pool flat fc output"]
    if projected:
        nodes["skip"] = made.conv(4, 4, kernel=1)
    return graph_of(MAPS, 3, nodes, [*edges, "n0 skip n2" if projected else "n0 n2"])


def recurrent(made, nested):
    """A population that hears itself through a matrix, in a graph of its own or not."""
    nodes = {
        "fc1": made.affine(6, 4), "n1": made.lif(6),
        "fc2": made.affine(5, 6), "n2": made.lif(5), "fc3": made.affine(3, 5),
    }  # fmt: skip
    if not nested:
        nodes["back"] = made.linear(6, 6)
        return graph_of((4,), 3, nodes, ["input fc1 n1 fc2 n2 fc3 output", "n1 back n1"])
    inside = graph_of(
        (6,), 6, {"cell": nodes.pop("n1"), "back": made.affine(6, 6)}, ["input cell output", "cell back cell"]
    )
    nodes["rec"] = inside
    return graph_of((4,), 3, nodes, ["input fc1 rec fc2 n2 fc3 output"])


def depthwise(made):
    """Convolutions of single channels between two others, as in MobileNet, and one in two groups."""
    nodes = {
        "conv1": made.conv(6, 2), "n1": made.lif(6, 6, 6), "dw": made.conv(6, 6, groups=6), "n2": made.lif(6, 6, 6),
        "pw": made.conv(4, 6, kernel=1), "n3": made.lif(4, 6, 6), "grouped": made.conv(4, 4, groups=2),
        "n4": made.lif(4, 6, 6), "pool": pool(), "flat": flatten(4, 3, 3), "fc": made.affine(3, 36),
    }  # fmt: skip
    return graph_of(MAPS, 3, nodes, ["input conv1 n1 dw n2 pw n3 grouped n4 pool flat fc output"])


ARCHITECTURES = {
    "feed-forward": (lambda made: feed_forward(made), PLAIN),
    "residual, identity": (lambda made: residual(made, False), PLAIN),
    "residual, projection": (lambda made: residual(made, True), PLAIN),
    "recurrent, flat": (lambda made: recurrent(made, False), PLAIN),
    "recurrent, nested": (lambda made: recurrent(made, True), PLAIN),
    "depthwise and grouped": (depthwise, PLAIN),
    "a value a neuron": (lambda made: feed_forward(made, "varied"), PLAIN),
    "synaptic currents": (lambda made: feed_forward(made, "cuba", bias=False), PLAIN),
    "subtract, several spikes": (lambda made: feed_forward(made, "integrate"), SINABS),
    "subtract": (lambda made: feed_forward(made), Dynamics(DT, "subtract")),
}


def architecture(name, seed=0, dtype=np.float64):
    """(graph, dynamics) of an architecture."""
    make, dynamics = ARCHITECTURES[name]
    return make(Made(seed, dtype)), dynamics


def spikes_in(graph, samples=6, seed=0, steps=STEPS):
    """Input counts 0 to 2 at random, (samples, steps, *input shape), as uint8."""
    shape = next(n for n in graph.nodes.values() if isinstance(n, nir.Input)).input_type["input"]
    return np.random.default_rng(seed).integers(0, 3, (samples, steps, *shape)).astype(np.uint8)
