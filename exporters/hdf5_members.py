"""Members of HDF5 files that somebody else wrote, or that were damaged on their way.

Nothing outside the file is read: links are not followed, and datasets kept elsewhere are refused. Every problem
is one `ScaDeployError` that names the member.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.hdf5_groups import check_groups
from sca_deploy.exporters.hdf5_storage import check_storage, heap_strings, values_of
from sca_deploy.hardware.program import IntArray

VALUES_MAX = 1 << 28
"""A dataset that claims more values than this is not read."""
TEXT_MAX = 64
"""The longest string that is shown or compared; the names of layers and neurons are shorter."""


def opened(path: str | Path) -> h5py.File:
    """A file for reading, whose groups are whole.

    Raises:
        ScaDeployError: if it is not HDF5, or its groups are damaged.
        FileNotFoundError: if there is no file.
    """
    check_groups(path)
    return h5py.File(path, "r")


def has(group: h5py.Group, name: str) -> bool:
    """Whether the group names such a member, be it a link to nowhere."""
    return group.get(name, getlink=True) is not None


def members(group: h5py.Group, most: int) -> list[str]:
    """The names of all members, none of which is a link.

    Raises:
        ScaDeployError: if there are more than `most`, one is a link, or a name is not text.
    """
    if len(group) > most:
        raise ScaDeployError(f"{group.name} holds {len(group)} members, more than {most}")
    names = list(group)
    for name in names:
        if any(0xD800 <= ord(letter) < 0xE000 for letter in name):
            raise ScaDeployError(f"{group.name} has a member whose name {name!a} is not text")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ScaDeployError(f"{_path(group, name)} is a link", "export it again, all in one file")
    return names


def is_group(group: h5py.Group, name: str) -> bool:
    """Whether the member is a group; a link is followed by nobody, and refused."""
    return isinstance(_member(group, name, object), h5py.Group)


def is_text(group: h5py.Group, name: str) -> bool:
    """Whether the member is a dataset of strings."""
    return h5py.check_string_dtype(_dataset(group, name).dtype) is not None


def identity(group: h5py.Group) -> tuple[int, int]:
    """What tells a group from every other, by whichever name it was reached."""
    found = h5py.h5o.get_info(group.id)
    return found.fileno, found.addr


def group_of(group: h5py.Group, name: str) -> h5py.Group:
    """The group of that name."""
    return _member(group, name, h5py.Group)


def numbers(group: h5py.Group, name: str) -> npt.NDArray[Any]:
    """A dataset of integers or floats as they are stored, in this machine's byte order."""
    array = _array(_dataset(group, name))
    if array.dtype.kind not in "iufb":
        raise ScaDeployError(f"{_path(group, name)} has type {array.dtype}, expected numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


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
    """One string, of fixed or variable length; at most TEXT_MAX characters of it, control characters as `?`."""
    dataset = _dataset(group, name)
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.size != 1:
        raise ScaDeployError(f"{_path(group, name)} is not one string")
    found = next(_encoded(dataset))[:TEXT_MAX].decode("ascii", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in found)


def strings(group: h5py.Group, name: str) -> npt.NDArray[np.object_]:
    """Strings in the shape of their dataset, whole.

    Raises:
        ScaDeployError: if they are not strings, or not UTF-8.
    """
    dataset = _dataset(group, name)
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise ScaDeployError(f"{_path(group, name)} has type {dataset.dtype}, expected strings")
    found = np.empty(dataset.shape, object)
    for index, value in enumerate(_encoded(dataset)):
        try:
            found.flat[index] = value.decode()
        except UnicodeDecodeError as error:
            raise ScaDeployError(f"{_path(group, name)} holds {value[:TEXT_MAX]!r}, which is not UTF-8") from error
    return found


def _encoded(dataset: h5py.Dataset) -> Iterator[bytes]:
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is not None and kind.length is None:
        yield from heap_strings(dataset)
    else:
        yield from (bytes(value) for value in _array(dataset).reshape(-1))


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
    if dataset.size is None:
        raise ScaDeployError(f"{dataset.name} is declared to be empty")
    if dataset.size > VALUES_MAX:
        raise ScaDeployError(f"{dataset.name} claims {dataset.size} values, more than {VALUES_MAX}")
    check_storage(dataset)
    return dataset


def _array(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    if dataset.dtype.kind not in "iufbS":
        # Objects of variable length lie in the heap; see `heap_strings`.
        raise ScaDeployError(f"{dataset.name} has type {dataset.dtype}, expected plain numbers")
    return values_of(dataset)
