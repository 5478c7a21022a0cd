"""Integer Program -> NIR graph in floats, and back to the very same integers.

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

What the floats do not say is one JSON text in the graph's metadata. A graph is restored by rounding, and lifted again:
unless that gives the graph that was read, somebody changed it, and it is refused. It may have gone through single
precision, have its groups written out, its kernels framed by zeros, and a layer that reads itself as a graph of its
own: other ways of writing the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.euler import NEURONS
from sca_deploy.hardware.flattening import flattened
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
CLOSE = 2e-6
"""By what share a float may be off: single precision, and readers that take no tau of exactly a step."""
NEURONS_MAX = 1 << 24
"""A map that ends a graph and claims more neurons than this is not restored."""
Floats = npt.NDArray[np.float64]
Nodes = Mapping[str, nir.NIRNode]


def lifted(program: Program, dt: float = 1e-4) -> nir.NIRGraph:
    """The NIR graph of a Program in float64; its populations are called as the layers.

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


def holds_integers(graph: nir.NIRGraph) -> bool:
    """Whether a graph says which integers it was made of."""
    return KEY in graph.metadata


def restored(graph: nir.NIRGraph) -> Program:
    """The Program that `lifted` made a graph of, every field equal.

    Raises:
        ScaDeployError: if the graph's metadata is missing or damaged, or the graph was changed since.
    """
    document, dt = _document(graph)
    try:
        nodes, edges = _ungraphed(graph)
        program = _program(document, nodes)
        _check_unchanged(lifted(program, dt), nodes, edges)
    except ScaDeployError as error:
        raise ScaDeployError(f"the graph is not that of the '{KEY}' in its metadata: {error.problem}", FIX) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise ScaDeployError(
            f"the graph's metadata '{KEY}' is damaged ({type(error).__name__}: {str(error)[:80]})", FIX
        ) from error
    return program


FIX = f"export it again, or remove '{KEY}' from its metadata and lower its floats"


# Program -> graph.


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
        self._taken = {INPUT} | {layer.name for layer in program.layers}
        self._flat: dict[str, str] = {}

    def graph(self) -> nir.NIRGraph:
        """The whole graph."""
        program, last = self._program, self._program.layers[-1]
        layers = [self._layer(layer) for layer in program.layers]
        self._add("output", nir.Output(np.array(last.shape)), last.name)
        header = {k: getattr(program, k) for k in ("input_shape", "input_bits", "steps", "readout")}
        text = json.dumps({"format": FORMAT, **header, "layers": layers}, allow_nan=False)
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
        unit = 1.0 / (layer.scale * _gain(layer))
        lone = [len(some) for some in parts] == [1] and parts[0][0].after is None
        ends = silent and lone and layer.v_decay == 0 and not (leaks or _keeps_current(layer))
        if not ends:
            self._nodes[layer.name] = _neurons(layer, self._dt, silent, leaks)
        bias = {"shape": layer.bias.shape, "in": "v_leak" if leaks else ""}
        maps: list[list[str]] = []
        for synapse, some in zip(synapses, parts, strict=True):
            maps.append([])
            for part in some:
                carries = not bias["in"] and part.after is None and synapse.source != layer.name
                constant = _of_channels(layer) * (unit if carries else 0.0)
                maps[-1].append(self._map(synapse, part, np.float64(unit) * part.weight, constant, layer, ends))
                bias["in"] = maps[-1][-1] if carries else bias["in"]
        return _notes(layer, maps) | {"bias": bias}

    def _map(self, synapse: Synapse, part: _Part, weight: Floats, bias: Floats, layer: Layer, ends: bool) -> str:
        """Add a map, and its delays, between its source and the layer; if it `ends`, it is the layer.

        Returns:
            Its name.
        """
        source, shape = synapse.source, self._program.shape_of(synapse.source)
        name = layer.name if ends else self._free(f"{layer.name}_from_{source}")
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
            self._edges.append((self._add(f"{name}_delay", nir.Delay(part.after * self._dt), name), layer.name))
        elif not ends:
            self._edges.append((name, layer.name))
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


def _gain(layer: Layer) -> float:
    """What a layer's nodes multiply their input by: a LIF by its leak; an IF, a CubaLIF and a map by 1."""
    return 1.0 if layer.v_decay == 0 or _keeps_current(layer) else layer.v_decay / DECAY_ONE


def _bias_leaks(layer: Layer) -> bool:
    """Whether the bias has to be v_leak."""
    uneven = bool(np.ptp(layer.full_bias().reshape(layer.shape[0], -1), axis=1).any())
    return bool(layer.bias.any()) and (uneven or _keeps_current(layer))


def _constant(layer: Layer) -> float:
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
    mem = _constant(layer)
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


# Graph -> Program.


def _document(graph: nir.NIRGraph) -> tuple[dict[str, Any], float]:
    """What the metadata says, and the time step."""
    text = graph.metadata.get(KEY)
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if not isinstance(text, str):
        raise ScaDeployError(f"the graph's metadata holds no '{KEY}'", "lower it as a graph of floats")
    try:
        document, dt = json.loads(text), float(graph.metadata["dt"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ScaDeployError(
            f"the graph's metadata is damaged ({type(error).__name__}: {str(error)[:80]})", FIX
        ) from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ScaDeployError(f"the graph's '{KEY}' are of format {str(found)[:40]!r}, expected {FORMAT!r}", FIX)
    return document, dt


def _ungraphed(graph: nir.NIRGraph) -> tuple[dict[str, nir.NIRNode], set[tuple[str, str]]]:
    """Nodes and edges as they were lifted: a population and its loop may have become a graph of its name."""
    nodes, edges = flattened(graph)
    names = {name: name for name in nodes}
    for name, node in nodes.items():
        outer, dot, _ = name.partition(".")
        if dot and outer not in nodes:
            names[name] = outer if isinstance(node, NEURONS) else f"{outer}_from_{outer}"
    return {names[name]: node for name, node in nodes.items()}, {(names[a], names[b]) for a, b in edges}


def _program(document: dict[str, Any], nodes: Nodes) -> Program:
    return Program(
        input_shape=_sizes(document["input_shape"]),
        input_bits=_whole(document["input_bits"]),
        steps=_whole(document["steps"]),
        layers=tuple(_restored_layer(plain, nodes) for plain in document["layers"]),
        readout=_flag(document["readout"]),
    )


def _restored_layer(plain: dict[str, Any], nodes: Nodes) -> Layer:
    layer = Layer(
        name=plain["name"],
        shape=_sizes(plain["shape"]),
        synapses=(),
        v_decay=_whole(plain["v_decay"]),
        u_decay=_whole(plain["u_decay"]),
        threshold=_whole(plain["threshold"]),
        bias=np.zeros(1, np.int32),
        scale=float(plain["scale"]),
        injected=_flag(plain["injected"]),
    )
    node = nodes[layer.name]
    neurons = np.shape(node.r) if isinstance(node, NEURONS) else layer.shape
    if neurons != layer.shape or layer.neurons > NEURONS_MAX:
        raise ScaDeployError(f"layer '{layer.name}' has {layer.shape} neurons, its node {neurons}")
    unit = layer.scale * _gain(layer)
    synapses = tuple(_restored_synapse(fields, nodes, unit) for fields in plain["synapses"])
    return _with(layer, synapses, _restored_bias(plain["bias"], layer, nodes, unit))


def _with(layer: Layer, synapses: tuple[Synapse, ...], bias: IntArray) -> Layer:
    fields = vars(layer) | {"synapses": synapses, "bias": bias}
    return Layer(**fields)


def _restored_synapse(fields: dict[str, Any], nodes: Nodes, unit: float) -> Synapse:
    source, maps = fields["source"], [nodes[name] for name in fields["maps"]]
    if "stride" in fields:
        kernel, stride, padding, dilation = (_pair(fields[k]) for k in ("kernel", "stride", "padding", "dilation"))
        groups = _whole(fields["groups"])
        weight = _grouped(_cropped(maps[0], kernel, padding, dilation), groups // int(maps[0].groups))
        return Conv(source, _integers(weight * unit), stride, padding, dilation, groups)
    weight = np.sum([np.asarray(node.weight, np.float64) for node in maps], axis=0)
    delay = np.array(fields["delay"])
    if delay.dtype.kind != "i":
        raise TypeError(f"delays of type {delay.dtype}")
    return Dense(source, _integers(weight * unit), delay.astype(np.int32) if delay.ndim else int(delay))


def _cropped(node: nir.Conv2d, kernel: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]) -> Floats:
    """The kernel without the zeros that may have been put around it, and the padding raised by them."""
    top, left = ((int(node.padding[a]) - padding[a]) // dilation[a] for a in (0, 1))
    return np.asarray(node.weight, np.float64)[:, :, top : top + kernel[0], left : left + kernel[1]]


def _grouped(weight: Floats, groups: int) -> Floats:
    """The blocks of a weight (out, in, ...) that is zero between so many groups: (out, in / groups, ...)."""
    out, inputs = len(weight) // groups, weight.shape[1] // groups
    blocks = [weight[g * out : (g + 1) * out, g * inputs : (g + 1) * inputs] for g in range(groups)]
    return np.concatenate(blocks)


def _restored_bias(plain: dict[str, Any], layer: Layer, nodes: Nodes, unit: float) -> IntArray:
    size, carrier = _sizes(plain["shape"]), plain["in"]
    if size not in (layer.shape, layer.shape[:1]):
        raise ValueError(f"biases of shape {size} for neurons of {layer.shape}")
    if carrier == "v_leak":
        leaking = np.asarray(nodes[layer.name].v_leak, np.float64) * (layer.scale / _constant(layer))
        return _integers(leaking if size == layer.shape else leaking.reshape(layer.shape[0], -1)[:, 0])
    channels = _integers(np.asarray(nodes[carrier].bias, np.float64) * unit) if carrier else np.zeros(1, np.int32)
    return np.array(np.broadcast_to(channels.reshape(-1, *(1,) * (len(size) - 1)), size))


def _integers(values: Floats) -> IntArray:
    if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > 1 << 20:
        raise ScaDeployError("a weight or bias is not finite, or far beyond the chip's")
    return np.rint(values).astype(np.int32)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is no whole number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is neither true nor false")
    return value


def _sizes(values: Any) -> Shape:
    return tuple(_whole(value) for value in values)


def _pair(values: Any) -> tuple[int, int]:
    height, width = _sizes(values)
    return height, width


# Whether it is what was lifted.


def _check_unchanged(expected: nir.NIRGraph, nodes: Nodes, edges: set[tuple[str, str]]) -> None:
    """Refuse other nodes, edges or values than expected; two ways of writing one value are the same."""
    if nodes.keys() != expected.nodes.keys() or edges != set(expected.edges):
        differing = sorted((nodes.keys() ^ expected.nodes.keys()) | {a for a, _ in edges ^ set(expected.edges)})
        raise ScaDeployError(f"other nodes or edges than it had, at '{differing[0]}'")
    for name, node in expected.nodes.items():
        found = nodes[name]
        if type(found) is not type(node):
            raise ScaDeployError(f"node '{name}' is of type {type(found).__name__}, not {type(node).__name__}")
        values = vars(_framed(node, found) if isinstance(node, nir.Conv2d) else node)
        for key in values.keys() - {"metadata", "input_type", "output_type", "input_shape", "start_dim", "end_dim"}:
            if not _close(np.asarray(values[key], np.float64), getattr(found, key)):
                raise ScaDeployError(f"node '{name}' was changed since, its '{key}' differs")


def _close(expected: Floats, found: Any) -> bool:
    actual = np.asarray(0.0 if found is None else found, np.float64)
    if actual.size not in (1, expected.size):
        return False
    actual = actual.reshape(expected.shape) if actual.size > 1 else actual
    return bool(np.allclose(actual, expected, rtol=CLOSE, atol=0))


def _framed(node: nir.Conv2d, found: nir.Conv2d) -> nir.Conv2d:
    """A convolution as one without groups and with zeros around its kernel, where that is what was found."""
    weight, groups, padding = node.weight, node.groups, np.array(node.padding)
    if int(found.groups) != groups:
        out, inputs = len(weight) // groups, weight.shape[1]
        full = np.zeros((len(weight), inputs * groups, *weight.shape[2:]))
        for g in range(groups):
            full[g * out : (g + 1) * out, g * inputs : (g + 1) * inputs] = weight[g * out : (g + 1) * out]
        weight, groups = full, 1
    frame = np.array(found.weight.shape[2:]) - weight.shape[2:]
    before = (np.array(found.padding) - padding) // np.array(node.dilation)
    if frame.any() and (before >= 0).all() and (before <= frame).all():
        weight = np.pad(weight, ((0, 0), (0, 0), *zip(before, frame - before, strict=True)))
        padding = padding + before * np.array(node.dilation)
    return nir.Conv2d(None, weight, node.stride, tuple(padding), node.dilation, groups, node.bias)
