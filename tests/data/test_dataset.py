"""What every data set must be before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sca_deploy.config import DataConfig
from sca_deploy.data import DATASETS, Dataset, configured, load_dataset
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


FRAMES: dict[str, tuple[bool, tuple[int, ...], tuple[int, ...]]] = {
    "images": (False, (1, 4, 5), (1, 4, 5)),
    "features": (False, (20,), (20,)),
    "recordings of frames": (True, (3, 2, 4, 5), (2, 4, 5)),
    "recordings of features": (True, (3, 20), (20,)),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_sound_set_knows_the_shape_of_a_frame(kind: str) -> None:
    timed, sample, frame = FRAMES[kind]
    x = {"train_x": np.zeros((6, *sample), np.uint8), "test_x": np.zeros((4, *sample), np.uint8)}
    assert Dataset(**sound() | x, timed=timed).shape == frame


def test_the_first_samples_keep_their_labels_and_their_kind() -> None:
    x = {"train_x": np.arange(12, dtype=np.uint8).reshape(6, 2, 1), "test_x": np.zeros((4, 2, 1), np.uint8)}
    few = Dataset(**sound() | x, timed=True).first(3, 0)
    np.testing.assert_array_equal(few.train_x[:, :, 0], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(few.train_y, [0, 1, 0])
    assert (len(few.test_y), few.timed) == (4, True)


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
        r"tiny: train is empty.*\(0, 1, 4, 5\)",
    ),
    "empty test": ({"test_x": EMPTY, "test_y": np.zeros(0, np.int64)}, "tiny: test is empty"),
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
    assert "\n" not in str(error.value)


TIMED_BROKEN: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "no time": ((6, 1, 4, 5), (4, 1, 4, 5), r"train recordings are uint8 of shape .* not uint8 of \(samples, T, C"),
    "no steps": ((6, 0, 1, 4, 5), (4, 0, 1, 4, 5), "tiny: train is empty"),
    "other steps": ((6, 3, 20), (4, 2, 20), r"train recordings are \(3, 20\), test recordings \(2, 20\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", TIMED_BROKEN)
def test_unsound_recordings_are_refused_in_one_line(case: str) -> None:
    train, test, message = TIMED_BROKEN[case]
    x = {"train_x": np.zeros(train, np.uint8), "test_x": np.zeros(test, np.uint8)}
    with pytest.raises(ScaDeployError, match=message):
        Dataset(**sound() | x, timed=True)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown data set 'fashion_mnist'") as error:
        load_dataset("fashion_mnist")
    assert "did you mean 'fashion-mnist'?" in error.value.fix
    assert "fashion-mnist" in DATASETS


def test_a_config_names_set_folder_size_and_how_many_samples(tmp_path: Path, home: Path) -> None:
    for split, count in (("train", 4), ("test", 3)):
        for label, grey in (("a", 10), ("b", 200)):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                Image.new("L", (6, 8), grey).save(tmp_path / split / label / f"{number}.png")
    config = DataConfig(set="image-folder", folder=str(tmp_path), size=5, train_samples=7, test_samples=4)
    found = configured(config)
    assert (found.shape, len(found.train_y), len(found.test_y)) == ((1, 5, 5), 7, 4)
    np.testing.assert_array_equal(found.train_x[:, 0, 0, 0], [10] * 4 + [200] * 3)


@pytest.mark.parametrize("name", ["n-mnist", "dvs-cifar10", "dvs128-gesture", "shd", "simulated-n-mnist"])
def test_recordings_cannot_be_loaded_without_time_steps(name: str) -> None:
    with pytest.raises(UsageError, match=f"data set '{name}' holds recordings, but no number of time steps"):
        load_dataset(name)
