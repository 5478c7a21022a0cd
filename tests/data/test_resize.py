"""Images at another height and width."""

from __future__ import annotations

import numpy as np
import pytest

from sca_deploy.data import Dataset, load_dataset
from sca_deploy.data.resize import resize_dataset
from sca_deploy.errors import UsageError


def dataset(shape: tuple[int, ...], timed: bool = False) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4, *shape), np.uint8)
    y = np.array([0, 1, 0, 1])
    return Dataset("drawn", x, y, x[:2], y[:2], classes=2, pixel_max=255, timed=timed)


def test_a_shrunk_pixel_is_the_mean_of_the_box_it_covers() -> None:
    found = dataset((3, 12, 12))
    small = resize_dataset(found, 4)
    boxes = found.train_x.reshape(4, 3, 4, 3, 4, 3).mean((3, 5))
    # Rows and columns are averaged one after the other, each rounded to a whole number.
    assert np.abs(small.train_x - boxes).max() <= 1
    assert small.test_x.shape == (2, 3, 4, 4)


def test_enlarging_interpolates_between_pixels() -> None:
    ramp = np.broadcast_to(np.array([0, 100], np.uint8), (2, 1, 2, 2)).copy()
    y = np.array([0, 1])
    found = resize_dataset(Dataset("ramp", ramp, y, ramp, y, classes=2, pixel_max=255), 4)
    # Pixel centres of the result lie at -1/4, 1/4, 3/4 and 5/4 of the way.
    np.testing.assert_array_equal(found.train_x[0, 0], np.tile([0, 25, 75, 100], (4, 1)))


def test_images_that_are_not_square_become_so() -> None:
    assert resize_dataset(dataset((1, 6, 10)), 5).shape == (1, 5, 5)


def test_size_0_and_the_images_own_size_change_nothing() -> None:
    found = dataset((3, 12, 12))
    assert resize_dataset(found, 0) is found
    assert resize_dataset(found, 12) is found


def test_small_pixels_stay_in_their_range() -> None:
    assert load_dataset("digits", size=16).train_x.max() <= 16


@pytest.mark.parametrize(("shape", "timed"), [((20,), False), ((3, 2, 8, 8), True)])
def test_what_is_no_image_is_not_resized(shape: tuple[int, ...], timed: bool) -> None:
    with pytest.raises(UsageError, match="data.size is 4, but the samples of data set 'drawn' are of shape"):
        resize_dataset(dataset(shape, timed), 4)
