"""What every data set must be before anything is trained on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sca_deploy.data import DATASETS, Dataset, load_dataset
from sca_deploy.errors import ScaDeployError, UsageError


def sound() -> dict[str, Any]:
    """A set of six and four images of two classes."""
    rng = np.random.default_rng(0)
    return {
        "name": "tiny",
        "train_x": rng.integers(0, 17, (6, 1, 4, 5), np.uint8),
        "train_y": np.array([0, 1, 0, 1, 0, 1]),
        "test_x": rng.integers(0, 17, (4, 1, 4, 5), np.uint8),
        "test_y": np.array([0, 1, 1, 0]),
        "classes": 2,
        "pixel_max": 16,
    }


def test_a_sound_set_knows_its_image_shape() -> None:
    assert Dataset(**sound()).shape == (1, 4, 5)


@pytest.mark.parametrize(("pixel_max", "bits"), [(1, 1), (15, 4), (16, 5), (255, 8)])
def test_bits_are_what_the_largest_pixel_needs(pixel_max: int, bits: int) -> None:
    parts = sound()
    for split in ("train_x", "test_x"):
        parts[split] = np.minimum(parts[split], pixel_max)
    assert Dataset(**parts | {"pixel_max": pixel_max}).bits == bits


EMPTY = np.zeros((0, 1, 4, 5), np.uint8)
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "too few labels": ({"train_y": np.array([0, 1])}, "tiny: train has 6 images but 2 labels"),
    "label too large": ({"test_y": np.array([0, 1, 2, 0])}, "tiny: test label 2 is outside 0 to 1"),
    "label negative": ({"train_y": np.array([0, 1, 0, -1, 0, 1])}, "tiny: train label -1 is outside 0 to 1"),
    "one class": ({"train_y": np.ones(6, np.int64)}, "tiny: all train labels are 1; at least 2 classes are needed"),
    "empty train": (
        {"train_x": EMPTY, "train_y": np.zeros(0, np.int64)},
        r"tiny: train holds no pixels.*\(0, 1, 4, 5\)",
    ),
    "empty test": ({"test_x": EMPTY, "test_y": np.zeros(0, np.int64)}, "tiny: test holds no pixels"),
    "no channels": ({"train_x": np.zeros((6, 4, 5), np.uint8)}, r"train images are uint8 of shape \(6, 4, 5\), not"),
    "scaled pixels": ({"test_x": np.zeros((4, 1, 4, 5), np.float32)}, "test images are float32 of shape"),
    "float labels": ({"test_y": np.zeros(4)}, r"test labels are float64 of shape \(4,\), not int64"),
    "bright pixel": ({"train_x": np.full((6, 1, 4, 5), 17, np.uint8)}, "tiny: train pixel 17 is above 16"),
    "other size": (
        {"test_x": np.zeros((4, 1, 5, 5), np.uint8)},
        r"train images are \(1, 4, 5\), test images \(1, 5, 5\)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_unsound_set_is_refused_in_one_line(case: str) -> None:
    change, message = BROKEN[case]
    with pytest.raises(ScaDeployError, match=message) as error:
        Dataset(**sound() | change)
    assert "\n" not in error.value.problem


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown data set 'fashion_mnist'") as error:
        load_dataset("fashion_mnist")
    assert "did you mean 'fashion-mnist'?" in error.value.fix
    assert list(DATASETS) == ["digits", "mnist", "fashion-mnist"]
