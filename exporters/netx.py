"""The `.net` file of lava-dl: an HDF5 description that `lava.lib.dl.netx.hdf5.Network` loads.

The file holds one chain: the input, with or without neurons, then convolutions, `flatten` marks and dense
layers, which may have delays or read themselves, each with CUBA neurons. What netx does to dense weights before
it runs them is not always exact, and its convolutions do nothing to theirs; a dense layer that netx would change
or refuse is therefore written as the convolution that computes the same sums (see `netx_weights`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import h5py
import numpy as np

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.netx_reading import NEURON_FIELDS, SIDES, NetFile, read_net, read_program
from sca_deploy.exporters.netx_weights import survives_netx
from sca_deploy.files import atomic_path
from sca_deploy.hardware.lava.geometry import GEOMETRY_MAX, fitted, merged
from sca_deploy.hardware.program import INPUT, Conv, Dense, IntArray, Layer, Program, Shape, Synapse

__all__ = ["NetFile", "net_difference", "plan_net", "read_net", "read_program", "survives_netx", "write_net"]

ANY_GRAPH = "export with --target lava, which holds any network"


def write_net(program: Program, path: str | Path) -> tuple[str, ...]:
    """Write a sequential Program as a `.net` file, atomically, and read it back before it takes its name.

    Returns:
        The names of the dense layers that the file holds as convolutions; they compute the same.

    Raises:
        UsageError: if the format cannot hold the Program; the layer and the reason are named.
        ScaDeployError: if the file cannot be written, or does not read back as written.
    """
    net, converted = plan_net(program)
    content = io.BytesIO()
    # HDF5 reports a full disk in ways of its own; through memory it is an OSError like any other.
    with h5py.File(content, "w") as file:
        _write(file, net)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())
        worst = net_difference(program, temporary)
        if worst:
            raise ScaDeployError(f"{path}: the file differs from the network by {worst} after writing")
    return converted


def plan_net(program: Program) -> tuple[NetFile, tuple[str, ...]]:
    """The file's layers for a Program, and the names of the dense layers that become convolutions.

    Raises:
        UsageError: as `write_net`.
    """
    _check_chain(program)
    maps = _dense_as_conv(program)
    names = [layer.name for layer in program.layers]
    input_shape = _as_map(program.input_shape) if names[0] in maps else program.input_shape
    layers: list[Layer] = []
    source = input_shape
    for layer in program.layers:
        layers.append(_as_conv(layer, source) if layer.name in maps else _as_written(layer))
        source = layers[-1].shape
    converted = tuple(layer.name for layer in program.layers if layer.name in maps and layer.synapses)
    return NetFile(input_shape, tuple(layers)), converted


def _check_chain(program: Program) -> None:
    previous = INPUT
    for number, layer in enumerate(program.layers):
        expected = [] if layer.injected and number == 0 else [previous]
        sources = [synapse.source for synapse in layer.synapses]
        if layer.injected and (layer.synapses or layer.bias.any()):
            raise UsageError(
                f"layer '{layer.name}' has an injected input and {'synapses' if layer.synapses else 'a bias'}; "
                "netx has input neurons without",
                ANY_GRAPH,
            )
        if [source for source in sources if source != layer.name] != expected or sources.count(layer.name) > 1:
            raise UsageError(
                f"layer '{layer.name}' reads {', '.join(sources)}; a .net file is a chain, where it reads {previous}",
                ANY_GRAPH,
            )
        if layer.recurrent:
            _check_recurrent(layer)
        previous = layer.name


def _check_recurrent(layer: Layer) -> None:
    """netx has one list of delays for both synapses, and forgets to scale the weights that have any."""
    forward, own = _parts(layer)
    if (forward.delay_range, own.delay_range) != ((0, 0), (1, 1)):
        raise UsageError(
            f"layer '{layer.name}' reads itself with delays of {own.delay_range[1]} and its source with "
            f"{forward.delay_range[1]}; netx runs only 1 and 0",
            ANY_GRAPH,
        )
    if not survives_netx(forward.weight, own.weight):
        raise UsageError(f"layer '{layer.name}': netx would change the weights of this recurrent layer", ANY_GRAPH)


def _parts(layer: Layer) -> tuple[Dense, Dense]:
    """The synapses of a recurrent layer: from its source, and from itself."""
    forward, own = sorted(layer.synapses, key=lambda synapse: synapse.source == layer.name)
    if isinstance(forward, Conv) or isinstance(own, Conv):
        raise UsageError(f"layer '{layer.name}' is a convolution that reads itself, which netx has not", ANY_GRAPH)
    return forward, own


def _dense_as_conv(program: Program) -> set[str]:
    """Names of the dense layers to write as convolutions: those netx would change, and those feeding them.

    A convolution cannot read a flat layer, so what is flat before it must be (features, 1, 1) as well.
    """
    maps: set[str] = set()
    needed = False
    for layer in reversed(program.layers):
        if layer.synapses and isinstance(layer.synapses[0], Conv):
            needed = False
        elif needed or not _survives(layer):
            needed = True
            _check_converts(layer)
            maps.add(layer.name)
    return maps


def _survives(layer: Layer) -> bool:
    return survives_netx(*(synapse.weight for synapse in layer.synapses)) if layer.synapses else True


def _check_converts(layer: Layer) -> None:
    delays = [synapse.delay_range[1] for synapse in layer.synapses if isinstance(synapse, Dense)]
    if any(delays):
        raise UsageError(
            f"layer '{layer.name}' has to be a convolution, because netx would change its weights or those of a layer "
            f"it feeds; delays of {max(delays)} steps are only possible in a dense layer",
            ANY_GRAPH,
        )


def _as_conv(layer: Layer, source: Shape) -> Layer:
    """A dense layer as a convolution whose kernel covers the whole map: its one position sums the same.

    Lava's Conv spends time on every pair of channels in a group, so a layer without weights is split into
    as many groups as possible.
    """
    if not layer.synapses:
        return replace(layer, shape=_as_map(layer.shape))
    (dense,) = layer.synapses
    weight, groups = dense.weight.reshape(layer.neurons, *source), 1
    if not weight.any():
        groups = max(g for g in range(1, GEOMETRY_MAX + 1) if layer.neurons % g == source[0] % g == 0)
        weight = weight[:, : source[0] // groups]
    conv = fitted(Conv(dense.source, weight, groups=groups), layer.name)
    return replace(layer, shape=_as_map(layer.shape), synapses=(conv,))


def _as_map(shape: Shape) -> Shape:
    return shape if len(shape) == 3 else (*shape, 1, 1)


def _as_written(layer: Layer) -> Layer:
    if layer.recurrent:
        return replace(layer, synapses=_parts(layer))
    if not layer.synapses or isinstance(layer.synapses[0], Dense):
        return layer
    return replace(layer, synapses=(fitted(layer.synapses[0], layer.name),))


def _write(file: h5py.File, net: NetFile) -> None:
    root = file.create_group("layer")
    source = net.input_shape
    if not net.layers[0].injected:
        _entry(root, "input")["shape"] = np.array(net.input_shape, np.int32)
    for layer in net.layers:
        if layer.synapses and isinstance(layer.synapses[0], Dense) and len(source) == 3:
            _entry(root, "flatten")
        _write_layer(root, layer)
        source = layer.shape


def _write_layer(root: h5py.Group, layer: Layer) -> None:
    entry = _entry(root, _kind(layer))
    entry["shape"] = np.array(layer.shape, np.int32)
    for what, synapse in zip(("weight", "weight_rec"), layer.synapses, strict=False):
        entry[what] = synapse.weight.astype(np.int16)
        _write_shape_of_synapse(entry, layer, synapse)
    if layer.injected:
        # What the host makes of a value before it writes it into the bias: nothing.
        entry["weight"], entry["bias"] = np.int32(1), np.int32(0)
    else:
        # netx takes a full bias as it is, in Lava's (width, height, channel) order; .T leaves flat ones alone.
        entry["bias"] = layer.bias.T.astype(np.int16)
    neuron = entry.create_group("neuron")
    neuron["type"] = np.array([b"CUBA"], "S10")
    for field, value in zip(NEURON_FIELDS, (layer.u_decay, layer.v_decay, layer.threshold), strict=True):
        # Signed: netx subtracts 1 from iDecay, and an unsigned 0 would wrap.
        neuron[field] = np.int32(value)


def _write_shape_of_synapse(entry: h5py.Group, layer: Layer, synapse: Synapse) -> None:
    if isinstance(synapse, Conv):
        for what in SIDES:
            entry[what] = np.array(getattr(synapse, what), np.int32)
        entry["groups"] = np.int32(synapse.groups)
    elif synapse.delay_range[1] and not layer.recurrent:
        # A delay for every synapse: netx takes a list for outputs or inputs, whichever its length fits first.
        entry["delay"] = np.broadcast_to(np.asarray(synapse.delay, np.int32), synapse.weight.shape)


def _kind(layer: Layer) -> str:
    if layer.injected:
        return "input"
    if isinstance(layer.synapses[0], Conv):
        return "conv"
    return "dense_rec" if layer.recurrent else "dense"


def _entry(root: h5py.Group, kind: str) -> h5py.Group:
    entry = root.create_group(str(len(root)))
    entry["type"] = np.array([kind.encode()], "S10")
    return entry


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
    ours, theirs = _ordered(layer), _ordered(stored)
    same = layer.neurons == stored.neurons and layer.injected == stored.injected
    if not same or [_geometry(s) for s in ours] != [_geometry(s) for s in theirs]:
        raise ScaDeployError(f"the file holds layer '{layer.name}' with shape {stored.shape} and other synapses")
    yield from chain.from_iterable(map(_synapse_differences, ours, theirs))
    yield int(np.abs(layer.full_bias() - stored.full_bias().reshape(layer.shape)).max(initial=0))
    yield abs(layer.u_decay - stored.u_decay)
    yield abs(layer.v_decay - stored.v_decay)
    yield abs(layer.threshold - stored.threshold)


def _ordered(layer: Layer) -> list[Synapse]:
    """The synapses, those from the layer itself last."""
    return sorted(layer.synapses, key=lambda synapse: synapse.source == layer.name)


def _synapse_differences(ours: Synapse, theirs: Synapse) -> Iterator[int]:
    mine = _ungrouped(ours)
    yield int(np.abs(mine - _ungrouped(theirs).reshape(mine.shape)).max(initial=0))
    yield int(np.abs(np.subtract(*np.broadcast_arrays(_delay(ours), _delay(theirs)))).max(initial=0))


def _delay(synapse: Synapse) -> int | IntArray:
    return 0 if isinstance(synapse, Conv) else synapse.delay


def _ungrouped(synapse: Synapse) -> IntArray:
    return merged(synapse, 1).weight if isinstance(synapse, Conv) else synapse.weight


def _geometry(synapse: Synapse) -> tuple[object, ...]:
    """Number of weights, stride, padding and dilation; a dense layer has those of the convolution it may be."""
    size = _ungrouped(synapse).size
    if isinstance(synapse, Dense):
        return (size, (1, 1), (0, 0), (1, 1))
    return (size, synapse.stride, synapse.padding, synapse.dilation)
