"""The torch module of a NetworkSpec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.nn.neuron import LIF
from sca_deploy.nn.spec import (
    AvgPoolSpec,
    BatchNormSpec,
    ConvSpec,
    DropoutSpec,
    FlattenSpec,
    LayerSpec,
    LIFSpec,
    LinearSpec,
    MaxPoolSpec,
    NetworkSpec,
    Shape,
)
from sca_deploy.nn.surrogate import surrogate


class MaskedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch-norm whose output channels can be switched off by a 0/1 mask.

    mask (gamma x_hat + beta) is computed as (mask gamma) x_hat + mask beta, which costs nothing and
    keeps dL/d(mask gamma) = sum dL/dy x_hat alive for channels that are off: that is the gradient gamma
    would get if the channel were on, the signal for regrowth. `gamma_gradient` holds it after backward.
    Works on (N, C, H, W) and (N, C).
    """

    mask: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("mask", torch.ones(channels))
        self.gamma_gradient: torch.Tensor | None = None

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected (N, C) or (N, C, H, W), got {tuple(input.shape)}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The masked, normalised input, of the same shape."""
        gamma = self.weight * self.mask
        if gamma.requires_grad:
            gamma.register_hook(self._keep)
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            gamma,
            self.bias * self.mask,
            self.training,
            cast(float, self.momentum),
            self.eps,
        )

    def _keep(self, gradient: torch.Tensor) -> None:
        self.gamma_gradient = gradient.detach()


class SpikingNetwork(nn.Module):
    """The network of a spec: input integers to logits, summed over time.

    Time is folded into the batch for everything but the neurons.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        shape = spec.input_shape
        self.layers = nn.ModuleDict()
        for layer in spec.layers:
            if hasattr(self.layers, layer.name):
                raise UsageError(f"layer name '{layer.name}' cannot be used", "torch keeps it for itself")
            self.layers[layer.name] = _module(layer, shape)
            shape = layer.output_shape(shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes).

        Args:
            x: integers of any dtype; (N, *input_shape) is shown at every of the spec's time steps,
                (N, T, *input_shape) as it is.
        """
        steps, frames = self._frames(x)
        *hidden, (_, readout) = self.layers.items()
        values, now = frames * self.spec.input_scale, frames.shape[0]
        for _, module in hidden:
            if isinstance(module, LIF):
                values = module(values.expand(steps, *values.shape[1:]) if now < steps else values)
                now = steps
            else:
                values = module(values.flatten(0, 1)).unflatten(0, (now, -1))
        weight, bias = cast(torch.Tensor, readout.weight), cast("torch.Tensor | None", readout.bias)
        summed = values.sum(0) * (steps // now)
        return F.linear(summed, weight, None if bias is None else steps * bias)

    def _frames(self, x: torch.Tensor) -> tuple[int, torch.Tensor]:
        """(steps, frames (T or 1, N, ...)); one frame where the input does not change over time."""
        dims = len(self.spec.input_shape)
        dtype = next(self.parameters()).dtype
        if tuple(x.shape[-dims:]) != self.spec.input_shape or x.dim() not in (dims + 1, dims + 2):
            raise ScaDeployError(
                f"input has shape {tuple(x.shape)}, the network expects (samples, [steps,] {self.spec.input_shape})"
            )
        if x.dim() == dims + 1:
            return self.spec.steps, x.to(dtype).unsqueeze(0)
        return x.shape[1], x.to(dtype).transpose(0, 1)

    def norms(self) -> dict[str, MaskedBatchNorm]:
        """The batch-norms, which are what can be pruned, by layer name."""
        return {name: m for name, m in self.layers.items() if isinstance(m, MaskedBatchNorm)}

    def neurons(self) -> dict[str, LIF]:
        """The spiking populations by layer name."""
        return {name: m for name, m in self.layers.items() if isinstance(m, LIF)}

    @property
    def kept_channels(self) -> dict[str, int]:
        """Channels that are on, for every batch-norm."""
        return {name: int(norm.mask.sum()) for name, norm in self.norms().items()}

    @contextmanager
    def recording(self) -> Iterator[dict[str, torch.Tensor]]:
        """Inside the block, every forward leaves each population's spikes (N, T, ...) in the dictionary."""
        recorded: dict[str, torch.Tensor] = {}
        added = []
        for name, neuron in self.neurons().items():

            def keep(_: torch.Tensor, spikes: torch.Tensor, name: str = name) -> None:
                recorded[name] = spikes.detach().transpose(0, 1)

            neuron.observers.append(keep)
            added.append((neuron, keep))
        try:
            yield recorded
        finally:
            for neuron, observer in added:
                neuron.observers.remove(observer)


def _module(layer: LayerSpec, shape: Shape) -> nn.Module:
    match layer:
        case ConvSpec():
            return nn.Conv2d(shape[0], layer.channels, layer.kernel, layer.stride, layer.padding, bias=layer.bias)
        case LinearSpec():
            return nn.Linear(shape[0], layer.features, bias=layer.bias)
        case BatchNormSpec():
            return MaskedBatchNorm(shape[0])
        case LIFSpec():
            return LIF(layer.beta, layer.threshold, surrogate(layer.surrogate, layer.alpha))
        case MaxPoolSpec():
            return nn.MaxPool2d(layer.kernel, layer.step)
        case AvgPoolSpec():
            return nn.AvgPool2d(layer.kernel, layer.step)
        case FlattenSpec():
            return nn.Flatten()
        case DropoutSpec():
            return nn.Dropout(layer.p)
    raise ScaDeployError(f"layer '{layer.name}' has the unknown type {layer.type}")
