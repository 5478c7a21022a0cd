"""The readable description of a network, and the shapes that follow from it.

A spec is a list of tables, one a layer:

    {type = "conv", channels = 32, kernel = 3, padding = 1}      also: stride, bias, name
    {type = "batch_norm"}
    {type = "lif", beta = 0.5}     {type = "if"}                 also: threshold, surrogate, alpha
    {type = "avg_pool", kernel = 2}     {type = "max_pool", kernel = 2}      also: stride
    {type = "flatten"}
    {type = "linear", features = 10}                             also: bias
    {type = "dropout", p = 0.2}

A convolution or linear layer is followed by an optional batch-norm and its neurons; pooling follows
neurons or the input; the last layer is linear and is read out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from sca_deploy.errors import UsageError, unknown_name

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerSpec:
    """What every layer has: a unique name."""

    name: str
    type: ClassVar[str]
    follows: ClassVar[tuple[str, ...]] = ()
    """Types that may stand directly before this one ("input" for the network's input)."""

    def output_shape(self, shape: Shape) -> Shape:
        """The output shape for an input shape, both without batch and time."""
        return shape


@dataclass(frozen=True)
class ConvSpec(LayerSpec):
    """A 2-D convolution with square kernel."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    bias: bool = False
    type: ClassVar[str] = "conv"
    follows: ClassVar[tuple[str, ...]] = ("input", "lif", "if", "avg_pool", "max_pool", "dropout")

    def output_shape(self, shape: Shape) -> Shape:
        """(channels, height, width)."""
        _need_map(self, shape)
        sides = [(side + 2 * self.padding - self.kernel) // self.stride + 1 for side in shape[1:]]
        if min(sides) < 1:
            raise UsageError(f"layer '{self.name}': kernel {self.kernel} is larger than its map {shape[1:]}")
        return (self.channels, sides[0], sides[1])


@dataclass(frozen=True)
class BatchNormSpec(LayerSpec):
    """Batch-norm over channels or features; its output is what masks switch off."""

    type: ClassVar[str] = "batch_norm"
    follows: ClassVar[tuple[str, ...]] = ("conv", "linear")


@dataclass(frozen=True)
class LIFSpec(LayerSpec):
    """LIF neurons."""

    beta: float = 0.5
    threshold: float = 1.0
    surrogate: str = "sigmoid"
    alpha: float | None = None
    type: ClassVar[str] = "lif"
    follows: ClassVar[tuple[str, ...]] = ("conv", "linear", "batch_norm")

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise UsageError(f"layer '{self.name}': beta is {self.beta}, outside 0 to 1")
        if self.threshold <= 0.0:
            raise UsageError(f"layer '{self.name}': threshold is {self.threshold}, it must be positive")


@dataclass(frozen=True)
class IFSpec(LIFSpec):
    """IF neurons: LIF with beta = 1."""

    beta: float = 1.0
    type: ClassVar[str] = "if"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta != 1.0:
            raise UsageError(f"layer '{self.name}': an IF neuron has beta 1, not {self.beta}", "use type = 'lif'")


@dataclass(frozen=True)
class AvgPoolSpec(LayerSpec):
    """Average pooling; stride defaults to the kernel."""

    kernel: int
    stride: int | None = None
    type: ClassVar[str] = "avg_pool"
    follows: ClassVar[tuple[str, ...]] = ("input", "lif", "if", "dropout")

    def output_shape(self, shape: Shape) -> Shape:
        """(channels, height, width)."""
        _need_map(self, shape)
        sides = [(side - self.kernel) // self.step + 1 for side in shape[1:]]
        if min(sides) < 1:
            raise UsageError(f"layer '{self.name}': kernel {self.kernel} is larger than its map {shape[1:]}")
        return (shape[0], sides[0], sides[1])

    @property
    def step(self) -> int:
        """The stride in force."""
        return self.stride or self.kernel


@dataclass(frozen=True)
class MaxPoolSpec(AvgPoolSpec):
    """Max pooling of binary spikes: an OR."""

    type: ClassVar[str] = "max_pool"
    follows: ClassVar[tuple[str, ...]] = ("lif", "if", "dropout")


@dataclass(frozen=True)
class FlattenSpec(LayerSpec):
    """(C, H, W) to (C H W,)."""

    type: ClassVar[str] = "flatten"
    follows: ClassVar[tuple[str, ...]] = ("input", "lif", "if", "avg_pool", "max_pool", "dropout")

    def output_shape(self, shape: Shape) -> Shape:
        """(features,)."""
        size = 1
        for side in shape:
            size *= side
        return (size,)


@dataclass(frozen=True)
class LinearSpec(LayerSpec):
    """A fully connected layer."""

    features: int
    bias: bool = True
    type: ClassVar[str] = "linear"
    follows: ClassVar[tuple[str, ...]] = ("input", "lif", "if", "flatten", "dropout")

    def output_shape(self, shape: Shape) -> Shape:
        """(features,)."""
        if len(shape) != 1:
            raise UsageError(f"layer '{self.name}' reads a map of shape {shape}", "put a flatten layer before it")
        return (self.features,)


@dataclass(frozen=True)
class DropoutSpec(LayerSpec):
    """Dropout while training."""

    p: float = 0.5
    type: ClassVar[str] = "dropout"
    follows: ClassVar[tuple[str, ...]] = ("lif", "if", "avg_pool", "max_pool", "flatten")

    def __post_init__(self) -> None:
        if not 0.0 <= self.p < 1.0:
            raise UsageError(f"layer '{self.name}': p is {self.p}, outside 0 to 1")


_TYPES: dict[str, type[LayerSpec]] = {
    spec.type: spec
    for spec in (
        ConvSpec,
        BatchNormSpec,
        LIFSpec,
        IFSpec,
        AvgPoolSpec,
        MaxPoolSpec,
        FlattenSpec,
        LinearSpec,
        DropoutSpec,
    )
}


@dataclass(frozen=True)
class NetworkSpec:
    """A checked network: input shape, layers in order, and the shape after each of them.

    Args:
        input_shape: (channels, height, width) or (features,).
        layers: the layers in order.
        steps: time steps T a sample lasts.
        input_scale: what an integer input value is multiplied by before the first layer.
    """

    input_shape: Shape
    layers: tuple[LayerSpec, ...]
    steps: int
    input_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 4096:
            raise UsageError(f"steps is {self.steps}, outside 1 to 4096")
        _check_order(self.layers)
        _ = self.shapes  # walks every layer, so that a wrong size is found here

    @property
    def shapes(self) -> list[Shape]:
        """The shape after each layer, without batch and time."""
        shapes, shape = [], self.input_shape
        for layer in self.layers:
            shape = layer.output_shape(shape)
            shapes.append(shape)
        return shapes

    @property
    def classes(self) -> int:
        """How many classes the read-out tells apart."""
        return self.shapes[-1][0]

    def to_plain(self) -> dict[str, Any]:
        """A document of plain values, which `from_plain` reads."""
        layers = [{"type": layer.type, **asdict(layer)} for layer in self.layers]
        return {
            "input_shape": list(self.input_shape),
            "steps": self.steps,
            "input_scale": self.input_scale,
            "layers": layers,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> NetworkSpec:
        """The spec that `to_plain` wrote, checked again."""
        return cls(
            tuple(int(n) for n in plain["input_shape"]),
            parse_layers(plain["layers"], {}),
            int(plain["steps"]),
            float(plain["input_scale"]),
        )

    def with_sizes(self, sizes: Mapping[str, int]) -> NetworkSpec:
        """The same network with other channel or feature counts for the named layers."""
        layers: list[LayerSpec] = []
        for layer in self.layers:
            if layer.name in sizes and isinstance(layer, ConvSpec):
                layers.append(replace(layer, channels=sizes[layer.name]))
            elif layer.name in sizes and isinstance(layer, LinearSpec):
                layers.append(replace(layer, features=sizes[layer.name]))
            else:
                layers.append(layer)
        return replace(self, layers=tuple(layers))


def parse_layers(tables: Sequence[Mapping[str, Any]], neuron: Mapping[str, Any]) -> tuple[LayerSpec, ...]:
    """Layers from their tables; `neuron` holds defaults for every lif and if layer.

    Raises:
        UsageError: naming the layer and the key that is wrong.
    """
    layers: list[LayerSpec] = []
    counts: dict[str, int] = {}
    for position, table in enumerate(tables):
        if not isinstance(table, Mapping) or "type" not in table:
            raise UsageError(f"layer {position + 1} has no type", f"known: {', '.join(_TYPES)}")
        kind = str(table["type"])
        if kind not in _TYPES:
            raise unknown_name(f"layer type of layer {position + 1}", kind, _TYPES)
        counts[kind] = counts.get(kind, 0) + 1
        name = str(table.get("name", f"{kind}{counts[kind]}"))
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in ("input", "output"):
            raise UsageError(f"layer name '{name}' cannot be used", "letters, digits and _ only; not input or output")
        if name in {layer.name for layer in layers}:
            raise UsageError(f"two layers are called '{name}'")
        given = {k: v for k, v in table.items() if k not in ("type", "name")}
        if issubclass(_TYPES[kind], LIFSpec):
            given = {k: v for k, v in neuron.items() if kind != "if" or k != "beta"} | given
        layers.append(_build(_TYPES[kind], name, given))
    return tuple(layers)


def _build(spec: type[LayerSpec], name: str, given: Mapping[str, Any]) -> LayerSpec:
    known = {f.name: f for f in fields(spec) if f.name != "name"}
    for key, value in given.items():
        if key not in known:
            raise unknown_name(f"key of layer '{name}'", key, known)
        _check_value(name, key, value, str(known[key].type))
    try:
        return spec(name=name, **given)
    except TypeError as error:
        missing = ", ".join(re.findall(r"'(\w+)'", str(error)))
        raise UsageError(f"layer '{name}' ({spec.type}) lacks {missing}") from error


def _check_value(name: str, key: str, value: object, annotation: str) -> None:
    if value is None and "None" in annotation:
        return
    if annotation.startswith("int"):
        low = 0 if key == "padding" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise UsageError(f"layer '{name}': {key} is {value!r}, it must be a whole number from {low}")
    elif annotation.startswith("float"):
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            raise UsageError(f"layer '{name}': {key} is {value!r}, it must be a number")
    elif annotation == "bool" and not isinstance(value, bool):
        raise UsageError(f"layer '{name}': {key} is {value!r}, it must be true or false")
    elif annotation == "str" and not isinstance(value, str):
        raise UsageError(f"layer '{name}': {key} is {value!r}, it must be text")


def _need_map(layer: LayerSpec, shape: Shape) -> None:
    if len(shape) != 3:
        raise UsageError(f"layer '{layer.name}' needs a map (channels, height, width), it reads {shape}")


def _check_order(layers: Sequence[LayerSpec]) -> None:
    if not layers or not isinstance(layers[-1], LinearSpec):
        last = f"'{layers[-1].name}'" if layers else "nothing"
        raise UsageError(f"the network ends in {last}, not in a linear read-out", "add a linear layer at the end")
    before, owner = "input", "the input"
    for layer in layers:
        if before not in layer.follows:
            raise UsageError(
                f"layer '{layer.name}' ({layer.type}) cannot follow {owner} ({before})",
                f"{layer.type} follows {', '.join(layer.follows)}",
            )
        before, owner = layer.type, f"'{layer.name}'"
