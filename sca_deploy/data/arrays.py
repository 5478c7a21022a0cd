"""A labelled set of your own in one .npz file, as numpy and Keras people keep them.

    x_train (samples, ...), y_train (samples,), x_test, y_test       also: train, ytr, test, yte

Samples are images (C, H, W) or (H, W), feature vectors, or recordings over time (T, C, H, W); with an array `timed`
that is 1 beside them, (T, features). Values are whole numbers from 0 to 255, so event counts and pixels go in as they
are. Nothing is ever unpickled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sca_deploy.data.dataset import Dataset, Labels, Pixels
from sca_deploy.errors import ScaDeployError, UsageError

NAME = "npz"
NAMES = {
    "x_train": ("x_train", "train_x", "train"),
    "y_train": ("y_train", "train_y", "ytr"),
    "x_test": ("x_test", "test_x", "test"),
    "y_test": ("y_test", "test_y", "yte"),
}
WRITE = "write it with numpy.savez(FILE, x_train=..., y_train=..., x_test=..., y_test=...)"
TIMED = "timed"
TIMED_DIMS = 5


def load_arrays(path: Path | None, steps: int | None, size: int) -> Dataset:
    """The set in an .npz file.

    Args:
        path: the file.
        steps: time steps of the network, which recordings must have.
        size: 0; files of arrays are not resized.

    Raises:
        UsageError: if no file is given, or another size is asked for.
        ScaDeployError: if it is missing or damaged, lacks an array, or holds values that are not 0 to 255.
    """
    if path is None:
        raise UsageError("no file of arrays is given", "give --data FILE.npz, or data.folder in a config")
    if size:
        raise UsageError(f"{path} cannot be brought to {size} pixels", "leave data.size out")
    arrays = _read(path)
    timed = _timed(arrays)
    x_train, x_test = (_samples(path, key, arrays[key], timed) for key in ("x_train", "x_test"))
    y_train, y_test = (_labels(path, key, arrays[key]) for key in ("y_train", "y_test"))
    if timed and steps is not None and x_train.shape[1] != steps:
        raise UsageError(f"{path} holds recordings of {x_train.shape[1]} steps, the network lasts {steps}")
    return dataset_of(path.stem, (x_train, y_train), (x_test, y_test), timed)


def dataset_of(name: str, train: tuple[Pixels, Labels], test: tuple[Pixels, Labels], timed: bool) -> Dataset:
    """The set of some arrays; how many classes there are, and the largest value, is seen from them.

    The largest is what so many bits hold: how images are scaled to 0..1 must not depend on which are there.
    """
    (train_x, train_y), (test_x, test_y) = train, test
    found = int(max(train_x.max(initial=0), test_x.max(initial=0)))
    return Dataset(
        name=name,
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        classes=int(max(train_y.max(initial=0), test_y.max(initial=0))) + 1,
        pixel_max=(1 << max(1, found.bit_length())) - 1,
        timed=timed,
    )


def recorded_steps(path: Path) -> int | None:
    """How many time steps the recordings of a file have; None for images and vectors."""
    arrays = _read(path)
    return int(arrays["x_train"].shape[1]) if _timed(arrays) and arrays["x_train"].ndim > 1 else None


def _timed(arrays: dict[str, npt.NDArray[np.generic]]) -> bool:
    """Whether samples are recordings: only the file can tell (T, features) from (H, W)."""
    return arrays["x_train"].ndim == TIMED_DIMS or bool(np.any(arrays.get(TIMED, 0)))


def _read(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {key: next((name for name in names if name in file), None) for key, names in NAMES.items()}
            missing = [key for key, name in found.items() if name is None]
            if missing:
                raise ScaDeployError(f"{path} has no array '{missing[0]}', it holds {', '.join(file.files)}", WRITE)
            found |= {TIMED: TIMED} if TIMED in file else {}
            arrays = {key: file[name] for key, name in found.items() if name is not None}
            odd = [found[key] for key, value in arrays.items() if not isinstance(value, np.ndarray)]
            if odd:  # numpy hands out what is no array as bytes
                raise ValueError(f"'{odd[0]}' is no array")
            return arrays
    except FileNotFoundError as error:
        raise ScaDeployError(f"no such file: {path}") from error
    except ScaDeployError:
        raise
    except Exception as error:
        # numpy and zipfile report damage in many ways.
        reason = (str(error).splitlines() or [""])[0][:120]
        raise ScaDeployError(f"{path} is not a readable .npz file ({reason})", WRITE) from error


def _samples(path: Path, key: str, x: npt.NDArray[np.generic], timed: bool) -> npt.NDArray[np.uint8]:
    if x.dtype.kind not in "iufb" or x.ndim < 2:
        raise ScaDeployError(f"{path}: '{key}' is {x.dtype} of shape {x.shape}, numbers of (samples, ...) are needed")
    with np.errstate(invalid="ignore"):  # NaN and what is out of range become other values, as seen next
        whole = x.astype(np.uint8)
    if not np.array_equal(whole, x):
        raise ScaDeployError(
            f"{path}: '{key}' holds values from {x.min():g} to {x.max():g}, whole numbers from 0 to 255 are needed",
            "multiply pixels of 0 to 1 by 255 and round them",
        )
    return whole[:, None] if whole.ndim == 3 and not timed else whole


def _labels(path: Path, key: str, y: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    if y.dtype.kind not in "iu":
        raise ScaDeployError(f"{path}: '{key}' is {y.dtype}, whole numbers are needed")
    return y.astype(np.int64).reshape(-1)
