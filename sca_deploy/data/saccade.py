"""Simulated N-MNIST: images seen by an event camera that makes three saccades.

Orchard, Jayawant, Cohen and Thakor (2015), "Converting static image datasets to spiking neuromorphic datasets using
saccades", moved a real event camera in front of a screen that showed MNIST. Here the screen, the motion and the pixels
are computed. With the grey level g of an image (0 to 255), a pixel of the sensor at time t sees

    I(x, y) = 1 + CONTRAST (g / 255)^GAMMA          light of the screen, in units of its black
    L(t) = ln I(x - dx(t), y - dy(t))               bilinear between the image's pixels, black around it

and, as event cameras do (Lichtsteiner, Posch and Delbruck 2008), sends an event for every THRESHOLD that L has
changed since the pixel's last event. The displacement (dx, dy) runs along TRIANGLE, one side a saccade, each with the
bell-shaped velocity of the minimum-jerk trajectory (Flash and Hogan 1985):

    s(u) = 10 u^3 - 15 u^4 + 6 u^5                  part of the side covered at the fraction u of the saccade

There is no noise, no mismatch between pixels and no refractory period, so the same image always gives the same events;
real recordings have all three. What is measured on this is to be called "simulated N-MNIST".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sca_deploy.data.dataset import Pixels
from sca_deploy.errors import ScaDeployError, UsageError

SACCADES = 3
SACCADE_US = 100_000
"""A saccade lasts 100 ms (Orchard et al. 2015)."""
RECORDING_US = 310_000
"""Three saccades and a rest. Our choice: real recordings last a little over 300 ms, and of 300, 305, 310 and 315 ms
this one shares the events out over time most like them."""
TRIANGLE = ((0.0, 0.0), (3.5, 7.0), (7.0, 0.0), (0.0, 0.0))
"""Corners of the image's path in pixels (right, down), as the set's publisher undoes it when stabilising recordings."""
MARGIN = 6
"""The sensor is so much larger than the image: 34 pixels for 28, as in N-MNIST."""
PLACE = (-0.5, 1.0)
"""Where the image starts on the sensor (right, down). Our choice: the mean of all events comes to lie where it does in
real recordings."""
GAMMA = 2.2
"""Of a common screen (IEC 61966-2-1 comes to about that). Our choice: the paper does not tell."""
CONTRAST = 10.0
"""The white of the screen as seen is 11 times its black. Our choice."""
THRESHOLD = 0.54
"""Of the logarithm of light. Our choice: as many events a recording as real ones have."""
LONGEST_STEP_US = 3_500
"""Light is looked at least so often. Our choice: half of it changes the number of events by less than 1 %."""
BRIGHTER, DARKER = 0, 1
"""Channels. In N-MNIST the leading edge of the white digit, which brightens, has polarity bit 0."""

_BLOCK = 32
"""Images converted at once: what they need stays in a core's cache."""
_BORDER = 8
"""Black pixels around the sensor, so that no displacement looks beyond the array."""

EVENT = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.int8)])

Floats = npt.NDArray[np.float32]


def saccade_frames(images: Pixels, steps: int) -> Pixels:
    """The events of every image, counted in time bins of equal length.

    Args:
        images: uint8, (N, height, width), 0 black to 255 white.
        steps: time bins T.

    Returns:
        uint8, (N, T, 2, height + 6, width + 6): events that pixel has sent in that bin, brighter in channel 0,
        darker in channel 1; counts above 255 become 255.

    Raises:
        UsageError: if there is not one time bin at least.
        ScaDeployError: if the images are not uint8 of (N, height, width).
    """
    _check(images, steps)
    count, height, width = images.shape
    frames = np.zeros((count, steps, 2, height + MARGIN, width + MARGIN), np.uint8)
    for first in range(0, count, _BLOCK):
        block = slice(first, first + _BLOCK)
        total = np.zeros(frames[block, 0, 0].shape, np.float32)
        signed = np.zeros_like(total)
        for moment, change in enumerate(_changes(images[block], steps), start=1):
            signed += change
            total += np.abs(change, out=change)
            step, rest = divmod(moment, _moments(steps))
            if rest == 0:
                frames[block, step - 1, BRIGHTER] = np.minimum((total + signed) / 2, 255)
                frames[block, step - 1, DARKER] = np.minimum((total - signed) / 2, 255)
                total[:], signed[:] = 0, 0
    return frames


def saccade_events(image: Pixels, steps: int = 10) -> npt.NDArray[np.void]:
    """The events of one image, for inspection.

    Args:
        image: uint8, (height, width).
        steps: binned into so many, they give the frame that `saccade_frames` does.

    Returns:
        (events,) with the fields x, y, t in microseconds and p (0 brighter, 1 darker), sorted by time. Events that a
        pixel sends between two moments at which its light is looked at are spread evenly in between.

    Raises:
        UsageError, ScaDeployError: as `saccade_frames`.
    """
    _check(image[None], steps)
    length = RECORDING_US / (steps * _moments(steps))
    found = []
    for moment, change in enumerate(_changes(image[None], steps)):
        y, x = np.nonzero(change[0])
        number = np.abs(change[0, y, x]).astype(np.int64)
        of = np.repeat(np.arange(len(x)), number)
        nth = np.arange(len(of)) - np.repeat(np.cumsum(number) - number, number)
        events = np.zeros(len(of), EVENT)
        events["x"], events["y"] = x[of], y[of]
        events["t"] = length * (moment + (nth + 0.5) / number[of])
        events["p"] = np.where(change[0, y, x] > 0, BRIGHTER, DARKER)[of]
        found.append(events)
    every = np.concatenate(found)
    return every[np.argsort(every["t"], kind="stable")]


def displacement(microseconds: float) -> tuple[float, float]:
    """Where the image is at a time, in pixels (right, down) from where it started."""
    saccade, within = divmod(microseconds, SACCADE_US)
    if saccade >= SACCADES:
        return TRIANGLE[-1]
    u = within / SACCADE_US
    covered = u**3 * (10 - 15 * u + 6 * u**2)
    (x0, y0), (x1, y1) = TRIANGLE[int(saccade)], TRIANGLE[int(saccade) + 1]
    return x0 + covered * (x1 - x0), y0 + covered * (y1 - y0)


def _moments(steps: int) -> int:
    """How often light is looked at in a time bin; a whole number, so that no moment straddles two bins."""
    return -(-RECORDING_US // (LONGEST_STEP_US * steps))


def _changes(images: Pixels, steps: int) -> Iterator[Floats]:
    """At every moment, the events each pixel sends: (N, H, W), positive for brighter, negative for darker."""
    light = _light(images)
    moments = steps * _moments(steps)
    at_rest = _level(light, 0.0)
    sent = np.zeros_like(at_rest)
    for moment in range(1, moments + 1):
        change = _level(light, RECORDING_US * moment / moments)
        # `sent` counts in whole thresholds from the start, so that coming back to a level is exact, not rounded.
        change -= at_rest
        change -= sent
        np.trunc(change, out=change)
        sent += change
        yield change


def _light(images: Pixels) -> Floats:
    """The light of the screen around the sensor: (N, H + 2 border, W + 2 border), black being 1."""
    count, height, width = images.shape
    around = 2 * _BORDER + MARGIN
    light = np.ones((count, height + around, width + around), np.float32)
    table = 1 + CONTRAST * (np.arange(256) / 255) ** GAMMA
    light[:, _BORDER : _BORDER + height, _BORDER : _BORDER + width] = table.astype(np.float32)[images]
    return light


def _level(light: Floats, microseconds: float) -> Floats:
    """The logarithm of the light on the sensor at a time, in thresholds: (N, H, W)."""
    x, y = displacement(microseconds)
    left, right_part = divmod(_BORDER - PLACE[0] - x, 1)
    top, low_part = divmod(_BORDER - PLACE[1] - y, 1)
    rows, columns = (side - 2 * _BORDER for side in light.shape[1:])
    seen = light[:, int(top) : int(top) + rows + 1, int(left) : int(left) + columns + 1]
    # a + w (b - a) gives a exactly where a = b: black stays black.
    across = seen[:, :, 1:] - seen[:, :, :-1]
    across *= np.float32(right_part)
    across += seen[:, :, :-1]
    level = across[:, 1:] - across[:, :-1]
    level *= np.float32(low_part)
    level += across[:, :-1]
    np.log(level, out=level)
    level *= np.float32(1 / THRESHOLD)
    return level


def _check(images: Pixels, steps: int) -> None:
    if steps < 1:
        raise UsageError(f"recordings are to have {steps} time bins, at least 1 is needed")
    if images.ndim != 3 or images.dtype != np.uint8:
        raise ScaDeployError(f"images are {images.dtype} of shape {images.shape}, not uint8 of (samples, H, W)")
