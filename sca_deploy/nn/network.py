"""The torch module of a NetworkSpec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.nn.neuron import LIF
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
    NetworkSpec,
    SelectSpec,
    Shape,
    SumSpec,
)
from sca_deploy.nn.surrogate import surrogate


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; a gradient that reaches any of them reaches all."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> torch.Tensor:
        total = grad[0].clone()
        dist.all_reduce(total)
        return total


class MaskedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch-norm whose output channels can be switched off by a 0/1 mask.

    mask (gamma x_hat + beta) is computed as (mask gamma) x_hat + mask beta, which costs nothing and
    keeps dL/d(mask gamma) = sum dL/dy x_hat alive for channels that are off: that is the gradient gamma
    would get if the channel were on, the signal for regrowth. `gamma_gradient` holds it after backward.
    Works on (N, C, H, W) and (N, C).

    In distributed training, statistics are those of the values of all processes together, as if one
    process held the whole batch; `gamma_gradient` is this process's part.
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
        gamma, beta = self.weight * self.mask, self.bias * self.mask
        if gamma.requires_grad:
            gamma.register_hook(self._keep)
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return self._normalise_together(x.to(gamma.dtype), gamma, beta).to(x.dtype)
        momentum = cast(float, self.momentum)
        return F.batch_norm(x, self.running_mean, self.running_var, gamma, beta, self.training, momentum, self.eps)

    def _normalise_together(self, x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        """Batch-norm over the values of all processes, of which each may hold another number."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = (1, -1, *(1,) * (x.dim() - 2))
        count = x.new_tensor([x.numel() / x.shape[1]])
        totals: torch.Tensor = _SumOverProcesses.apply(torch.cat([x.sum(axes), count]))
        count = totals[-1].detach()
        mean = totals[:-1] / count
        centred = x - mean.view(shape)
        # Summed squares of what is centred already: E[x^2] - E[x]^2 would cancel in float32.
        variance: torch.Tensor = _SumOverProcesses.apply(centred.square().sum(axes)) / count
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            cast(torch.Tensor, self.running_mean).lerp_(mean, cast(float, self.momentum))
            cast(torch.Tensor, self.running_var).lerp_(unbiased, cast(float, self.momentum))
        return centred * (gamma * torch.rsqrt(variance + self.eps)).view(shape) + beta.view(shape)

    def _keep(self, gradient: torch.Tensor) -> None:
        self.gamma_gradient = gradient.detach()


class Sum(nn.Module):
    """The sum of values (T, N, ...); one that does not change over time may have T = 1."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum."""
        return reduce(torch.add, values)


class Select(nn.Module):
    """Some channels of a value (N, C, ...)."""

    channels: torch.Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        # Part of the spec, so not of the state.
        self.register_buffer("channels", torch.tensor(channels), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The selected channels, in the order given."""
        return x.index_select(1, self.channels)


class SpikingNetwork(nn.Module):
    """The network of a spec: input integers to logits, summed over time.

    Time is folded into the batch for everything but the neurons.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        shapes = {INPUT: spec.input_shape}
        self.layers = nn.ModuleDict()
        for layer, sources, shape in zip(spec.layers, spec.sources, spec.shapes, strict=True):
            if hasattr(self.layers, layer.name):
                raise UsageError(f"layer name '{layer.name}' cannot be used", "torch keeps it for itself")
            self.layers[layer.name] = _module(layer, shapes[sources[0]])
            shapes[layer.name] = shape
        self._reads = list(zip(spec.sources, _read_last(spec), strict=True))

    @property
    def steps(self) -> int:
        """Time steps T a sample lasts."""
        return self.spec.steps

    @property
    def input_shape(self) -> Shape:
        """(channels, height, width) or (features,)."""
        return self.spec.input_shape

    def twin(self, dtype: torch.dtype) -> SpikingNetwork:
        """A copy that computes in another precision, in evaluation mode."""
        other = SpikingNetwork(self.spec).to(dtype).eval()
        other.load_state_dict(self.state_dict())
        return other

    def forward(self, x: torch.Tensor, per_step: bool = False) -> torch.Tensor:
        """Logits (N, classes), or those of each time step (T, N, classes), whose sum they are.

        Args:
            x: integers of any dtype; (N, *input_shape) is shown at every of the spec's time steps,
                (N, T, *input_shape) as it is.
            per_step: whether the logits of every step are wanted.
        """
        steps, frames = self._frames(x)
        values = {INPUT: frames * self.spec.input_scale}
        *hidden, (_, readout) = self.layers.items()
        for (name, module), (sources, spent) in zip(hidden, self._reads[:-1], strict=True):
            values[name] = _over_time(module, [values[source] for source in sources], steps)
            for source in spent:
                del values[source]
        weight, bias = cast(torch.Tensor, readout.weight), cast("torch.Tensor | None", readout.bias)
        [(read,), _] = self._reads[-1]
        spikes = values[read]
        if per_step:
            return F.linear(spikes, weight, bias).expand(steps, -1, -1)
        summed = spikes.sum(0) * (steps // len(spikes))
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


def _over_time(module: nn.Module, values: Sequence[torch.Tensor], steps: int) -> torch.Tensor:
    """A module's output (T or 1, N, ...) for inputs of T or, where nothing changes over time, 1 frames."""
    if isinstance(module, Sum):
        return cast(torch.Tensor, module(*values))
    [value] = values
    now = value.shape[0]
    if isinstance(module, LIF):
        return cast(torch.Tensor, module(value, steps))
    return cast(torch.Tensor, module(value.flatten(0, 1)).unflatten(0, (now, -1)))


def _read_last(spec: NetworkSpec) -> list[list[str]]:
    """For each layer, the values that no later layer reads, so that memory can be given back."""
    last = {source: position for position, sources in enumerate(spec.sources) for source in sources}
    return [[source for source in last if last[source] == position] for position in range(len(spec.layers))]


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
        case SumSpec():
            return Sum()
        case SelectSpec():
            return Select(layer.channels)
    raise ScaDeployError(f"layer '{layer.name}' has the unknown type {layer.type}")
