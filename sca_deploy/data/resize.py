"""Bringing images to one height and width."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sca_deploy.data.dataset import Dataset, Pixels
from sca_deploy.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image


def resized(image: Image, size: int) -> Image:
    """The image at `size` x `size` pixels: averaged over boxes where it shrinks, bilinear where it grows.

    Its proportions are not kept, nothing is cut off.
    """
    from PIL.Image import Resampling

    if image.size == (size, size):
        return image
    return image.resize((size, size), Resampling.BOX if min(image.size) >= size else Resampling.BILINEAR)


def resize_dataset(dataset: Dataset, size: int) -> Dataset:
    """The set with its images at `size` x `size` pixels; 0 leaves it as it is.

    Raises:
        UsageError: if its samples are not images.
    """
    if not size or dataset.shape[1:] == (size, size):
        return dataset
    if dataset.timed or len(dataset.shape) != 3:
        raise UsageError(
            f"data.size is {size}, but the samples of data set '{dataset.name}' are of shape {dataset.shape}",
            "leave data.size out",
        )
    return replace(dataset, train_x=_resized(dataset.train_x, size), test_x=_resized(dataset.test_x, size))


def _resized(x: Pixels, size: int) -> Pixels:
    """Images (samples, C, size, size)."""
    from PIL import Image

    samples, channels, height, width = x.shape
    planes = x.reshape(-1, height, width)
    out = np.empty((len(planes), size, size), np.uint8)
    for index, plane in enumerate(planes):
        out[index] = np.asarray(resized(Image.fromarray(plane), size))
    return out.reshape(samples, channels, size, size)
