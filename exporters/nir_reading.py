"""Reading `.nir` files that other tools wrote, from every nir library since 0.1.

What old and careless writers leave out or add is put right where the file itself says how: reset potentials and
leaks of zero, single numbers for whole populations, a batch dimension, edges named twice. What is missing and matters,
and everything that leads out of the file or cannot be meant, is refused by its place. `nir.read` is not used: it
follows links, and stops at members it does not know.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.hdf5_members import VALUES_MAX
from sca_deploy.exporters.nir_batches import AXES, CONVOLUTIONS, ELEMENTWISE, ENDS, NEURONS, shape_of, without_batches
from sca_deploy.exporters.nir_members import FLOATS, GRAPH, Document, read_document
from sca_deploy.hardware.program import Shape

SPIKING = tuple(kind for kind in NEURONS if "v_reset" in FLOATS[kind])
NEUTRAL = {"v_leak": 0.0, "v_reset": 0.0, "w_in": 1.0}
"""What drops out of a neuron's equations, and stands for a parameter that the file lacks."""
TIMES = ("tau", "tau_mem", "tau_syn")
SIDE_MAX = 1 << 16
"""The largest stride, padding, dilation or kernel that is read."""
FIX = "export it again with a current version of the tool that wrote it"

log = logging.getLogger(__name__)


def read_nir(path: str | Path) -> nir.NIRGraph:
    """The graph of a `.nir` file.

    Parameters are float32 or float64 arrays of at least one axis, a population's all of one shape; shapes
    have no batch. Nothing is inferred beyond what the nodes say. A single node comes between an Input and an
    Output. The metadata are plain Python values; where they do not say the reset and a population has a
    `v_reset`, they say `reset = "hard"`, which is what that means.

    Raises:
        ScaDeployError: in one line, naming the file and the member: if it is missing, damaged, not HDF5 or no NIR
            graph, leads out of itself, claims more than it can hold, or holds what no node can mean.
    """
    try:
        return _graph_of(read_document(path))
    except ScaDeployError as error:
        raise ScaDeployError(_shown(f"{path}: {error.problem}"), error.fix or FIX) from error
    except FileNotFoundError as error:
        raise ScaDeployError(f"no such file: {path}") from error
    except Exception as error:
        # A damaged HDF5 file fails in many ways (OSError, KeyError, RuntimeError, ValueError).
        reason = f"{type(error).__name__}: {error}"
        raise ScaDeployError(_shown(f"{path} is not a readable NIR graph ({reason:.160})"), FIX) from error


def _shown(line: str) -> str:
    """One line without control characters, which names in a damaged file may hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(line.split()))


def _graph_of(document: Document) -> nir.NIRGraph:
    if document.kind == GRAPH:
        for inner in document.all():
            if inner is not document:
                _name_ends(inner)
        without_batches(document)
        graph = _graph(document)
    else:
        graph = _around(document)
    says_reset = any(node.kind in SPIKING and "v_reset" in node.values for node in document.all())
    if says_reset:
        graph.metadata.setdefault("reset", "hard")
    return graph


def _around(document: Document) -> nir.NIRGraph:
    """A graph of a single node."""
    node = _node(document)
    before, after = (next(iter((port or {}).values()), None) for port in (node.input_type, node.output_type))
    if before is None or after is None:
        raise _refused(document, "is a node without a graph, and does not say its shape")
    nodes = {"input": nir.Input(np.array(before)), "node": node, "output": nir.Output(np.array(after))}
    return nir.NIRGraph(nodes, [("input", "node"), ("node", "output")], dict(document.metadata), type_check=False)


def _name_ends(graph: Document) -> None:
    """Find what a graph inside a graph calls `input` or `output` in its edges only.

    That is its Input or Output by another name, or one that was left out, whose shape is that of the population
    it leads to.
    """
    for side, (kind, word) in enumerate(ENDS.items()):
        names = {word, f"{graph.place.rpartition('/')[2]}.{word}"} - set(graph.nodes)
        edges = [edge for edge in graph.edges if edge[side] in names]
        ends = [name for name, node in graph.nodes.items() if node.kind == kind]
        others = [graph.nodes[edge[1 - side]] for edge in edges if edge[1 - side] in graph.nodes]
        shapes = {shape_of(node) for node in others if node.kind in ELEMENTWISE}
        if not edges or len(ends) > 1 or (not ends and len(shapes) != 1):
            continue
        if not ends:
            graph.nodes[word] = Document(f"{graph.place}/nodes/{word}", kind, {"shape": np.array(shapes.pop())})
        known = ends[0] if ends else word
        log.warning("%s has edges of '%s', which it does not hold: taken for its %s", graph.place, edges[0][side], kind)
        renamed = {edge: (known, edge[1]) if side == 0 else (edge[0], known) for edge in edges}
        graph.edges = [renamed.get(edge, edge) for edge in graph.edges]


def _graph(document: Document) -> nir.NIRGraph:
    nodes = {name: _node(inner) for name, inner in document.nodes.items()}
    edges = list(dict.fromkeys(document.edges))
    if len(edges) < len(document.edges):
        log.debug("%s names %d edges twice", document.place, len(document.edges) - len(edges))
    for edge in edges:
        for end in edge:
            if end not in nodes:
                raise _refused(document, f"has an edge '{edge[0]:.64}' -> '{edge[1]:.64}', and no node '{end:.64}'")
    return nir.NIRGraph(nodes, edges, dict(document.metadata), type_check=False)


def _node(document: Document) -> nir.NIRNode:
    try:
        node = BUILDERS[document.kind](document)
    except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
        # nir works out the shapes of a node when it is made, and stumbles over those it did not expect.
        raise _refused(
            document, f"cannot be made a node of type {document.kind} ({type(error).__name__}: {error!s:.120})"
        ) from error
    node.metadata = dict(document.metadata)
    return node


def _refused(document: Document, reason: str) -> ScaDeployError:
    return ScaDeployError(f"{document.place} {reason}")


def _value(document: Document, key: str) -> npt.NDArray[Any]:
    """A member, at least one axis."""
    found = document.values.get(key)
    if found is None:
        raise ScaDeployError(f"{document.place}/{key} is missing, {document.kind} nodes need it")
    return np.atleast_1d(found)


def _neurons(document: Document) -> nir.NIRNode:
    """A population; single numbers are spread over it."""
    shape = shape_of(document) or (1,)
    parameters: dict[str, npt.NDArray[Any]] = {}
    for key in FLOATS[document.kind]:
        if key in NEUTRAL and key not in document.values:
            parameters[key] = np.full(shape, NEUTRAL[key], np.float32)
            continue
        value = _value(document, key)
        if key in TIMES and value.min() <= 0:
            raise ScaDeployError(f"{document.place}/{key} holds {value.min():g}, a time constant is positive")
        parameters[key] = _spread(document, key, value, shape)
    node: nir.NIRNode = getattr(nir, document.kind)(**parameters)
    return node


def _spread(document: Document, key: str, value: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    if value.size == 1:
        return np.full(shape, value.item(), value.dtype)
    if value.size != int(np.prod(shape)) or tuple(n for n in value.shape if n > 1) != tuple(n for n in shape if n > 1):
        raise ScaDeployError(f"{document.place}/{key} has shape {value.shape}, other parameters {shape}")
    return value.reshape(shape)


def _elementwise(document: Document) -> nir.NIRNode:
    (key,) = FLOATS[document.kind]
    value = _value(document, key)
    if key == "delay" and value.min() < 0:
        raise ScaDeployError(f"{document.place}/delay holds {value.min():g} s, a delay is 0 or more")
    node: nir.NIRNode = getattr(nir, document.kind)(value)
    return node


def _matrix(document: Document) -> nir.NIRNode:
    weight = _value(document, "weight")
    if weight.ndim < 2:
        raise ScaDeployError(f"{document.place}/weight has shape {weight.shape}, expected (outputs, inputs)")
    if document.kind == "Linear":
        return nir.Linear(weight)
    return nir.Affine(weight, _bias(document, weight, weight.shape[:-1]))


def _bias(document: Document, weight: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """One value for every output; none where the file has none, which is zero."""
    if "bias" not in document.values:
        return np.zeros(shape, weight.dtype)
    return _spread(document, "bias", _value(document, "bias"), shape)


def _convolution(document: Document) -> nir.NIRNode:
    rank = CONVOLUTIONS[document.kind] - 1
    weight, groups = _value(document, "weight"), int(_sides(document, "groups", 1, 1, default=1)[0])
    if weight.ndim != rank + 2:
        raise ScaDeployError(f"{document.place}/weight has shape {weight.shape}, expected {rank + 2} axes")
    if len(weight) % groups:
        raise ScaDeployError(f"{document.place} has {len(weight)} output channels, not divisible into {groups} groups")
    stride, dilation = _sides(document, "stride", rank, 1), _sides(document, "dilation", rank, 1, default=1)
    padding: str | npt.NDArray[Any]
    if "padding" in document.words:
        padding = document.words["padding"]
        if padding not in ("same", "valid"):
            raise ScaDeployError(f"{document.place}/padding is '{padding}', expected 'same', 'valid' or numbers")
    else:
        padding = _sides(document, "padding", rank, 0)
    bias = _bias(document, weight, weight.shape[:1])
    if rank == 1:
        sides = [side if isinstance(side, str) else int(side[0]) for side in (stride, padding, dilation)]
        node = nir.Conv1d(None, weight, *sides, groups, bias)
    else:
        node = nir.Conv2d(None, weight, stride, padding, dilation, groups, bias)
    if "input_shape" in document.values:
        _say_shapes(node, _sides(document, "input_shape", rank, 1), rank)
    return node


def _say_shapes(node: nir.Conv1d | nir.Conv2d, given: npt.NDArray[Any], rank: int) -> None:
    """The shapes on both sides of a convolution; nir takes groups for one and kernels for square."""
    kernel = np.array(node.weight.shape[2:])
    if isinstance(node.padding, str):
        around = node.dilation * (kernel - 1) if node.padding == "same" else 0
    else:
        around = 2 * np.asarray(node.padding)
    leaving = (given + around - node.dilation * (kernel - 1) - 1) // node.stride + 1
    node.input_shape = int(given[0]) if rank == 1 else given
    node.input_type = {"input": np.array([node.weight.shape[1] * node.groups, *given])}
    node.output_type = {"output": np.array([len(node.weight), *leaving])}


def _pool(document: Document) -> nir.NIRNode:
    kernel, stride = (_sides(document, key, 2, 1) for key in ("kernel_size", "stride"))
    node: nir.NIRNode = getattr(nir, document.kind)(kernel, stride, _sides(document, "padding", 2, 0))
    return node


def _sides(document: Document, key: str, count: int, low: int, default: int | None = None) -> npt.NDArray[np.int64]:
    """So many whole numbers from `low`; one stands for all."""
    if default is not None and key not in document.values:
        return np.full(count, default)
    sides = _value(document, key).ravel().astype(np.int64)
    if sides.size not in (1, count):
        raise ScaDeployError(f"{document.place}/{key} has {sides.size} values, expected 1 or {count}")
    if sides.min() < low or sides.max() > SIDE_MAX:
        raise ScaDeployError(f"{document.place}/{key} is {sides.tolist()}, outside {low} to {SIDE_MAX}")
    return np.array(np.broadcast_to(sides, (count,)))


def _flatten(document: Document) -> nir.NIRNode:
    axes = []
    for key, default in AXES.items():
        axis = document.values.get(key, np.array(default))
        if axis.size != 1 or abs(int(axis.item())) > 8:
            raise ScaDeployError(f"{document.place}/{key} is {axis.ravel()[:3].tolist()}, expected one axis")
        axes.append(int(axis.item()))
    shape = _checked_shape(document) if shape_of(document) is not None else None
    return nir.Flatten({"input": None if shape is None else np.array(shape)}, *axes)


def _end(document: Document) -> nir.NIRNode:
    if shape_of(document) is None:
        raise ScaDeployError(f"{document.place}/shape is missing, {document.kind} nodes need it")
    node: nir.NIRNode = getattr(nir, document.kind)({ENDS[document.kind]: np.array(_checked_shape(document))})
    return node


def _checked_shape(document: Document) -> Sequence[int]:
    shape = shape_of(document) or ()
    if not shape or min(shape) < 1 or np.prod(shape, dtype=object) > VALUES_MAX:
        raise _refused(document, f"says the shape {shape!s:.60}, expected 1 to {VALUES_MAX} values")
    return shape


BUILDERS: dict[str, Callable[[Document], nir.NIRNode]] = {
    **dict.fromkeys(NEURONS, _neurons),
    **dict.fromkeys(("Scale", "Threshold", "Delay"), _elementwise),
    **dict.fromkeys(("Affine", "Linear"), _matrix),
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(("SumPool2d", "AvgPool2d"), _pool),
    "Flatten": _flatten,
    **dict.fromkeys(ENDS, _end),
    GRAPH: _graph,
}
