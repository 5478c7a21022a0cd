"""Sets of recordings from event cameras and cochleas, as counts of events in time bins.

Tonic cuts a recording, from its first event to its last, into T bins of equal length and counts the events of every
pixel and polarity in each (ToFrame with n_time_bins; the microseconds that do not divide by T are dropped at the end,
at most T - 1 of them and the last event). So a long recording is binned more coarsely than a short one. A count is
what an input message carries: it is kept in 8 bits, counts above 255 become 255.

Sets are only ever read from a folder: nothing is downloaded. What was binned is kept, compressed, in the user's cache,
and used as long as the folder holds the same files by name, size and time of change. No hashes of single files are
published for these sets; every file is checked for what its format demands.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sca_deploy.data.dataset import Dataset, Pixels
from sca_deploy.data.idx import MNIST, load_idx
from sca_deploy.data.places import AGAIN, cache_folder, find
from sca_deploy.data.recordings import (
    Events,
    read_aedat2,
    read_aedat3,
    read_aedat4,
    read_gesture_array,
    read_n_mnist,
    read_shd,
    shd_labels,
    tonic,
)
from sca_deploy.data.saccade import saccade_frames
from sca_deploy.errors import ScaDeployError, UsageError, unknown_name
from sca_deploy.files import atomic_path

COUNT_MAX = 255
SIMULATED = "simulated-n-mnist"
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BLOCK = 1024
"""Images turned into events at once, before they are brought to another size."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A file that holds recordings.

    Args:
        path: the file.
        labels: the class of each of its recordings.
        read: the events of each, in the same order.
    """

    path: Path
    labels: tuple[int, ...]
    read: Callable[[], Iterator[Events]]


@dataclass(frozen=True)
class EventSet:
    """What is known of a published set.

    Args:
        name: what it is called.
        summary: what it holds, in one line.
        get: where its publisher has it, and what to put into the folder.
        sensor: (width, height, polarities); height 1 for a line of channels without polarity.
        classes: how many there are.
        marks: files or folders, any of which shows that a folder holds the set.
        list: the sources of such a folder, those to train and those to test.
    """

    name: str
    summary: str
    get: str
    sensor: tuple[int, int, int]
    classes: int
    marks: tuple[str, ...]
    list: Callable[[Path], tuple[list[Source], list[Source]]]

    def find(self, folder: Path | None) -> Path | None:
        """The folder that holds the set: the one named, or the usual one (see `sca_deploy.data.places`)."""

        def inside(place: Path) -> Path | None:
            return place if any((place / mark).exists() for mark in self.marks) else None

        return find(self.name, folder, inside)

    def frame(self, size: int = 0) -> tuple[int, ...]:
        """The shape of a frame: (polarities, height, width), or (channels,).

        Raises:
            UsageError: if `size` is larger than the sensor.
        """
        width, height, polarities = self.sensor
        if size > width:
            raise UsageError(
                f"data.size is {size}, but the sensor of data set '{self.name}' is {width} wide",
                "events can only be summed over pixels: choose a smaller size, or 0",
            )
        return (size or width,) if height == 1 else (polarities, size or height, size or width)


def load_events(name: str, folder: Path | None, steps: int, size: int = 0) -> Dataset:
    """Load a set of recordings in `steps` time bins.

    Args:
        name: a key of `EVENT_SETS`.
        folder: where its files are (for "simulated-n-mnist", those of MNIST); None to look in the usual place.
        steps: time bins T.
        size: sum the events over pixels so that frames are `size` wide and high (a line of channels: `size` long); 0
            leaves them as they are.

    Returns:
        A timed set: (samples, T, 2, height, width), for "shd" (samples, T, channels), 0 to 255.

    Raises:
        UsageError: if there is no set of that name, no time bin, or `size` exceeds the sensor.
        ScaDeployError: if its files are missing or damaged.
        MissingExtra: if tonic is needed and not installed.
    """
    if name not in EVENT_SETS:
        raise unknown_name("data set", name, EVENT_SETS)
    if steps < 1:
        raise UsageError(f"recordings are to have {steps} time bins, at least 1 is needed")
    if name == SIMULATED:
        return _simulated(folder, steps, size)
    published = PUBLISHED[name]
    frame = published.frame(size)
    place = published.find(folder)
    if place is None:
        raise ScaDeployError(
            f"data set '{name}' is not in {folder or cache_folder(name)}",
            f"get it from {published.get} into {folder or cache_folder(name)}",
        )
    train, test = published.list(place)
    key = _fingerprint([*train, *test], published, frame, steps)
    kept = _cache(place, published, steps, size)
    arrays = _kept(kept, key)
    if arrays is None:
        arrays = (_binned(train, published, steps, frame), _binned(test, published, steps, frame))
        _keep(kept, key, arrays)
    labels = [np.array([label for source in split for label in source.labels], np.int64) for split in (train, test)]
    return Dataset(name, arrays[0], labels[0], arrays[1], labels[1], published.classes, COUNT_MAX, timed=True)


def _simulated(folder: Path | None, steps: int, size: int) -> Dataset:
    """MNIST through the saccade converter, under a name that says so."""
    frame = PUBLISHED["n-mnist"].frame(size)
    images = load_idx(MNIST, folder)

    def frames(x: Pixels) -> Pixels:
        out = np.empty((len(x), steps, *frame), np.uint8)
        for start in range(0, len(x), BLOCK):
            block = slice(start, start + BLOCK)
            out[block] = _clipped(_summed(saccade_frames(x[block, 0], steps), frame))
        return out

    x = [frames(split) for split in (images.train_x, images.test_x)]
    return Dataset(SIMULATED, x[0], images.train_y, x[1], images.test_y, images.classes, COUNT_MAX, timed=True)


def _binned(sources: list[Source], published: EventSet, steps: int, frame: tuple[int, ...]) -> Pixels:
    """The frames of all recordings of the sources: (samples, T, *frame)."""
    to_frame = tonic("transforms").ToFrame(sensor_size=published.sensor, n_time_bins=steps)
    out = np.empty((sum(len(source.labels) for source in sources), steps, *frame), np.uint8)
    sample = 0
    for source in sources:
        for events in source.read():
            _check(events, source.path, published.sensor, steps)
            # Bins are found by bisection, and some cameras deliver events slightly out of order.
            events = events[np.argsort(events["t"], kind="stable")]
            one_line = published.sensor[1] == 1
            counts = to_frame(events[["t", "x", "p"]].copy() if one_line else events)
            out[sample] = _clipped(_summed(counts[:, 0] if one_line else counts, frame))
            sample += 1
    return out


def _check(events: Events, path: Path, sensor: tuple[int, int, int], steps: int) -> None:
    if len(events) == 0:
        raise ScaDeployError(f"{path} holds a recording without events", AGAIN)
    for name, limit in zip("xyp", sensor, strict=True):
        low, high = int(events[name].min()), int(events[name].max())
        if low < 0 or high >= limit:
            worst = high if high >= limit else low
            raise ScaDeployError(f"{path} holds an event with {name} = {worst}, outside 0 to {limit - 1}", AGAIN)
    length = int(np.ptp(events["t"]))
    if length < steps:
        raise ScaDeployError(f"{path} holds a recording of {length} microseconds, too short for {steps} time bins")


def _summed(counts: npt.NDArray[np.integer], frame: tuple[int, ...]) -> npt.NDArray[np.integer]:
    """Counts (..., *frame) from those of the whole sensor: pixel x of W becomes pixel floor(x size / W)."""
    axes = range(-1, -len(frame), -1) if len(frame) > 1 else (-1,)
    for axis in axes:
        side, size = counts.shape[axis], frame[axis]
        if size != side:
            first = -(-np.arange(size) * side // size)
            counts = np.add.reduceat(counts, first, axis=axis, dtype=np.int64)
    return counts


def _clipped(counts: npt.NDArray[np.integer]) -> Pixels:
    return np.minimum(counts, COUNT_MAX).astype(np.uint8)


def _fingerprint(sources: list[Source], published: EventSet, frame: tuple[int, ...], steps: int) -> str:
    """A hash of all that decides the frames."""
    digest = hashlib.sha256(repr((published.name, published.sensor, frame, steps)).encode())
    for source in sources:
        status = source.path.stat()
        digest.update(f"{source.path}\0{source.labels}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _cache(place: Path, published: EventSet, steps: int, size: int) -> Path:
    name = hashlib.sha256(f"{place.resolve()}\0{published.name}\0{steps}\0{size}".encode()).hexdigest()[:32]
    return cache_folder("binned") / f"{name}.npz"


def _kept(path: Path, key: str) -> tuple[Pixels, Pixels] | None:
    """The frames that were kept, if they are of this key and whole."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return (archive["train"], archive["test"]) if str(archive["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _keep(path: Path, key: str, arrays: tuple[Pixels, Pixels]) -> None:
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, key=np.array(key), train=arrays[0], test=arrays[1])
    except ScaDeployError as error:
        log.warning("the binned events are not kept for the next time: %s", error.problem)


def _one(read: Callable[[Path], Events], path: Path) -> Iterator[Events]:
    """The reader of a file that holds one recording."""
    yield read(path)


def _files(folder: Path, label: int, reads: dict[str, Callable[[Path], Events]]) -> list[Source]:
    """The recordings of one class, in the order of the numbers in their names.

    Args:
        folder: holds the files.
        label: their class.
        reads: the reader for each suffix; where files of several lie, those of the first.
    """
    for suffix, read in reads.items():
        paths = [path for path in folder.glob(f"*{suffix}") if not path.name.startswith(".")]
        if paths:
            return [Source(path, (label,), partial(_one, read, path)) for path in sorted(paths, key=_numbers)]
    raise ScaDeployError(f"{folder} holds no {' or '.join(reads)} files", AGAIN)


def _numbers(path: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", path.stem)], path.name


def _list_n_mnist(folder: Path) -> tuple[list[Source], list[Source]]:
    train, test = (
        [source for digit in range(10) for source in _files(folder / split / str(digit), digit, {".bin": read_n_mnist})]
        for split in ("Train", "Test")
    )
    return train, test


def _list_dvs_cifar10(folder: Path) -> tuple[list[Source], list[Source]]:
    """No split is published: of each class, in the order of the files' numbers, the last tenth is to test."""
    train, test = [], []
    for label, name in enumerate(CIFAR_CLASSES):
        sources = _files(folder / name, label, {".aedat4": read_aedat4, ".aedat": read_aedat2})
        if len(sources) < 2:
            raise ScaDeployError(f"{folder / name} holds 1 recording, a split into train and test needs 2", AGAIN)
        last = len(sources) - max(1, len(sources) // 10)
        train += sources[:last]
        test += sources[last:]
    return train, test


def _list_gesture(folder: Path) -> tuple[list[Source], list[Source]]:
    """The publisher's recordings with their tables of gestures, or tonic's edition, cut into gestures already."""
    if (folder / "trials_to_train.txt").exists():
        train, test = (_trials(folder / f"trials_to_{split}.txt") for split in ("train", "test"))
    else:
        train, test = (_cut_gestures(folder / f"ibmGesture{split}") for split in ("Train", "Test"))
    return train, test


def _cut_gestures(folder: Path) -> list[Source]:
    """One file a gesture, userNN_LIGHT/CLASS.npy."""
    sources = []
    for path in sorted(folder.glob("user*/*.npy"), key=_numbers):
        if not path.stem.isdecimal():
            raise ScaDeployError(f"{path} is not named by its class, a number", AGAIN)
        sources.append(Source(path, (int(path.stem),), partial(_one, read_gesture_array, path)))
    if not sources:
        raise ScaDeployError(f"{folder} holds no user*/*.npy files", AGAIN)
    return sources


def _trials(listing: Path) -> list[Source]:
    """The recordings a trials_to_*.txt names, each with a table of its gestures: class, start and end."""
    sources = []
    for name in _text(listing).split():
        path = listing.parent / name
        table = path.with_name(f"{path.stem}_labels.csv")
        try:
            rows = [tuple(int(cell) for cell in row) for row in list(csv.reader(_text(table).splitlines()))[1:]]
            gestures = [(label, start, end) for label, start, end in rows]
        except ValueError as error:
            raise ScaDeployError(f"{table} is not a table of class, start and end: {error}", AGAIN) from error
        if not path.is_file():
            raise ScaDeployError(f"{listing} names {name}, which is not there", AGAIN)
        labels = tuple(label - 1 for label, _, _ in gestures)  # published from 1
        sources.append(Source(path, labels, partial(_gestures, path, gestures)))
    if not sources:
        raise ScaDeployError(f"{listing} names no recordings", AGAIN)
    return sources


def _gestures(path: Path, gestures: list[tuple[int, int, int]]) -> Iterator[Events]:
    events = read_aedat3(path)
    for _, start, end in gestures:
        yield events[(events["t"] >= start) & (events["t"] < end)]


def _list_shd(folder: Path) -> tuple[list[Source], list[Source]]:
    train, test = (
        [Source(path, tuple(shd_labels(path)), partial(read_shd, path))]
        for path in (folder / "shd_train.h5", folder / "shd_test.h5")
    )
    return train, test


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScaDeployError(f"cannot read {path}: {error}", AGAIN) from error


PUBLISHED: dict[str, EventSet] = {
    published.name: published
    for published in (
        EventSet(
            name="n-mnist",
            summary="MNIST seen by a moving event camera, 34 x 34 x 2, 60,000 / 10,000 (Orchard et al. 2015)",
            get="https://www.garrickorchard.com/datasets/n-mnist and unpack Train.zip and Test.zip",
            sensor=(34, 34, 2),
            classes=10,
            marks=("Train", "Test"),
            list=_list_n_mnist,
        ),
        EventSet(
            name="dvs-cifar10",
            summary="10,000 images of CIFAR-10 seen by an event camera, 128 x 128 x 2, split 9 : 1 (Li et al. 2017)",
            get="https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671 and unpack airplane.zip to truck.zip",
            sensor=(128, 128, 2),
            classes=10,
            marks=CIFAR_CLASSES,
            list=_list_dvs_cifar10,
        ),
        EventSet(
            name="dvs128-gesture",
            summary="11 gestures of hands and arms, 128 x 128 x 2 (Amir et al. 2017)",
            get="https://research.ibm.com/interactive/dvsgesture/ and unpack what DvsGesture.tar.gz holds in DvsGesture",
            sensor=(128, 128, 2),
            classes=11,
            marks=("trials_to_train.txt", "trials_to_test.txt", "ibmGestureTrain", "ibmGestureTest"),
            list=_list_gesture,
        ),
        EventSet(
            name="shd",
            summary="Spiking Heidelberg Digits, spoken in two languages, 700 channels, 8,156 / 2,264 (Cramer et al. 2020)",
            get="https://zenkelab.org/datasets/ and unpack shd_train.h5.zip and shd_test.h5.zip",
            sensor=(700, 1, 1),
            classes=20,
            marks=("shd_train.h5", "shd_test.h5"),
            list=_list_shd,
        ),
    )
}
"""The sets that are read from their publishers' files."""

EVENT_SETS: dict[str, str] = {name: published.summary for name, published in PUBLISHED.items()} | {
    SIMULATED: "MNIST through a simulated event camera that makes three saccades, 34 x 34 x 2; needs MNIST alone"
}
"""Every set of recordings and what it holds, in one line."""
