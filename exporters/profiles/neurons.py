"""Neurons as a profile writes them: whole arrays, no resting or reset potential, one time constant, a fixed gain.

One step of a population is v = beta v + gain i (and what `hardware.euler` says of CubaLIF). A profile fixes the
gain, so what differs is folded into the maps that feed the neurons.
Thresholds that differ between neurons go the same way: v / theta reaches 1 when v reaches theta, and a reset
to 0 stays one.
"""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np

from sca_deploy.exporters.profiles.draft import MAPS, Draft, FloatArray, changed, double, per_channel, spread
from sca_deploy.exporters.profiles.firing import MEMORYLESS, remembering
from sca_deploy.exporters.profiles.scales import biased, read_scaled
from sca_deploy.hardware.euler import INTEGRATORS, NEURONS, SPIKING

PARAMETERS = ("tau", "tau_mem", "tau_syn", "r", "v_leak", "v_threshold", "v_reset", "w_in")
SHARED = ("tau", "tau_mem", "tau_syn")
"""What a reader takes the same for all neurons of a layer, and no weight can make up for."""


def whole(draft: Draft) -> Draft:
    """Every parameter an array of its population's full shape, in double precision; a missing v_reset is 0."""
    nodes = dict(draft.nodes)
    for name, node in draft.nodes.items():
        if isinstance(node, NEURONS):
            shape = draft.shapes[name]
            values = {key: getattr(node, key) for key in PARAMETERS if hasattr(node, key)}
            filled = {key: spread(0.0 if value is None else value, shape) for key, value in values.items()}
            nodes[name] = type(node)(**filled)
    return replace(draft, nodes=nodes)


def thresholds_as_neurons(draft: Draft) -> Draft:
    """A Threshold as LIF neurons that remember nothing, tau being a step.

    Thresholds that differ, or are not positive, become a resting potential below a threshold of 1.
    """
    nodes = dict(draft.nodes)
    for name, node in draft.nodes.items():
        if isinstance(node, nir.Threshold):
            shape = draft.shapes[name]
            one, zero = np.ones(shape), np.zeros(shape)
            theta = spread(node.threshold, shape)
            rest = zero
            if np.ptp(theta) > 0 or theta.min() <= 0:
                rest, theta = 1.0 - theta, one
            if draft.dynamics.tie == "ge":  # a Threshold node fires above its threshold, whatever neurons do
                theta = double(np.nextafter(np.float32(theta), np.float32(np.inf)))
            nodes[name] = nir.LIF(draft.dynamics.dt * one, one, rest, theta, zero)
    return replace(draft, nodes=nodes)


def longer_than_a_step(draft: Draft) -> Draft:
    """No LIF with a tau of exactly dt, which spikingjelly refuses; a part in a million above it."""
    shortest = draft.dynamics.dt * (1.0 + 1e-6)
    nodes = {
        name: changed(node, tau=np.maximum(node.tau, shortest)) if isinstance(node, nir.LIF) else node
        for name, node in draft.nodes.items()
    }
    return replace(draft, nodes=nodes)


def readouts_left_out(draft: Draft) -> Draft:
    """Without integrators in front of the Output; elsewhere, no reader knows them."""
    for name, node in draft.nodes.items():
        if not isinstance(node, INTEGRATORS):
            continue
        kind, ends = type(node).__name__, {type(draft.nodes[target]) for target in draft.targets(name)}
        if ends == {nir.Output} and len(draft.sources(name)) == 1:
            draft = draft.without(name).losing(
                f"the read-out '{name}' ({kind}) is left out, the Output is what it read"
            )
        else:
            draft = draft.refusing(f"node '{name}' is a {kind}, which no reader of this profile knows")
    return draft


def shifted(draft: Draft) -> Draft:
    """Potentials counted from the reset potential: the reset is to 0, only the start is no longer at 0."""
    remembers = remembering(draft)
    for name, node in draft.nodes.items():
        if not (isinstance(node, SPIKING) and np.any(node.v_reset)):
            continue
        reset = node.v_reset if name in remembers else np.zeros(node.v_reset.shape)
        values = {"v_reset": np.zeros(reset.shape), "v_threshold": node.v_threshold - reset}
        if hasattr(node, "v_leak"):
            values["v_leak"] = node.v_leak - reset
        draft = draft.put(name, changed(node, **values))
        if name not in remembers:
            continue
        if values["v_threshold"].min() <= 0:
            draft = draft.refusing(f"neurons '{name}' reset to {reset.max():g}, which is not below their threshold")
        else:
            draft = draft.losing(f"the potentials of '{name}' begin at their v_reset instead of at 0")
    return draft


def sharing(draft: Draft) -> Draft:
    """One time constant for all neurons of a layer: the mean where they differ."""
    for name, node in draft.nodes.items():
        for key in SHARED:
            value = getattr(node, key, None)
            if value is None or np.ptp(value) == 0:
                continue
            mean, low, high = (float(of(value)) for of in (np.mean, np.min, np.max))
            draft = draft.put(name, changed(draft.nodes[name], **{key: np.full(np.shape(value), mean)}))
            if high - low > 1e-6 * high:
                draft = draft.losing(f"'{name}' has one {key}, {mean:g} s, instead of {low:g} to {high:g} s")
    return draft


def normalised(draft: Draft, resistance: str) -> Draft:
    """Fixed gains and one threshold a population, the difference in the maps that feed it; v_leak as a bias.

    Args:
        resistance: what R of a LIF is to be, "one", or "steps" for tau / dt, which adds the input as it is.

    What differs within a channel no weight carries: it becomes the channel's mean.
    """
    for name in [name for name, node in draft.nodes.items() if isinstance(node, SPIKING)]:
        node, shape = draft.nodes[name], draft.shapes[name]
        gain, values, drift = _fixed(node, draft.dynamics.dt, resistance)
        draft, gain = _one_a_channel(draft, name, "gain", gain)
        draft, drift = _one_a_channel(draft, name, "resting potential", drift)
        draft, theta = _one_a_channel(draft, name, "threshold", node.v_threshold)
        if np.ptp(theta) > 0 and theta.min() <= 0:
            draft = draft.refusing(f"neurons '{name}' have thresholds from {theta.min():g} to {theta.max():g}")
            continue
        unit = _unit(draft, name, theta, gain)
        gain, drift, theta = gain / unit, drift / unit, theta / unit
        draft = draft.put(name, changed(node, **values, v_threshold=np.full(shape, theta[0])))
        if np.abs(gain - 1.0).max() > 1e-9:
            draft = read_scaled(draft, name, gain)
        if drift.any():
            draft = biased(draft, name, drift)
    return draft


def _unit(draft: Draft, name: str, theta: FloatArray, gain: FloatArray) -> FloatArray:
    """What potentials are counted in: the threshold where it differs, the gain where no map is there to take it."""
    if np.ptp(theta) > 0:
        return theta
    maps = all(isinstance(draft.nodes[source], MAPS) for source in draft.sources(name))
    return np.ones(1) if maps or np.ptp(gain) > 0 or gain[0] <= 0 else gain


def _one_a_channel(draft: Draft, name: str, what: str, values: FloatArray) -> tuple[Draft, FloatArray]:
    """The values by channel, (channels,); the mean where they differ within one, which is a loss."""
    channels = per_channel(values, values.shape)
    if channels is None:
        channels = values.reshape(len(values), -1).mean(1)
        draft = draft.losing(
            f"'{name}' has one {what} a channel, the mean, instead of {values.min():g} to {values.max():g}"
        )
    if np.ptp(channels) <= 1e-7 * np.abs(channels).max():
        channels = np.full(len(channels), channels[0])
    return draft, channels


def _fixed(node: nir.NIRNode, dt: float, resistance: str) -> tuple[FloatArray, dict[str, FloatArray], FloatArray]:
    """What the input is to be multiplied by, the parameters that are left, and the bias that v_leak becomes."""
    one, zero = np.ones(node.r.shape), np.zeros(node.r.shape)
    if isinstance(node, nir.IF):
        return node.r * dt, {"r": one / dt}, zero
    if isinstance(node, nir.LIF):
        if resistance == "one":
            return node.r, {"r": one, "v_leak": zero}, node.v_leak
        leak = dt / node.tau
        return node.r * leak, {"r": 1.0 / leak, "v_leak": zero}, node.v_leak * leak
    leak, synaptic = dt / node.tau_mem, dt / node.tau_syn
    gain = node.w_in * synaptic * node.r * leak
    return gain, {"r": 1.0 / leak, "w_in": 1.0 / synaptic, "v_leak": zero}, node.v_leak * leak * synaptic


def constant_currents(draft: Draft) -> Draft:
    """A resting potential behind a synaptic current builds up with the current, not at once."""
    names = [name for name, node in draft.nodes.items() if isinstance(node, nir.CubaLIF) and np.any(node.v_leak)]
    sudden = [name for name in names if np.max(draft.nodes[name].tau_syn) > draft.dynamics.dt * (1 + MEMORYLESS)]
    return draft.losing(*(f"the resting potential of '{name}' builds up through its synapses" for name in sudden))
