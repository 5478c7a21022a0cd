"""Module -> NIR, in the one way of writing that norse, snntorch and spikingjelly all read alike.

LIF with decay beta becomes tau = dt / (1 - beta) and R = 1, the factor 1 / (1 - beta) going into the
weights before it, so that one Euler step of tau dv/dt = (v_leak - v) + R I is v = beta v + a exactly.
IF has no tau; it becomes dv/dt = R I with R = 1 / dt. Batch-norm is folded, average pooling is a sum
whose 1/k^2 goes into the next weights, max pooling of spikes is a sum into memoryless neurons with
threshold 1/2. The graph's input are the integer values themselves; their scale is folded too.

A sum has no node: NIR adds the edges that enter one. Its operands are written once for each population
that reads them, with that population's batch-norm folded in, under the name `<operand>_to_<population>`
where there are several; spikes that pass unchanged become an identity convolution or matrix. A select is
folded into the weights that read it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import cast

import nir
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.hardware.frontend import Population, read_populations
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.nn.spec import (
    INPUT,
    AvgPoolSpec,
    BatchNormSpec,
    ConvSpec,
    DropoutSpec,
    FlattenSpec,
    LayerSpec,
    LIFSpec,
    LinearSpec,
    MaxPoolSpec,
    SelectSpec,
    Shape,
)

DT = 1e-4
"""Seconds a time step; what every NIR reader that fixes its own step takes."""

OUTPUT = "output"


def to_nir(network: SpikingNetwork | GraphNetwork) -> nir.NIRGraph:
    """The network as a NIR graph, metadata {dt, T, reset}: in the portable profile, or as it was brought.

    Neuron nodes carry the layer's name, so that spikes can be compared by name.

    Raises:
        ScaDeployError: if a weight is not finite.
        UsageError: if a layer has the name that the neurons of a max-pooling need.
    """
    if isinstance(network, GraphNetwork):
        return network.to_nir()
    with torch.no_grad():
        return _Writer(network).write()


def linear_maps(network: SpikingNetwork) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Weight and bias of every convolution and matrix that `to_nir` writes, by its node, in float64.

    They are functions of the network's parameters that gradients flow through.
    """
    writer = _Writer(network)
    writer.write()
    return writer.maps


def populations_of(network: SpikingNetwork | GraphNetwork) -> tuple[Shape, list[Population]]:
    """The input's shape and the network's populations, as they are lowered.

    Raises:
        ScaDeployError: naming the node that the chip cannot carry.
    """
    graph = to_nir(network)
    return read_populations(graph, float(graph.metadata["dt"]))


@dataclass(frozen=True)
class _Spikes:
    """Where a spiking value (or the input) is found in the graph.

    Args:
        node: whose output holds it.
        shape: of that output.
        channels: the value's channels among the node's.
        scale: what the node's output is to be multiplied by.
    """

    node: str
    shape: Shape
    channels: npt.NDArray[np.int64]
    scale: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether the value is all of the node's channels, in their order."""
        return np.array_equal(self.channels, np.arange(self.shape[0]))


@dataclass(frozen=True)
class _Term:
    """A part of what a population reads: some outputs, scaled, of a convolution, a linear layer or spikes."""

    name: str
    rows: npt.NDArray[np.int64]
    factor: torch.Tensor


class _Writer:
    """Adds nodes and edges from the input on."""

    def __init__(self, network: SpikingNetwork) -> None:
        spec = network.spec
        self._network, self._spec = network, spec
        self._layers = {layer.name: layer for layer in spec.layers}
        self._sources = dict(zip(self._layers, spec.sources, strict=True))
        self._shapes = {INPUT: spec.input_shape, **dict(zip(self._layers, spec.shapes, strict=True))}
        self._spiking = {INPUT}
        for layer, (source, *_) in zip(spec.layers, spec.sources, strict=True):
            passes_on = isinstance(layer, FlattenSpec | DropoutSpec | SelectSpec) and source in self._spiking
            if isinstance(layer, LIFSpec | AvgPoolSpec) or passes_on:
                self._spiking.add(layer.name)
        reads = {layer.name: self._sources[layer.name][0] for layer in spec.layers if isinstance(layer, LIFSpec)}
        self._read = {name: self._terms(value) for name, value in {**reads, OUTPUT: spec.layers[-1].name}.items()}
        self._uses = Counter(term.name for terms, _ in self._read.values() for term in terms)
        self._nodes: dict[str, nir.NIRNode] = {}
        self._edges: list[tuple[str, str]] = []
        self._spikes: dict[str, _Spikes] = {}
        self.maps: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def write(self) -> nir.NIRGraph:
        """The whole graph."""
        shape = self._spec.input_shape
        self._nodes[INPUT] = nir.Input({INPUT: np.array(shape)})
        self._spikes[INPUT] = _Spikes(INPUT, shape, np.arange(shape[0]), self._spec.input_scale)
        for layer in self._spec.layers:
            if isinstance(layer, LIFSpec):
                self._feed(layer.name, 1.0 if layer.beta == 1.0 else 1.0 / (1.0 - layer.beta))
                self._nodes[layer.name] = _neurons(layer.beta, layer.threshold, self._shapes[layer.name])
                self._spikes[layer.name] = self._all_of(layer.name, layer.name)
            elif layer.name in self._spiking:
                self._spikes[layer.name] = self._passed_on(layer, self._spikes[self._sources[layer.name][0]])
        self._feed(OUTPUT, 1.0)
        self._nodes[OUTPUT] = nir.Output({OUTPUT: np.array(self._shapes[self._spec.layers[-1].name])})
        metadata = {"dt": DT, "T": self._spec.steps, "reset": "hard", "input_scale": self._spec.input_scale}
        return nir.NIRGraph(nodes=self._nodes, edges=self._edges, metadata=metadata)

    def _terms(self, name: str) -> tuple[list[_Term], torch.Tensor]:
        """The terms whose sum a value is, and its constant part (channels,)."""
        size = self._shapes[name][0]
        if name in self._spiking:
            return [_Term(name, np.arange(size), _ones(size))], 0.0 * _ones(size)
        layer = self._layers[name]
        if isinstance(layer, ConvSpec | LinearSpec):
            bias = cast("nn.Conv2d | nn.Linear", self._network.layers[name]).bias
            constant = 0.0 * _ones(size) if bias is None else _double(bias)
            return [_Term(name, np.arange(size), _ones(size))], constant
        parts = [self._terms(source) for source in self._sources[name]]
        terms = [term for part, _ in parts for term in part]
        constant = torch.stack([constant for _, constant in parts]).sum(0)
        if isinstance(layer, BatchNormSpec):
            norm = cast(MaskedBatchNorm, self._network.layers[name])
            mean, variance = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
            factor = _double(norm.weight * norm.mask) / (_double(variance) + norm.eps).sqrt()
            terms = [replace(term, factor=term.factor * factor) for term in terms]
            constant = (constant - _double(mean)) * factor + _double(norm.bias * norm.mask)
        elif isinstance(layer, SelectSpec):
            chosen = np.array(layer.channels)
            terms = [_Term(term.name, term.rows[chosen], term.factor[chosen]) for term in terms]
            constant = constant[chosen]
        return terms, constant

    def _feed(self, reader: str, gain: float) -> None:
        """Add the nodes that a population or the output reads; the constant goes with the first."""
        terms, bias = self._read[reader]
        for term in terms:
            weight, spikes = self._weight(term)
            if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
                raise ScaDeployError(
                    f"layer '{term.name}' holds NaN or infinite weights", "train again with a lower train.lr"
                )
            layer = self._layers.get(term.name)
            alone = self._uses[term.name] == 1 and isinstance(layer, ConvSpec | LinearSpec)
            name = term.name if alone else self._free(f"{term.name}_to_{reader}")
            geometry = (layer.stride, layer.padding) if isinstance(layer, ConvSpec) else (1, 0)
            self.maps[name] = (weight * (spikes.scale * gain), bias * gain)
            self._add(name, _linear_node(*self.maps[name], spikes.shape, *geometry), spikes)
            self._edges.append((name, reader))
            bias = torch.zeros_like(bias)

    def _weight(self, term: _Term) -> tuple[torch.Tensor, _Spikes]:
        """A term's weight over all channels of the node it reads, and that node."""
        layer = self._layers.get(term.name)
        if isinstance(layer, ConvSpec | LinearSpec):
            spikes = self._spikes[self._sources[term.name][0]]
            weight = _double(cast("nn.Conv2d | nn.Linear", self._network.layers[term.name]).weight)
        else:
            spikes = self._spikes[term.name]
            size = len(spikes.channels)
            weight = torch.diag(_ones(size)).reshape(size, size, *(1,) * (len(spikes.shape) - 1))
        weight = weight[term.rows] * term.factor.reshape(-1, *(1,) * (weight.ndim - 1))
        if not spikes.whole:
            wide = weight.new_zeros(len(weight), spikes.shape[0], *weight.shape[2:])
            weight = wide.index_copy(1, torch.from_numpy(spikes.channels), weight)
        return weight, spikes

    def _passed_on(self, layer: LayerSpec, spikes: _Spikes) -> _Spikes:
        """Pooling, flattening, dropout and selection of spikes."""
        if isinstance(layer, SelectSpec):
            return replace(spikes, channels=spikes.channels[list(layer.channels)])
        if isinstance(layer, MaxPoolSpec):
            return self._or(layer, spikes)
        if isinstance(layer, AvgPoolSpec):
            self._add(layer.name, _sum_pool(layer), spikes)
            scale = spikes.scale / layer.kernel**2
            return replace(spikes, node=layer.name, shape=layer.output_shape(spikes.shape), scale=scale)
        if isinstance(layer, FlattenSpec):
            start = -3 if len(spikes.shape) == 3 else -1
            self._add(layer.name, nir.Flatten({"input": np.array(spikes.shape)}, start_dim=start), spikes)
            features = np.arange(np.prod(spikes.shape)).reshape(spikes.shape[0], -1)[spikes.channels].ravel()
            return replace(spikes, node=layer.name, shape=layer.output_shape(spikes.shape), channels=features)
        return spikes

    def _or(self, layer: MaxPoolSpec, spikes: _Spikes) -> _Spikes:
        """Memoryless neurons on a sum; a convolution takes the sum where they read some channels only."""
        name = f"{layer.name}_or"
        if name in self._layers:
            raise UsageError(
                f"layer name '{name}' is taken by the neurons of a max-pooling", "name the layer otherwise"
            )
        if spikes.whole:
            self._add(layer.name, _sum_pool(layer), spikes)
        else:
            weight = torch.zeros(len(spikes.channels), spikes.shape[0], layer.kernel, layer.kernel, dtype=torch.float64)
            weight[np.arange(len(weight)), spikes.channels] = 1.0
            self.maps[layer.name] = (weight, 0.0 * _ones(len(weight)))
            self._add(layer.name, _linear_node(*self.maps[layer.name], spikes.shape, layer.step, 0), spikes)
        self._nodes[name] = _neurons(0.0, 0.5, self._shapes[layer.name])
        self._edges.append((layer.name, name))
        return self._all_of(layer.name, name)

    def _all_of(self, value: str, node: str) -> _Spikes:
        shape = self._shapes[value]
        return _Spikes(node, shape, np.arange(shape[0]))

    def _add(self, name: str, node: nir.NIRNode, source: _Spikes) -> None:
        self._nodes[name] = node
        self._edges.append((source.node, name))

    def _free(self, name: str) -> str:
        while name in self._nodes or name in self._layers:
            name += "_"
        return name


def _linear_node(weight: torch.Tensor, bias: torch.Tensor, shape: Shape, stride: int, padding: int) -> nir.NIRNode:
    narrow_weight, narrow_bias = (tensor.detach().numpy().astype(np.float32) for tensor in (weight, bias))
    if weight.ndim == 2:
        return nir.Affine(narrow_weight, narrow_bias)
    return nir.Conv2d(
        input_shape=(shape[1], shape[2]),
        weight=narrow_weight,
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(1, 1),
        groups=1,
        bias=narrow_bias,
    )


def _neurons(beta: float, threshold: float, shape: Shape) -> nir.NIRNode:
    def full(value: float) -> npt.NDArray[np.float32]:
        return np.full(shape, value, np.float32)

    if beta == 1.0:
        return nir.IF(r=full(1.0 / DT), v_threshold=full(threshold), v_reset=full(0.0))
    # spikingjelly refuses tau = dt; one part in a million above it, no spike differs.
    tau = DT / (1.0 - beta) if beta else DT * (1.0 + 1e-6)
    return nir.LIF(tau=full(tau), r=full(1.0), v_leak=full(0.0), v_threshold=full(threshold), v_reset=full(0.0))


def _sum_pool(layer: AvgPoolSpec) -> nir.SumPool2d:
    return nir.SumPool2d(
        kernel_size=np.array([layer.kernel, layer.kernel]),
        stride=np.array([layer.step, layer.step]),
        padding=np.array([0, 0]),
    )


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().double()


def _ones(size: int) -> torch.Tensor:
    return torch.ones(size, dtype=torch.float64)
