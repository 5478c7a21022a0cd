"""The digits of scikit-learn: 1,797 real handwritten digits of 8 x 8 pixels, from 0 to 16.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI repository).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sca_deploy.data.dataset import Dataset, Labels
from sca_deploy.errors import UsageError

TEST_SAMPLES = 360


def load_digits(folder: Path | None = None) -> Dataset:
    """The digits, 1,437 to train and 360 to test; the split is always the same.

    Raises:
        UsageError: if a folder is given: the set comes inside scikit-learn.
    """
    if folder is not None:
        raise UsageError(f"data set 'digits' reads no folder, but {folder} was given", "leave the folder out")
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    x = images.reshape(-1, 1, 8, 8).astype(np.uint8)
    y = labels.astype(np.int64)
    test = _evenly_from_each_class(y, TEST_SAMPLES)
    return Dataset("digits", x[~test], y[~test], x[test], y[test], classes=10, pixel_max=16)


def _evenly_from_each_class(y: Labels, count: int) -> npt.NDArray[np.bool_]:
    """Mark `count` samples, evenly spaced in the list sorted by class, so that each class gives its share.

    No random numbers: the split cannot change with a seed or a library version.
    """
    reached = np.arange(len(y) + 1) * count // len(y)
    marked = np.zeros(len(y), dtype=bool)
    marked[np.argsort(y, kind="stable")] = np.diff(reached) > 0
    return marked
