"""Sets that are many image files: which files, their pixels, and the copy of them that is quick to load.

What was decoded is kept, uncompressed, in the user's cache, so that the next load does not decode again. It is used
only as long as the folder holds the same files, by name, size and time of change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sca_deploy.data.dataset import Dataset, Pixels
from sca_deploy.data.kept import keep, recall
from sca_deploy.data.places import AGAIN, cache_folder
from sca_deploy.data.resize import resized
from sca_deploy.errors import ScaDeployError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
WORKERS = 8
CHUNK = 256
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Listing:
    """Which files a set has.

    Args:
        name: of the set.
        folder: that the files lie in.
        train, test: each file's path from `folder`, with "/", and its class.
        classes: how many there are.
        colour: whether images have three channels even if all are grey.
    """

    name: str
    folder: Path
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    classes: int
    colour: bool = False

    @property
    def files(self) -> list[Path]:
        """All of them, those to train first."""
        return [self.folder / file for file, _ in (*self.train, *self.test)]

    @property
    def fingerprint(self) -> str:
        """A hash of the names, classes, sizes and times of change of all files."""
        digest = hashlib.sha256(repr((self.train, self.test, self.colour)).encode())
        for path in self.files:
            status = path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def images_in(folder: Path) -> list[str]:
    """The names of the image files of a folder, sorted.

    Raises:
        ScaDeployError: if there are none.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError as error:
        raise ScaDeployError(f"cannot read {folder}: {error.strerror or error}") from error
    images = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not images:
        raise ScaDeployError(f"{folder} holds no images", f"remove it, or put images into it: {', '.join(SUFFIXES)}")
    return images


def load_listing(listing: Listing, size: int, fresh: bool = False, progress: Progress | None = None) -> Dataset:
    """The set of a listing: from the cache if it holds these files at this size, else decoded and kept there.

    Args:
        listing: the files.
        size: height and width to bring the images to; 0 if they are of one size anyway.
        fresh: decode the files even if the cache holds them.
        progress: called with the number of further files that were decoded.

    Raises:
        ScaDeployError: as `decode`.
    """
    key = listing.fingerprint
    place = hashlib.sha256(f"{listing.folder.resolve()}\0{listing.name}\0{size}".encode()).hexdigest()[:32]
    path = cache_folder("decoded") / f"{place}.npz"
    arrays = None if fresh else recall(path, key)
    if arrays is None:
        arrays = decode(listing, size, progress)
        keep(path, key, arrays, "the decoded images", compress=False)
    train_y, test_y = (np.array([label for _, label in split], np.int64) for split in (listing.train, listing.test))
    return Dataset(listing.name, arrays[0], train_y, arrays[1], test_y, classes=listing.classes, pixel_max=255)


def decode(listing: Listing, size: int, progress: Progress | None = None) -> tuple[Pixels, Pixels]:
    """Decode every file of a listing, whatever the cache holds.

    Args:
        listing: the files.
        size: height and width to bring them to; 0 if they are of one size anyway.
        progress: called with the number of further files that were decoded.

    Returns:
        Train and test images, (samples, C, H, W); C is 3, or 1 if all are grey and grey is allowed.

    Raises:
        ScaDeployError: naming the first file that cannot be decoded, or is not of the size of the first.
    """
    files = listing.files
    for split, found in (("train", listing.train), ("test", listing.test)):
        if not found:
            raise ScaDeployError(f"{listing.folder} holds no {split} images")
    first, _ = _pixels(files[0], size)
    x = np.empty((len(files), *first.shape), np.uint8)

    def read(start: int) -> tuple[int, bool]:
        any_colour = False
        chunk = range(start, min(start + CHUNK, len(files)))
        for index in chunk:
            pixels, colour = _pixels(files[index], size)
            if pixels.shape != first.shape:
                raise ScaDeployError(
                    f"{files[index]} is of {_height_width(pixels)} pixels, {files[0]} of {_height_width(first)}",
                    "set data.size, or give --size, and all are brought to one",
                )
            x[index] = pixels
            any_colour |= colour
        return len(chunk), any_colour

    coloured = listing.colour
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        for count, colour in pool.map(read, range(0, len(files), CHUNK)):
            coloured |= colour
            if progress is not None:
                progress(count)
    if not coloured:
        x = np.ascontiguousarray(x[:, :1])
    return x[: len(listing.train)], x[len(listing.train) :]


def _pixels(path: Path, size: int) -> tuple[Pixels, bool]:
    """An image (3, H, W) and whether it has colours."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ScaDeployError(f"{path} has pixels of mode {image.mode}, at most 8 bits a channel can be read")
            colour = image.mode not in ("1", "L", "LA")
            # A palette with transparent entries must become an alpha channel first; that is then dropped.
            plain = image.convert("RGBA") if "transparency" in image.info else image
            rgb = plain.convert("RGB")
            return np.asarray(resized(rgb, size) if size else rgb).transpose(2, 0, 1), colour
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ScaDeployError(f"{path} cannot be decoded: {error}", AGAIN) from error


def _height_width(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[2]}"
