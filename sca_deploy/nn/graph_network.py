"""The torch module of any NIR graph: it runs as `hardware.float_graph` does, and learns.

Every node keeps its own numbers, so that the graph comes back bit for bit. Weights and biases are trained, time
constants and thresholds are not. In front of every spiking population stands a gate, which masks channels and, where
it can be folded into the weights before it, scales them; untouched it changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import nir
import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.euler import INTEGRATORS, SPIKING
from sca_deploy.hardware.float_graph import Walk, plan
from sca_deploy.hardware.float_nodes import (
    WEIGHTED,
    Coefficients,
    Firing,
    Memory,
    after_reset,
    apply,
    before_reset,
    coefficients,
    delay,
    integrate,
    spikes_at,
    weights,
)
from sca_deploy.hardware.program import Shape
from sca_deploy.nn.neuron import LIF, Observer
from sca_deploy.nn.surrogate import Surrogate, surrogate


class GraphNetwork(nn.Module):
    """A NIR graph as a network: input integers to logits, summed over time.

    Args:
        graph: one Input and one Output; what enters the Output, flattened, are the logits of a step.
        dynamics: how its neurons step.
        steps: time steps T that a sample without time is shown for.
        dtype: what is computed in; by default double precision if the graph's weights are, else single.

    The surrogate gradient is a sigmoid's, of the distance from the threshold in units of the threshold's size.

    Raises:
        ScaDeployError: naming a node that cannot be run.
    """

    _like: torch.Tensor

    def __init__(self, graph: nir.NIRGraph, dynamics: Dynamics, steps: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dynamics, self.steps = dynamics, steps
        self.graph = copy.deepcopy(graph)
        self.walk: Walk = plan(self.graph)
        dtype = dtype or _dtype(self.walk)
        self.register_buffer("_like", torch.zeros(0, dtype=dtype), persistent=False)
        self._places = {name: place for place, name in enumerate(self.walk.nodes)}
        bump = surrogate("sigmoid")
        self.parts = nn.ModuleList(_part(name, self.walk, dynamics, bump, dtype) for name in self.walk.nodes)
        self.gates_of = {name: Gate(name, self.walk) for name in self.neurons()}
        self.gates = nn.ModuleList(gate.to(dtype) for gate in self.gates_of.values())
        # A constant current into a synaptic current is what no chip adds: what is not there is not learnt.
        for name, gate in self.gates_of.items():
            if isinstance(self.walk.nodes[name], nir.CubaLIF):
                gate.bias.requires_grad_(False)
                for source in self.walk.sources[name]:
                    _freeze_zero_bias(self.part(source))

    @property
    def input_shape(self) -> Shape:
        """(channels, height, width) or (features,)."""
        return self.walk.shapes[self.walk.input]

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._like.dtype

    @property
    def integrates(self) -> bool:
        """Whether all that enters the Output are potentials of neurons that never fire."""
        return all(isinstance(self.walk.nodes[name], INTEGRATORS) for name in self.walk.sources[self.walk.output])

    @property
    def classes(self) -> int:
        """How many values enter the Output."""
        return int(np.prod(self.walk.shapes[self.walk.output]))

    def part(self, name: str) -> nn.Module:
        """The module of a node."""
        return self.parts[self._places[name]]

    def forward(self, x: torch.Tensor, per_step: bool = False) -> torch.Tensor:
        """Logits (N, classes), or those of each time step (T, N, classes), whose sum they are.

        Where the graph ends in integrators, their last potential counts, as on the chip: the logits are T times it.

        Args:
            x: integers of any dtype; (N, *input_shape) is shown at every time step, (N, T, *input_shape) as it is.
            per_step: whether the logits of every step are wanted.
        """
        if torch.is_grad_enabled():
            for gate in self.gates_of.values():
                gate.gamma_gradient = None
        for neuron in self.neurons().values():
            neuron.forget()
        values = self.walk.run(self._frames(x), self._node, wanted=[self.walk.output])
        for neuron in self.neurons().values():
            neuron.report()
        logits = values[self.walk.output].flatten(2)
        if per_step:
            return logits
        return len(logits) * logits[-1] if self.integrates else logits.sum(0)

    def norms(self) -> dict[str, Gate]:
        """The gates, which are what can be pruned, by the name of their population."""
        return dict(self.gates_of)

    def neurons(self) -> dict[str, GraphNeurons]:
        """The spiking populations by name, in the order of the graph."""
        order = [name for part in self.walk.parts for name in part]
        return {name: part for name in order if isinstance(part := self.part(name), GraphNeurons)}

    @property
    def kept_channels(self) -> dict[str, int]:
        """Channels that are on, for every spiking population."""
        return {name: int(gate.mask.sum()) for name, gate in self.gates_of.items()}

    @contextmanager
    def recording(self) -> Iterator[dict[str, torch.Tensor]]:
        """Inside the block, every forward leaves each population's spikes (N, T, ...) in the dictionary."""
        recorded: dict[str, torch.Tensor] = {}
        neurons = self.neurons()
        try:
            for name, neuron in neurons.items():
                neuron.heard = partial(_keep, recorded, name)
            yield recorded
        finally:
            for neuron in neurons.values():
                neuron.heard = None

    def twin(self, dtype: torch.dtype) -> GraphNetwork:
        """A copy that computes in another precision, in evaluation mode, with the weights that `to_nir` writes.

        Gates are folded into them, and keep their masks: rounded once more, a weight can turn a spike.
        """
        other = GraphNetwork(self.graph, self.dynamics, self.steps, dtype)
        other.load_state_dict(self.state_dict())
        with torch.no_grad():
            for name, arrays in self._arrays().items():
                for key, value in arrays.items():
                    written = value.astype(np.asarray(getattr(self.walk.nodes[name], key)).dtype)
                    getattr(other.part(name), key).copy_(torch.from_numpy(written))
            for gate in other.gates_of.values():
                if gate.folds:
                    gate.weight.fill_(1.0)
                    gate.bias.fill_(0.0)
        return other.eval()

    def to_nir(self) -> nir.NIRGraph:
        """The graph with the weights as they are now; gates are folded into the weights before them.

        Raises:
            ScaDeployError: if a weight is not finite, or a gate that cannot be folded masks a channel.
        """
        graph = copy.deepcopy(self.graph)
        for name, gate in self.gates_of.items():
            if not gate.folds and not gate.open:
                raise ScaDeployError(f"masked channels of '{name}' cannot be written as weights", "compact it first")
        _fill(graph, "", self._arrays())
        stale = ("scales", "integers")
        kept = {key: value for key, value in graph.metadata.items() if key not in stale}
        graph.metadata = kept | self.dynamics.metadata() | {"T": self.steps}
        return graph

    def linear_maps(self) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        """Weight and bias of every map by its node, gates folded, as functions that gradients flow through."""
        readers: dict[str, list[str]] = {}
        for name, sources in self.walk.sources.items():
            for source in sources:
                readers.setdefault(source, []).append(name)
        maps = {}
        for name, node in self.walk.nodes.items():
            if isinstance(node, WEIGHTED):
                part = self.part(name)
                weight, bias = cast(torch.Tensor, part.weight), cast("torch.Tensor | None", part.bias)
                gate = self.gates_of.get(readers[name][0]) if len(readers.get(name, [])) == 1 else None
                if gate is not None and gate.folds and not gate.open:
                    first = gate.bias_source == name
                    weight, bias = gate.folded(weight, bias, first)
                maps[name] = (weight, bias)
        return maps

    def _arrays(self) -> dict[str, dict[str, Any]]:
        arrays: dict[str, dict[str, Any]] = {}
        with torch.no_grad():
            for name, (weight, bias) in self.linear_maps().items():
                tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
                for value in tensors.values():
                    if not torch.isfinite(value).all():
                        raise ScaDeployError(f"node '{name}' holds NaN or infinite values", "train with a lower --lr")
                arrays[name] = {key: value.detach().cpu().numpy().copy() for key, value in tensors.items()}
        return arrays

    def _frames(self, x: torch.Tensor) -> torch.Tensor:
        shape, dims = self.input_shape, len(self.input_shape)
        if tuple(x.shape[-dims:]) != shape or x.dim() not in (dims + 1, dims + 2):
            raise ScaDeployError(f"input has shape {tuple(x.shape)}, the network expects (samples, [steps,] {shape})")
        x = x.to(self.dtype)
        return x.expand(self.steps, *x.shape) if x.dim() == dims + 1 else x.transpose(0, 1)

    def _node(self, name: str, x: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        part, node = self.part(name), self.walk.nodes[name]
        if isinstance(part, GraphNeurons):
            x = self.gates_of[name](x)
        if isinstance(part, GraphNeurons | _Integrators):
            stepped: tuple[torch.Tensor, Memory] = part(x, memory)
            return stepped
        if isinstance(node, nir.Delay):
            return delay(name, node, x, memory, self.dynamics)
        tensors = dict(part.named_parameters()) | dict(part.named_buffers())
        still = len(x) > 1 and x.stride(0) == 0  # one frame, shown again and again
        shown = x[:1] if still else x
        out = apply(name, node, shown.flatten(0, 1), tensors).unflatten(0, shown.shape[:2])
        return (out.expand(len(x), *out.shape[1:]) if still else out), None


class Gate(nn.Module):
    """A 0/1 mask on the channels of what enters a population, and a scale and shift where they fold into maps.

    Has what pruning asks of a batch-norm: `mask`, `weight` (gamma), `bias` (beta) and, after backward,
    `gamma_gradient`, dL/d(mask gamma) of the last forward, which is alive for masked channels.

    Attributes:
        folds: whether everything the population reads is a map that it alone reads.
        bias_source: the map whose bias takes the shift; None where there is none.
    """

    mask: torch.Tensor

    def __init__(self, name: str, walk: Walk) -> None:
        super().__init__()
        sources = walk.sources[name]
        readers = [source for reads in walk.sources.values() for source in reads]
        self.folds = all(starts_channels(walk, s) and readers.count(s) == 1 for s in sources)
        biased = [s for s in sources if getattr(walk.nodes[s], "bias", None) is not None]
        self.bias_source = biased[0] if self.folds and biased else None
        channels = walk.shapes[name][0]
        self.register_buffer("mask", torch.ones(channels))
        self.weight = nn.Parameter(torch.ones(channels), requires_grad=self.folds)
        self.bias = nn.Parameter(torch.zeros(channels), requires_grad=self.bias_source is not None)
        self.gamma_gradient: torch.Tensor | None = None

    @property
    def open(self) -> bool:
        """Whether it changes nothing."""
        return bool((self.mask == 1).all() and (self.weight == 1).all() and (self.bias == 0).all())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The masked, scaled input (T, N, C, ...)."""
        if not torch.is_grad_enabled() and self.open:
            return x
        gamma, beta = self.weight * self.mask, self.bias * self.mask
        if torch.is_grad_enabled():
            gamma = gamma if gamma.requires_grad else gamma.detach().requires_grad_()
            gamma.register_hook(self._keep)
        shape = (-1, *(1,) * (x.dim() - 3))
        return x * gamma.view(shape) + beta.view(shape)

    def folded(
        self, weight: torch.Tensor, bias: torch.Tensor | None, shift: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A map's weight and bias with the gate behind it."""
        gamma, beta = self.weight * self.mask, self.bias * self.mask
        if bias is not None:
            bias = bias * gamma + beta if shift else bias * gamma
        return weight * gamma.reshape(-1, *(1,) * (weight.dim() - 1)), bias

    def _keep(self, gradient: torch.Tensor) -> None:
        # On a loop the gate is passed once a step.
        seen, gradient = self.gamma_gradient, gradient.detach()
        self.gamma_gradient = gradient if seen is None else seen + gradient


class GraphNeurons(nn.Module):
    """A spiking population of a graph.

    `observers` are called once in every forward of the network with potentials before the reset and spikes, both
    (T, N, ...) and part of the autograd graph. Potentials are in units of the threshold; where it is not positive,
    their distance from it is in units of its size (of 1 where it is 0), and `threshold` is where it lies.

    Args:
        stepwise: whether it lies on a loop, and so is called once a step.
    """

    threshold = 1.0
    """In the units that observers are given."""

    def __init__(self, step: Coefficients, dynamics: Dynamics, bump: Surrogate, stepwise: bool) -> None:
        super().__init__()
        self._stepwise = stepwise
        self._seen: list[tuple[torch.Tensor | None, torch.Tensor]] = []
        self.observers: list[Observer] = []
        self.heard: Callable[[torch.Tensor], None] | None = None
        self.surrogate, self._dynamics = bump, dynamics
        self._step = _Held(step)
        self._fast = _fast(step, dynamics, bump)

    def forward(self, x: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Spikes (T, N, ...) and the memory after them, from the summed input (T, N, ...)."""
        step = self._step.values
        if self._fast is not None and memory is None and len(x) > 1:
            spikes = self._run_fast(self._fast, step.gain * x)
        else:
            spikes, memory = self._run(x, memory, step)
        if not self._stepwise:
            self.report()
        return spikes, memory

    def forget(self) -> None:
        """Begin a forward of the network."""
        self._seen = []

    def report(self) -> None:
        """Tell what was seen since to those that asked."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        spikes = torch.cat([now for _, now in seen])
        if self.heard is not None:
            self.heard(spikes)
        if self.observers:
            potentials = torch.cat([v for v, _ in seen if v is not None])
            for observer in self.observers:
                observer(potentials, spikes)

    def _run_fast(self, fast: LIF, current: torch.Tensor) -> torch.Tensor:
        fast.observers = [self._note] if self.observers else []
        spikes: torch.Tensor = fast(current)
        if not self.observers:
            self._note(None, spikes)
        return spikes

    def _note(self, v: torch.Tensor | None, spikes: torch.Tensor) -> None:
        if v is None or not self.observers:
            self._seen += [(None, spikes)] if self.heard is not None else []
            return
        unit, place = _units(_firing(self._step.values).threshold)
        self._seen.append((v / unit + place, spikes))

    def _run(self, x: torch.Tensor, memory: Memory, step: Coefficients) -> tuple[torch.Tensor, Memory]:
        v, i = memory if memory is not None else (torch.zeros_like(x[0]), torch.zeros_like(x[0]))
        firing, potentials, fired = _firing(step), [], []
        for now in x:
            v, i = before_reset(now, v, i, step)
            spikes: torch.Tensor = _Fired.apply(v, firing, self._dynamics, self.surrogate)
            potentials.append(v)
            fired.append(spikes)
            v = after_reset(v, spikes.detach(), firing, self._dynamics)
        spikes = torch.stack(fired)
        self._note(torch.stack(potentials) if self.observers else None, spikes)
        return spikes, (v, i)


class _Fired(torch.autograd.Function):
    """The spikes of a potential; backward, the surrogate at the nearest multiple of the threshold that counts."""

    @staticmethod
    def forward(ctx: Any, v: torch.Tensor, firing: Firing, dynamics: Dynamics, bump: Surrogate) -> torch.Tensor:
        ctx.save_for_backward(v)
        ctx.theta, ctx.multi_spike, ctx.bump = firing.threshold, dynamics.multi_spike, bump
        return spikes_at(v, firing, dynamics)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (v,) = ctx.saved_tensors
        unit, place = _units(ctx.theta)
        times = v / unit + place
        near = times.round().clamp(min=1) if ctx.multi_spike else 1.0
        return ctx.bump.derivative(times - near) / unit * grads[0], None, None, None


def _units(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What potentials are divided by, and what is added then, so that a threshold of any sign lies at 1."""
    unit = torch.where(theta == 0, torch.ones_like(theta), theta.abs())
    return unit, 1 - theta / unit


@dataclass(frozen=True)
class _Scaled(Surrogate):
    """A surrogate of the distance in units of a threshold."""

    theta: float
    bump: Surrogate

    def derivative(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The derivative with respect to x."""
        scaled = torch.mul(x.detach(), 1 / self.theta, out=out)
        return self.bump.derivative(scaled, out=scaled).mul_(1 / self.theta)


class _Held(nn.Module):
    """Coefficients that move with their network from device to device and type to type."""

    def __init__(self, step: Coefficients) -> None:
        super().__init__()
        self._step = step
        flat = {**vars(step), **({} if step.firing is None else vars(step.firing))}
        for key, value in flat.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(key, value, persistent=False)

    @property
    def values(self) -> Coefficients:
        """The coefficients where the network is."""
        held = dict(self.named_buffers())
        firing = self._step.firing
        if firing is not None:
            firing = Firing(held["threshold"], held["reset"], held.get("clamp"))
        drift, alpha, inflow = (held.get(name) for name in ("drift", "alpha", "inflow"))
        return Coefficients(held["beta"], held["gain"], drift, alpha, inflow, firing)


class _Integrators(nn.Module):
    """Neurons that never fire; their output is their potential."""

    def __init__(self, step: Coefficients) -> None:
        super().__init__()
        self._step = _Held(step)

    def forward(self, x: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Potentials (T, N, ...)."""
        return integrate(x, memory, self._step.values)


class _Tensors(nn.Module):
    """The weight and bias of a map, which are trained, or the numbers of another node, which are not."""

    weight: Any
    bias: Any

    def __init__(self, node: nir.NIRNode, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = self.bias = None
        for key, value in weights(node, dtype).items():
            if isinstance(node, WEIGHTED):
                setattr(self, key, nn.Parameter(value))
            else:
                self.register_buffer(key, value, persistent=False)


def _part(name: str, walk: Walk, dynamics: Dynamics, bump: Surrogate, dtype: torch.dtype) -> nn.Module:
    node = walk.nodes[name]
    if isinstance(node, SPIKING):
        stepwise = any(name in part and walk.looped(part) for part in walk.parts)
        return GraphNeurons(coefficients(name, node, dynamics, dtype), dynamics, bump, stepwise)
    if isinstance(node, INTEGRATORS):
        return _Integrators(coefficients(name, node, dynamics, dtype))
    return _Tensors(node, dtype)


def _dtype(walk: Walk) -> torch.dtype:
    arrays = [getattr(node, key, None) for node in walk.nodes.values() for key in ("weight", "bias")]
    wide = any(isinstance(array, np.ndarray) and array.dtype == np.float64 for array in arrays)
    return torch.float64 if wide else torch.float32


def _fast(step: Coefficients, dynamics: Dynamics, bump: Surrogate) -> LIF | None:
    """All steps at once, for neurons that are alike and step as ours do; None for others."""
    firing = step.firing
    if firing is None or not dynamics.plain or step.alpha is not None or step.drift is not None:
        return None
    alike = all(bool((values == values.flatten()[0]).all()) for values in (step.beta, firing.threshold))
    if not alike or firing.reset.any() or firing.threshold.min() <= 0:
        return None
    theta = float(firing.threshold.flatten()[0])
    return LIF(float(step.beta.flatten()[0]), theta, _Scaled(bump.alpha, theta, bump))


def _keep(recorded: dict[str, torch.Tensor], name: str, spikes: torch.Tensor) -> None:
    recorded[name] = spikes.detach().transpose(0, 1)


def starts_channels(walk: Walk, name: str) -> bool:
    """Whether the first axis of a node's output is the rows of its weight; a matrix along a last axis hands it on."""
    node = walk.nodes[name]
    along = isinstance(node, nir.Affine | nir.Linear) and len(walk.shapes[name]) > 1
    return isinstance(node, WEIGHTED) and not along


def _firing(step: Coefficients) -> Firing:
    if step.firing is None:
        raise ScaDeployError("neurons without a threshold cannot fire")
    return step.firing


def _freeze_zero_bias(part: nn.Module) -> None:
    bias = getattr(part, "bias", None)
    if isinstance(bias, nn.Parameter) and not bias.detach().any():
        bias.requires_grad_(False)


def _fill(graph: nir.NIRGraph, prefix: str, arrays: dict[str, dict[str, Any]]) -> None:
    """Put arrays into the nodes of a graph and of those inside it."""
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            _fill(node, f"{prefix}{name}.", arrays)
        for key, value in arrays.get(f"{prefix}{name}", {}).items():
            old = np.asarray(getattr(node, key))
            setattr(node, key, value.astype(old.dtype if old.dtype.kind == "f" else value.dtype).reshape(old.shape))
