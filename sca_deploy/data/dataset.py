"""A labelled set of images, feature vectors or recordings over time, split into train and test."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Integer inputs and their classes, all in memory.

    A frame is (channels, height, width) for what has a place, or (features,) for what has none.

    Args:
        name: what the set is called.
        train_x, test_x: (samples, *frame), or (samples, steps, *frame) if `timed`; 0 to `pixel_max`.
        train_y, test_y: (samples,), 0 to `classes - 1`.
        classes: how many classes there are.
        pixel_max: the largest value a pixel, or a bin of events, can take.
        timed: whether every sample is a recording: one frame a time step, instead of one for all of them.

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
    timed: bool = False

    def __post_init__(self) -> None:
        self._check("train", self.train_x, self.train_y)
        self._check("test", self.test_x, self.test_y)
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            raise ScaDeployError(
                f"{self.name}: train {self._samples} are {self.train_x.shape[1:]}, "
                f"test {self._samples} {self.test_x.shape[1:]}"
            )
        if np.ptp(self.train_y) == 0:
            raise ScaDeployError(f"{self.name}: all train labels are {self.train_y[0]}; at least 2 classes are needed")

    @property
    def bits(self) -> int:
        """How many bits a pixel takes: 5 for 0 to 16, 8 for 0 to 255."""
        return self.pixel_max.bit_length()

    @property
    def shape(self) -> tuple[int, ...]:
        """One frame's shape, which is what a network is given a step: (channels, height, width) or (features,)."""
        return tuple(self.train_x.shape[2 if self.timed else 1 :])

    def first(self, train: int, test: int) -> Dataset:
        """The set with only its first so many samples; 0 keeps all of a split."""
        return replace(
            self,
            train_x=self.train_x[: train or None],
            train_y=self.train_y[: train or None],
            test_x=self.test_x[: test or None],
            test_y=self.test_y[: test or None],
        )

    @property
    def _samples(self) -> str:
        return "recordings" if self.timed else "images"

    def _check(self, split: str, x: Pixels, y: Labels) -> None:
        what = f"{self.name}: {split}"
        start = "samples, T" if self.timed else "samples"
        if x.ndim - self.timed not in (2, 4) or x.dtype != np.uint8:
            raise ScaDeployError(
                f"{what} {self._samples} are {x.dtype} of shape {x.shape}, "
                f"not uint8 of ({start}, C, H, W) or ({start}, features)"
            )
        if y.ndim != 1 or y.dtype != np.int64:
            raise ScaDeployError(f"{what} labels are {y.dtype} of shape {y.shape}, not int64 of (samples,)")
        if len(x) != len(y):
            raise ScaDeployError(f"{what} has {len(x):,} {self._samples} but {len(y):,} labels")
        if x.size == 0:
            raise ScaDeployError(f"{what} is empty: its {self._samples} have shape {x.shape}")
        if y.min() < 0 or y.max() >= self.classes:
            worst = y.max() if y.max() >= self.classes else y.min()
            raise ScaDeployError(f"{what} label {worst} is outside 0 to {self.classes - 1}")
        if x.max() > self.pixel_max:
            raise ScaDeployError(f"{what} pixel {x.max()} is above {self.pixel_max}")
