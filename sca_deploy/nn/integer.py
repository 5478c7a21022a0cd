"""A spiking network that computes with the chip's integers and learns in floats.

The forward pass is the Program's arithmetic: even weights, whole biases and thresholds at one scale a layer,
decays rounded towards zero, saturating potentials. Every spike is the one that the simulated chip fires.
Backward, rounding is taken for the identity (a straight-through estimator: Bengio, Leonard and Courville 2013,
arXiv 1308.3432) and a spike for its surrogate, as in the float network whose parameters these are.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from sca_deploy.exporters.nir import topological_order
from sca_deploy.graph import DT, linear_maps, to_nir
from sca_deploy.hardware.arithmetic import Decay, saturate_
from sca_deploy.hardware.euler import discrete
from sca_deploy.hardware.program import ALIGNMENT_BITS, BIAS_MAX, STATE_LIMIT, WEIGHT_MAX, Layer, Program
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.neuron import LIF
from sca_deploy.nn.surrogate import Sigmoid, Surrogate

Values = dict[str, torch.Tensor]
Maps = dict[str, tuple[torch.Tensor, torch.Tensor]]
ALIGNED = 1 << ALIGNMENT_BITS


class IntegerNetwork(nn.Module):
    """The network of a Program, as a function of the parameters of the float network it was lowered from.

    Batch-norms keep their statistics. The layers' scales, decays and thresholds are the Program's.

    Args:
        network: the float network; its parameters are this module's.
        program: lowered from it.
    """

    def __init__(self, network: SpikingNetwork, program: Program) -> None:
        super().__init__()
        self.network = network
        graph = to_nir(network)
        self._nodes = graph.nodes
        self._sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
        self._order = topological_order(graph)
        self._layers = {layer.name: layer for layer in program.layers}
        self._gains = {n: discrete(n, node, DT).gain for n, node in graph.nodes.items() if _fires(node)}
        self._last = program.layers[-1].name

    def forward(self, x: torch.Tensor, per_step: bool = False) -> torch.Tensor:
        """Logits as `SpikingNetwork` gives them, in the units of the float network.

        Args:
            x: integers, (N, *input_shape) or (N, T, *input_shape).
            per_step: whether the logits of every step are wanted.
        """
        timed = x.dim() == len(self.network.spec.input_shape) + 2
        steps = x.shape[1] if timed else self.network.spec.steps
        maps = linear_maps(self.network)
        frames = x.transpose(0, 1) if timed else x.unsqueeze(0)
        values = {"input": frames.to(torch.float32)}
        # NNPACK convolves by transforms that round.
        with torch.backends.nnpack.flags(enabled=False):
            # Everything leads to the output, so it is the last.
            for name in self._order[:-1]:
                node, sources = self._nodes[name], self._sources[name]
                if _fires(node):
                    current = self._current(self._layers[name], self._gains[name], values, sources, maps)
                    values[name] = _IntegerLIF.apply(current, steps, self._layers[name], self._surrogate(name))
                elif name not in maps and sources:
                    values[name] = _passed(node, values[sources[0]])
            layer = self._layers[self._last]
            logits = self._current(layer, 1.0, values, self._sources[self._order[-1]], maps) / layer.scale
        return logits.expand(steps, -1, -1) if per_step else logits.sum(0) * (steps // len(logits))

    def _current(self, layer: Layer, gain: float, values: Values, sources: list[str], maps: Maps) -> torch.Tensor:
        """What a population's synapses and bias add up to, in integers, (T or 1, N, *shape)."""
        parts = []
        for name in sources:
            if name not in maps:  # a summing pool that neurons read as it is
                parts.append(values[name] * float(2 * round(gain * (layer.scale / 2))))
                continue
            # In the order of the lowering, so that what lies between two integers falls to the same side.
            weight, bias = (_narrow(tensor) * gain for tensor in maps[name])
            whole = 2 * _rounded(weight * (layer.scale / 2), WEIGHT_MAX // 2)
            constant = _rounded(bias * layer.scale, BIAS_MAX).float()
            arrived = _mapped(self._nodes[name], values[self._sources[name][0]], whole.float())
            parts.append(arrived + constant.reshape(-1, *(1,) * (arrived.dim() - 3)))
        return reduce(torch.add, parts)

    def _surrogate(self, name: str) -> Surrogate:
        # The OR of a max-pooling has no neuron in the float network.
        neuron = dict(self.network.layers.items()).get(name)
        return neuron.surrogate if isinstance(neuron, LIF) else Sigmoid()


class _IntegerLIF(torch.autograd.Function):
    """All time steps of a population in integers; the gradient is that of the float neuron it stands for."""

    @staticmethod
    def forward(ctx: Any, current: torch.Tensor, steps: int, layer: Layer, surrogate: Surrogate) -> torch.Tensor:
        repeated = current.expand(steps, *current.shape[1:])
        decay = Decay(layer.v_decay, STATE_LIMIT, torch.float64)
        v = torch.zeros_like(repeated[0], dtype=torch.float64)
        scratch = torch.empty_like(v)
        spikes = torch.empty(repeated.shape)
        potentials = torch.empty(repeated.shape)
        for t in range(steps):
            v = saturate_(decay(v, scratch).add_(repeated[t].double() * ALIGNED))
            fired = v > layer.threshold * ALIGNED
            potentials[t] = v / (ALIGNED * layer.scale)
            spikes[t] = fired
            v.masked_fill_(fired, 0)
        ctx.save_for_backward(potentials, spikes)
        ctx.frames, ctx.surrogate, ctx.scale = len(current), surrogate, layer.scale
        ctx.theta, ctx.beta = layer.threshold / layer.scale, 1.0 - layer.v_decay / 4096
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        potentials, spikes = ctx.saved_tensors
        grad = ctx.surrogate.derivative(potentials - ctx.theta) * grads[0]
        for t in range(len(grad) - 2, -1, -1):
            grad[t] += ctx.beta * (1 - spikes[t]) * grad[t + 1]
        grad = grad / ctx.scale
        return (grad if ctx.frames == len(grad) else grad.sum(0, keepdim=True)), None, None, None


class _Rounded(torch.autograd.Function):
    """Rounded and clipped; the gradient passes where nothing was clipped."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, limit: int) -> torch.Tensor:
        ctx.save_for_backward(x.abs() <= limit)
        return x.round().clamp(-limit, limit)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None


def _rounded(x: torch.Tensor, limit: int) -> torch.Tensor:
    result: torch.Tensor = _Rounded.apply(x, limit)
    return result


def _narrow(x: torch.Tensor) -> torch.Tensor:
    """Through float32, in which a NIR graph keeps its arrays."""
    return x.float().double()


def _fires(node: nir.NIRNode) -> bool:
    return isinstance(node, nir.LIF | nir.IF)


def _passed(node: nir.NIRNode, x: torch.Tensor) -> torch.Tensor:
    """A summing pool or a flattening of spikes (T, N, C, H, W)."""
    if isinstance(node, nir.Flatten):
        return x.flatten(2)
    kernel, stride = (tuple(int(n) for n in np.ravel(value)) for value in (node.kernel_size, node.stride))
    pooled: torch.Tensor = F.avg_pool2d(x.flatten(0, 1), kernel, stride, divisor_override=1)
    back: torch.Tensor = pooled.unflatten(0, x.shape[:2])
    return back


def _mapped(node: nir.NIRNode, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(0, 1)
    conv = isinstance(node, nir.Conv2d)
    y: torch.Tensor = F.conv2d(flat, weight, None, node.stride, node.padding) if conv else F.linear(flat, weight)
    back: torch.Tensor = y.unflatten(0, x.shape[:2])
    return back
