"""Reads a NIR graph as a chain of neuron populations in floats, each with one folded synapse.

Everything linear between two populations (pooling, convolution, flatten, affine) becomes one
convolution or one matrix; neuron parameters become `beta` and a threshold in the discrete update

    v[t] = beta v[t-1] + W x[t] + b;   s[t] = v[t] > threshold;   v[t] = 0 where s[t]

which is one Euler step of NIR's LIF equation, tau dv/dt = (v_leak - v) + R I, and of its IF equation,
dv/dt = R I, at the time step `dt`: beta = 1 - dt/tau with gain R dt/tau, and beta = 1 with gain R dt.
What a chip neuron cannot do is refused by the name of the node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.program import INPUT, Shape

FloatArray = npt.NDArray[np.float64]
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Operator:
    """A linear map of a source population: a convolution (weight of 4 axes) or a matrix (2 axes).

    weight is (out, in / groups, kernel_h, kernel_w) or (out, in); bias is (out,).
    """

    weight: FloatArray
    bias: FloatArray
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def is_conv(self) -> bool:
        """Whether the map is a convolution."""
        return self.weight.ndim == 4

    def output_shape(self, source: Shape) -> Shape:
        """The shape this map gives to a source of shape (C, H, W) or (features,)."""
        if not self.is_conv:
            return (self.weight.shape[0],)
        size = [_conv_size(source[1 + a], self.weight.shape[2 + a], self, a) for a in (0, 1)]
        return (self.weight.shape[0], size[0], size[1])


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons of one kind and what feeds them; `threshold` is None for the read-out, which never fires."""

    name: str
    source: str
    shape: Shape
    operator: Operator
    beta: float
    threshold: float | None


def read_populations(graph: nir.NIRGraph, dt: float) -> tuple[Shape, list[Population]]:
    """The input's shape and the populations of a chain-shaped graph, in order.

    Args:
        graph: one Input, one Output, every node with one predecessor and one successor.
        dt: the time step in seconds that turns the graph's time constants into decays.

    Raises:
        ScaDeployError: naming the node that cannot be carried onto the chip, and why.
    """
    reset = graph.metadata.get("reset", "hard")
    if reset != "hard":
        raise ScaDeployError(
            f"the graph says reset '{reset}'; the chip's neurons reset to zero and no microcode for another is public",
            "train or convert the network with a hard reset to 0",
        )
    chain = _chain(graph)
    shape: Shape = tuple(int(n) for n in graph.nodes[chain[0]].input_type["input"])
    input_shape, source = shape, INPUT
    populations: list[Population] = []
    pending: Operator | None = None
    pooled: tuple[Operator, Shape] | None = None
    last = ""
    for name in chain[1:-1]:
        node = graph.nodes[name]
        _refuse_nan(name, node)
        if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
            if pending is not None or pooled is not None:
                raise _refuse(name, node, "a pooling can only be folded when it directly follows neurons or the input")
            operator = _pool(name, node, shape)
            pooled = (operator, shape)
            shape = operator.output_shape(shape)
        elif isinstance(node, nir.Flatten):
            continue
        elif isinstance(node, nir.Conv2d | nir.Affine | nir.Linear):
            if pending is not None:
                raise _refuse(name, node, f"it follows '{last}' without neurons in between")
            pending = _convolution(name, node, shape) if isinstance(node, nir.Conv2d) else _matrix(name, node, shape)
            shape = pending.output_shape(shape)
            if pooled is not None:
                pending = fold_pool(*pooled, pending, shape, name)
                pooled = None
        elif isinstance(node, nir.LIF | nir.IF):
            feeding = pending or (pooled and pooled[0])
            if feeding is None:
                raise _refuse(name, node, "neurons need a convolution, an affine map or a pooling before them")
            beta, gain, threshold = _neuron(name, node, dt)
            populations.append(Population(name, source, shape, _scaled(feeding, gain), beta, threshold))
            pending, pooled, source = None, None, name
        else:
            raise _refuse(name, node, "this node type cannot be lowered to Loihi 2 here")
        last = name
    if pending is not None and not pending.is_conv:
        populations.append(Population(last, source, shape, pending, 1.0, None))
    elif pending is not None or pooled is not None:
        raise ScaDeployError(f"the graph ends in '{last}' without neurons", "end it in neurons or in an Affine")
    if not populations:
        raise ScaDeployError("the graph holds no neurons", "nothing to lower")
    return input_shape, populations


def fold_pool(pool: Operator, source: Shape, after: Operator, after_shape: Shape, name: str) -> Operator:
    """One operator that does what a summing pool and the operator after it do.

    A pool of kernel k and stride s before a convolution K, S is a convolution of kernel k + (K - 1) s
    and stride s S. A padding P of the convolution becomes s P, which is exact only when the pool pads
    nothing, does not overlap and divides the map evenly: else it would see partial windows as zeros.

    Raises:
        ScaDeployError: where folding would not be exact.
    """
    if not after.is_conv:
        return _fold_pool_into_matrix(pool, source, after)
    stride = pool.stride
    even = all(
        pool.padding[a] == 0 and pool.weight.shape[2 + a] <= stride[a] and source[1 + a] % stride[a] == 0
        for a in (0, 1)
    )
    if any(after.padding) and not even:
        raise ScaDeployError(
            f"'{name}': the pooling before it cannot be folded, because the convolution pads "
            "and the pooling overlaps, pads or does not divide the map evenly",
            "use a pooling whose stride equals its kernel and divides the map, or a convolution without padding",
        )
    folded = Operator(
        weight=_spread_kernel(after, pool),
        bias=after.bias,
        stride=(after.stride[0] * stride[0], after.stride[1] * stride[1]),
        padding=(
            after.padding[0] * stride[0] + pool.padding[0],
            after.padding[1] * stride[1] + pool.padding[1],
        ),
        groups=after.groups,
    )
    if folded.output_shape(source) != after_shape:
        raise ScaDeployError(
            f"'{name}': folding the pooling before it gives {folded.output_shape(source)}, not {after_shape}",
            "use a pooling that divides the map evenly",
        )
    return folded


def _spread_kernel(after: Operator, pool: Operator) -> FloatArray:
    out, channels, height, width = after.weight.shape
    k = pool.weight.shape[2:]
    step = (after.dilation[0] * pool.stride[0], after.dilation[1] * pool.stride[1])
    weight = np.zeros((out, channels, (height - 1) * step[0] + k[0], (width - 1) * step[1] + k[1]))
    factor = pool.weight.flat[0]
    for i in range(height):
        for j in range(width):
            top, left = i * step[0], j * step[1]
            weight[:, :, top : top + k[0], left : left + k[1]] += factor * after.weight[:, :, i, j, None, None]
    return weight


def _fold_pool_into_matrix(pool: Operator, source: Shape, after: Operator) -> Operator:
    channels, height, width = pool.output_shape(source)
    small = after.weight.reshape(-1, channels, height, width)
    factor = pool.weight.flat[0]
    k, padding = pool.weight.shape[2:], pool.padding
    large = np.zeros((small.shape[0], channels, source[1] + 2 * padding[0], source[2] + 2 * padding[1]))
    for i in range(height):
        for j in range(width):
            top, left = i * pool.stride[0], j * pool.stride[1]
            large[:, :, top : top + k[0], left : left + k[1]] += factor * small[:, :, i, j, None, None]
    inner = large[:, :, padding[0] : padding[0] + source[1], padding[1] : padding[1] + source[2]]
    return Operator(inner.reshape(small.shape[0], -1), after.bias)


def _chain(graph: nir.NIRGraph) -> list[str]:
    after: dict[str, list[str]] = {name: [] for name in graph.nodes}
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        if a not in after or b not in before:
            raise ScaDeployError(f"the edge '{a}' -> '{b}' names a node that the graph does not hold")
        after[a].append(b)
        before[b].append(a)
    inputs = [n for n, node in graph.nodes.items() if isinstance(node, nir.Input)]
    outputs = [n for n, node in graph.nodes.items() if isinstance(node, nir.Output)]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ScaDeployError(f"the graph has {len(inputs)} inputs and {len(outputs)} outputs, one of each is needed")
    chain = [inputs[0]]
    while chain[-1] != outputs[0]:
        followers = after[chain[-1]]
        if len(followers) != 1 or len(before[followers[0]]) != 1 or followers[0] in chain:
            raise ScaDeployError(
                f"node '{chain[-1]}' branches, joins or loops; only chains can be lowered to a .net",
                "remove skip and recurrent connections",
            )
        chain.append(followers[0])
    unreached = set(graph.nodes) - set(chain)
    if unreached:
        raise ScaDeployError(f"node '{min(unreached)}' is not on the way from input to output")
    return chain


def _refuse(name: str, node: nir.NIRNode, why: str) -> ScaDeployError:
    return ScaDeployError(f"node '{name}' ({type(node).__name__}): {why}")


def _refuse_nan(name: str, node: nir.NIRNode) -> None:
    for key, value in vars(node).items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            raise _refuse(name, node, f"'{key}' holds NaN or infinite values")


def _pair(value: Any) -> Pair:
    numbers = np.broadcast_to(np.asarray(value, dtype=np.int64).ravel(), (2,))
    return int(numbers[0]), int(numbers[1])


def _conv_size(size: int, kernel: int, operator: Operator, axis: int) -> int:
    reach = operator.dilation[axis] * (kernel - 1) + 1
    return (size + 2 * operator.padding[axis] - reach) // operator.stride[axis] + 1


def _pool(name: str, node: nir.SumPool2d | nir.AvgPool2d, source: Shape) -> Operator:
    if len(source) != 3:
        raise _refuse(name, node, f"it reads a population of shape {source}, not (channels, height, width)")
    kernel, stride, padding = _pair(node.kernel_size), _pair(node.stride), _pair(node.padding)
    factor = 1.0 if isinstance(node, nir.SumPool2d) else 1.0 / (kernel[0] * kernel[1])
    weight = np.full((source[0], 1, *kernel), factor)
    return Operator(weight, np.zeros(source[0]), stride, padding, groups=source[0])


def _convolution(name: str, node: nir.Conv2d, source: Shape) -> Operator:
    weight = np.asarray(node.weight, np.float64)
    groups, dilation, stride = int(node.groups), _pair(node.dilation), _pair(node.stride)
    if len(source) != 3 or weight.ndim != 4 or weight.shape[1] * groups != source[0]:
        raise _refuse(name, node, f"weight {weight.shape} with {groups} groups does not fit a source of shape {source}")
    padding = _padding(name, node, weight.shape, dilation, stride)
    bias = np.zeros(weight.shape[0]) if node.bias is None else np.asarray(node.bias, np.float64).ravel()
    operator = Operator(weight, bias, stride, padding, dilation, groups)
    if min(operator.output_shape(source)) < 1:
        raise _refuse(name, node, f"its kernel is larger than the map it reads, {source}")
    return operator


def _padding(name: str, node: nir.Conv2d, weight: Shape, dilation: Pair, stride: Pair) -> Pair:
    if not isinstance(node.padding, str | bytes | np.str_):
        return _pair(node.padding)
    word = node.padding.decode() if isinstance(node.padding, bytes) else str(node.padding)
    if word == "valid":
        return (0, 0)
    reach = (dilation[0] * (weight[2] - 1), dilation[1] * (weight[3] - 1))
    if word != "same" or stride != (1, 1) or reach[0] % 2 or reach[1] % 2:
        raise _refuse(name, node, f"padding '{word}' with stride {stride} is not symmetric")
    return (reach[0] // 2, reach[1] // 2)


def _matrix(name: str, node: nir.Affine | nir.Linear, source: Shape) -> Operator:
    weight = np.asarray(node.weight, np.float64)
    if weight.ndim != 2 or weight.shape[1] != int(np.prod(source)):
        raise _refuse(name, node, f"weight {weight.shape} does not fit a source of shape {source}")
    bias = getattr(node, "bias", None)
    return Operator(weight, np.zeros(weight.shape[0]) if bias is None else np.asarray(bias, np.float64).ravel())


def _scaled(operator: Operator, gain: float) -> Operator:
    return Operator(
        operator.weight * gain,
        operator.bias * gain,
        operator.stride,
        operator.padding,
        operator.dilation,
        operator.groups,
    )


def _neuron(name: str, node: nir.LIF | nir.IF, dt: float) -> tuple[float, float, float]:
    """(beta, gain, threshold) of a population that behaves as the chip's neurons do."""
    zero = {"v_reset": node.v_reset}
    if isinstance(node, nir.LIF):
        zero["v_leak"] = node.v_leak
    for key, value in zero.items():
        if value is not None and np.any(np.asarray(value)):
            raise _refuse(name, node, f"'{key}' is not zero, which the chip's neuron cannot do")
    r, threshold = _uniform(name, node, "r"), _uniform(name, node, "v_threshold")
    if threshold <= 0:
        raise _refuse(name, node, f"v_threshold is {threshold:g}, it must be positive")
    if isinstance(node, nir.IF):
        return 1.0, r * dt, threshold
    tau = _uniform(name, node, "tau")
    # float32 time constants make dt / tau miss 0 and 1 by a rounding error.
    leak = dt / tau if tau > 0 else np.inf
    if not 0 <= leak <= 1 + 1e-6:
        raise _refuse(
            name,
            node,
            f"tau is {tau:g} s, shorter than the time step of {dt:g} s",
        )
    leak = min(leak, 1.0)
    return 1.0 - leak, r * leak, threshold


def _uniform(name: str, node: nir.NIRNode, key: str) -> float:
    values = np.asarray(getattr(node, key), np.float64)
    if values.size == 0 or np.ptp(values) > 1e-6 * np.abs(values).max():
        raise _refuse(name, node, f"'{key}' differs between neurons; a population on the chip shares it")
    return float(values.flat[0])
