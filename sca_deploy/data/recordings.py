"""Recordings of event cameras and cochleas, file by file, in the formats their publishers use.

Every reader gives events as a structured array with the fields t (microseconds), x, y (pixels, row 0 on top) and p
(polarity); files that hold several recordings give one array each. Tonic reads N-MNIST and AEDAT 4 and bins
events; AEDAT 2 and 3, which tonic 1.7 has readers for that cannot be called, are read here, as are arrays and HDF5.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from sca_deploy.data.places import AGAIN
from sca_deploy.errors import MissingExtra, ScaDeployError

INSTALL = "pip install 'sca-deploy[events]'"
EVENT = np.dtype([("t", np.int64), ("x", np.int32), ("y", np.int32), ("p", np.int8)])
N_MNIST_RECORD = 5
DVS128_SIDE = 128

Events = npt.NDArray[np.void]
Numbers = npt.NDArray[Any]


def tonic(module: str) -> ModuleType:
    """A module of tonic; none of those used here imports torchvision or torchaudio.

    Raises:
        MissingExtra: if tonic, or something it needs, is not installed.
    """
    try:
        return importlib.import_module(f"tonic.{module}")
    except ImportError as error:
        raise MissingExtra(f"recordings of events need the tonic package ({error})", INSTALL) from error


def read_n_mnist(path: Path) -> Events:
    """A .bin file of N-MNIST: 5 bytes an event, x, y, and polarity (bit 23) with time (bits 22 to 0), high byte first.

    Raises:
        ScaDeployError: if the file cannot be read or is cut short.
        MissingExtra: if tonic is not installed.
    """
    size = len(_bytes(path))
    if size % N_MNIST_RECORD:
        raise ScaDeployError(f"{path} is cut short: {size:,} bytes, not a multiple of {N_MNIST_RECORD}", AGAIN)
    # tonic fills the fields by their place: x, y, t, p, whatever their names.
    placed = np.dtype([(field, EVENT[field]) for field in ("x", "y", "t", "p")])
    return _same(tonic("io").read_mnist_file(str(path), dtype=placed))


def read_aedat4(path: Path) -> Events:
    """An AEDAT 4 file, as in tonic's edition of CIFAR10-DVS.

    Raises:
        ScaDeployError: if the file is cut short, damaged, or holds no stream of events.
        MissingExtra: if tonic or aedat is not installed.
    """
    io = tonic("io")
    try:
        return _same(io.read_aedat4(str(path)))
    except ImportError as error:
        raise MissingExtra(f"AEDAT 4 files need the aedat package ({error})", INSTALL) from error
    except Exception as error:  # aedat and tonic raise RuntimeError, ValueError and bare Exception for what they find
        raise ScaDeployError(f"{path} is not a sound AEDAT 4 file: {error}", AGAIN) from error


def read_aedat2(path: Path) -> Events:
    """An AEDAT 2 file of a DVS128, as in the published CIFAR10-DVS.

    After the header come big-endian pairs of a 32-bit address and a 32-bit time. Of an address, bit 0 is 0 for a
    brighter and 1 for a darker pixel, bits 1 to 7 are the column from the right, bits 8 to 14 the row from the bottom,
    and bit 15 marks what is no pixel's (jAER, DVS128).

    Raises:
        ScaDeployError: if the file is cut short or not AEDAT 2.
    """
    body = _aedat_body(path, b"#!AER-DAT2")
    if len(body) % 8:
        raise ScaDeployError(f"{path} is cut short: {len(body):,} bytes of events, not a multiple of 8", AGAIN)
    words = np.frombuffer(body, ">u4").reshape(-1, 2).astype(np.int64)
    address, t = words[words[:, 0] & 0x8000 == 0].T
    x = DVS128_SIDE - 1 - (address >> 1 & 0x7F)
    y = DVS128_SIDE - 1 - (address >> 8 & 0x7F)
    return _events(t, x, y, 1 - (address & 1))


def read_aedat3(path: Path) -> Events:
    """An AEDAT 3.1 file of a DVS128, as in the published DVS128 Gesture.

    After the header come packets: 28 bytes that say what they hold, then pairs of 32-bit data and time. Of the data of
    a pixel's event, bit 0 says that it is valid, bit 1 is 1 for a brighter pixel, bits 2 to 16 are the row and bits 17
    to 31 the column (iniVation, "AEDAT file formats").

    Raises:
        ScaDeployError: if the file is cut short or not AEDAT 3.
    """
    body = _aedat_body(path, b"#!AER-DAT3")
    pairs, times, at = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)], 0
    while at < len(body):
        if at + 28 > len(body):
            raise ScaDeployError(f"{path} is cut short: its last packet ends in its header", AGAIN)
        kind, _, size, _, overflow, _, number, _ = struct.unpack_from("<HHIIIIII", body, at)
        if at + 28 + size * number > len(body):
            raise ScaDeployError(f"{path} is cut short: its last packet lacks events", AGAIN)
        if (kind, size) == (1, 8):
            packet = np.frombuffer(body, "<u4", 2 * number, at + 28).reshape(-1, 2).astype(np.int64)
            pairs.append(packet)
            times.append(packet[:, 1] + (overflow << 31))
        at += 28 + size * number
    data, t = np.concatenate(pairs)[:, 0], np.concatenate(times)
    events = _events(t, data >> 17 & 0x7FFF, data >> 2 & 0x7FFF, data >> 1 & 1)
    valid: Events = events[data & 1 == 1]
    return valid


def read_gesture_array(path: Path) -> Events:
    """A .npy file of tonic's edition of DVS128 Gesture: columns x, y, polarity, time in milliseconds.

    Raises:
        ScaDeployError: if the file is not such an array.
    """
    try:
        with path.open("rb") as stream:  # numpy leaves a damaged file open
            table = np.load(stream, allow_pickle=False)
    except OSError as error:
        raise ScaDeployError(f"cannot read {path}: {error.strerror or error}", AGAIN) from error
    except (ValueError, EOFError) as error:
        raise ScaDeployError(f"{path} is not a sound array: {error}", AGAIN) from error
    if table.ndim != 2 or table.shape[1] != 4 or not np.can_cast(table.dtype, np.float64):
        raise ScaDeployError(f"{path} is {table.dtype} of shape {table.shape}, not numbers of (events, 4)", AGAIN)
    x, y, p, milliseconds = table.T
    return _events(milliseconds.astype(np.int64) * 1000, x, y, p)


def shd_labels(path: Path) -> list[int]:
    """The class of every recording in an HDF5 file of the Spiking Heidelberg Digits.

    Raises:
        ScaDeployError: if the file cannot be read or is not laid out like the published ones.
    """
    with _Hdf5(path) as file:
        counts = {name: len(file[name]) for name in ("labels", "spikes/times", "spikes/units")}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            raise ScaDeployError(f"{path} holds {listed}: they must be as many", AGAIN)
        return [int(label) for label in file["labels"][:]]


def read_shd(path: Path) -> Iterator[Events]:
    """The recordings of such a file, one after the other: x is the channel, y and p are 0.

    Raises:
        ScaDeployError: as `shd_labels`, or if a recording's times and channels are not as many.
    """
    with _Hdf5(path) as file:
        spikes = zip(file["spikes/times"], file["spikes/units"], strict=True)
        for number, (seconds, channel) in enumerate(spikes):
            if len(seconds) != len(channel):
                raise ScaDeployError(
                    f"{path}: recording {number} has {len(seconds)} times but {len(channel)} channels", AGAIN
                )
            yield _events((seconds.astype(np.float64) * 1e6).round(), channel, 0, 0)


class _Hdf5:
    """An open HDF5 file; whatever h5py finds wrong with it inside the block becomes one line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        import h5py

        if not self._path.is_file():
            raise ScaDeployError(f"no such file: {self._path}", AGAIN)
        try:
            self._file = h5py.File(self._path, "r")
        except OSError as error:
            raise ScaDeployError(f"{self._path} is not a sound HDF5 file: {error}", AGAIN) from error
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._file.close()
        if isinstance(error, OSError | KeyError | RuntimeError):
            raise ScaDeployError(f"{self._path} is not a sound HDF5 file: {error}", AGAIN) from error


def _events(t: Numbers, x: Numbers | int, y: Numbers | int, p: Numbers | int) -> Events:
    events = np.zeros(len(t), EVENT)
    events["t"], events["x"], events["y"], events["p"] = t, x, y, p
    return events


def _same(found: Numbers) -> Events:
    """Events of another structured type, in ours."""
    return _events(found["t"], found["x"], found["y"], found["p"])


def _aedat_body(path: Path, magic: bytes) -> bytes:
    """What follows the header, whose lines start with '#'."""
    content = _bytes(path)
    if not content.startswith(magic):
        raise ScaDeployError(f"{path} starts with {content[:10]!r}, not with {magic!r}", AGAIN)
    at = 0
    while content[at : at + 1] == b"#":
        end = content.find(b"\n", at)
        if end < 0:
            raise ScaDeployError(f"{path} is cut short: it ends in its header", AGAIN)
        at = end + 1
    return content[at:]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScaDeployError(f"cannot read {path}: {error.strerror or error}", AGAIN) from error
