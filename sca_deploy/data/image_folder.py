"""Any set of image files laid out as SPLIT/CLASS/FILE."""

from __future__ import annotations

import os
from pathlib import Path

from sca_deploy.data.dataset import Dataset
from sca_deploy.data.image_files import Listing, images_in, load_listing
from sca_deploy.errors import ScaDeployError, UsageError

NAME = "image-folder"
LAYOUT = "put the images into train/CLASS/ and test/CLASS/ or val/CLASS/"


def load_image_folder(folder: Path | None, size: int = 0) -> Dataset:
    """Load any set of image files.

    Args:
        folder: with train/CLASS/FILE, and test/CLASS/FILE or else val/CLASS/FILE; classes are numbered by name.
        size: height and width to bring the images to; 0 if they are of one size anyway.

    Returns:
        Images of three channels, or of one if all are grey; alpha channels are dropped.

    Raises:
        UsageError: if no folder is named.
        ScaDeployError: if a split or class is empty or absent, or a file cannot be decoded or is of another size.
    """
    return load_listing(list_image_folder(folder), size)


def list_image_folder(folder: Path | None) -> Listing:
    """The image files of the classes of both splits; what is no image is left out.

    Raises:
        UsageError, ScaDeployError: as `load_image_folder`.
    """
    if folder is None:
        raise UsageError(f"data set '{NAME}' needs a folder", "set data.folder, or give --folder to `data check`")
    test = next((split for split in ("test", "val") if (folder / split).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        raise ScaDeployError(f"{folder} has no folder {'train' if test else 'test or val'}", LAYOUT)
    classes = _subfolders(folder / "train")
    if unknown := sorted(set(_subfolders(folder / test)) - set(classes)):
        raise ScaDeployError(f"{folder / test / unknown[0]} is no class of {folder / 'train'}", LAYOUT)
    labels = {name: label for label, name in enumerate(classes)}
    return Listing(NAME, folder, _files(folder, "train", labels), _files(folder, test, labels), len(classes))


def _files(folder: Path, split: str, labels: dict[str, int]) -> tuple[tuple[str, int], ...]:
    found = _subfolders(folder / split)
    if not found:
        raise ScaDeployError(f"{folder / split} holds no classes", LAYOUT)
    return tuple(
        (f"{split}/{name}/{file}", labels[name]) for name in found for file in images_in(folder / split / name)
    )


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
