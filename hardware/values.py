"""What flows along the edges of a NIR graph: a sum of scaled, pooled, delayed and mapped sources.

One rule a node type says how a node changes it, or refuses by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.hardware.euler import refuse
from sca_deploy.hardware.operators import FloatArray, Operator, Pair, fold_pool, reading
from sca_deploy.hardware.program import Shape

Delays = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Term:
    """A source on its way to a population: first scaled and pooled, then a full linear map.

    Args:
        shape: of the source.
        factor: of the source's channels, (channels,).
        pool: a depthwise sum.
        operator: the convolution or matrix; nothing but scales and delays can follow it.
        delay_in, delay_out: steps, of each neuron of the source and of each output; flat.
    """

    source: str
    shape: Shape
    factor: FloatArray
    pool: Operator | None = None
    operator: Operator | None = None
    delay_in: Delays = field(default_factory=lambda: np.zeros(1, np.int64))
    delay_out: Delays = field(default_factory=lambda: np.zeros(1, np.int64))

    @property
    def plain(self) -> bool:
        """Whether the source arrives as it is."""
        changed = self.pool is not None or self.operator is not None or (self.factor != 1.0).any()
        return not (changed or self.delay_in.any() or self.delay_out.any())

    def plainly_like(self, other: Term) -> bool:
        """Whether both read the same, as late, and neither through a pool or an operator."""
        linear = [self.pool, self.operator, other.pool, other.operator]
        same = self.source == other.source and len(self.factor) == len(other.factor)
        late = [np.array_equal(getattr(self, d), getattr(other, d)) for d in ("delay_in", "delay_out")]
        return same and all(late) and all(part is None for part in linear)


@dataclass(frozen=True, eq=False)
class Value:
    """What flows along an edge: a sum of terms and a constant (channels,), of a shape; `last` made it linear."""

    shape: Shape
    terms: tuple[Term, ...]
    bias: FloatArray
    last: str = ""


def spikes_of(source: str, shape: Shape) -> Value:
    """The spikes of a source, as they are."""
    return Value(shape, (Term(source, shape, np.ones(shape[0])),), np.zeros(shape[0]))


def leaving(name: str, node: nir.NIRNode, entering: Value, dt: float) -> Value:
    """What leaves a node that holds no neurons, from what enters it.

    Raises:
        ScaDeployError: naming the node and why it cannot be carried.
    """
    rule = next((rule for kinds, rule in _RULES if isinstance(node, kinds)), None)
    if rule is None:
        raise refuse(name, node, "this node type cannot be lowered to Loihi 2 here")
    return rule(name, node, entering, dt)


def merged(terms: Iterable[Term]) -> tuple[Term, ...]:
    """The terms with those added up that read the same source through nothing but factors."""
    result: list[Term] = []
    for term in terms:
        for index, known in enumerate(result):
            if term.plainly_like(known):
                result[index] = replace(known, factor=known.factor + term.factor)
                break
        else:
            result.append(term)
    return tuple(result)


def _linear(name: str, node: nir.NIRNode, value: Value, operator: Operator, bias: FloatArray) -> Value:
    if bias.size != len(operator.weight):
        raise refuse(name, node, f"it has {bias.size} biases for {len(operator.weight)} outputs")
    if any(term.operator is not None for term in value.terms) or value.bias.any():
        raise refuse(name, node, f"it follows '{value.last}' without neurons in between", "merge the two maps into one")
    terms = tuple(replace(term, operator=folded(name, term, operator)) for term in value.terms)
    return Value(operator.output_shape(value.shape), terms, bias, name)


def folded(name: str, term: Term, operator: Operator) -> Operator:
    """An operator on what a term reads.

    Raises:
        ScaDeployError: where the term's pool cannot be folded into it exactly.
    """
    if term.pool is None:
        return reading(operator, term.factor)
    return fold_pool(reading(term.pool, term.factor), term.shape, operator, name)


def _conv2d(name: str, node: nir.Conv2d, value: Value, dt: float) -> Value:
    weight = np.asarray(node.weight, np.float64)
    stride, dilation = (_pair(name, node, key, 1) for key in ("stride", "dilation"))
    return _convolution(name, node, value, weight, stride, node.padding, dilation)


def _conv1d(name: str, node: nir.Conv1d, value: Value, dt: float) -> Value:
    """A convolution along the length of (channels, 1, length)."""
    weight = np.asarray(node.weight, np.float64)
    if len(value.shape) == 3 and value.shape[1] != 1:
        raise refuse(name, node, f"it reads a map of shape {value.shape}, which has two dimensions")
    stride, dilation = ((1, _pair(name, node, key, 1)[1]) for key in ("stride", "dilation"))
    padding = (
        node.padding if isinstance(node.padding, str | bytes | np.str_) else (0, _pair(name, node, "padding", 0)[1])
    )
    weight = weight[:, :, None] if weight.ndim == 3 else weight
    return _convolution(name, node, value, weight, stride, padding, dilation)


def _convolution(
    name: str, node: Any, value: Value, weight: FloatArray, stride: Pair, padding: Any, dilation: Pair
) -> Value:
    groups, source = int(node.groups), value.shape
    sizes = weight.ndim == 4 and min(weight.shape) > 0 and groups > 0 and len(weight) % groups == 0
    if len(source) != 3 or not sizes or weight.shape[1] * groups != source[0]:
        raise refuse(name, node, f"weight {weight.shape} with {groups} groups does not fit a source of shape {source}")
    weight, sides = _padded(name, node, weight, stride, padding, dilation)
    if min(sides) < 0:
        raise refuse(name, node, f"its padding is {sides}, it cannot be negative")
    bias = np.zeros(len(weight)) if node.bias is None else np.asarray(node.bias, np.float64).ravel()
    operator = Operator(weight, stride, sides, dilation, groups)
    if min(operator.output_shape(source)) < 1:
        raise refuse(name, node, f"its kernel is larger than the map it reads, {source}")
    return _linear(name, node, value, operator, bias)


def _padded(
    name: str, node: Any, weight: FloatArray, stride: Pair, padding: Any, dilation: Pair
) -> tuple[FloatArray, Pair]:
    """The kernel and its symmetric padding; 'same' around an even kernel becomes an odd one with zeros."""
    if not isinstance(padding, str | bytes | np.str_):
        return weight, _two(name, node, "padding", padding, 0)
    word = padding.decode() if isinstance(padding, bytes) else str(padding)
    if word == "valid":
        return weight, (0, 0)
    if word != "same" or stride != (1, 1):
        raise refuse(name, node, f"padding '{word}' with stride {stride} is not defined")
    reach = [dilation[a] * (weight.shape[2 + a] - 1) for a in (0, 1)]
    odd = [r % 2 for r in reach]
    if any(odd[a] and dilation[a] > 1 for a in (0, 1)):
        raise refuse(name, node, "its padding 'same' is uneven and its kernel dilated", "use an odd kernel")
    # The surplus of an odd reach is at the end; a zero in front of the kernel makes both sides equal.
    weight = np.pad(weight, ((0, 0), (0, 0), (odd[0], 0), (odd[1], 0)))
    return weight, ((reach[0] + odd[0]) // 2, (reach[1] + odd[1]) // 2)


def _matrix(name: str, node: nir.Affine | nir.Linear, value: Value, dt: float) -> Value:
    weight = np.asarray(node.weight, np.float64)
    if weight.ndim != 2 or weight.shape[1] != int(np.prod(value.shape)):
        raise refuse(name, node, f"weight {weight.shape} does not fit a source of shape {value.shape}")
    bias = getattr(node, "bias", None)
    constant = np.zeros(len(weight)) if bias is None else np.asarray(bias, np.float64).ravel()
    return _linear(name, node, value, Operator(weight), constant)


def _pooling(name: str, node: nir.SumPool2d | nir.AvgPool2d, value: Value, dt: float) -> Value:
    if any(term.operator is not None or term.pool is not None or term.delay_in.any() for term in value.terms):
        raise refuse(name, node, "a pooling can only be folded when it directly follows neurons or the input")
    if len(value.shape) != 3:
        raise refuse(name, node, f"it reads a population of shape {value.shape}, not (channels, height, width)")
    kernel, stride = (_pair(name, node, key, 1) for key in ("kernel_size", "stride"))
    padding = _pair(name, node, "padding", 0)
    share = 1.0 if isinstance(node, nir.SumPool2d) else 1.0 / (kernel[0] * kernel[1])
    weight = np.full((value.shape[0], 1, *kernel), share)
    pool = Operator(weight, stride, padding, groups=value.shape[0])
    if min(pool.output_shape(value.shape)) < 1:
        raise refuse(name, node, f"its window is larger than the map it reads, {value.shape}")
    terms = tuple(replace(term, pool=pool) for term in value.terms)
    return Value(pool.output_shape(value.shape), terms, value.bias, name)


def _flatten(name: str, node: nir.Flatten, value: Value, dt: float) -> Value:
    if any(term.operator is not None for term in value.terms):
        raise refuse(name, node, f"it follows '{value.last}' without neurons in between")
    # The terms keep the shapes of their sources; flat, a map is in the order of its channels.
    size = int(np.prod(value.shape))
    return Value((size,), value.terms, np.zeros(size), name)


def _scale(name: str, node: nir.Scale, value: Value, dt: float) -> Value:
    scale = _spread(name, node, np.asarray(node.scale, np.float64), value.shape).reshape(value.shape[0], -1)
    if np.ptp(scale, axis=1).any():
        raise refuse(name, node, "its factors differ within a channel", "scale whole channels")
    terms = tuple(_scaled(name, node, term, scale[:, 0]) for term in value.terms)
    return replace(value, terms=terms, bias=value.bias * scale[:, 0], last=name)


def _scaled(name: str, node: nir.Scale, term: Term, factor: FloatArray) -> Term:
    if term.operator is not None:
        return replace(term, operator=term.operator.scaled(factor))
    if len(factor) == len(term.factor):
        return replace(term, factor=term.factor * factor)
    if term.pool is not None:  # flattened after a pool, which needs one factor a channel before it
        by_channel = factor.reshape(len(term.factor), -1)
        if np.ptp(by_channel, axis=1).any():
            raise refuse(name, node, "its factors differ within a channel of the pooling before it")
        return replace(term, factor=term.factor * by_channel[:, 0])
    return replace(term, factor=np.repeat(term.factor, len(factor) // len(term.factor)) * factor)


def _delay(name: str, node: nir.Delay, value: Value, dt: float) -> Value:
    exact = np.asarray(node.delay, np.float64) / dt
    steps = np.rint(exact).astype(np.int64)
    if (np.abs(exact - steps) > 1e-3).any() or (steps < 0).any():
        raise refuse(name, node, f"its delays are not whole steps of {dt:g} s", "give the --dt it was made for")
    flat = _spread(name, node, steps, value.shape).reshape(-1)
    if value.bias.any():
        raise refuse(name, node, f"it delays the bias of '{value.last}'", "put the delay before the weights")
    if any(term.pool is not None for term in value.terms):
        raise refuse(name, node, "it follows a pooling", "put the delay before the pooling's neurons")
    terms = tuple(
        replace(t, delay_in=t.delay_in + flat) if t.operator is None else replace(t, delay_out=t.delay_out + flat)
        for t in value.terms
    )
    return replace(value, terms=terms, last=name)


_RULES: tuple[tuple[Any, Callable[[str, Any, Value, float], Value]], ...] = (
    (nir.Conv2d, _conv2d),
    (nir.Conv1d, _conv1d),
    (nir.Affine | nir.Linear, _matrix),
    (nir.SumPool2d | nir.AvgPool2d, _pooling),
    (nir.Flatten, _flatten),
    (nir.Scale, _scale),
    (nir.Delay, _delay),
)


def _spread(name: str, node: nir.NIRNode, values: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """One value for every neuron of a shape, from one for all or one each."""
    if values.size not in (1, int(np.prod(shape))):
        raise refuse(name, node, f"its {values.size} values do not fit what it reads, of shape {shape}")
    return np.broadcast_to(values.reshape(-1), (int(np.prod(shape)),)).reshape(shape)


def _pair(name: str, node: nir.NIRNode, key: str, least: int) -> Pair:
    return _two(name, node, key, getattr(node, key), least)


def _two(name: str, node: nir.NIRNode, key: str, value: Any, least: int) -> Pair:
    """Two whole numbers, or one for both."""
    numbers = np.asarray(value).ravel()
    if numbers.size not in (1, 2) or numbers.dtype.kind not in "iuf" or (numbers < least).any():
        raise refuse(name, node, f"its {key} is {value}, one or two numbers from {least} on are needed")
    both = np.broadcast_to(numbers.astype(np.int64), (2,))
    return int(both[0]), int(both[1])
