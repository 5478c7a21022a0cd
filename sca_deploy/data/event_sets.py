"""The published sets of recordings: where their publishers have them, and which files are to train and to test."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sca_deploy.data.places import AGAIN, find
from sca_deploy.data.recordings import (
    Events,
    read_aedat2,
    read_aedat3,
    read_aedat4,
    read_gesture_array,
    read_n_mnist,
    read_shd,
    shd_labels,
)
from sca_deploy.errors import ScaDeployError, UsageError

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


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
        sources: the files of such a folder, those to train and those to test.
    """

    name: str
    summary: str
    get: str
    sensor: tuple[int, int, int]
    classes: int
    marks: tuple[str, ...]
    sources: Callable[[Path], tuple[list[Source], list[Source]]]

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
            sources=_list_n_mnist,
        ),
        EventSet(
            name="dvs-cifar10",
            summary="10,000 images of CIFAR-10 seen by an event camera, 128 x 128 x 2, split 9 : 1 (Li et al. 2017)",
            get="https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671 and unpack airplane.zip to truck.zip",
            sensor=(128, 128, 2),
            classes=10,
            marks=CIFAR_CLASSES,
            sources=_list_dvs_cifar10,
        ),
        EventSet(
            name="dvs128-gesture",
            summary="11 gestures of hands and arms, 128 x 128 x 2 (Amir et al. 2017)",
            get="https://research.ibm.com/interactive/dvsgesture/ and unpack the DvsGesture folder",
            sensor=(128, 128, 2),
            classes=11,
            marks=("trials_to_train.txt", "trials_to_test.txt", "ibmGestureTrain", "ibmGestureTest"),
            sources=_list_gesture,
        ),
        EventSet(
            name="shd",
            summary="Spiking Heidelberg Digits, spoken, 700 channels, 8,156 / 2,264 (Cramer et al. 2020)",
            get="https://zenkelab.org/datasets/ and unpack shd_train.h5.zip and shd_test.h5.zip",
            sensor=(700, 1, 1),
            classes=20,
            marks=("shd_train.h5", "shd_test.h5"),
            sources=_list_shd,
        ),
    )
}
"""The sets that are read from their publishers' files."""
