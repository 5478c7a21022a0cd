"""Module -> NIR, in the one way of writing that norse, snntorch and spikingjelly all read alike.

LIF with decay beta becomes tau = dt / (1 - beta) and R = 1, the factor 1 / (1 - beta) going into the
weights before it, so that one Euler step of tau dv/dt = (v_leak - v) + R I is v = beta v + a exactly.
IF has no tau; it becomes dv/dt = R I with R = 1 / dt. Batch-norm is folded, average pooling is a sum
whose 1/k^2 goes into the next weights, max pooling of spikes is a sum into memoryless neurons with
threshold 1/2. The graph's input are the integer values themselves; their scale is folded too.
"""

from __future__ import annotations

import itertools
from typing import cast

import nir
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.nn.spec import (
    AvgPoolSpec,
    BatchNormSpec,
    ConvSpec,
    FlattenSpec,
    LIFSpec,
    LinearSpec,
    MaxPoolSpec,
    NetworkSpec,
    Shape,
)

DT = 1e-4
"""Seconds a time step; what every NIR reader that fixes its own step takes."""

Array = npt.NDArray[np.float64]


def to_nir(network: SpikingNetwork) -> nir.NIRGraph:
    """The network as a NIR graph in the portable profile, metadata {dt, T, reset}.

    Neuron nodes carry the layer's name, so that spikes can be compared by name.

    Raises:
        ScaDeployError: if a weight is not finite.
    """
    spec = network.spec
    nodes: dict[str, nir.NIRNode] = {"input": nir.Input({"input": np.array(spec.input_shape)})}
    shape, scale = spec.input_shape, spec.input_scale
    for position, layer in enumerate(spec.layers):
        out = layer.output_shape(shape)
        if isinstance(layer, ConvSpec | LinearSpec):
            weight, bias = _folded(network, position)
            gain = _gain(spec, position)
            nodes[layer.name] = _linear_node(layer, weight * (scale * gain), bias * gain, shape)
            scale = 1.0
        elif isinstance(layer, LIFSpec):
            nodes[layer.name] = _neurons(layer.beta, layer.threshold, shape)
        elif isinstance(layer, AvgPoolSpec):
            nodes[layer.name] = _sum_pool(layer)
            if isinstance(layer, MaxPoolSpec):
                nodes[_free(f"{layer.name}_or", spec)] = _neurons(0.0, 0.5, out)
            else:
                scale /= layer.kernel**2
        elif isinstance(layer, FlattenSpec):
            nodes[layer.name] = nir.Flatten({"input": np.array(shape)}, start_dim=-3 if len(shape) == 3 else -1)
        shape = out
    nodes["output"] = nir.Output({"output": np.array(shape)})
    names = list(nodes)
    edges = list(itertools.pairwise(names))
    metadata = {"dt": DT, "T": spec.steps, "reset": "hard"}
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata)


def _free(name: str, spec: NetworkSpec) -> str:
    if name in {layer.name for layer in spec.layers}:
        raise UsageError(f"layer name '{name}' is taken by the neurons of a max-pooling", "name the layer otherwise")
    return name


def _folded(network: SpikingNetwork, position: int) -> tuple[Array, Array]:
    """Weight and bias of a convolution or linear layer with the batch-norm after it folded in."""
    layer = network.spec.layers[position]
    module = cast("nn.Conv2d | nn.Linear", network.layers[layer.name])
    weight = _array(module.weight)
    bias = np.zeros(len(weight)) if module.bias is None else _array(module.bias)
    after = network.spec.layers[position + 1] if position + 1 < len(network.spec.layers) else None
    if isinstance(after, BatchNormSpec):
        norm = cast(MaskedBatchNorm, network.layers[after.name])
        mean, variance = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
        factor = _array(norm.weight * norm.mask) / np.sqrt(_array(variance) + norm.eps)
        weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        bias = (bias - _array(mean)) * factor + _array(norm.bias * norm.mask)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ScaDeployError(f"layer '{layer.name}' holds NaN or infinite weights", "train again with a lower train.lr")
    return weight, bias


def _gain(spec: NetworkSpec, position: int) -> float:
    """1 / (1 - beta) of the LIF neurons that the layer feeds; 1 for IF neurons and the read-out."""
    for layer in spec.layers[position + 1 :]:
        if isinstance(layer, LIFSpec):
            return 1.0 if layer.beta == 1.0 else 1.0 / (1.0 - layer.beta)
        if not isinstance(layer, BatchNormSpec):
            break
    return 1.0


def _linear_node(layer: ConvSpec | LinearSpec, weight: Array, bias: Array, shape: Shape) -> nir.NIRNode:
    narrow_weight, narrow_bias = weight.astype(np.float32), bias.astype(np.float32)
    if isinstance(layer, LinearSpec):
        return nir.Affine(narrow_weight, narrow_bias)
    return nir.Conv2d(
        input_shape=(shape[1], shape[2]),
        weight=narrow_weight,
        stride=(layer.stride, layer.stride),
        padding=(layer.padding, layer.padding),
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


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()
