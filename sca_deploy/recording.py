"""Input files for the simulated chip, and what it recorded."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError
from sca_deploy.files import atomic_path
from sca_deploy.hardware.counts import count
from sca_deploy.hardware.program import Shape
from sca_deploy.hardware.simulate import Simulation


def load_input(path: Path, shape: Shape | None = None) -> npt.NDArray[np.generic]:
    """The array of a .npy file, never unpickled: (samples, steps, ...).

    Args:
        shape: of a network's input; axes of length 1 are put in or left out to fit it.

    Raises:
        ScaDeployError: if the file is missing, damaged or holds objects.
    """
    try:
        with path.open("rb") as stream:
            array = np.load(stream, allow_pickle=False)
    except FileNotFoundError as error:
        raise ScaDeployError(f"no such file: {path}") from error
    except Exception as error:
        # numpy reports damage as ValueError, EOFError, OSError or a zip error.
        raise ScaDeployError(f"{path} is not a readable .npy file ({error})", "write it with numpy.save") from error
    if not isinstance(array, np.ndarray) or array.ndim < 3:
        raise ScaDeployError(f"{path} does not hold one array of (samples, steps, ...)", "write it with numpy.save")
    if shape is not None and _long(array.shape[2:]) == _long(shape):
        return array.reshape(*array.shape[:2], *shape)
    return array


def _long(shape: Shape) -> Shape:
    return tuple(size for size in shape if size > 1)


def save(path: Path, run: Simulation) -> None:
    """Write `<layer>/<what>` for every record, the read-out's final v as `readout`, and names in `layers`."""
    arrays = {f"{layer}/{what}": values for layer, record in run.records.items() for what, values in record.items()}
    if run.readout is not None:
        arrays["readout"] = run.readout
    names = np.array([layer.name for layer in run.program.layers])
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, layers=names, **arrays)


def summary(run: Simulation) -> dict[str, Any]:
    """Samples, steps, what was counted a layer, and the class with the largest read-out potential of each sample."""
    counts = count(run)
    layers = [{"name": layer.name, **asdict(layer.tally)} for layer in counts.layers]
    predictions = None if run.readout is None else run.readout.argmax(1).tolist()
    return {"samples": run.samples, "steps": run.steps, "layers": layers, "predictions": predictions}
