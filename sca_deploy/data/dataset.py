"""A labelled set of images, split into train and test."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of integer pixels and their classes.

    Args:
        name: what the set is called.
        train_x, test_x: (samples, channels, height, width), 0 to `pixel_max`.
        train_y, test_y: (samples,), 0 to `classes - 1`.
        classes: how many classes there are.
        pixel_max: the largest value a pixel can take.

    Raises:
        ScaDeployError: if a split is empty or does not have these shapes, types and ranges, or training holds
            one class only.
    """

    name: str
    train_x: Pixels
    train_y: Labels
    test_x: Pixels
    test_y: Labels
    classes: int
    pixel_max: int

    def __post_init__(self) -> None:
        self._check("train", self.train_x, self.train_y)
        self._check("test", self.test_x, self.test_y)
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            raise ScaDeployError(
                f"{self.name}: train images are {self.train_x.shape[1:]}, test images {self.test_x.shape[1:]}"
            )
        if np.ptp(self.train_y) == 0:
            raise ScaDeployError(f"{self.name}: all train labels are {self.train_y[0]}; at least 2 classes are needed")

    @property
    def bits(self) -> int:
        """How many bits a pixel takes: 5 for 0 to 16, 8 for 0 to 255."""
        return self.pixel_max.bit_length()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        _, channels, height, width = self.train_x.shape
        return channels, height, width

    def first(self, train: int, test: int) -> Dataset:
        """The set with only its first so many samples; 0 keeps all of a split."""
        return replace(
            self,
            train_x=self.train_x[: train or None],
            train_y=self.train_y[: train or None],
            test_x=self.test_x[: test or None],
            test_y=self.test_y[: test or None],
        )

    def _check(self, split: str, x: Pixels, y: Labels) -> None:
        what = f"{self.name}: {split}"
        if x.ndim != 4 or x.dtype != np.uint8:
            raise ScaDeployError(f"{what} images are {x.dtype} of shape {x.shape}, not uint8 of (samples, C, H, W)")
        if y.ndim != 1 or y.dtype != np.int64:
            raise ScaDeployError(f"{what} labels are {y.dtype} of shape {y.shape}, not int64 of (samples,)")
        if len(x) != len(y):
            raise ScaDeployError(f"{what} has {len(x):,} images but {len(y):,} labels")
        if x.size == 0:
            raise ScaDeployError(f"{what} holds no pixels: its images have shape {x.shape}")
        if y.min() < 0 or y.max() >= self.classes:
            worst = y.max() if y.max() >= self.classes else y.min()
            raise ScaDeployError(f"{what} label {worst} is outside 0 to {self.classes - 1}")
        if x.max() > self.pixel_max:
            raise ScaDeployError(f"{what} pixel {x.max()} is above {self.pixel_max}")
