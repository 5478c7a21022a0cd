"""Members of HDF5 files that somebody else wrote, or that were damaged on their way.

Nothing outside the file is read: links are not followed, and datasets kept elsewhere are refused. Every problem
is one `ScaDeployError` that names the member.
"""

from __future__ import annotations

import struct
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.program import IntArray

VALUES_MAX = 1 << 28
"""A dataset that claims more values than this is not read."""
TEXT_MAX = 64
"""The longest string that is shown or compared; the names of layers and neurons are shorter."""
_HEAP_MAX = 1 << 20
_REFERENCE = struct.Struct("<IQI")
_HEAP = struct.Struct("<4sB3xQ")
_HEAP_OBJECT = struct.Struct("<H6xQ")


def has(group: h5py.Group, name: str) -> bool:
    """Whether the group names such a member, be it a link to nowhere."""
    return group.get(name, getlink=True) is not None


def group_of(group: h5py.Group, name: str) -> h5py.Group:
    """The group of that name."""
    return _member(group, name, h5py.Group)


def integers(group: h5py.Group, name: str) -> IntArray:
    """A dataset of whole numbers, stored as integers or floats."""
    array = _array(_dataset(group, name))
    if array.dtype.kind not in "iuf":
        raise ScaDeployError(f"{_path(group, name)} has type {array.dtype}, expected integers")
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int32)
        wrong = array[whole != array]
    if wrong.size:
        raise ScaDeployError(f"{_path(group, name)} holds {wrong.flat[0]}, which is not an integer of 32 bits")
    return whole


def integer(group: h5py.Group, name: str, low: int, high: int, default: int | None = None) -> int:
    """A whole number from `low` to `high`; the default where there is none."""
    if default is not None and not has(group, name):
        return default
    found = integers(group, name)
    if found.size != 1:
        raise ScaDeployError(f"{_path(group, name)} has {found.size} values, expected one for the whole layer")
    value = int(found.item())
    if not low <= value <= high:
        raise ScaDeployError(f"{_path(group, name)} is {value}, outside {low} to {high}")
    return value


def text(group: h5py.Group, name: str) -> str:
    """One string, of fixed or variable length; at most TEXT_MAX characters of it."""
    dataset = _dataset(group, name)
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is None or dataset.size != 1:
        raise ScaDeployError(f"{_path(group, name)} is not one string")
    value = _heap_string(dataset) if kind.length is None else _array(dataset).reshape(-1)[0]
    return bytes(value[:TEXT_MAX]).decode("ascii", "replace")


def _heap_string(dataset: h5py.Dataset) -> bytes:
    """A string of variable length, taken from the file's global heap by hand.

    In a damaged heap libhdf5 can go round for ever. The dataset holds length, heap address and object number; the
    heap is a sequence of objects with number, size and bytes (HDF5 File Format Specification 3.0, III.E).
    """
    place, sizes = dataset.id.get_offset(), dataset.file.id.get_create_plist().get_sizes()
    if place is None or sizes != (8, 8):
        raise ScaDeployError(f"{dataset.name} is not stored as one plain string")
    with open(dataset.file.filename, "rb") as stream:
        stream.seek(place)
        length, address, wanted = _REFERENCE.unpack(stream.read(_REFERENCE.size))
        stream.seek(dataset.file.userblock_size + address)
        signature, _, size = _HEAP.unpack(stream.read(_HEAP.size))
        heap = stream.read(min(size, _HEAP_MAX)) if signature == b"GCOL" else b""
    position = 0
    while position + _HEAP_OBJECT.size <= len(heap):
        number, size = _HEAP_OBJECT.unpack_from(heap, position)
        position += _HEAP_OBJECT.size
        if number == wanted:
            return heap[position : position + min(length, size)]
        position += -(-size // 8) * 8
    raise ScaDeployError(f"{dataset.name} names a string that is not in the file")


def _path(group: h5py.Group, name: str) -> str:
    return f"{group.name.rstrip('/')}/{name}"


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ScaDeployError(f"{_path(group, name)} is missing or a link", "export it again")
    member = group[name]
    if not isinstance(member, kind):
        raise ScaDeployError(f"{_path(group, name)} is not a {kind.__name__.lower()}", "export it again")
    return member


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    dataset = _member(group, name, h5py.Dataset)
    if dataset.external or dataset.is_virtual:
        raise ScaDeployError(f"{dataset.name} keeps its data outside the file", "export it again")
    if dataset.size is None or dataset.size > VALUES_MAX:
        raise ScaDeployError(f"{dataset.name} claims {dataset.size} values, more than {VALUES_MAX}")
    return dataset


def _array(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    if dataset.dtype.kind not in "iufbS":
        # Objects of variable length lie in the heap; see `_heap_string`.
        raise ScaDeployError(f"{dataset.name} has type {dataset.dtype}, expected integers")
    return np.asarray(dataset[()])
