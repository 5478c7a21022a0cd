"""What one NIR node does to what enters it, over time, in floats.

Values are (steps, samples, *shape). A node that remembers gets its memory back with its output, so that a loop
can be walked one step at a time. Neurons step as `hardware.dynamics` says after

    LIF, LI          v = beta v + leak (v_leak + r x)                    leak = dt / tau, beta = 1 - leak
    IF, I            v = v + dt r x
    CubaLIF, CubaLI  i = alpha i + synaptic w_in x; v = beta v + leak (v_leak + r i)
                     synaptic = dt / tau_syn, alpha = 1 - synaptic; v takes the i of the same step
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.euler import NEURONS, SPIKING, refuse

Tensors = Mapping[str, torch.Tensor]
Memory = Any
WEIGHTED = (nir.Conv1d, nir.Conv2d, nir.Affine, nir.Linear)
KEPT = (nir.SumPool2d, nir.AvgPool2d, nir.Flatten, nir.Scale, nir.Threshold, nir.Delay)
KNOWN = (*NEURONS, *WEIGHTED, *KEPT)
"""Every node type but the ends and graphs; sums are edges."""


@dataclass(frozen=True)
class Coefficients:
    """A population's step, each (1,) or of the population's shape; see the module's equations.

    gain is what the input is multiplied by on its way into the potential, or into i where `alpha` is given;
    inflow is what a step adds of i, drift what it adds by itself (leak v_leak).
    """

    beta: torch.Tensor
    gain: torch.Tensor
    drift: torch.Tensor | None
    alpha: torch.Tensor | None
    inflow: torch.Tensor | None
    firing: Firing | None


@dataclass(frozen=True)
class Firing:
    """A spiking population's threshold, reset potential and lower clamp, each (1,) or of its shape."""

    threshold: torch.Tensor
    reset: torch.Tensor
    clamp: torch.Tensor | None


def coefficients(name: str, node: nir.NIRNode, dynamics: Dynamics, dtype: torch.dtype) -> Coefficients:
    """The step of a neuron node, worked out in double precision.

    Raises:
        ScaDeployError: naming the node, if a time constant is shorter than a step or a parameter is missing.
    """
    dt = dynamics.dt

    def tensor(values: npt.NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(np.atleast_1d(values).copy()).to(dtype)

    r = _parameter(name, node, "r")
    alpha = inflow = drift = None
    if isinstance(node, nir.IF | nir.I):
        beta, gain = np.ones(1), dt * r
    elif isinstance(node, nir.LIF | nir.LI):
        leak = _rate(name, node, "tau", dt)
        beta, gain = 1.0 - leak, leak * r
    else:
        leak, synaptic = _rate(name, node, "tau_mem", dt), _rate(name, node, "tau_syn", dt)
        beta, gain = 1.0 - leak, synaptic * _parameter(name, node, "w_in")
        alpha, inflow = tensor(1.0 - synaptic), tensor(leak * r)
    if not isinstance(node, nir.IF | nir.I):
        rest = _parameter(name, node, "v_leak")
        drift = tensor(leak * rest) if rest.any() else None
    firing = _firing(name, node, dynamics, tensor) if isinstance(node, SPIKING) else None
    return Coefficients(tensor(beta), tensor(gain), drift, alpha, inflow, firing)


def _firing(
    name: str, node: nir.NIRNode, dynamics: Dynamics, tensor: Callable[[npt.NDArray[np.float64]], torch.Tensor]
) -> Firing:
    theta, clamp = _parameter(name, node, "v_threshold"), None
    if dynamics.reset == "subtract" and (theta <= 0).any():
        raise refuse(name, node, f"a threshold of {theta.min():g} cannot be subtracted, it must be positive")
    if dynamics.clamp == "threshold":
        clamp = tensor(-theta) if isinstance(node, nir.IF) else None
    elif dynamics.clamp is not None:
        clamp = tensor(np.array([float(dynamics.clamp)]))
    return Firing(tensor(theta), tensor(_parameter(name, node, "v_reset", 0.0)), clamp)


def integrate(x: torch.Tensor, memory: Memory, step: Coefficients) -> tuple[torch.Tensor, Memory]:
    """The potentials of integrators, over time. x is (T, N, *shape)."""
    v, i = memory if memory is not None else (torch.zeros_like(x[0]), torch.zeros_like(x[0]))
    outputs = []
    for now in x:
        v, i = before_reset(now, v, i, step)
        outputs.append(v)
    return torch.stack(outputs), (v, i)


def fire(
    x: torch.Tensor,
    memory: Memory,
    step: Coefficients,
    dynamics: Dynamics,
    potentials: list[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, Memory]:
    """The spikes of a population, over time. x is (T, N, *shape); potentials after each step are added to the list."""
    if step.firing is None:
        raise ScaDeployError("neurons without a threshold cannot fire")
    v, i = memory if memory is not None else (torch.zeros_like(x[0]), torch.zeros_like(x[0]))
    outputs = []
    for now in x:
        v, i = before_reset(now, v, i, step)
        spikes = spikes_at(v, step.firing, dynamics)
        v = after_reset(v, spikes, step.firing, dynamics)
        outputs.append(spikes)
        if potentials is not None:
            potentials.append(v)
    return torch.stack(outputs), (v, i)


def before_reset(
    x: torch.Tensor, v: torch.Tensor, i: torch.Tensor, step: Coefficients
) -> tuple[torch.Tensor, torch.Tensor]:
    """The potential that the threshold sees, and the synaptic current."""
    arrived = step.gain * x
    if step.alpha is not None and step.inflow is not None:
        i = step.alpha * i + arrived
        arrived = step.inflow * i
    v = step.beta * v + arrived
    return (v if step.drift is None else v + step.drift), i


def spikes_at(v: torch.Tensor, firing: Firing, dynamics: Dynamics) -> torch.Tensor:
    """How many spikes a potential before the reset gives, in its dtype."""
    if not dynamics.multi_spike:
        over = v > firing.threshold if dynamics.tie == "gt" else v >= firing.threshold
        return over.to(v.dtype)
    fits = v / firing.threshold
    whole = torch.floor(fits) if dynamics.tie == "ge" else torch.ceil(fits) - 1
    return whole.clamp(min=0)


def after_reset(v: torch.Tensor, spikes: torch.Tensor, firing: Firing, dynamics: Dynamics) -> torch.Tensor:
    """The potential that the next step begins with."""
    subtract = dynamics.reset == "subtract"
    v = v - spikes * firing.threshold if subtract else torch.where(spikes > 0, firing.reset, v)
    return v if firing.clamp is None else torch.maximum(v, firing.clamp)


def weights(node: nir.NIRNode, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of a node that `apply` reads: weight and bias, scale, threshold."""
    found = {key: getattr(node, key, None) for key in ("weight", "bias", "scale")}
    if isinstance(node, nir.Threshold):
        found["threshold"] = node.threshold
    return {
        key: torch.from_numpy(np.atleast_1d(np.array(value))).to(dtype)
        for key, value in found.items()
        if value is not None
    }


def apply(name: str, node: nir.NIRNode, x: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """A node without memory, on (B, *shape).

    Raises:
        ScaDeployError: naming the node, if it does not fit what it reads.
    """
    try:
        return _apply(name, node, x, tensors)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise refuse(name, node, f"it cannot read a value of shape {tuple(x.shape[1:])} ({reason})") from error


def _apply(name: str, node: nir.NIRNode, x: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    if isinstance(node, nir.Affine | nir.Linear):
        # A matrix reads a map flattened, unless its last axis fits alone.
        flat = x if x.shape[-1] == tensors["weight"].shape[-1] else x.flatten(1)
        return F.linear(flat, tensors["weight"], tensors.get("bias"))
    if isinstance(node, nir.Conv2d | nir.Conv1d):
        return _convolve(name, node, x, tensors)
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        kernel, stride, padding = (pair(getattr(node, key)) for key in ("kernel_size", "stride", "padding"))
        divisor = 1 if isinstance(node, nir.SumPool2d) else None
        return F.avg_pool2d(x, kernel, stride, padding, divisor_override=divisor)
    if isinstance(node, nir.Flatten):
        first, last = (flat_axis(int(n), x.dim() - 1) for n in (node.start_dim, node.end_dim))
        return x.flatten(first + 1, last + 1)
    if isinstance(node, nir.Scale):
        return x * _fitted(tensors["scale"], x)
    if isinstance(node, nir.Threshold):
        return (x > _fitted(tensors["threshold"], x)).to(x.dtype)
    raise ScaDeployError(f"node '{name}' is a {type(node).__name__}, which is not known here")


def delay(
    name: str, node: nir.Delay, x: torch.Tensor, memory: Memory, dynamics: Dynamics
) -> tuple[torch.Tensor, Memory]:
    """Values as they were some whole steps before, zero before the first. x is (T, N, *shape)."""
    late = delay_steps(name, node, dynamics.dt)
    longest = int(late.max(initial=0))
    past = x.new_zeros(longest, *x.shape[1:]) if memory is None else memory
    known = torch.cat([past, x])
    if late.size == 1:
        out = known[longest - int(late[0]) :][: len(x)]
    else:
        steps = torch.from_numpy(late.reshape(x.shape[2:])).to(x.device)
        out = torch.zeros_like(x)
        for wait in np.unique(late).tolist():
            out = torch.where(steps == wait, known[longest - wait :][: len(x)], out)
    return out, known[len(known) - longest :]


def delay_steps(name: str, node: nir.Delay, dt: float) -> npt.NDArray[np.int64]:
    """A Delay node's delays in steps, (1,) or one a neuron, flat.

    Raises:
        ScaDeployError: if they are negative, or not whole steps.
    """
    exact = np.ravel(np.asarray(node.delay, np.float64)) / dt
    steps = np.rint(exact)
    if not exact.size or exact.min() < 0 or np.abs(exact - steps).max() > 1e-3:
        raise refuse(
            name, node, f"its delay is not a whole number of steps of {dt:g} s", "give the --dt it was made for"
        )
    whole: npt.NDArray[np.int64] = steps.astype(np.int64)
    return whole


def pair(value: Any) -> tuple[int, int]:
    """Two whole numbers, from two or one for both."""
    both = np.broadcast_to(np.asarray(value).ravel(), (2,)).astype(np.int64)
    return int(both[0]), int(both[1])


def flat_axis(axis: int, dims: int) -> int:
    """An axis of a sample of so many dimensions, counted from 0."""
    return axis if axis >= 0 else dims + axis


def _convolve(name: str, node: nir.Conv1d | nir.Conv2d, x: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    weight, bias, two = tensors["weight"], tensors.get("bias"), isinstance(node, nir.Conv2d)
    axes = 2 if two else 1
    stride, dilation = (_sides(getattr(node, key), axes) for key in ("stride", "dilation"))
    padding = node.padding
    word = padding.decode() if isinstance(padding, bytes) else str(padding) if isinstance(padding, str) else ""
    if word not in ("same", "valid", ""):
        raise refuse(name, node, f"padding '{word}' is not known", "give the padding in numbers")
    if word == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        x = F.pad(x, [side for r in reversed(reach) for side in (r // 2, r - r // 2)])
    sides = (0,) * axes if word else _sides(padding, axes)
    convolve: Any = F.conv2d if two else F.conv1d
    result: torch.Tensor = convolve(x, weight, bias, stride, sides, dilation, int(node.groups))
    return result


def _sides(value: Any, axes: int) -> tuple[int, ...]:
    numbers = np.asarray(value).ravel()
    return tuple(int(n) for n in np.broadcast_to(numbers if numbers.size == axes else numbers[-1:], (axes,)))


def _fitted(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One value for all, or one each in the shape of x (B, *shape)."""
    return values if values.numel() == 1 else values.reshape(x.shape[1:])


def _parameter(name: str, node: nir.NIRNode, key: str, default: float | None = None) -> npt.NDArray[np.float64]:
    value = getattr(node, key, default)
    if value is None and default is None:
        raise refuse(name, node, f"it has no '{key}'")
    values = np.atleast_1d(np.asarray(default if value is None else value, np.float64))
    if not np.isfinite(values).all():
        raise refuse(name, node, f"'{key}' holds NaN or infinite values")
    return values


def _rate(name: str, node: nir.NIRNode, key: str, dt: float) -> npt.NDArray[np.float64]:
    tau = _parameter(name, node, key)
    if not tau.size or tau.min() <= 0 or dt / tau.min() > 1 + 1e-5:
        shortest = tau.min() if tau.size else 0.0
        raise refuse(
            name, node, f"{key} is {shortest:g} s, shorter than the time step of {dt:g} s", "give a smaller --dt"
        )
    # Single-precision time constants make dt / tau miss 1 by a rounding error.
    rate = dt / tau
    whole: npt.NDArray[np.float64] = np.where(np.abs(rate - 1) < 1e-5, 1.0, rate)
    return whole
