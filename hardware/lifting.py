"""Integer Program -> NIR graph in floats, from which the very same integers come back.

Every layer is divided by its scale, so that the graph speaks in the units of the network that the integers were made
of. A step of dt of the graph's neurons is the layer's without its rounding:

    alpha = 1 - u_decay / 4096, beta = 1 - v_decay / 4096; CubaLIF, or LIF where alpha is 0, IF where beta is 1 too
    tau = dt / (1 - beta), and so for alpha; FOREVER steps where that is infinite
    threshold = (T + half) / scale; half of the least by which a potential exceeds T: of 1, or of 1 / 64 where a decay
    leaves fractions. So no potential lies on it, no float rounds across it, and `>` and `>=` are the same.

The graph has the Program's spikes where nothing is rounded, wrapped or saturated: exactly, if all decays are 0 or
4096. Elsewhere the chip rounds what a decay leaves towards zero, by less than 1 / 64 of a unit, and the graph does not.

A bias is that of a map before the neurons. Where that would be another one (the map feeds a synaptic current, or the
bias differs within a channel) it is v_leak, of which the potential takes a share at every step. An injected input
reaches its neurons through an identity. A delay is a Delay node before the map where all outputs share it, after it
where all inputs do; else there is one map for every delay.

What the floats do not say is one JSON text in the graph's metadata; `restoring` makes the Program of it again.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.program import (
    ALIGNMENT_BITS,
    DECAY_ONE,
    INPUT,
    NEVER,
    Conv,
    Dense,
    IntArray,
    Layer,
    Program,
    Shape,
    Synapse,
)

FORMAT = "sca-deploy integers 1"
KEY = "integers"
"""The metadata under which a graph says which integers it was made of."""
FOREVER = 2.0**60
"""A time constant in steps that a double cannot tell from none; as a power of two it takes nothing from others."""
UNREACHED = float(np.finfo(np.float32).max)
"""The threshold of neurons that never fire."""
Floats = npt.NDArray[np.float64]
Nodes = Mapping[str, nir.NIRNode]


def lifted(program: Program, dt: float = 1e-4) -> nir.NIRGraph:
    """The NIR graph of a Program in float64; its populations are called as the layers, in letters, digits and _.

    A read-out that only adds up is the map before it, others are integrators. NIR's own type check infers other
    shapes than a convolution has where it has groups or is not square.

    Args:
        dt: the time step in seconds that its time constants are made for.

    Raises:
        ScaDeployError: naming the layer that NIR has no equal of, and why.
    """
    if not 0 < dt < math.inf:
        raise ScaDeployError(f"the time step is {dt:g} s, it must be positive", "give --dt SECONDS, e.g. --dt 1e-4")
    return _Lift(program, dt).graph()


@dataclass(frozen=True, eq=False)
class _Part:
    """A map, and the delays in steps before and after it: flat, of its inputs or its outputs."""

    weight: IntArray
    before: IntArray | None = None
    after: IntArray | None = None


class _Lift:
    """The graph under construction."""

    def __init__(self, program: Program, dt: float) -> None:
        self._program, self._dt = program, dt
        self._nodes: dict[str, nir.NIRNode] = {INPUT: nir.Input(np.array(program.input_shape))}
        self._edges: list[tuple[str, str]] = []
        self._taken = {INPUT}
        self._called = {INPUT: INPUT}
        for layer in program.layers:
            self._called[layer.name] = self._free(re.sub(r"[^A-Za-z0-9_]", "_", layer.name))
        self._flat: dict[str, str] = {}

    def graph(self) -> nir.NIRGraph:
        """The whole graph."""
        program, last = self._program, self._program.layers[-1]
        layers = [self._layer(layer) for layer in program.layers]
        self._add("output", nir.Output(np.array(last.shape)), self._called[last.name])
        header = {k: getattr(program, k) for k in ("input_shape", "input_bits", "steps", "readout")}
        document = {"format": FORMAT, **header, "layers": layers}
        text = json.dumps(document | {"crc32": checksum(document)}, allow_nan=False)
        metadata = {"dt": self._dt, "T": program.steps, "reset": "hard", KEY: text}
        return nir.NIRGraph(self._nodes, self._edges, metadata, type_check=False)

    def _layer(self, layer: Layer) -> dict[str, Any]:
        """Add a layer; returns what the floats do not say of it."""
        if not 0 < layer.scale < math.inf:
            raise ScaDeployError(f"layer '{layer.name}' has a scale of {layer.scale}, it must be positive")
        silent = self._program.readout and layer is self._program.layers[-1]
        if silent and layer.recurrent:
            raise _refused(layer, "reads its own spikes and is the read-out, which has none")
        leaks = _bias_leaks(layer)
        rides = bool(layer.bias.any()) and not leaks
        synapses = layer.synapses or (_identity(layer.shape),)
        parts = [_parts(synapse, int(synapse.source == layer.name), rides) for synapse in synapses]
        unit = 1.0 / (layer.scale * gain(layer))
        lone = [len(some) for some in parts] == [1] and parts[0][0].after is None
        ends = silent and lone and layer.v_decay == 0 and not (leaks or _keeps_current(layer))
        if not ends:
            self._nodes[self._called[layer.name]] = _neurons(layer, self._dt, silent, leaks)
        # In a loop it would do too, but readers differ on what a loop brings at the first step.
        heard = {synapse.source for synapse in synapses} - {layer.name} or {layer.name}
        bias = {"shape": layer.bias.shape, "in": "v_leak" if leaks else ""}
        maps: list[list[str]] = []
        for synapse, some in zip(synapses, parts, strict=True):
            maps.append([])
            for part in some:
                carries = not bias["in"] and part.after is None and synapse.source in heard
                constant = _of_channels(layer) * (unit if carries else 0.0)
                maps[-1].append(self._map(synapse, part, np.float64(unit) * part.weight, constant, layer, ends))
                bias["in"] = maps[-1][-1] if carries else bias["in"]
        return _notes(layer, maps) | {"node": self._called[layer.name], "bias": bias}

    def _map(self, synapse: Synapse, part: _Part, weight: Floats, bias: Floats, layer: Layer, ends: bool) -> str:
        """Add a map, and its delays, between its source and the layer; if it `ends`, it is the layer.

        Returns:
            Its name.
        """
        source, shape = self._called[synapse.source], self._program.shape_of(synapse.source)
        target = self._called[layer.name]
        name = target if ends else self._free(f"{target}_from_{source}")
        if isinstance(synapse, Conv):
            sides = synapse.stride, synapse.padding, synapse.dilation
            node: nir.NIRNode = nir.Conv2d(shape[1:], weight, *sides, synapse.groups, bias)
        else:
            node = nir.Affine(weight, bias)
            source = self._flattened(source, shape) if len(shape) == 3 else source
        if part.before is not None:
            source = self._add(f"{name}_delay", nir.Delay(part.before * self._dt), source)
        self._nodes[name] = node
        self._edges.append((source, name))
        if part.after is not None:
            self._edges.append((self._add(f"{name}_delay", nir.Delay(part.after * self._dt), name), target))
        elif not ends:
            self._edges.append((name, target))
        return name

    def _flattened(self, source: str, shape: Shape) -> str:
        if source not in self._flat:
            node = nir.Flatten({"input": np.array(shape)}, start_dim=-3, end_dim=-1)
            self._flat[source] = self._add(f"{source}_flat", node, source)
        return self._flat[source]

    def _add(self, wanted: str, node: nir.NIRNode, source: str) -> str:
        name = self._free(wanted)
        self._nodes[name] = node
        self._edges.append((source, name))
        return name

    def _free(self, wanted: str) -> str:
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted


def _notes(layer: Layer, maps: list[list[str]]) -> dict[str, Any]:
    """What the floats do not say of a layer but its bias, as JSON holds it."""
    synapses = []
    for synapse, names in zip(layer.synapses, maps, strict=False):
        fields: dict[str, Any] = {"source": synapse.source, "maps": names}
        if isinstance(synapse, Conv):
            fields |= {k: getattr(synapse, k) for k in ("stride", "padding", "dilation", "groups")}
            fields["kernel"] = synapse.weight.shape[2:]
        else:
            fields["delay"] = np.asarray(synapse.delay).tolist()
        synapses.append(fields)
    numbers = {k: getattr(layer, k) for k in ("name", "shape", "v_decay", "u_decay", "threshold", "injected")}
    return numbers | {"scale": float(layer.scale), "synapses": synapses}


def _refused(layer: Layer, why: str) -> ScaDeployError:
    return ScaDeployError(
        f"layer '{layer.name}' {why}; NIR has no equal", "export with --target lava, which holds any network"
    )


def _keeps_current(layer: Layer) -> bool:
    """Whether a synaptic current outlives its step."""
    return layer.u_decay != DECAY_ONE and not layer.injected


def gain(layer: Layer) -> float:
    """What a layer's nodes multiply their input by: a LIF by its leak; an IF, a CubaLIF and a map by 1."""
    return 1.0 if layer.v_decay == 0 or _keeps_current(layer) else layer.v_decay / DECAY_ONE


def _bias_leaks(layer: Layer) -> bool:
    """Whether the bias has to be v_leak."""
    uneven = bool(np.ptp(layer.full_bias().reshape(layer.shape[0], -1), axis=1).any())
    return bool(layer.bias.any()) and (uneven or _keeps_current(layer))


def constant(layer: Layer) -> float:
    """The time constant of the potential in steps."""
    return DECAY_ONE / layer.v_decay if layer.v_decay else FOREVER


def _of_channels(layer: Layer) -> Floats:
    return layer.full_bias().reshape(layer.shape[0], -1)[:, 0].astype(np.float64)


def _identity(shape: Shape) -> Synapse:
    """How neurons of this shape read an input that is their own."""
    if len(shape) == 3:
        return Conv(INPUT, np.eye(shape[0], dtype=np.int32)[:, :, None, None])
    return Dense(INPUT, np.eye(shape[0], dtype=np.int32))


def _parts(synapse: Synapse, late: int, rides: bool) -> list[_Part]:
    """The maps of a synapse whose loop is `late` steps late by itself; if a bias `rides`, no delay is behind them."""
    if isinstance(synapse, Conv):
        return [_Part(synapse.weight)]
    weight = synapse.weight
    delay = np.broadcast_to(np.asarray(synapse.delay, np.int32), weight.shape) - late
    if not delay.any():
        return [_Part(weight)]
    if (delay == delay[:1]).all():
        return [_Part(weight, before=delay[0])]
    if (delay == delay[:, :1]).all() and not rides:
        return [_Part(weight, after=delay[:, 0])]
    waits = np.unique(delay[weight != 0]) if weight.any() else delay[0, :1]
    full = np.ones(weight.shape[1], np.int32)
    masked = ((wait, np.where(delay == wait, weight, 0)) for wait in waits)
    return [_Part(some, before=full * wait if wait else None) for wait, some in masked]


def _neurons(layer: Layer, dt: float, silent: bool, leaks: bool) -> nir.NIRNode:
    """The population of a layer: integrators if it is `silent`; with its bias as v_leak if that `leaks`."""
    one = np.ones(layer.shape)
    mem = constant(layer)
    leak = {"v_leak": layer.full_bias() * (mem / layer.scale) if leaks else 0 * one}
    firing = {} if silent else {"v_threshold": one * _threshold(layer), "v_reset": 0 * one}
    kind: Callable[..., nir.NIRNode]
    if _keeps_current(layer):
        syn = DECAY_ONE / layer.u_decay if layer.u_decay else FOREVER
        kind = nir.CubaLI if silent else nir.CubaLIF
        return kind(tau_syn=one * (dt * syn), tau_mem=one * (dt * mem), r=one * mem, w_in=one * syn, **leak, **firing)
    if layer.v_decay == 0 and not leaks:
        kind = nir.I if silent else nir.IF
        return kind(r=one / dt, **firing)
    kind = nir.LI if silent else nir.LIF
    return kind(tau=one * (dt * mem), r=one if layer.v_decay else one * mem, **leak, **firing)


def _threshold(layer: Layer) -> float:
    """Halfway between the largest potential that does not fire and the smallest that does."""
    if layer.threshold == NEVER:
        return UNREACHED
    decays = {layer.v_decay, layer.u_decay if _keeps_current(layer) else DECAY_ONE}
    half = 0.5 if decays <= {0, DECAY_ONE} else 0.5 / (1 << ALIGNMENT_BITS)
    return (layer.threshold + half) / layer.scale


def checksum(document: Mapping[str, Any]) -> int:
    """Of all members but the checksum itself, and the same for lists and tuples."""
    members = {key: value for key, value in document.items() if key != "crc32"}
    return zlib.crc32(json.dumps(members, sort_keys=True).encode())
