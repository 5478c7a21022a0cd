"""Reading `.net` files, lava-dl's own and ours, as `lava.lib.dl.netx.hdf5.Network` understands them.

A file holds one chain of numbered layers. netx keeps arrays in (x, y, channel) order, a Program in
(channel, height, width). Where netx does something of its own with what the file says, so does this; where it
or the chip would compute with other numbers than those in the file, the layer is refused by name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.hdf5_members import VALUES_MAX, group_of, has, integer, integers, opened, text
from sca_deploy.exporters.netx_weights import clipped_by_netx, shift_up, survives_netx
from sca_deploy.hardware.lava.geometry import GEOMETRY_MAX
from sca_deploy.hardware.program import (
    DECAY_ONE,
    INPUT,
    NEVER,
    THRESHOLD_MAX,
    WAIT_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
    Conv,
    Dense,
    IntArray,
    Layer,
    Program,
    Shape,
    Synapse,
)

LAVA_DL_NEVER = (1 << 18) - 1
"""The threshold that lava-dl writes for a layer that must not fire."""
NEURON_FIELDS = ("iDecay", "vDecay", "vThMant")
SIDES = ("stride", "padding", "dilation")
TRANSFORM = (-(1 << 20), 1 << 20)
"""Limits of what a host multiplies a value by and adds to it; a bias has 13 bits."""
LIF_TYPES = ("CUBA", "LOIHI")
"""Both names stand for the LIF neuron with a current."""
NO_SUCH_LAYER = {
    "average": "netx does not run it: it averages the spikes of the neurons of a class, which the host does",
    "pool": "netx has no pooling",
    "unpool": "netx has no pooling",
    "convT": "netx has no transposed convolution",
    "concat": "netx has no branches",
    "dense_comp": "complex weights need resonating neurons",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class NetFile:
    """What a `.net` file holds, in the terms of a Program: its layers form one chain.

    Args:
        input_shape: what the file declares, (features, 1, 1) for a flat input that a convolution reads.
        layers: the first one is `injected` where the file has input neurons.
        transform: (a, b) where the host is meant to write a x + b into the bias of the input neurons for a
            value x; None without input neurons.
        notes: a line for everything that runs otherwise than the file says.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]
    transform: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def read_program(
    path: str | Path, *, steps: int, input_bits: int = 0, num_layers: int | None = None
) -> Program:  # fmt: skip
    """The Program of a `.net` file.

    The last layer is a read-out where it cannot fire within `steps`. A layer is called `layer<i>` as it is in
    the file. What runs otherwise than the file says is logged as a warning.

    Args:
        path: a file written by lava-dl or by `exporters.netx.write_net`.
        steps: time steps a sample lasts, which the file does not say.
        input_bits: payload bits of the input spikes, 0 for binary; netx calls it input_message_bits.
        num_layers: read only so many entries of the file, `input` and `flatten` included, as in netx.

    Raises:
        UsageError: if num_layers is not positive, or input_bits are given for a file with input neurons.
        ScaDeployError: if the file is missing or damaged, or holds what a Program cannot.
    """
    net = read_net(path, num_layers=num_layers)
    if input_bits and net.layers[0].injected:
        raise UsageError(
            f"{path} has input neurons: {input_bits}-bit spikes cannot reach them", "write the input into their bias"
        )
    for note in net.notes:
        log.warning("%s: %s", path, note)
    try:
        return Program(net.input_shape, input_bits, steps, net.layers, _cannot_fire(net.layers[-1], steps))
    except ScaDeployError as error:
        raise ScaDeployError(f"{path}: {error.problem}", error.fix) from error


def read_net(path: str | Path, *, num_layers: int | None = None) -> NetFile:
    """Read a `.net` file into plain arrays.

    Links to other files or places are not followed, and data kept outside the file is not read. Members
    that netx does not look at are not looked at here.

    Raises:
        UsageError: if num_layers is not positive.
        ScaDeployError: if the file is missing, damaged, or holds anything else.
    """
    if num_layers is not None and num_layers < 1:
        raise UsageError(f"num_layers is {num_layers}, a network has 1 or more")
    try:
        with opened(path) as file:
            return _read(group_of(file, "layer"), num_layers)
    except ScaDeployError as error:
        raise ScaDeployError(f"{path}: {error.problem}", error.fix) from error
    except FileNotFoundError as error:
        raise ScaDeployError(f"no such file: {path}") from error
    except Exception as error:
        # A damaged HDF5 file fails in many ways (OSError, KeyError, RuntimeError, ValueError).
        raise ScaDeployError(
            f"{path} is not a readable .net file ({type(error).__name__}: {error})", "export it again"
        ) from error


def _cannot_fire(layer: Layer, steps: int) -> bool:
    """Whether no input of `steps` steps brings a neuron of this layer over its threshold."""
    if layer.threshold >= NEVER:
        return True
    sums = [np.abs(s.weight).reshape(len(s.weight), -1).sum(1, dtype=np.int64).max() for s in layer.synapses]
    drive = int(sum(sums)) * (1 if layer.u_decay == DECAY_ONE else steps)
    return layer.threshold == THRESHOLD_MAX and steps * (drive + int(np.abs(layer.bias).max())) <= THRESHOLD_MAX


@dataclass
class _Chain:
    """What was read so far, as netx remembers it on its way through the file."""

    input_shape: Shape | None = None
    layers: list[Layer] = field(default_factory=list)
    transform: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)
    flatten: bool = False

    @property
    def source(self) -> str:
        """What the next layer reads."""
        return self.layers[-1].name if self.layers else INPUT

    @property
    def shape(self) -> Shape | None:
        """The shape of the source; None for an input that the file says nothing about."""
        return self.layers[-1].shape if self.layers else self.input_shape

    def append(self, name: str, shape: Shape, synapses: tuple[Synapse, ...], neuron: _Neuron, bias: IntArray) -> None:
        """Add a layer, refusing synapses that do not fit its shape."""
        shapes = {self.source: self.shape, name: shape}
        for synapse in synapses:
            source = shapes[synapse.source]
            if source is not None and synapse.output_shape(source) != shape:
                raise ScaDeployError(f"{name} has shape {shape}, its synapses give {synapse.output_shape(source)}")
        self.layers.append(
            Layer(name, shape, synapses, neuron.v_decay, neuron.threshold, bias, neuron.u_decay, injected=not synapses)
        )


@dataclass(frozen=True)
class _Neuron:
    """The numbers of a LIF neuron; by default what netx gives a dense layer that has none."""

    u_decay: int = 0
    v_decay: int = DECAY_ONE
    threshold: int = NEVER


def _read(root: h5py.Group, num_layers: int | None) -> NetFile:
    chain = _Chain()
    for index in range(min(len(root), num_layers or len(root))):
        try:
            _read_entry(chain, group_of(root, str(index)), f"layer{index}")
        except ScaDeployError as error:
            if error.fix or not chain.layers:
                raise
            raise ScaDeployError(error.problem, f"stop before it with --num-layers {index}") from error
    if not chain.layers or chain.input_shape is None:
        raise ScaDeployError(f"{root.name} holds no layer with neurons", "export it again")
    return NetFile(chain.input_shape, tuple(chain.layers), chain.transform, tuple(chain.notes))


def _read_entry(chain: _Chain, entry: h5py.Group, name: str) -> None:
    kind = text(entry, "type")
    if kind not in READERS:
        # netx skips what it does not know without a word, and runs another network.
        reason = NO_SUCH_LAYER.get(kind, "netx does not know it")
        raise ScaDeployError(f"{entry.name} is of type '{kind}': {reason}")
    READERS[kind](chain, entry, name)


def _read_input(chain: _Chain, entry: h5py.Group, name: str) -> None:
    """Neurons whose bias the host writes, or only the shape of the spikes that will come."""
    if chain.layers or chain.input_shape is not None:
        raise ScaDeployError(f"{entry.name} is a second input")
    if has(entry, "neuron"):
        chain.input_shape = _map_or_vector(entry)
        chain.transform = integer(entry, "weight", *TRANSFORM, 64), integer(entry, "bias", *TRANSFORM, 0)
        none = np.zeros(chain.input_shape[:1], np.int32)
        chain.append(name, chain.input_shape, (), _neuron(entry), none)
    elif has(entry, "shape"):
        chain.input_shape = _map_or_vector(entry)


def _read_flatten(chain: _Chain, entry: h5py.Group, name: str) -> None:
    """The next dense layer reads a map in (channel, height, width) order."""
    chain.flatten = True


def _read_conv(chain: _Chain, entry: h5py.Group, name: str) -> None:
    if chain.shape is None:
        raise ScaDeployError(f"{entry.name} is a convolution, and nothing says the shape of its input")
    weight = _weights(entry, "weight")
    if weight.ndim < 4 or any(side != 1 for side in weight.shape[4:]):
        raise ScaDeployError(f"{entry.name}/weight has shape {weight.shape}, expected (out, in, height, width)")
    _check_weights(entry, weight)
    stride, padding, dilation = (_pair(entry, what, low) for what, low in zip(SIDES, (1, 0, 1), strict=True))
    groups = integer(entry, "groups", 1, GEOMETRY_MAX)
    conv = Conv(chain.source, weight.reshape(weight.shape[:4]), stride, padding, dilation, groups)
    if max(weight.shape[2:4]) > GEOMETRY_MAX or len(weight) % groups:
        raise ScaDeployError(
            f"{entry.name}/weight has shape {weight.shape}, which Lava does not run in {groups} groups"
        )
    if has(entry, "delay") and integers(entry, "delay").any():
        chain.notes.append(f"{name}: netx ignores the delays of convolutions, and so they are not there")
    shape = _shape(entry)
    chain.append(name, shape, (conv,), _neuron(entry), _conv_bias(entry, shape))


def _conv_bias(entry: h5py.Group, shape: Shape) -> IntArray:
    """A bias for every channel, or for every neuron in (x, y, channel) order."""
    if not has(entry, "bias"):
        return np.zeros(shape[:1], np.int32)
    bias = integers(entry, "bias")
    if bias.shape not in (shape[:1], shape[::-1]):
        raise ScaDeployError(f"{entry.name}/bias has shape {bias.shape}, expected {shape[:1]} or {shape[::-1]}")
    return bias.T


def _read_dense(chain: _Chain, entry: h5py.Group, name: str, recurrent: bool = False) -> None:
    if chain.layers and chain.flatten != (len(chain.layers[-1].shape) == 3):
        raise ScaDeployError(f"{entry.name} reads {chain.shape}: a flatten mark is missing or too many")
    chain.flatten = False
    shape = (math.prod(_shape(entry)),)
    parts = tuple(_matrix(entry, what, shape[0]) for what in ("weight", "weight_rec")[: 1 + recurrent])
    parts = _dense_weights(chain, entry, name, parts)
    delay = _delay(chain, entry, name, parts[0].shape)
    if recurrent and has(entry, "delay"):
        parts = _without_exponent(chain, entry, name, parts)
    if chain.shape is None:
        chain.input_shape = parts[0].shape[1:]
    sources = zip((chain.source, name), parts, (delay, delay + 1), strict=False)
    synapses = tuple(Dense(source, weight, held) for source, weight, held in sources)
    neuron = _neuron(entry) if has(entry, "neuron") else _Neuron()
    chain.append(name, shape, synapses, neuron, _dense_bias(entry, shape))


def _matrix(entry: h5py.Group, what: str, outputs: int) -> IntArray:
    weight = _weights(entry, what)
    if weight.ndim == 1 and weight.size % outputs == 0:
        weight = weight.reshape(outputs, -1)
    if weight.ndim != 2 or len(weight) != outputs:
        raise ScaDeployError(f"{entry.name}/{what} has shape {weight.shape}, expected ({outputs}, inputs)")
    return weight


def _dense_weights(chain: _Chain, entry: h5py.Group, name: str, parts: tuple[IntArray, ...]) -> tuple[IntArray, ...]:
    """The weights that netx and Lava's Dense sum with.

    Raises:
        ScaDeployError: if those are not the ones in the file, brought into the range of 9 bits.
    """
    within = clipped_by_netx(*parts)
    if any(not np.array_equal(new, old) for new, old in zip(within, parts, strict=True)):
        chain.notes.append(f"{name}: netx clips the weights to {WEIGHT_MIN} to {WEIGHT_MAX}, and so they are")
    for part in within:
        _check_weights(entry, part)
    if not any(part.any() for part in within):
        chain.notes.append(f"{name}: all weights are 0, which netx itself cannot load (OverflowError)")
    elif not survives_netx(*within):
        raise ScaDeployError(
            f"{entry.name}: without a positive weight, netx and Lava lose the one of "
            f"{min(int(part.min()) for part in within)}, a power of two"
        )
    return within


def _check_weights(entry: h5py.Group, weight: IntArray) -> None:
    low, high = int(weight.min()), int(weight.max())
    if low < WEIGHT_MIN or high > WEIGHT_MAX:
        worst = low if low < WEIGHT_MIN else high
        raise ScaDeployError(f"{entry.name}: weight {worst} is outside {WEIGHT_MIN} to {WEIGHT_MAX}")
    if np.any(weight & 1):
        raise ScaDeployError(f"{entry.name} has odd weights; the chip drops the lowest bit")


def _delay(chain: _Chain, entry: h5py.Group, name: str, shape: Shape) -> int | IntArray:
    """One delay for all, for every output (where that fits), for every input, or for every synapse."""
    if not has(entry, "delay"):
        return 0
    delay = integers(entry, "delay")
    if delay.size and delay.min() < 0:
        raise ScaDeployError(f"{entry.name}/delay holds {delay.min()}, a delay is 0 or more steps")
    if delay.size and delay.max() > WAIT_MAX:
        chain.notes.append(f"{name}: netx clamps delays of up to {delay.max()} steps at {WAIT_MAX}, and so they are")
        delay = delay.clip(max=WAIT_MAX)
    if delay.ndim == 0:
        return int(delay)
    spread = {shape[1:]: (1, -1), shape[:1]: (-1, 1), shape: shape}.get(delay.shape)
    if spread is None:
        raise ScaDeployError(f"{entry.name}/delay has shape {delay.shape} for weights of {shape}")
    return delay.reshape(spread)


def _without_exponent(chain: _Chain, entry: h5py.Group, name: str, parts: tuple[IntArray, ...]) -> tuple[IntArray, ...]:
    """A recurrent layer with delays, whose weights netx shifts up and does not tell Lava to shift down again."""
    if parts[0].shape != parts[1].shape:
        raise ScaDeployError(
            f"{entry.name}: netx gives its own spikes the delays of its input, of shape {parts[0].shape} for weights "
            f"of {parts[1].shape}, and fails"
        )
    shift = shift_up(*parts) if any(part.any() for part in parts) else 0
    if shift:
        chain.notes.append(f"{name}: netx multiplies the weights of a recurrent layer with delays by {1 << shift}")
    return tuple(part << shift for part in parts)


def _dense_bias(entry: h5py.Group, shape: Shape) -> IntArray:
    if not has(entry, "bias"):
        return np.zeros(shape, np.int32)
    bias = integers(entry, "bias")
    if bias.shape not in ((), (1,), shape):
        raise ScaDeployError(f"{entry.name}/bias has shape {bias.shape}, expected {shape}")
    return np.array(np.broadcast_to(bias, shape))


READERS: dict[str, Callable[[_Chain, h5py.Group, str], None]] = {
    "input": _read_input,
    "flatten": _read_flatten,
    "conv": _read_conv,
    "dense": _read_dense,
    "dense_rec": partial(_read_dense, recurrent=True),
}


def _neuron(entry: h5py.Group) -> _Neuron:
    group = group_of(entry, "neuron")
    kind = text(group, "type")
    if kind not in LIF_TYPES:
        raise ScaDeployError(f"{group.name} is of type '{kind}', expected {' or '.join(LIF_TYPES)}: a LIF neuron")
    if has(group, "messageBits"):
        raise ScaDeployError(f"{group.name}/messageBits asks for graded spikes, which netx fails to give LIF neurons")
    # What netx reads and Lava computes with; 12, 12 and 17 bits on the chip.
    limits = (DECAY_ONE, DECAY_ONE, LAVA_DL_NEVER)
    found = [integer(group, what, 0, limit) for what, limit in zip(NEURON_FIELDS, limits, strict=True)]
    return _Neuron(found[0], found[1], min(found[2], NEVER))


def _shape(entry: h5py.Group) -> Shape:
    shape = tuple(int(side) for side in integers(entry, "shape").reshape(-1))
    if not shape or min(shape) < 1 or math.prod(shape) > VALUES_MAX:
        raise ScaDeployError(f"{entry.name}/shape is {shape}, expected 1 to {VALUES_MAX} neurons")
    return shape


def _map_or_vector(entry: h5py.Group) -> Shape:
    shape = _shape(entry)
    if len(shape) not in (1, 3):
        raise ScaDeployError(f"{entry.name}/shape is {shape}, expected (channels, height, width) or (features,)")
    return shape


def _pair(entry: h5py.Group, what: str, low: int) -> tuple[int, int]:
    """(height, width); one number stands for both."""
    sides = integers(entry, what)
    if sides.size not in (1, 2):
        raise ScaDeployError(f"{entry.name}/{what} has {sides.size} values, expected 1 or 2")
    if sides.min() < low or sides.max() > GEOMETRY_MAX:
        raise ScaDeployError(f"{entry.name}/{what} is {sides.tolist()}, outside {low} to {GEOMETRY_MAX}")
    height, width = (int(side) for side in np.broadcast_to(sides.reshape(-1), (2,)))
    return height, width


def _weights(entry: h5py.Group, what: str) -> IntArray:
    if isinstance(entry.get(what, getlink=True), h5py.HardLink) and isinstance(entry[what], h5py.Group):
        raise ScaDeployError(f"{entry.name}/{what} is complex, which only resonating neurons read")
    weight = integers(entry, what)
    if not weight.size:
        raise ScaDeployError(f"{entry.name}/{what} of shape {weight.shape} holds no weights")
    return weight
