"""The saccade converter, against a pixel-by-pixel loop and against real recordings."""

from __future__ import annotations

import os
from math import floor, log
from pathlib import Path

import numpy as np
import pytest

from sca_deploy.data import saccade
from sca_deploy.data.idx import MNIST, load_idx
from sca_deploy.data.saccade import BRIGHTER, DARKER, displacement, saccade_events, saccade_frames
from sca_deploy.errors import ScaDeployError, UsageError

SQUARE = np.zeros((12, 12), np.uint8)
SQUARE[4:8, 4:8] = 255


def light(image: np.ndarray, row: float, column: float) -> float:
    """What is seen at a place between the image's pixels: bilinear, black outside."""
    top, left = floor(row), floor(column)
    seen = 0.0
    for r, across in ((top, 1 - (row - top)), (top + 1, row - top)):
        for c, along in ((left, 1 - (column - left)), (left + 1, column - left)):
            inside = 0 <= r < image.shape[0] and 0 <= c < image.shape[1]
            grey = float(image[r, c]) if inside else 0.0
            seen += across * along * (1 + saccade.CONTRAST * (grey / 255) ** saccade.GAMMA)
    return seen


def frames_by_hand(image: np.ndarray, steps: int) -> np.ndarray:
    """One pixel after the other, one moment after the other, one event after the other, as the module's text says."""
    sides = [side + 6 for side in image.shape]
    frames = np.zeros((steps, 2, *sides), int)
    moments = next(n for n in range(1, 1000) if 310_000 / (steps * n) <= 3_500)
    for row in range(sides[0]):
        for column in range(sides[1]):

            def level(microseconds: float, row: int = row, column: int = column) -> float:
                right, down = displacement(microseconds)
                return log(light(image, row - 1.0 - down, column + 0.5 - right))

            at_rest, sent = level(0), 0
            for moment in range(1, steps * moments + 1):
                now = level(310_000 * moment / (steps * moments)) - at_rest
                while abs(now - sent * saccade.THRESHOLD) >= saccade.THRESHOLD:
                    brighter = now > sent * saccade.THRESHOLD
                    sent += 1 if brighter else -1
                    frames[(moment - 1) // moments, 0 if brighter else 1, row, column] += 1
    return frames


@pytest.mark.parametrize("steps", [1, 4])
def test_frames_are_those_of_a_loop_over_pixels_moments_and_events(steps: int) -> None:
    image = np.random.default_rng(3).integers(0, 256, (6, 5), np.uint8)
    image[0] = 0
    expected = frames_by_hand(image, steps)
    assert expected.sum() > 500
    np.testing.assert_array_equal(saccade_frames(image[None], steps)[0], expected)


def test_images_are_converted_independently_of_one_another() -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 5, 5), np.uint8)
    alone = [saccade_frames(images[i : i + 1], 3)[0] for i in (0, 31, 32, 69)]
    np.testing.assert_array_equal(saccade_frames(images, 3)[[0, 31, 32, 69]], alone)


def test_the_sensor_of_a_mnist_image_is_that_of_n_mnist() -> None:
    frames = saccade_frames(np.zeros((2, 28, 28), np.uint8), 10)
    assert (frames.shape, frames.dtype) == ((2, 10, 2, 34, 34), np.uint8)


def test_a_black_image_sends_nothing() -> None:
    assert not saccade_frames(np.zeros((1, 8, 8), np.uint8), 5).any()


def test_every_pixel_brightens_as_often_as_it_darkens_since_the_path_closes() -> None:
    images = np.random.default_rng(1).integers(0, 256, (8, 20, 20), np.uint8)
    total = saccade_frames(images, 6).sum(1, dtype=int)
    assert total.sum() > 10_000
    np.testing.assert_array_equal(total[:, BRIGHTER], total[:, DARKER])


@pytest.mark.parametrize(("saccade_number", "axis", "sign"), [(0, 0, 1), (1, 0, -1), (2, 1, -1)])
def test_the_leading_edge_of_a_white_square_brightens(saccade_number: int, axis: int, sign: int) -> None:
    """Down first, then up, then left."""
    events = saccade_events(SQUARE)
    now = events[(events["t"] // 100_000 == saccade_number)]
    name = ("y", "x")[axis]
    brighter, darker = (now[name][now["p"] == p].mean() for p in (BRIGHTER, DARKER))
    assert sign * (brighter - darker) > 2


def test_the_image_rests_on_the_corners_of_the_triangle_and_moves_like_a_bell_in_between() -> None:
    assert [displacement(t) for t in (0, 100e3, 200e3, 300e3, 310e3)] == [(0, 0), (3.5, 7), (7, 0), (0, 0), (0, 0)]
    assert displacement(50e3) == pytest.approx((1.75, 3.5))
    assert displacement(30e3)[1] == pytest.approx(7 - displacement(70e3)[1])
    # The peak velocity of a minimum-jerk movement is 15/8 of its mean (Flash and Hogan 1985).
    assert (displacement(50_001)[1] - displacement(49_999)[1]) / 2 == pytest.approx(15 / 8 * 7 / 100e3, rel=1e-6)
    assert displacement(1_000)[1] < 1e-4


@pytest.mark.parametrize("steps", [1, 7, 10])
def test_the_events_of_an_image_binned_are_its_frames(steps: int) -> None:
    events = saccade_events(SQUARE, steps)
    frames = np.zeros((steps, 2, 18, 18), int)
    for event in events:
        frames[int(event["t"]) * steps // 310_000, event["p"], event["y"], event["x"]] += 1
    np.testing.assert_array_equal(saccade_frames(SQUARE[None], steps)[0], frames)
    assert (np.diff(events["t"]) >= 0).all()
    assert len(np.unique(events["t"])) > 50


def test_two_bins_of_ten_hold_what_one_of_five_holds() -> None:
    ten, five = (saccade_frames(SQUARE[None], steps).astype(int) for steps in (10, 5))
    np.testing.assert_array_equal(ten.reshape(1, 5, 2, 2, 18, 18).sum(2), five)


def test_counts_that_do_not_fit_become_255(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saccade, "THRESHOLD", 0.005)
    assert saccade_frames(SQUARE[None], 1).max() == 255


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(UsageError, match="0 time bins, at least 1"):
        saccade_frames(SQUARE[None], 0)
    with pytest.raises(ScaDeployError, match=r"float64 of shape \(1, 12, 12\), not uint8"):
        saccade_frames(SQUARE[None] / 255, 4)
    with pytest.raises(ScaDeployError, match=r"shape \(12, 12\), not uint8 of \(samples, H, W\)"):
        saccade_frames(SQUARE, 4)


def test_simulated_statistics_are_near_those_of_real_recordings() -> None:
    """Within 5 % in events, and within 4 points in each tenth of the time, of 1,000 real recordings of N-MNIST."""
    recordings = Path(os.environ.get("SCA_DEPLOY_NMNIST_FRAMES", ""))
    if not recordings.is_file():
        pytest.skip("SCA_DEPLOY_NMNIST_FRAMES names no file with real recordings in ten bins")
    try:
        mnist = load_idx(MNIST)
    except ScaDeployError as error:
        pytest.skip(error.problem)
    with np.load(recordings, allow_pickle=False) as archive:
        real, labels = archive["train"], archive["ytr"]
    same_digits = np.concatenate([np.flatnonzero(mnist.train_y == d)[: (labels == d).sum()] for d in range(10)])
    simulated = saccade_frames(mnist.train_x[same_digits, 0], 10)
    events = [frames.sum((1, 2, 3, 4), dtype=int).mean() for frames in (real, simulated)]
    assert events[1] == pytest.approx(events[0], rel=0.05)
    profile = [frames.sum((0, 2, 3, 4), dtype=int) / frames.sum(dtype=int) for frames in (real, simulated)]
    np.testing.assert_allclose(profile[1], profile[0], atol=0.04)
    polarity = [frames.sum((0, 1, 3, 4), dtype=int) for frames in (real, simulated)]
    for brighter, darker in polarity:
        assert brighter / darker == pytest.approx(1, abs=0.02)
