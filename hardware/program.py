"""The integer Program: exactly what a Loihi 2 core is asked to compute, and nothing else.

A Program is a list of layers in topological order. A layer is a population of identical neurons
fed by one or more synapses, each naming the layer (or the input) it reads. Every number is an
integer in the units of Lava's fixed-point LIF (`lava.proc.lif`, bit-accurate model):

    u[t] = dec(u[t-1], u_decay) + (a[t] << 6)           wrapped to 24 bits
    v[t] = dec(v[t-1], v_decay) + u[t] + (bias << 6)    saturated to +-(2^23 - 1)
    s[t] = v[t] > (threshold << 6);  v[t] = 0 where s[t]
    dec(x, d) = sign(x) * ((|x| * (4096 - d)) >> 12)

The layers of a Program are aligned: step t of a layer answers step t of its source, or step t - d where
its synapse has a delay of d; a layer that reads itself has delays of 1 and more. The chip needs one step
from layer to layer. A layer's `stage` says when it runs: step t of a sample at step t + stage of the run.
Where paths of different length meet, the shorter one has to wait: a fully connected synapse can do that by
itself, up to 62 steps, a convolution cannot and reads relays (neurons that repeat a spike one step later).
A synapse whose wait the chip cannot do is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.files import atomic_path

IntArray = npt.NDArray[np.int32]
Shape = tuple[int, ...]

INPUT = "input"
ALIGNMENT_BITS = 6
DECAY_ONE = 4096
STATE_LIMIT = 1 << 23
WEIGHT_MIN, WEIGHT_MAX = -256, 254
THRESHOLD_MAX = (1 << 17) - 1
BIAS_MIN, BIAS_MAX = -(1 << 12), (1 << 12) - 1
ACTIVATION_LIMIT = STATE_LIMIT >> ALIGNMENT_BITS
"""The summed synaptic input must stay below this magnitude, or `u` wraps."""
MESSAGE_BITS_MAX = 16
NEVER = THRESHOLD_MAX + 1
"""A threshold that no potential exceeds; what lava-dl gives a read-out that its file says nothing about."""
WAIT_MAX = 62
"""Steps that a fully connected synapse can hold a spike back, beyond the one it always takes."""
FORMAT = "sca-deploy program 2"


@dataclass(frozen=True, eq=False)
class Conv:
    """A 2-D convolution of the source's spikes.

    weight is (out_channels, in_channels / groups, kernel_h, kernel_w), unflipped as in PyTorch;
    stride, padding and dilation are (height, width).
    """

    source: str
    weight: IntArray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_shape(self, source: Shape) -> Shape:
        """(channels, height, width) from the source's (channels, height, width)."""
        if len(source) != 3 or source[0] != self.weight.shape[1] * self.groups:
            raise ScaDeployError(
                f"convolution of {self.weight.shape[1] * self.groups} channels reads '{self.source}' of shape {source}"
            )
        size = [
            (source[1 + axis] + 2 * self.padding[axis] - self.dilation[axis] * (self.weight.shape[2 + axis] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        ]
        return (self.weight.shape[0], size[0], size[1])


@dataclass(frozen=True, eq=False)
class Dense:
    """A fully connected synapse, whose source may be the layer itself; the source is flattened in (C, H, W) order.

    weight is (out, in); delay is in steps, one number or an array that broadcasts to the weight's shape.
    """

    source: str
    weight: IntArray
    delay: int | IntArray = 0

    @property
    def delay_range(self) -> tuple[int, int]:
        """The shortest and the longest delay."""
        return int(np.min(self.delay)), int(np.max(self.delay))

    def output_shape(self, source: Shape) -> Shape:
        """(out,) from any source shape that holds `in` neurons."""
        if int(np.prod(source)) != self.weight.shape[1]:
            raise ScaDeployError(f"dense synapse of {self.weight.shape[1]} inputs reads '{self.source}' of {source}")
        return (self.weight.shape[0],)


Synapse = Conv | Dense


@dataclass(frozen=True, eq=False)
class Layer:
    """A population of LIF neurons and the synapses that feed it.

    Args:
        name: unique; letters, digits and `_`.
        shape: (channels, height, width) or (features,).
        synapses: their outputs are summed; none only where the input is injected.
        v_decay, u_decay: 0 (no decay) to 4096 (no memory).
        threshold: mantissa, 17 bits unsigned.
        bias: mantissa, 13 bits signed; (channels,) or the full shape.
        scale: integer units per unit of the float model; advisory, no arithmetic uses it.
        injected: the host writes the Program's input into these neurons' bias at every step, where it adds to
            `bias`: x of the input's shape in units of the mantissa. No spikes and no synapses carry it.
    """

    name: str
    shape: Shape
    synapses: tuple[Synapse, ...]
    v_decay: int
    threshold: int
    bias: IntArray
    u_decay: int = DECAY_ONE
    scale: float = 1.0
    injected: bool = False

    @property
    def recurrent(self) -> bool:
        """Whether the layer reads its own spikes."""
        return any(synapse.source == self.name for synapse in self.synapses)

    @property
    def neurons(self) -> int:
        """How many neurons the layer has."""
        return int(np.prod(self.shape))

    def full_bias(self) -> IntArray:
        """The bias mantissa of every neuron, in the layer's shape."""
        if self.bias.shape == self.shape:
            return self.bias
        per_channel = self.bias.reshape(self.bias.shape + (1,) * (len(self.shape) - 1))
        return np.broadcast_to(per_channel, self.shape)


@dataclass(frozen=True, eq=False)
class Program:
    """An integer network.

    Args:
        input_shape: (channels, height, width) or (features,).
        input_bits: 0 for binary spikes; b for graded spikes of 0 to 2^b - 1; 0 for an injected input.
        steps: time steps a sample lasts; the head-room of currents and of the read-out was made for it.
        layers: in topological order.
        readout: the last layer never fires, and its final `v` is read.
    """

    input_shape: Shape
    input_bits: int
    steps: int
    layers: tuple[Layer, ...]
    readout: bool

    def __post_init__(self) -> None:
        _check_program(self)

    def __getitem__(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def shape_of(self, source: str) -> Shape:
        """The shape of a layer, or of the input."""
        return self.input_shape if source == INPUT else self[source].shape

    @property
    def injected(self) -> bool:
        """Whether the input is written into the bias of a layer instead of being sent as spikes."""
        return any(layer.injected for layer in self.layers)

    @property
    def input_min(self) -> int:
        """The smallest value of the input: 0 for spikes, negative for an injected bias."""
        return BIAS_MIN if self.injected else 0

    @property
    def input_max(self) -> int:
        """The largest value of the input: the payload of a message, or an injected bias."""
        if self.injected:
            return BIAS_MAX
        return 1 if self.input_bits == 0 else (1 << self.input_bits) - 1

    @cached_property
    def stages(self) -> dict[str, int]:
        """When each layer runs: step t of a sample at run step t + stage, counted from 0; the input is at 0."""
        return stages(self.layers)

    @property
    def carries(self) -> bool:
        """Whether spikes of one sample can still be on their way when the next one starts.

        A reset of all neurons between samples does not stop them: such a network takes one sample a run.
        """
        dense = [synapse for layer in self.layers for synapse in layer.synapses if isinstance(synapse, Dense)]
        return any(synapse.delay_range[1] > 0 for synapse in dense)

    def wait(self, layer: Layer, synapse: Synapse) -> int:
        """Steps that a synapse of `layer` waits for longer paths, beyond its own delay and the chip's one step."""
        if synapse.source == layer.name:
            return -1
        return self.stages[layer.name] - self.stages[synapse.source] - 1

    def payload_max(self, source: str) -> int:
        """The largest payload a message of `source` can carry: 1 for every spiking layer."""
        return self.input_max if source == INPUT else 1

    @property
    def parameters(self) -> int:
        """Weights and biases stored, zeros included."""
        return sum(sum(s.weight.size for s in layer.synapses) + layer.bias.size for layer in self.layers)

    def save(self, path: str | Path) -> None:
        """Write the Program as an .npz without pickled objects, atomically."""
        header, arrays = _to_plain(self)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            # Arrays go by keyword, so a layer called "file" must not meet savez's own argument.
            np.savez_compressed(stream, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read a Program and check every bit width again.

        Raises:
            ScaDeployError: if the file is missing, damaged, of another format or out of range.
        """
        try:
            # numpy leaves a damaged file open; ours is closed whatever it finds.
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                return _from_plain(json.loads(str(archive["header"])), archive)
        except ScaDeployError:
            raise
        except FileNotFoundError as error:
            raise ScaDeployError(f"no such file: {path}") from error
        except Exception as error:
            # A damaged zip fails in many ways (zlib, zipfile, struct, json, key, value errors).
            raise ScaDeployError(
                f"{path} is not a readable Program ({type(error).__name__}: {error})", "export it again"
            ) from error


def stages(layers: Sequence[Layer]) -> dict[str, int]:
    """See `Program.stages`: one more than the latest layer it reads, itself apart."""
    found = {INPUT: 0}
    for layer in layers:
        before = [found[synapse.source] + 1 for synapse in layer.synapses if synapse.source != layer.name]
        found[layer.name] = max(before, default=0)
    return found


_NUMBERS = ("name", "shape", "v_decay", "u_decay", "threshold", "scale", "injected")


def _to_plain(program: Program) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    arrays: dict[str, npt.NDArray[Any]] = {}
    layers = []
    for i, layer in enumerate(program.layers):
        arrays[f"layer{i}.bias"] = layer.bias
        synapses = []
        for j, synapse in enumerate(layer.synapses):
            arrays[f"layer{i}.weight{j}"] = synapse.weight
            fields: dict[str, Any] = {"source": synapse.source}
            if isinstance(synapse, Conv):
                fields |= {k: getattr(synapse, k) for k in ("stride", "padding", "dilation", "groups")}
            else:
                arrays[f"layer{i}.delay{j}"] = np.asarray(synapse.delay, np.int32)
            synapses.append(fields)
        numbers = {k: getattr(layer, k) for k in _NUMBERS}
        layers.append(numbers | {"synapses": synapses})
    header = {k: getattr(program, k) for k in ("input_shape", "input_bits", "steps", "readout")}
    return {"format": FORMAT, **header, "layers": layers}, arrays


def _from_plain(header: dict[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Program:
    if header.get("format") != FORMAT:
        raise ScaDeployError(f"Program format is {header.get('format')!r}, expected {FORMAT!r}", "export it again")
    layers = []
    for i, plain in enumerate(header["layers"]):
        synapses: list[Synapse] = []
        for j, fields in enumerate(plain["synapses"]):
            weight = _integers(arrays[f"layer{i}.weight{j}"], f"layer '{plain['name']}' weight")
            if "stride" in fields:
                sides = {k: (int(fields[k][0]), int(fields[k][1])) for k in ("stride", "padding", "dilation")}
                synapses.append(Conv(fields["source"], weight, **sides, groups=int(fields["groups"])))
            else:
                delay = _integers(arrays[f"layer{i}.delay{j}"], f"layer '{plain['name']}' delay")
                synapses.append(Dense(fields["source"], weight, delay if delay.ndim else int(delay)))
        layers.append(
            Layer(
                name=plain["name"],
                shape=tuple(int(n) for n in plain["shape"]),
                synapses=tuple(synapses),
                v_decay=int(plain["v_decay"]),
                u_decay=int(plain["u_decay"]),
                threshold=int(plain["threshold"]),
                bias=_integers(arrays[f"layer{i}.bias"], f"layer '{plain['name']}' bias"),
                scale=float(plain["scale"]),
                injected=bool(plain["injected"]),
            )
        )
    return Program(
        input_shape=tuple(int(n) for n in header["input_shape"]),
        input_bits=int(header["input_bits"]),
        steps=int(header["steps"]),
        layers=tuple(layers),
        readout=bool(header["readout"]),
    )


def _integers(array: npt.NDArray[Any], what: str) -> IntArray:
    if array.dtype.kind not in "iu":
        raise ScaDeployError(f"{what} has type {array.dtype}, expected integers", "export the Program again")
    return array.astype(np.int32)


def _check_program(program: Program) -> None:
    _in_range("input", "bits", program.input_bits, 0, MESSAGE_BITS_MAX)
    _in_range("program", "steps", program.steps, 1, 1 << 20)
    if not program.layers:
        raise ScaDeployError("the Program has no layers")
    shapes: dict[str, Shape] = {INPUT: program.input_shape}
    for layer in program.layers:
        if layer.name in shapes:
            raise ScaDeployError(f"two layers are called '{layer.name}'")
        _check_injection(program, layer)
        shapes[layer.name] = layer.shape
        for synapse in layer.synapses:
            if synapse.source not in shapes:
                raise ScaDeployError(f"layer '{layer.name}' reads '{synapse.source}', which does not come before it")
            shape = synapse.output_shape(shapes[synapse.source])
            if shape != layer.shape:
                raise ScaDeployError(f"layer '{layer.name}' has shape {layer.shape}, its synapse gives {shape}")
        _check_widths(layer)
    for layer in program.layers:
        for synapse in layer.synapses:
            _check_wait(program, layer, synapse)


def _check_injection(program: Program, layer: Layer) -> None:
    if not layer.injected and not layer.synapses:
        raise ScaDeployError(f"layer '{layer.name}' has no synapses")
    if layer.injected and layer.shape != program.input_shape:
        raise ScaDeployError(
            f"layer '{layer.name}' of shape {layer.shape} cannot take an injected input of {program.input_shape}"
        )
    if program.injected and any(synapse.source == INPUT for synapse in layer.synapses):
        raise ScaDeployError(f"layer '{layer.name}' reads the input as spikes, while it is injected as a bias")


def _check_wait(program: Program, layer: Layer, synapse: Synapse) -> None:
    """Refuse what would have to be held back where nothing can hold it."""
    wait, edge = program.wait(layer, synapse), f"layer '{layer.name}': its synapses from '{synapse.source}'"
    if isinstance(synapse, Conv):
        # The host can send its input once more whenever it is wanted.
        if synapse.source == layer.name or (wait and synapse.source != INPUT):
            raise ScaDeployError(
                f"{edge} wait {wait} steps, which a convolution cannot", "let relays repeat the spikes, one a step"
            )
        return
    shortest, longest = synapse.delay_range
    if shortest + wait < 0 or shortest < 0:
        raise ScaDeployError(f"{edge} have a delay of {shortest}, a layer hears itself after 1 step or more")
    held = longest + (0 if synapse.source == INPUT else wait)
    if held > WAIT_MAX:
        raise ScaDeployError(f"{edge} hold spikes back by {held} steps, the chip does {WAIT_MAX}")
    if np.ndim(synapse.delay) and np.broadcast_shapes(np.shape(synapse.delay), synapse.weight.shape) != (
        synapse.weight.shape
    ):
        raise ScaDeployError(f"{edge} have delays of shape {np.shape(synapse.delay)} for {synapse.weight.shape}")


def _check_widths(layer: Layer) -> None:
    for synapse in layer.synapses:
        _in_range(f"layer '{layer.name}'", "weight", synapse.weight, WEIGHT_MIN, WEIGHT_MAX)
        if np.any(synapse.weight & 1):
            raise ScaDeployError(f"layer '{layer.name}' has odd weights; the chip drops the lowest bit")
    _in_range(f"layer '{layer.name}'", "bias", layer.bias, BIAS_MIN, BIAS_MAX)
    _in_range(f"layer '{layer.name}'", "threshold", layer.threshold, 0, NEVER)
    _in_range(f"layer '{layer.name}'", "v_decay", layer.v_decay, 0, DECAY_ONE)
    _in_range(f"layer '{layer.name}'", "u_decay", layer.u_decay, 0, DECAY_ONE)
    if layer.bias.shape not in (layer.shape[:1], layer.shape):
        raise ScaDeployError(f"layer '{layer.name}' has bias of shape {layer.bias.shape} for neurons {layer.shape}")


def _in_range(owner: str, what: str, value: int | IntArray, low: int, high: int) -> None:
    array = np.asarray(value)
    if array.size and (array.min() < low or array.max() > high):
        worst = int(array.max() if array.max() > high else array.min())
        raise ScaDeployError(f"{owner}: {what} {worst} is outside {low} to {high}")
