"""Tiny-ImageNet as it is published (Stanford CS231n): 200 classes of ImageNet in 64 x 64 pixels.

wnids.txt names the classes, train/WNID/images/ holds their images, val/images/ those whose classes are in
val/val_annotations.txt. The images of test/ have no published classes and are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sca_deploy.data.dataset import Dataset
from sca_deploy.data.image_files import Listing, images_in, load_listing
from sca_deploy.data.places import AGAIN, find, missing
from sca_deploy.errors import ScaDeployError


@dataclass(frozen=True)
class TinyImageNet:
    """What is known of the set; the defaults are its published numbers.

    Args:
        name: what it is called.
        classes: how many there are.
        train, val: how many images of each class.
        get: how to get it without `data fetch`, up to the folder that holds the files then.
    """

    name: str = "tiny-imagenet"
    classes: int = 200
    train: int = 500
    val: int = 50
    get: str = "download http://cs231n.stanford.edu/tiny-imagenet-200.zip elsewhere and unpack it"

    def find(self, folder: Path | None) -> Path | None:
        """The folder that holds wnids.txt: the one to search, or its tiny-imagenet-200."""

        def inside(place: Path) -> Path | None:
            candidates = (place, place / "tiny-imagenet-200")
            return next((c for c in candidates if (c / "wnids.txt").is_file()), None)

        return find(self.name, folder, inside)


TINY_IMAGENET = TinyImageNet()


def load_tiny_imagenet(published: TinyImageNet, folder: Path | None = None, size: int = 0) -> Dataset:
    """Load the set, with its validation images as the test split.

    No hashes of its files are known: their number and classes are checked, that each can be decoded, and that all
    are of one size.

    Args:
        published: what is known of the set.
        folder: that holds wnids.txt, or tiny-imagenet-200; None to look in the usual place.
        size: height and width to bring the images to; 0 leaves them as they are.

    Returns:
        Images of three channels, grey ones too; classes are numbered in the order of their WordNet identifiers.

    Raises:
        ScaDeployError: if the set is not there, has fewer or more classes or images than were published, or a file
            cannot be decoded.
    """
    return load_listing(list_tiny_imagenet(published, folder), size)


def list_tiny_imagenet(published: TinyImageNet, folder: Path | None) -> Listing:
    """The files of the set, as many as were published.

    Raises:
        ScaDeployError: as `load_tiny_imagenet`.
    """
    found = published.find(folder)
    if found is None:
        raise missing(published.name, folder, published.get)
    classes = sorted(set(_lines(found / "wnids.txt")))
    if len(classes) != published.classes:
        raise ScaDeployError(
            f"{found / 'wnids.txt'} names {len(classes)} classes, {published.name} has {published.classes}", AGAIN
        )
    labels = {wnid: label for label, wnid in enumerate(classes)}
    train = tuple(
        (f"train/{wnid}/images/{file}", label)
        for wnid, label in labels.items()
        for file in images_in(found / "train" / wnid / "images")
    )
    val = tuple(_annotated(found / "val" / "val_annotations.txt", labels))
    for split, files, share in (("train", train, published.train), ("val", val, published.val)):
        counts = np.bincount([label for _, label in files], minlength=len(classes))
        if (counts != share).any():
            odd = int((counts != share).argmax())
            raise ScaDeployError(
                f"{found / split} has {counts[odd]} images of class {classes[odd]}, the published set {share}", AGAIN
            )
    return Listing(published.name, found, train, val, len(classes), colour=True)


def _annotated(path: Path, labels: dict[str, int]) -> Iterator[tuple[str, int]]:
    """The files that val_annotations.txt names: file, class and bounding box in a line, separated by tabs."""
    for number, line in enumerate(_lines(path), 1):
        file, wnid = [*line.split("\t"), ""][:2]
        if wnid not in labels:
            raise ScaDeployError(f"{path}, line {number}: class '{wnid}' is not in wnids.txt", AGAIN)
        if not (path.parent / "images" / file).is_file():
            raise ScaDeployError(f"{path.parent / 'images'} has no {file}, which {path.name} names", AGAIN)
        yield f"val/images/{file}", labels[wnid]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScaDeployError(f"cannot read {path}: {error}", AGAIN) from error
