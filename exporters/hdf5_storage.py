"""How HDF5 keeps strings and compressed values, read by hand where libhdf5 cannot be trusted with damage.

In a damaged heap of strings libhdf5 can go round for ever, and a damaged or malicious deflated chunk makes it ask for
memory without end. The layouts are those of the HDF5 File Format Specification 3.0.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from itertools import product
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError

DEFLATE_MAX = 1032
"""What deflate shrinks zeros to at most, one in so many bytes; lzf stays below."""
CHUNKS_MAX = 1 << 18
FILTERS = {h5py.h5z.FILTER_DEFLATE: "gzip", h5py.h5z.FILTER_SHUFFLE: "shuffle", h5py.h5z.FILTER_LZF: "lzf"}
"""Compressions that are read. For those of others libhdf5 would load code from the folders of its plug-ins."""
_HEAP_MAX = 1 << 20
_REFERENCE = struct.Struct("<IQI")
_HEAP = struct.Struct("<4sB3xQ")
_HEAP_OBJECT = struct.Struct("<H6xQ")


def check_storage(dataset: h5py.Dataset) -> None:
    """Refuse a dataset kept elsewhere, claiming more than its file can hold, or packed in a way that is not read.

    Nothing of it is read.

    Raises:
        ScaDeployError: naming it.
    """
    if dataset.external or dataset.is_virtual:
        raise ScaDeployError(f"{dataset.name} keeps its data outside the file", "export it again")
    layout = dataset.id.get_create_plist()
    others = {code for code, _ in _filters(dataset)} - FILTERS.keys()
    if others:
        raise ScaDeployError(f"{dataset.name} is packed by filter {min(others)}", "write it with gzip, or as it is")
    chunk = dataset.chunks or ()
    if dataset.chunks and (len(chunk) != dataset.ndim or min(chunk) < 1):
        raise ScaDeployError(f"{dataset.name} of shape {dataset.shape} is said to lie in chunks of {chunk}")
    limit = dataset.file.id.get_filesize() * (DEFLATE_MAX if chunk else 1)
    claimed = max(dataset.size, math.prod(chunk)) * dataset.id.get_type().get_size()
    if claimed > limit:
        raise ScaDeployError(f"{dataset.name} claims {claimed} bytes, more than the {limit} that its file can hold")
    stored_alone = layout.get_layout() == h5py.h5d.CONTIGUOUS and dataset.size
    if stored_alone and dataset.id.get_offset() is None:
        raise _unwritten(dataset)


def _unwritten(dataset: h5py.Dataset) -> ScaDeployError:
    # libhdf5 can crash on the fill value that would stand for them.
    return ScaDeployError(f"{dataset.name} has values that were never written")


def values_of(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    """The values of a dataset of numbers or strings of fixed length that passed `check_storage`."""
    if not dataset.size:
        return np.empty(dataset.shape, dataset.dtype)
    if not dataset.chunks:
        return np.asarray(dataset[()])
    if dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype, logical=True):
        raise ScaDeployError(f"{dataset.name} is stored in an unusual form of {dataset.dtype}")
    return _from_chunks(dataset, dataset.dtype)


def heap_strings(dataset: h5py.Dataset) -> Iterator[bytes]:
    """The strings of variable length of a dataset that passed `check_storage`, taken from the file's global heaps.

    The dataset holds lengths, heap addresses and object numbers (III.E, IV.A.2.d).
    """
    if not dataset.size:
        return
    if dataset.file.id.get_create_plist().get_sizes() != (8, 8):
        raise ScaDeployError(f"{dataset.name} is not stored as plain strings")
    with open(dataset.file.filename, "rb") as stream:
        heaps = _Heaps(stream, dataset.file.userblock_size)
        for length, address, number in _REFERENCE.iter_unpack(_references(dataset, stream)):
            value = heaps.objects(address).get(number) if length else b""
            if value is None:
                raise ScaDeployError(f"{dataset.name} names a string that is not in the file")
            yield value[:length]


def _references(dataset: h5py.Dataset, stream: BinaryIO) -> bytes:
    size = _REFERENCE.size
    if dataset.chunks:
        return _from_chunks(dataset, np.dtype(f"V{size}")).tobytes()
    place = dataset.id.get_offset()
    if place is None:
        raise ScaDeployError(f"{dataset.name} is not stored as plain strings")
    references = _bytes_at(stream, place, size * dataset.size)
    if len(references) < size * dataset.size:
        raise ScaDeployError(f"{dataset.name} lies outside the file")
    return references


class _Heaps:
    """The global heaps of a file: sequences of objects with number, size and bytes."""

    def __init__(self, stream: BinaryIO, base: int) -> None:
        self._stream, self._base = stream, base
        self._known: dict[int, dict[int, bytes]] = {}
        # Heaps do not overlap, so all of them together are no longer than the file.
        self._left = os.fstat(stream.fileno()).st_size

    def objects(self, address: int) -> dict[int, bytes]:
        """The objects of the heap at an address, by number; none where there is no heap."""
        if address not in self._known:
            self._known[address] = dict(self._read(address))
        return self._known[address]

    def _read(self, address: int) -> Iterator[tuple[int, bytes]]:
        head = _bytes_at(self._stream, self._base + address, _HEAP.size)
        signature, _, size = _HEAP.unpack(head) if len(head) == _HEAP.size else (b"", 0, 0)
        size = max(0, size - _HEAP.size)  # which counts its own head
        heap = self._stream.read(min(size, _HEAP_MAX, self._left)) if signature == b"GCOL" else b""
        self._left -= len(heap)
        position = 0
        while position + _HEAP_OBJECT.size <= len(heap):
            number, size = _HEAP_OBJECT.unpack_from(heap, position)
            position += _HEAP_OBJECT.size
            if number == 0:  # what is left of the heap is free
                break
            yield number, heap[position : position + size]
            position += -(-size // 8) * 8


def _filters(dataset: h5py.Dataset) -> list[tuple[int, tuple[int, ...]]]:
    """The filters a chunk went through, first to last, with their parameters."""
    layout = dataset.id.get_create_plist()
    found = [layout.get_filter(index) for index in range(layout.get_nfilters())]
    return [(code, values) for code, _, values, _ in found]


def _from_chunks(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The values of a chunked dataset."""
    found = np.empty(dataset.shape, dtype)
    chunk = dataset.chunks
    grid = [range(0, side, step) for side, step in zip(dataset.shape, chunk, strict=True)]
    if math.prod(len(starts) for starts in grid) > CHUNKS_MAX:
        raise ScaDeployError(f"{dataset.name} lies in more than {CHUNKS_MAX} chunks of {chunk}")
    filters = _filters(dataset)
    with open(dataset.file.filename, "rb") as stream:
        for start in product(*grid):
            info = dataset.id.get_chunk_info_by_coord(start)
            if info.byte_offset is None:
                raise _unwritten(dataset)
            packed = _bytes_at(stream, info.byte_offset, info.size)
            used = [entry for place, entry in enumerate(filters) if not info.filter_mask >> place & 1]
            try:
                values = np.frombuffer(_unpacked(packed, used, math.prod(chunk) * dtype.itemsize, dtype), dtype)
            except (ValueError, zlib.error) as error:
                raise ScaDeployError(f"{dataset.name} is damaged ({error})", "restore the file from a copy") from error
            within = tuple(slice(low, low + step) for low, step in zip(start, chunk, strict=True))
            part = found[within]
            part[...] = values.reshape(chunk)[tuple(slice(0, side) for side in part.shape)]
    return found


def _unpacked(packed: bytes, filters: list[tuple[int, tuple[int, ...]]], size: int, dtype: np.dtype[Any]) -> bytes:
    """A chunk of `size` bytes as it was before its filters."""
    for code, _ in reversed(filters):
        if code == h5py.h5z.FILTER_DEFLATE:
            packed = zlib.decompressobj().decompress(packed, size + 1)
        elif code == h5py.h5z.FILTER_LZF:
            packed = lzf_unpacked(packed, size)
        else:
            packed = np.frombuffer(packed, np.uint8).reshape(dtype.itemsize, -1).T.tobytes()
    if len(packed) != size:
        raise ValueError(f"a chunk of {size} bytes unpacks to {len(packed)}")
    return packed


def lzf_unpacked(packed: bytes, most: int) -> bytes:
    """What LibLZF made `packed` of: runs of literal bytes, and references to bytes before.

    Raises:
        ValueError: if it is cut short, refers to before its beginning, or is longer than `most`.
    """
    found, place = bytearray(), 0
    while place < len(packed) and len(found) <= most:
        control, place = packed[place], place + 1
        if control < 32:
            found += packed[place : place + control + 1]
            place += control + 1
            continue
        length, extra = control >> 5, 1 if control >> 5 == 7 else 0
        if place + extra >= len(packed):
            raise ValueError("it is cut short")
        length += 2 + (packed[place] if extra else 0)
        back = ((control & 31) << 8 | packed[place + extra]) + 1
        place += 1 + extra
        if back > len(found):
            raise ValueError("it refers to bytes before its beginning")
        seen = found[-back:][:length]
        found += (seen * (length // len(seen) + 1))[:length]
    return bytes(found)


def _bytes_at(stream: BinaryIO, place: int, size: int) -> bytes:
    """Up to `size` bytes from a place in a file, none from beyond its end."""
    end = os.fstat(stream.fileno()).st_size
    stream.seek(min(place, end))
    return stream.read(min(size, end))
