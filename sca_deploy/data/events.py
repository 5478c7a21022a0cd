"""Sets of recordings from event cameras and cochleas, as counts of events in time bins.

Tonic cuts a recording, from its first event to its last, into T bins of equal length and counts the events of every
pixel and polarity in each (ToFrame with n_time_bins; the microseconds that do not divide by T are dropped at the end,
at most T - 1 of them and the last event). So a long recording is binned more coarsely than a short one. A count is
what an input message carries: it is kept in 8 bits, counts above 255 become 255.

Sets are only ever read from a folder: nothing is downloaded. What was binned is kept, compressed, in the user's cache,
and used as long as the folder holds the same files by name, size and time of change. No hashes of single files are
published for these sets; every file is checked for what its format demands.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sca_deploy.data.dataset import Dataset, Pixels
from sca_deploy.data.event_sets import PUBLISHED, EventSet, Source
from sca_deploy.data.idx import MNIST, load_idx
from sca_deploy.data.kept import keep, recall
from sca_deploy.data.places import AGAIN, cache_folder
from sca_deploy.data.recordings import Events, tonic
from sca_deploy.data.saccade import saccade_frames
from sca_deploy.errors import ScaDeployError, UsageError, unknown_name

COUNT_MAX = 255
SIMULATED = "simulated-n-mnist"
_BLOCK = 1024
"""Images turned into events at once, before they are brought to another size."""

EVENT_SETS: dict[str, str] = {name: published.summary for name, published in PUBLISHED.items()} | {
    SIMULATED: "MNIST through a simulated event camera that makes three saccades, 34 x 34 x 2; needs MNIST alone"
}
"""Every set of recordings and what it holds, in one line."""


def load_events(name: str, folder: Path | None, steps: int, size: int = 0) -> Dataset:
    """Load a set of recordings in `steps` time bins.

    Args:
        name: a key of `EVENT_SETS`.
        folder: where its files are (for "simulated-n-mnist", those of MNIST); None to look in the usual place.
        steps: time bins T.
        size: sum the events over pixels so that frames are `size` wide and high (a line of channels: `size` long); 0
            leaves them as they are.

    Returns:
        A timed set: (samples, T, 2, height, width), for "shd" (samples, T, channels), 0 to 255.

    Raises:
        UsageError: if there is no set of that name, no time bin, or `size` exceeds the sensor.
        ScaDeployError: if its files are missing or damaged.
        MissingExtra: if tonic is needed and not installed.
    """
    if name not in EVENT_SETS:
        raise unknown_name("data set", name, EVENT_SETS)
    if steps < 1:
        raise UsageError(f"recordings are to have {steps} time bins, at least 1 is needed")
    if name == SIMULATED:
        return _simulated(folder, steps, size)
    published = PUBLISHED[name]
    frame = published.frame(size)
    place = published.find(folder)
    if place is None:
        raise ScaDeployError(
            f"data set '{name}' is not in {folder or cache_folder(name)}",
            f"get it from {published.get} into {folder or cache_folder(name)}",
        )
    train, test = published.sources(place)
    key = _fingerprint([*train, *test], published, frame, steps)
    kept = _cache(place, published, steps, size)
    arrays = recall(kept, key)
    if arrays is None:
        arrays = (_binned(train, published, steps, frame), _binned(test, published, steps, frame))
        keep(kept, key, arrays, "the binned events", compress=True)
    labels = [np.array([label for source in split for label in source.labels], np.int64) for split in (train, test)]
    return Dataset(name, arrays[0], labels[0], arrays[1], labels[1], published.classes, COUNT_MAX, timed=True)


def _simulated(folder: Path | None, steps: int, size: int) -> Dataset:
    """MNIST through the saccade converter, under a name that says so."""
    frame = PUBLISHED["n-mnist"].frame(size)
    images = load_idx(MNIST, folder)

    def frames(x: Pixels) -> Pixels:
        out = np.empty((len(x), steps, *frame), np.uint8)
        for start in range(0, len(x), _BLOCK):
            block = slice(start, start + _BLOCK)
            out[block] = _clipped(_summed(saccade_frames(x[block, 0], steps), frame))
        return out

    x = [frames(split) for split in (images.train_x, images.test_x)]
    return Dataset(SIMULATED, x[0], images.train_y, x[1], images.test_y, images.classes, COUNT_MAX, timed=True)


def _binned(sources: list[Source], published: EventSet, steps: int, frame: tuple[int, ...]) -> Pixels:
    """The frames of all recordings of the sources: (samples, T, *frame)."""
    to_frame = tonic("transforms").ToFrame(sensor_size=published.sensor, n_time_bins=steps)
    out = np.empty((sum(len(source.labels) for source in sources), steps, *frame), np.uint8)
    sample = 0
    for source in sources:
        for events in source.read():
            _check(events, source.path, published.sensor, steps)
            # Bins are found by bisection, and some cameras deliver events slightly out of order.
            events = events[np.argsort(events["t"], kind="stable")]
            one_line = published.sensor[1] == 1
            counts = to_frame(events[["t", "x", "p"]].copy() if one_line else events)
            out[sample] = _clipped(_summed(counts[:, 0] if one_line else counts, frame))
            sample += 1
    return out


def _check(events: Events, path: Path, sensor: tuple[int, int, int], steps: int) -> None:
    if len(events) == 0:
        raise ScaDeployError(f"{path} holds a recording without events", AGAIN)
    for name, limit in zip("xyp", sensor, strict=True):
        low, high = int(events[name].min()), int(events[name].max())
        if low < 0 or high >= limit:
            worst = high if high >= limit else low
            raise ScaDeployError(f"{path} holds an event with {name} = {worst}, outside 0 to {limit - 1}", AGAIN)
    length = int(np.ptp(events["t"]))
    if length < steps:
        raise ScaDeployError(f"{path} holds a recording of {length} microseconds, too short for {steps} time bins")


def _summed(counts: npt.NDArray[np.integer], frame: tuple[int, ...]) -> npt.NDArray[np.integer]:
    """Counts (..., *frame) from those of the whole sensor: pixel x of W becomes pixel floor(x size / W)."""
    axes = range(-1, -len(frame), -1) if len(frame) > 1 else (-1,)
    for axis in axes:
        side, size = counts.shape[axis], frame[axis]
        if size != side:
            first = -(-np.arange(size) * side // size)
            counts = np.add.reduceat(counts, first, axis=axis, dtype=np.int64)
    return counts


def _clipped(counts: npt.NDArray[np.integer]) -> Pixels:
    clipped: Pixels = np.minimum(counts, COUNT_MAX).astype(np.uint8)
    return clipped


def _fingerprint(sources: list[Source], published: EventSet, frame: tuple[int, ...], steps: int) -> str:
    """A hash of all that decides the frames."""
    digest = hashlib.sha256(repr((published.name, published.sensor, frame, steps)).encode())
    for source in sources:
        status = source.path.stat()
        digest.update(f"{source.path}\0{source.labels}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _cache(place: Path, published: EventSet, steps: int, size: int) -> Path:
    name = hashlib.sha256(f"{place.resolve()}\0{published.name}\0{steps}\0{size}".encode()).hexdigest()[:32]
    return cache_folder("binned") / f"{name}.npz"
