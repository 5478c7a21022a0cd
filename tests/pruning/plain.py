"""The reference of these tests: a spiking network written out in plain torch operations, step by step, in float64."""

import torch
import torch.nn.functional as F

from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers

LAYERS = [
    {"type": "conv", "channels": 6, "kernel": 3, "padding": 1},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "avg_pool", "kernel": 2},
    {"type": "conv", "channels": 5, "kernel": 3, "bias": True},
    {"type": "batch_norm"},
    {"type": "if"},
    {"type": "flatten"},
    {"type": "linear", "features": 8, "bias": False},
    {"type": "batch_norm"},
    {"type": "lif"},
    {"type": "linear", "features": 3},
]
RESIDUAL = [
    {"type": "conv", "channels": 5, "kernel": 3, "padding": 1},
    {"type": "batch_norm"},
    {"type": "conv", "channels": 5, "kernel": 1, "from": "input"},
    {"type": "batch_norm"},
    {"type": "sum", "of": ["batch_norm1", "batch_norm2"]},
    {"type": "lif"},
    {"type": "flatten"},
    {"type": "linear", "features": 3},
]


def network(layers=LAYERS, steps=3, seed=0):
    """A network of maps of 1 x 8 x 8 in training mode, whose scales and shifts are not the initial ones."""
    torch.manual_seed(seed)
    made = SpikingNetwork(NetworkSpec((1, 8, 8), parse_layers(layers, {}), steps=steps)).double().train()
    for norm in made.norms().values():
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias, -0.3, 0.7)
        torch.nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return made


def batch(samples=7, seed=0):
    """Inputs (samples, 1, 8, 8) and labels (samples,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, 1, 8, 8, generator=generator, dtype=torch.float64) * 3
    return x, torch.randint(3, (samples,), generator=generator)


def loss(made, x, y):
    """Cross-entropy of the logits' mean over time."""
    return F.cross_entropy(made(x) / made.spec.steps, y)


class Spike(torch.autograd.Function):
    """1 above 0; backward, the derivative of a logistic function of sharpness 4."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        [x] = ctx.saved_tensors
        s = 1 / (1 + torch.exp(-4 * x))
        return gradient * 4 * s * (1 - s)


class Plain:
    """One forward of the spec of a network, with its parameters as leaves of the graph that can be changed first.

    `parameters` holds them by "layer.name"; scales and shifts are multiplied by their masks unless `on`. After
    `forward`, `v` and `spikes` hold potentials before the reset and spikes of each population, (T, N, ...).
    """

    def __init__(self, made, on=False, training=True):
        self.spec, self.training, self.v, self.spikes = made.spec, training, {}, {}
        self.state = {key.removeprefix("layers."): value.clone() for key, value in made.state_dict().items()}
        self.parameters = {}
        for key, value in made.named_parameters():
            self.parameters[key.removeprefix("layers.")] = value.detach().clone()
        for name, norm in made.norms().items():
            for part in ("weight", "bias"):
                self.parameters[f"{name}.{part}"] *= 1 if on else norm.mask
        for value in self.parameters.values():
            value.requires_grad_()

    def loss(self, x, y):
        """Cross-entropy of the logits' mean over time, negative log-likelihood written out."""
        logits = self.forward(x) / self.spec.steps
        return -(logits - logits.exp().sum(1, keepdim=True).log())[range(len(y)), y].mean()

    def forward(self, x):
        """Logits (N, classes), summed over time."""
        steps = self.spec.steps
        values = {"input": torch.stack([x * self.spec.input_scale] * steps)}
        for layer, sources in zip(self.spec.layers, self.spec.sources, strict=True):
            a = values[sources[0]]
            if layer.type in ("lif", "if"):
                values[layer.name] = self._fire(layer, a)
            elif layer.type == "sum":
                values[layer.name] = sum(values[source] for source in sources)
            else:
                values[layer.name] = self._at_once(layer, a.flatten(0, 1)).unflatten(0, (steps, -1))
        return values[layer.name].sum(0)

    def criticality(self, population):
        """Of the last forward: the logistic derivative at v, mean over time, then maximum over space, (N, C)."""
        s = 1 / (1 + torch.exp(-4 * (self.v[population].detach() - 1)))
        over_time = (4 * s * (1 - s)).mean(0)
        return torch.stack([torch.stack([channel.max() for channel in sample]) for sample in over_time])

    def _at_once(self, layer, a):
        weight, bias = (self.parameters.get(f"{layer.name}.{part}") for part in ("weight", "bias"))
        if layer.type == "conv":
            return F.conv2d(a, weight, bias, layer.stride, layer.padding)
        if layer.type == "linear":
            return F.linear(a, weight, bias)
        if layer.type == "avg_pool":
            return F.avg_pool2d(a, layer.kernel)
        if layer.type == "flatten":
            return a.flatten(1)
        axes, shape = [axis for axis in range(a.dim()) if axis != 1], (-1, *(1,) * (a.dim() - 2))
        mean, variance = a.mean(axes), a.var(axes, unbiased=False)
        if not self.training:
            mean, variance = (self.state[f"{layer.name}.running_{what}"] for what in ("mean", "var"))
        normal = (a - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
        return normal * weight.view(shape) + bias.view(shape)

    def _fire(self, layer, a):
        v, spikes = [], []
        for current in a:
            carried = layer.beta * v[-1] * (1 - spikes[-1].detach()) if v else 0.0
            v.append(carried + current)
            spikes.append(Spike.apply(v[-1] - layer.threshold))
        self.v[layer.name], self.spikes[layer.name] = torch.stack(v), torch.stack(spikes)
        return self.spikes[layer.name]
