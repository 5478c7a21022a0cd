"""NIR's neuron equations as the chip's discrete ones, one Euler step of `dt` each.

u[t] = alpha u[t-1] + gain (W x[t]);   v[t] = beta v[t-1] + u[t] + gain b;   s[t] = v[t] > threshold;  v = 0 where s

LIF, LI        tau dv/dt = (v_leak - v) + R I      beta = 1 - dt/tau, gain = R dt/tau; v_leak adds v_leak dt/tau a step
IF, I          dv/dt = R I                         beta = 1, gain = R dt
CubaLIF, CubaLI  tau_syn dI/dt = -I + w_in S, tau_mem dv/dt = (v_leak - v) + R I
               alpha = 1 - dt/tau_syn, beta = 1 - dt/tau_mem, gain = w_in dt/tau_syn R dt/tau_mem; the potential
               takes the current of the same step, as the chip's does and norse's
"""

from __future__ import annotations

from dataclasses import dataclass

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError

SPIKING = (nir.LIF, nir.IF, nir.CubaLIF)
INTEGRATORS = (nir.LI, nir.I, nir.CubaLI)
NEURONS = SPIKING + INTEGRATORS


@dataclass(frozen=True)
class Neuron:
    """The discrete parameters all neurons of a population share; `threshold` is None where none fires.

    `ties_fire` says that a potential equal to the threshold fires as well.
    """

    alpha: float
    beta: float
    gain: float
    threshold: float | None
    ties_fire: bool = False


def discrete(name: str, node: nir.NIRNode, dt: float) -> Neuron:
    """One Euler step of a neuron node.

    Raises:
        ScaDeployError: naming the node and the parameter that a population on the chip cannot have.
    """
    if np.any(np.asarray(getattr(node, "v_reset", 0.0))):
        raise refuse(
            name, node, "'v_reset' is not zero, which the chip's neuron cannot do", "shift the potentials so that it is"
        )
    threshold = None
    if isinstance(node, SPIKING):
        threshold = _uniform(name, node, "v_threshold")
        if threshold <= 0:
            raise refuse(name, node, f"v_threshold is {threshold:g}, it must be positive")
    r = _uniform(name, node, "r")
    if isinstance(node, nir.IF | nir.I):
        return Neuron(0.0, 1.0, r * dt, threshold)
    if isinstance(node, nir.LIF | nir.LI):
        leak = _leak(name, node, "tau", dt)
        return Neuron(0.0, 1.0 - leak, r * leak, threshold)
    leak, synaptic = _leak(name, node, "tau_mem", dt), _leak(name, node, "tau_syn", dt)
    return Neuron(1.0 - synaptic, 1.0 - leak, _uniform(name, node, "w_in") * synaptic * r * leak, threshold)


def drift(name: str, node: nir.NIRNode, dt: float, channels: int) -> npt.NDArray[np.float64]:
    """What a leak towards v_leak adds to the potentials at every step, (channels,): dt / tau v_leak.

    Raises:
        ScaDeployError: if it differs within a channel.
    """
    rest = np.asarray(getattr(node, "v_leak", 0.0), np.float64)
    if not rest.any():
        return np.zeros(channels)
    leak = _leak(name, node, "tau_mem" if isinstance(node, nir.CubaLIF | nir.CubaLI) else "tau", dt)
    rows = rest.reshape(channels, -1) if rest.size > 1 else np.full((channels, 1), rest.item())
    if np.ptp(rows, axis=1).any():
        raise refuse(name, node, "'v_leak' differs within a channel; a bias on the chip is a channel's")
    first: npt.NDArray[np.float64] = leak * rows[:, 0]
    return first


def refuse(name: str, node: nir.NIRNode, why: str, fix: str = "") -> ScaDeployError:
    """The error that names a node and says why it cannot be carried."""
    return ScaDeployError(f"node '{name}' ({type(node).__name__}): {why}", fix)


def _leak(name: str, node: nir.NIRNode, key: str, dt: float) -> float:
    tau = _uniform(name, node, key)
    # float32 time constants make dt / tau miss 0 and 1 by a rounding error.
    leak = dt / tau if tau > 0 else np.inf
    if not 0 <= leak <= 1 + 1e-6:
        raise refuse(name, node, f"{key} is {tau:g} s, shorter than the time step of {dt:g} s", "give a smaller --dt")
    return min(leak, 1.0)


def _uniform(name: str, node: nir.NIRNode, key: str) -> float:
    values = np.asarray(getattr(node, key), np.float64)
    if values.size == 0 or np.ptp(values) > 1e-6 * np.abs(values).max():
        raise refuse(
            name,
            node,
            f"'{key}' differs between neurons; a population on the chip shares it",
            "train it with one value a layer, or split the layer by value",
        )
    return float(values.flat[0])
