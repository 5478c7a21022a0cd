"""Augmentation: what each change may do to an image, against slow code that does it one pixel at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sca_deploy.config import AugmentConfig
from sca_deploy.data.augment import Change, apply, augment, draw
from sca_deploy.errors import UsageError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 200, channels: int = 2, height: int = 5, width: int = 7, seed: int = 0) -> torch.Tensor:
    """Random images without a single 0, so that 0 can only come from outside."""
    return torch.randint(1, 256, (n, channels, height, width), dtype=torch.uint8, generator=seeded(seed))


def windows(image: np.ndarray, pad: int) -> dict[tuple[int, int], np.ndarray]:
    """Every window of the image's size in the image padded with 0, by the row and column it starts at."""
    height, width = image.shape[-2:]
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    places = [(row, column) for row in range(2 * pad + 1) for column in range(2 * pad + 1)]
    return {(row, column): padded[:, row : row + height, column : column + width] for row, column in places}


def test_a_crop_is_one_of_the_windows_of_the_padded_image_and_all_occur() -> None:
    x = images()
    y = augment(x, AugmentConfig(crop=2), seeded())
    seen = set()
    for before, after in zip(x.numpy(), y.numpy(), strict=True):
        [place] = [place for place, window in windows(before, 2).items() if np.array_equal(window, after)]
        seen.add(place)
    assert len(seen) == 25


def test_a_flip_mirrors_left_and_right_in_half_of_the_images() -> None:
    x = images(2000)
    y = augment(x, AugmentConfig(flip=True), seeded())
    same = (y == x).all(dim=(1, 2, 3))
    mirrored = (y == x[..., list(range(6, -1, -1))]).all(dim=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 1000) < 4 * math.sqrt(2000 / 4)


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_cutout_blanks_a_square_around_any_pixel_and_cuts_it_off_at_the_edge(side: int) -> None:
    x = images()
    y = augment(x, AugmentConfig(cutout=side), seeded())
    expected = {}
    for row in range(5):
        for column in range(7):
            square = np.zeros((5, 7), bool)
            top, left = row - side // 2, column - side // 2
            square[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
            expected[square.tobytes()] = (row, column)
    seen = set()
    for before, after in zip(x.numpy(), y.numpy(), strict=True):
        blank = after == 0
        assert (blank[0] == blank[1]).all()
        seen.add(expected[blank[0].tobytes()])
        np.testing.assert_array_equal(after[~blank], before[~blank])
    assert len(seen) == 35


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """The image turned counter-clockwise about its centre, each pixel read from the nearest one; rows grow down."""
    height, width = image.shape[-2:]
    result = np.zeros_like(image)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for row in range(height):
        for column in range(width):
            right, up = column - (width - 1) / 2, (height - 1) / 2 - row
            # Turned back clockwise to where the pixel comes from.
            from_right, from_up = cosine * right + sine * up, cosine * up - sine * right
            source_row = round((height - 1) / 2 - from_up)
            source_column = round(from_right + (width - 1) / 2)
            if 0 <= source_row < height and 0 <= source_column < width:
                result[:, row, column] = image[:, source_row, source_column]
    return result


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (9, 4)])
def test_a_rotation_reads_every_pixel_from_the_nearest_one(height: int, width: int) -> None:
    x = images(60, height=height, width=width)
    degrees = torch.linspace(-179.3, 178.1, 60, dtype=torch.float64)
    y = apply(x, Change(rotation=degrees))
    for before, after, angle in zip(x.numpy(), y.numpy(), degrees.tolist(), strict=True):
        np.testing.assert_array_equal(after, turned(before, angle))


def test_a_rotation_by_quarters_is_numpys() -> None:
    x = images(3, height=6, width=6)
    y = apply(x, Change(rotation=torch.tensor([90.0, 180.0, -90.0], dtype=torch.float64)))
    for index, quarters in enumerate((1, 2, -1)):
        np.testing.assert_array_equal(y[index], np.rot90(x[index].numpy(), quarters, axes=(1, 2)))


def test_angles_fill_the_range_and_nothing_beyond() -> None:
    rotation = draw(AugmentConfig(rotation=20.0), 4000, 5, 5, seeded()).rotation
    assert rotation is not None
    assert rotation.abs().max() <= 20
    counts = torch.histc(rotation.float(), 8, -20, 20)
    assert (counts - 500).abs().max() < 5 * math.sqrt(500)


def test_together_they_are_done_one_after_the_other_rotation_crop_flip_cutout() -> None:
    x = images(100, height=8, width=9)
    config = AugmentConfig(crop=2, flip=True, cutout=3, rotation=40.0)
    change = draw(config, 100, 8, 9, seeded(5))
    assert change.rotation is not None
    assert change.crop is not None
    assert change.flip is not None
    assert change.cutout is not None
    y = augment(x, config, seeded(5)).numpy()
    for index, before in enumerate(x.numpy()):
        step = turned(before, float(change.rotation[index]))
        step = windows(step, 2)[int(change.crop[0, index]) + 2, int(change.crop[1, index]) + 2].copy()
        if change.flip[index]:
            step = step[..., ::-1].copy()
        row, column = change.cutout[:, index].tolist()
        step[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        np.testing.assert_array_equal(y[index], step)


EVERYTHING = AugmentConfig(crop=1, flip=True, cutout=2, rotation=30.0)


def test_all_steps_of_a_recording_are_changed_alike() -> None:
    still = images(50)
    recording = still.unsqueeze(1).expand(-1, 4, -1, -1, -1)
    changed = augment(recording, EVERYTHING, seeded())
    assert changed.shape == recording.shape
    for step in range(4):
        torch.testing.assert_close(changed[:, step], augment(still, EVERYTHING, seeded()))


def test_the_generator_alone_decides() -> None:
    x = images()
    torch.manual_seed(1)
    first = augment(x, EVERYTHING, seeded(3))
    torch.manual_seed(2)
    torch.testing.assert_close(augment(x, EVERYTHING, seeded(3)), first)
    assert not torch.equal(augment(x, EVERYTHING, seeded(4)), first)


def test_the_images_given_stay_as_they_are() -> None:
    x = images()
    before = x.clone()
    changed = augment(x, EVERYTHING, seeded())
    assert torch.equal(x, before)
    assert (changed.dtype, changed.shape) == (torch.uint8, x.shape)


def test_nothing_asked_for_draws_nothing() -> None:
    generator = seeded()
    state = generator.get_state()
    x = images()
    assert torch.equal(augment(x, AugmentConfig(), generator), x)
    assert torch.equal(generator.get_state(), state)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data.augment needs images, but the samples are of shape \(64,\)"):
        augment(torch.zeros(8, 64, dtype=torch.uint8), AugmentConfig(flip=True), seeded())


def test_features_pass_where_nothing_is_asked_for() -> None:
    x = torch.ones(8, 64, dtype=torch.uint8)
    assert torch.equal(augment(x, AugmentConfig(), seeded()), x)
