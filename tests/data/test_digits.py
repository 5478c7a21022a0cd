"""The digits inside scikit-learn, and their one fixed split."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets

from sca_deploy.data import Dataset, load_dataset
from sca_deploy.errors import UsageError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_there_are_1437_digits_to_train_and_360_to_test(digits: Dataset) -> None:
    assert digits.train_x.shape == (1437, 1, 8, 8)
    assert digits.test_x.shape == (360, 1, 8, 8)
    assert digits.classes == 10


def test_pixels_are_the_original_integers_from_0_to_16(digits: Dataset) -> None:
    assert digits.train_x.dtype == np.uint8
    assert (digits.train_x.min(), digits.train_x.max(), digits.pixel_max, digits.bits) == (0, 16, 16, 5)


def test_train_and_test_together_are_scikit_learns_digits(digits: Dataset) -> None:
    images, labels = datasets.load_digits(return_X_y=True)
    x = np.concatenate([digits.train_x, digits.test_x]).reshape(-1, 64)
    y = np.concatenate([digits.train_y, digits.test_y])
    ours = sorted((*pixels, label) for pixels, label in zip(x.tolist(), y.tolist(), strict=True))
    theirs = sorted((*map(int, pixels), label) for pixels, label in zip(images.tolist(), labels.tolist(), strict=True))
    assert ours == theirs


def test_every_class_gives_its_share_to_the_test_split(digits: Dataset) -> None:
    in_test, in_train = np.bincount(digits.test_y), np.bincount(digits.train_y)
    share = (in_test + in_train) * 360 / 1797
    assert np.abs(in_test - share).max() < 1


def test_the_split_never_changes(digits: Dataset) -> None:
    np.random.seed(1)
    again = load_dataset("digits")
    np.testing.assert_array_equal(again.test_x, digits.test_x)
    assert hashlib.sha256(digits.test_x.tobytes() + digits.test_y.tobytes()).hexdigest() == EXPECTED_SPLIT


EXPECTED_SPLIT = "ac0b980614700adad41fb4886d68f06b8e7ed9e72c4fc84c6830a7944e72e6a5"


def test_a_folder_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data set 'digits' reads no folder"):
        load_dataset("digits", tmp_path)
