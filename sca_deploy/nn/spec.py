"""The readable description of a network, and the shapes that follow from it.

A spec is a list of tables, one a layer:

    {type = "conv", channels = 32, kernel = 3, padding = 1}      also: stride, bias, name
    {type = "batch_norm"}
    {type = "lif", beta = 0.5}     {type = "if"}                 also: threshold, surrogate, alpha
    {type = "avg_pool", kernel = 2}     {type = "max_pool", kernel = 2}      also: stride
    {type = "flatten"}
    {type = "linear", features = 10}                             also: bias
    {type = "dropout", p = 0.2}
    {type = "sum", of = ["conv1", "conv3"]}                      elementwise, of two values or more
    {type = "select", channels = [0, 2, 3]}                      the other channels are left out

A layer reads the layer before it, unless it says otherwise: `from = "conv1"` names an earlier layer,
`from = "input"` the network's input. Convolutions, linear layers and pooling read spikes (pooled,
flattened or not) or the input; batch-norm reads a convolution, a linear layer or a sum; neurons read
any of these three or a batch-norm; a sum adds what any of them give. Select and dropout may stand
anywhere that what they read may stand. The last layer is linear and is read out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from sca_deploy.errors import UsageError, unknown_name

Shape = tuple[int, ...]

INPUT = "input"
"""What the network's input is called where layers name what they read."""


@dataclass(frozen=True)
class LayerSpec:
    """What every layer has: a unique name, and what it reads."""

    name: str
    source: str = field(default="", kw_only=True)
    """The layer it reads, `from` in a table; empty for the layer before it."""
    type: ClassVar[str]
    follows: ClassVar[tuple[str, ...]] = ()
    """Types that may stand directly before this one ("input" for the network's input)."""
    transparent: ClassVar[bool] = False
    """Whether it may be read by all that may read what it reads itself."""

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
    follows: ClassVar[tuple[str, ...]] = ("input", "lif", "if", "avg_pool", "max_pool")

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
    follows: ClassVar[tuple[str, ...]] = ("conv", "linear", "sum")


@dataclass(frozen=True)
class LIFSpec(LayerSpec):
    """LIF neurons."""

    beta: float = 0.5
    threshold: float = 1.0
    surrogate: str = "sigmoid"
    alpha: float | None = None
    type: ClassVar[str] = "lif"
    follows: ClassVar[tuple[str, ...]] = ("conv", "linear", "batch_norm", "sum")

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
    follows: ClassVar[tuple[str, ...]] = ("input", "lif", "if")

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
    follows: ClassVar[tuple[str, ...]] = ("lif", "if")


@dataclass(frozen=True)
class FlattenSpec(LayerSpec):
    """(C, H, W) to (C H W,)."""

    type: ClassVar[str] = "flatten"
    follows: ClassVar[tuple[str, ...]] = ("input", "lif", "if", "avg_pool", "max_pool")

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
    follows: ClassVar[tuple[str, ...]] = ("input", "lif", "if", "flatten")

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
    transparent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.p < 1.0:
            raise UsageError(f"layer '{self.name}': p is {self.p}, outside 0 to 1")


@dataclass(frozen=True)
class SumSpec(LayerSpec):
    """The elementwise sum of values of one shape: where a residual connection ends."""

    of: tuple[str, ...]
    type: ClassVar[str] = "sum"
    follows: ClassVar[tuple[str, ...]] = (
        "conv",
        "linear",
        "batch_norm",
        "lif",
        "if",
        "avg_pool",
        "max_pool",
        "sum",
    )

    def __post_init__(self) -> None:
        if len(self.of) < 2 or len(set(self.of)) < len(self.of):
            raise UsageError(
                f"layer '{self.name}' is the sum of {', '.join(self.of) or 'nothing'}",
                "name two different layers or more in `of`",
            )


@dataclass(frozen=True)
class SelectSpec(LayerSpec):
    """Some channels (or features) of a wider value, in the order given."""

    channels: tuple[int, ...]
    type: ClassVar[str] = "select"
    follows: ClassVar[tuple[str, ...]] = (INPUT, "flatten", *SumSpec.follows)
    transparent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise UsageError(f"layer '{self.name}': channels is {list(self.channels)}", "list different channels")

    def output_shape(self, shape: Shape) -> Shape:
        """The input shape with as many channels as are selected."""
        if max(self.channels) >= shape[0]:
            raise UsageError(f"layer '{self.name}': channel {max(self.channels)} is not one of 0 to {shape[0] - 1}")
        return (len(self.channels), *shape[1:])


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
        SumSpec,
        SelectSpec,
    )
}


@dataclass(frozen=True)
class NetworkSpec:
    """A checked network: input shape, layers in order, what each of them reads, and the shape after it.

    Args:
        input_shape: (channels, height, width) or (features,).
        layers: the layers, each after all it reads; the last is the read-out.
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
        _check_wiring(self)
        _ = self.shapes  # walks every layer, so that a wrong size is found here

    @property
    def sources(self) -> list[tuple[str, ...]]:
        """The names of what each layer reads: one, or a sum's operands; "input" is the network's input."""
        sources, before = [], INPUT
        for layer in self.layers:
            sources.append(layer.of if isinstance(layer, SumSpec) else (layer.source or before,))
            before = layer.name
        return sources

    @property
    def shapes(self) -> list[Shape]:
        """The shape after each layer, without batch and time."""
        shapes: dict[str, Shape] = {INPUT: self.input_shape}
        for layer, sources in zip(self.layers, self.sources, strict=True):
            shape = shapes[sources[0]]
            for other in sources[1:]:
                if shapes[other] != shape:
                    raise UsageError(
                        f"layer '{layer.name}' cannot add '{other}' {shapes[other]} to '{sources[0]}' {shape}"
                    )
            shapes[layer.name] = layer.output_shape(shape)
        return list(shapes.values())[1:]

    @property
    def classes(self) -> int:
        """How many classes the read-out tells apart."""
        return self.shapes[-1][0]

    def to_plain(self) -> dict[str, Any]:
        """A document of plain values, which `from_plain` reads."""
        return {
            "input_shape": list(self.input_shape),
            "steps": self.steps,
            "input_scale": self.input_scale,
            "layers": [_table(layer) for layer in self.layers],
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


def _table(layer: LayerSpec) -> dict[str, Any]:
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(layer).items()}
    source = values.pop("source")
    return {"type": layer.type, **values, **({"from": source} if source else {})}


def _build(spec: type[LayerSpec], name: str, given: Mapping[str, Any]) -> LayerSpec:
    known = {f.name: str(f.type) for f in fields(spec) if f.name not in ("name", "source")}
    if spec is not SumSpec:
        known["from"] = "str"
    for key, value in given.items():
        if key not in known:
            raise unknown_name(f"key of layer '{name}'", key, known)
        _check_value(name, key, value, known[key])
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    if "from" in values:
        values["source"] = values.pop("from")
    try:
        return spec(name=name, **values)
    except TypeError as error:
        missing = ", ".join(re.findall(r"'(\w+)'", str(error)))
        raise UsageError(f"layer '{name}' ({spec.type}) lacks {missing}") from error


def _check_value(name: str, key: str, value: object, annotation: str) -> None:
    if value is None and "None" in annotation:
        return
    if annotation.startswith("tuple"):
        if not isinstance(value, list | tuple):
            raise UsageError(f"layer '{name}': {key} is {value!r}, it must be a list")
        for item in value:
            _check_value(name, key, item, annotation[len("tuple[") :])
    elif annotation.startswith("int"):
        low = 0 if key == "padding" or annotation.endswith("]") else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise UsageError(f"layer '{name}': {key} is {value!r}, it must be a whole number from {low}")
    elif annotation.startswith("float"):
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            raise UsageError(f"layer '{name}': {key} is {value!r}, it must be a number")
    elif annotation == "bool" and not isinstance(value, bool):
        raise UsageError(f"layer '{name}': {key} is {value!r}, it must be true or false")
    elif annotation.startswith("str") and not isinstance(value, str):
        raise UsageError(f"layer '{name}': {key} is {value!r}, it must be text")


def _need_map(layer: LayerSpec, shape: Shape) -> None:
    if len(shape) != 3:
        raise UsageError(f"layer '{layer.name}' needs a map (channels, height, width), it reads {shape}")


def _check_wiring(spec: NetworkSpec) -> None:
    """Every layer reads what it may read, and every layer is read."""
    layers = spec.layers
    if not layers or not isinstance(layers[-1], LinearSpec):
        last = f"'{layers[-1].name}'" if layers else "nothing"
        raise UsageError(f"the network ends in {last}, not in a linear read-out", "add a linear layer at the end")
    names = [layer.name for layer in layers]
    kinds, unread = {INPUT: INPUT}, dict.fromkeys(names[:-1])
    for layer, sources in zip(layers, spec.sources, strict=True):
        for source in sources:
            if source not in kinds:
                if source in names:
                    raise UsageError(f"layer '{layer.name}' reads '{source}', which does not come before it")
                raise unknown_name(f"layer read by '{layer.name}':", source, kinds)
            if kinds[source] not in layer.follows:
                owner = "the input" if source == INPUT else f"'{source}'"
                raise UsageError(
                    f"layer '{layer.name}' ({layer.type}) cannot follow {owner} ({kinds[source]})",
                    f"{layer.type} follows {', '.join(layer.follows)}",
                )
            unread.pop(source, None)
        kinds[layer.name] = kinds[sources[0]] if layer.transparent else layer.type
    if unread:
        raise UsageError(f"no layer reads '{next(iter(unread))}'", "take it out, or name it in a `from` or an `of`")
