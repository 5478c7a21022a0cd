"""The `.net` file of lava-dl: an HDF5 description that `lava.lib.dl.netx.hdf5.Network` loads.

The file holds one chain: `layer/0` is the input (no neuron), then convolutions, `flatten` marks and
dense layers, each with CUBA neurons. What netx does to dense weights before it runs them is not always
exact, and its convolutions do nothing to theirs; a dense layer that netx would change or refuse is
therefore written as the convolution that computes the same sums (see `survives_netx`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.files import atomic_path
from sca_deploy.hardware.program import INPUT, Conv, Dense, IntArray, Layer, Program, Shape, Synapse

GEOMETRY_MAX = 127
"""Lava keeps kernel size, stride, padding, dilation and groups of a convolution in 8 signed bits."""
VALUES_MAX = 1 << 28
"""A dataset that claims more values than this is not read."""
NEURON_FIELDS = ("iDecay", "vDecay", "vThMant")
SIDES = ("stride", "padding", "dilation")


@dataclass(frozen=True, eq=False)
class NetFile:
    """What a `.net` file holds, in the terms of a Program: its layers form one chain.

    input_shape is what the file declares, (features, 1, 1) for a flat input that a convolution reads.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]


def write_net(program: Program, path: str | Path) -> tuple[str, ...]:
    """Write a sequential Program as a `.net` file, atomically, and read it back before it takes its name.

    Returns:
        The names of the dense layers that the file holds as convolutions; they compute the same.

    Raises:
        UsageError: if the format cannot hold the Program; the layer and the reason are named.
        ScaDeployError: if the file cannot be written, or does not read back as written.
    """
    net, converted = plan_net(program)
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            _write(file, net)
        worst = net_difference(program, temporary)
        if worst:
            raise ScaDeployError(f"{path}: the file differs from the network by {worst} after writing")
    return converted


def survives_netx(weight: npt.NDArray[np.integer[Any]]) -> bool:
    """Whether netx and Lava's Dense compute with exactly these (out, in) even integers of -256 to 254.

    netx shifts the weights up until the largest fills 8 bits and Lava shifts the sums down again. With
    no positive weight the magnitudes are clipped to 255 in between, which a power of two reaches as
    256: -256, -128, ... are lost. An all-zero matrix has no largest weight and raises OverflowError.
    """
    low, high = int(weight.min()), int(weight.max())
    if high > 0:
        return True
    return low < 0 and (-low & (-low - 1)) != 0


def plan_net(program: Program) -> tuple[NetFile, tuple[str, ...]]:
    """The file's layers for a Program, and the names of the dense layers that become convolutions.

    Raises:
        UsageError: as `write_net`.
    """
    _check_chain(program)
    converted = _dense_as_conv(program)
    input_shape = program.input_shape
    if program.layers[0].name in converted and len(input_shape) == 1:
        input_shape = (*input_shape, 1, 1)
    layers: list[Layer] = []
    source = input_shape
    for layer in program.layers:
        layers.append(_as_conv(layer, source) if layer.name in converted else _as_written(layer))
        source = layers[-1].shape
    return NetFile(input_shape, tuple(layers)), tuple(n.name for n in program.layers if n.name in converted)


def _check_chain(program: Program) -> None:
    previous = INPUT
    for layer in program.layers:
        sources = [synapse.source for synapse in layer.synapses]
        if sources != [previous]:
            raise UsageError(
                f"layer '{layer.name}' reads {', '.join(sources)}; a .net file is a chain, where it reads {previous}",
                "export to a format that holds branches, such as nir",
            )
        previous = layer.name


def _dense_as_conv(program: Program) -> set[str]:
    """Names of the dense layers to write as convolutions: those netx would change, and those feeding them.

    A convolution cannot read a flat layer, so dense layers before it must be (features, 1, 1) as well.
    """
    converted: set[str] = set()
    needed = False
    for layer in reversed(program.layers):
        synapse = layer.synapses[0]
        needed = isinstance(synapse, Dense) and (needed or not survives_netx(synapse.weight))
        if needed:
            converted.add(layer.name)
    return converted


def _as_conv(layer: Layer, source: Shape) -> Layer:
    """A dense layer as a convolution whose kernel covers the whole map: its one position sums the same.

    Lava's Conv spends time on every pair of channels in a group, so a layer without weights is split into
    as many groups as possible.
    """
    (dense,) = layer.synapses
    weight, groups = dense.weight.reshape(layer.neurons, *source), 1
    if not weight.any():
        groups = max(g for g in range(1, GEOMETRY_MAX + 1) if layer.neurons % g == source[0] % g == 0)
        weight = weight[:, : source[0] // groups]
    conv = Conv(dense.source, weight, groups=groups)
    _check_geometry(layer.name, conv)
    return replace(layer, shape=(*layer.shape, 1, 1), synapses=(conv,))


def _as_written(layer: Layer) -> Layer:
    (synapse,) = layer.synapses
    if isinstance(synapse, Dense):
        return layer
    conv = _fewer_groups(synapse)
    _check_geometry(layer.name, conv)
    return replace(layer, synapses=(conv,))


def _fewer_groups(conv: Conv) -> Conv:
    """The convolution with groups that fit Lava's 8 bits: neighbours merge into one, zeros between them."""
    if conv.groups <= GEOMETRY_MAX:
        return conv
    groups = next(g for g in range(GEOMETRY_MAX, 0, -1) if conv.groups % g == 0)
    return replace(conv, weight=_merged(conv.weight, conv.groups, groups), groups=groups)


def _merged(weight: IntArray, groups: int, fewer: int) -> IntArray:
    """The same convolution with `fewer` groups, a divisor of `groups`."""
    out, inside, height, width = weight.shape
    merge = groups // fewer
    wide = np.zeros((out, merge, inside, height, width), weight.dtype)
    group_of = np.arange(out) // (out // groups)
    wide[np.arange(out), group_of % merge] = weight
    return wide.reshape(out, merge * inside, height, width)


def _check_geometry(name: str, conv: Conv) -> None:
    sizes = {"kernel": conv.weight.shape[2:]} | {what: getattr(conv, what) for what in SIDES}
    for what, size in sizes.items():
        if max(size) > GEOMETRY_MAX:
            raise UsageError(
                f"layer '{name}': {what} {max(size)} exceeds {GEOMETRY_MAX}, the 8 bits Lava keeps it in",
                "export to a format without that limit, such as nir",
            )


def _write(file: h5py.File, net: NetFile) -> None:
    root = file.create_group("layer")
    _entry(root, "input")["shape"] = np.array(net.input_shape, np.int32)
    source = net.input_shape
    for layer in net.layers:
        if isinstance(layer.synapses[0], Dense) and len(source) == 3:
            _entry(root, "flatten")
        _write_layer(root, layer)
        source = layer.shape


def _write_layer(root: h5py.Group, layer: Layer) -> None:
    (synapse,) = layer.synapses
    entry = _entry(root, "conv" if isinstance(synapse, Conv) else "dense")
    entry["shape"] = np.array(layer.shape, np.int32)
    entry["weight"] = synapse.weight.astype(np.int16)
    # netx takes a full bias as it is, in Lava's (width, height, channel) order; .T leaves flat ones alone.
    entry["bias"] = layer.bias.T.astype(np.int16)
    if isinstance(synapse, Conv):
        for what in SIDES:
            entry[what] = np.array(getattr(synapse, what), np.int32)
        entry["groups"] = np.int32(synapse.groups)
    neuron = entry.create_group("neuron")
    neuron["type"] = np.array([b"CUBA"], "S10")
    for field, value in zip(NEURON_FIELDS, (layer.u_decay, layer.v_decay, layer.threshold), strict=True):
        # Signed: netx subtracts 1 from iDecay, and an unsigned 0 would wrap.
        neuron[field] = np.int32(value)


def _entry(root: h5py.Group, kind: str) -> h5py.Group:
    entry = root.create_group(str(len(root)))
    entry["type"] = np.array([kind.encode()], "S10")
    return entry


def read_net(path: str | Path) -> NetFile:
    """Read a `.net` file of the kind `write_net` writes into plain arrays.

    Links to other files or places are not followed, and data kept outside the file is not read.

    Raises:
        ScaDeployError: if the file is missing, damaged, or holds anything else.
    """
    try:
        with h5py.File(path, "r") as file:
            return _read(_group(file, "layer"))
    except ScaDeployError as error:
        raise ScaDeployError(f"{path}: {error.problem}", error.fix) from error
    except FileNotFoundError as error:
        raise ScaDeployError(f"no such file: {path}") from error
    except Exception as error:
        # A damaged HDF5 file fails in many ways (OSError, KeyError, RuntimeError, ValueError).
        raise ScaDeployError(
            f"{path} is not a readable .net file ({type(error).__name__}: {error})", "export it again"
        ) from error


def _read(root: h5py.Group) -> NetFile:
    entries = [_group(root, str(index)) for index in range(len(root))]
    kinds = [_text(entry, "type") for entry in entries]
    if kinds[:1] != ["input"]:
        raise ScaDeployError(f"layer/0 is '{' '.join(kinds[:1])}', expected 'input'")
    input_shape = source = _tuple(entries[0], "shape")
    layers: list[Layer] = []
    for index in range(1, len(entries)):
        if kinds[index] == "flatten":
            continue
        previous = layers[-1].name if layers else INPUT
        layers.append(_read_layer(f"layer{index}", entries[index], kinds[index], previous))
        if kinds[index] == "dense" and (kinds[index - 1] == "flatten") != (len(source) == 3):
            raise ScaDeployError(f"layer/{index} reads {source}: a flatten mark is missing or too many")
        source = layers[-1].shape
    return NetFile(input_shape, tuple(layers))


def _read_layer(name: str, entry: h5py.Group, kind: str, source: str) -> Layer:
    if kind not in ("conv", "dense"):
        raise ScaDeployError(f"{entry.name} is of type '{kind}', which is not read here")
    weight = _integers(entry, "weight")
    synapse: Synapse = Dense(source, weight)
    if kind == "conv":
        stride, padding, dilation = (_pair(entry, what) for what in SIDES)
        synapse = Conv(source, weight, stride, padding, dilation, int(_integers(entry, "groups").item()))
    neuron = _group(entry, "neuron")
    if _text(neuron, "type") != "CUBA":
        raise ScaDeployError(f"{neuron.name} is of type '{_text(neuron, 'type')}', expected 'CUBA'")
    u_decay, v_decay, threshold = (int(_integers(neuron, field).item()) for field in NEURON_FIELDS)
    bias = _integers(entry, "bias").T
    return Layer(name, _tuple(entry, "shape"), (synapse,), v_decay, threshold, bias, u_decay)


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    """A member that lives in this very file."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ScaDeployError(f"{group.name}/{name} is missing or a link", "export it again")
    member = group[name]
    if not isinstance(member, kind):
        raise ScaDeployError(f"{group.name}/{name} is not a {kind.__name__.lower()}", "export it again")
    return member


def _group(group: h5py.Group, name: str) -> h5py.Group:
    return _member(group, name, h5py.Group)


def _dataset(group: h5py.Group, name: str) -> npt.NDArray[Any]:
    dataset = _member(group, name, h5py.Dataset)
    if dataset.external or dataset.is_virtual:
        raise ScaDeployError(f"{dataset.name} keeps its data outside the file", "export it again")
    if dataset.size > VALUES_MAX:
        raise ScaDeployError(f"{dataset.name} claims {dataset.size} values, more than {VALUES_MAX}")
    return np.asarray(dataset[()])


def _integers(group: h5py.Group, name: str) -> IntArray:
    array = _dataset(group, name)
    if array.dtype.kind not in "iu":
        raise ScaDeployError(f"{group.name}/{name} has type {array.dtype}, expected integers")
    return array.astype(np.int32)


def _text(group: h5py.Group, name: str) -> str:
    array = _dataset(group, name)
    if array.dtype.kind != "S" or array.size != 1:
        raise ScaDeployError(f"{group.name}/{name} is not one fixed-length string")
    return str(array.reshape(-1)[0].decode("ascii", "replace"))


def _tuple(group: h5py.Group, name: str) -> Shape:
    return tuple(int(n) for n in _integers(group, name).reshape(-1))


def _pair(group: h5py.Group, name: str) -> tuple[int, int]:
    height, width = _tuple(group, name)
    return height, width


def net_difference(program: Program, path: str | Path) -> int:
    """The largest difference between any number of the Program and of the file; 0 when they are equal.

    Weights are compared without groups, so a dense layer held as a convolution, or merged groups, count
    as equal exactly when they compute equal sums.

    Raises:
        ScaDeployError: if the file cannot be read, or has other layers, shapes or geometry.
    """
    net = read_net(path)
    if len(net.layers) != len(program.layers) or np.prod(net.input_shape) != np.prod(program.input_shape):
        raise ScaDeployError(f"{path} has {len(net.layers)} layers on {net.input_shape}, not those of the network")
    return max(max(_differences(*pair)) for pair in zip(program.layers, net.layers, strict=True))


def _differences(layer: Layer, stored: Layer) -> Iterator[int]:
    ours, theirs = _ungrouped(layer.synapses[0]), _ungrouped(stored.synapses[0])
    if layer.neurons != stored.neurons or ours.size != theirs.size or _sides(layer) != _sides(stored):
        raise ScaDeployError(f"the file holds layer '{layer.name}' with shape {stored.shape}, weights {theirs.shape}")
    yield int(np.abs(ours - theirs.reshape(ours.shape)).max(initial=0))
    yield int(np.abs(layer.full_bias() - stored.full_bias().reshape(layer.shape)).max(initial=0))
    yield abs(layer.u_decay - stored.u_decay)
    yield abs(layer.v_decay - stored.v_decay)
    yield abs(layer.threshold - stored.threshold)


def _ungrouped(synapse: Synapse) -> IntArray:
    return _merged(synapse.weight, synapse.groups, 1) if isinstance(synapse, Conv) else synapse.weight


def _sides(layer: Layer) -> tuple[tuple[int, int], ...]:
    """Stride, padding and dilation; a dense layer has those of the convolution it may be written as."""
    (synapse,) = layer.synapses
    if isinstance(synapse, Dense):
        return ((1, 1), (0, 0), (1, 1))
    return (synapse.stride, synapse.padding, synapse.dilation)
