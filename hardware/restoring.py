"""A NIR graph that an integer Program was lifted to -> the very same Program.

The floats are rounded, and the Program lifted again: unless that gives the graph that was read, somebody changed it,
and it is refused. It may have gone through single precision, have its groups written out, its kernels framed by zeros,
and a layer that reads itself as a graph of its own: other ways of writing the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.euler import NEURONS
from sca_deploy.hardware.flattening import flattened
from sca_deploy.hardware.lifting import FORMAT, KEY, checksum, constant, gain, lifted
from sca_deploy.hardware.program import (
    Conv,
    Dense,
    IntArray,
    Layer,
    Program,
    Shape,
    Synapse,
)

Floats = npt.NDArray[np.float64]
Nodes = dict[str, nir.NIRNode]

NUMBERED = re.compile(r"n\d+_")
CLOSE = 2e-6
"""By what share a float may be off: single precision, and readers that take no tau of exactly a step."""
NEURONS_MAX = 1 << 24
"""A map that ends a graph and claims more neurons than this is not restored."""
FIX = f"export it again, or remove '{KEY}' from its metadata and lower its floats"


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
        nodes, edges = _ungraphed(graph, {str(plain["node"]) for plain in document["layers"]})
        program = _program(document, nodes)
        _check_unchanged(lifted(program, dt), nodes, edges)
    except ScaDeployError as error:
        raise ScaDeployError(f"the graph is not that of the '{KEY}' in its metadata: {error.problem}", FIX) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise ScaDeployError(
            f"the graph's metadata '{KEY}' is damaged ({type(error).__name__}: {str(error)[:80]})", FIX
        ) from error
    return program


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
    if document.get("crc32") != checksum(document):
        raise ScaDeployError(f"the graph's metadata '{KEY}' was changed, or damaged on its way", FIX)
    return document, dt


def _ungraphed(graph: nir.NIRGraph, populations: set[str]) -> tuple[dict[str, nir.NIRNode], set[tuple[str, str]]]:
    """Nodes and edges as they were lifted: a population and its loop may have become a graph of its name.

    Some readers meet the nodes in the order of their names, so these may have been numbered: n07_<name>.
    """
    nodes, edges = flattened(graph)
    names = {name: name for name in nodes}
    for name, node in nodes.items():
        outer, dot, _ = name.partition(".")
        if dot and isinstance(graph.nodes.get(outer), nir.NIRGraph):
            names[name] = outer if isinstance(node, NEURONS) else f"{outer}_from_{outer}"
    if not populations.issubset(names.values()):
        names = {
            name: "_from_".join(NUMBERED.sub("", part) for part in known.split("_from_"))
            for name, known in names.items()
        }
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
    node = nodes[plain["node"]]
    neurons = np.shape(node.r) if isinstance(node, NEURONS) else layer.shape
    if neurons != layer.shape or layer.neurons > NEURONS_MAX:
        raise ScaDeployError(f"layer '{layer.name}' has {layer.shape} neurons, its node {neurons}")
    unit = layer.scale * gain(layer)
    synapses = tuple(_restored_synapse(fields, nodes, unit) for fields in plain["synapses"])
    return replace(layer, synapses=synapses, bias=_restored_bias(plain["bias"], layer, node, nodes, unit))


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
    if groups < 1 or len(weight) % groups or weight.shape[1] % groups:
        raise ValueError(f"{groups} groups of a weight {weight.shape}")
    out, inputs = len(weight) // groups, weight.shape[1] // groups
    blocks = [weight[g * out : (g + 1) * out, g * inputs : (g + 1) * inputs] for g in range(groups)]
    return np.concatenate(blocks)


def _restored_bias(plain: dict[str, Any], layer: Layer, node: nir.NIRNode, nodes: Nodes, unit: float) -> IntArray:
    size, carrier = _sizes(plain["shape"]), plain["in"]
    if size not in (layer.shape, layer.shape[:1]):
        raise ValueError(f"biases of shape {size} for neurons of {layer.shape}")
    if carrier == "v_leak":
        leaking = np.asarray(node.v_leak, np.float64) * (layer.scale / constant(layer))
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
