"""Input files for the simulated chip and the float engine, and what they recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.files import atomic_path
from sca_deploy.hardware.counts import count
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.euler import NEURONS, SPIKING
from sca_deploy.hardware.flattening import flattened
from sca_deploy.hardware.float_graph import run_graph
from sca_deploy.hardware.program import Shape
from sca_deploy.hardware.simulate import Records, Simulation

FLOAT_RECORDABLE = ("spikes", "v", "values")
FLOAT_VALUES = 1 << 22
"""Input values of the samples that are run in floats at once."""


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


def float_records(
    graph: nir.NIRGraph,
    dynamics: Dynamics,
    x: npt.NDArray[np.generic],
    record: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> Records:
    """Node -> what -> (samples, steps, *shape) of a graph run in floats, some samples at a time.

    Args:
        graph: any NIR graph.
        dynamics: how its neurons step.
        x: (samples, steps, *input shape).
        record: of "spikes" (of spiking nodes; counts where a neuron may spike more than once), "v" (of all neurons,
            after the step) and "values" (of the other nodes, what they put out, and what enters the Output).
        progress: called with the number of samples finished.

    Raises:
        UsageError: if `record` names something else.
        ScaDeployError: if the graph cannot be run, or x does not fit it.
    """
    unknown = set(record) - set(FLOAT_RECORDABLE)
    if unknown:
        raise UsageError(f"cannot record {', '.join(sorted(unknown))}", f"choose from {', '.join(FLOAT_RECORDABLE)}")
    nodes = flattened(graph)[0]
    parts: dict[str, dict[str, list[npt.NDArray[np.generic]]]] = {}
    size = max(1, FLOAT_VALUES // max(1, x[:1].size))
    for start in range(0, len(x), size):
        potentials: dict[str, npt.NDArray[np.floating]] | None = {} if "v" in record else None
        chunk = x[start : start + size]
        for name, out in run_graph(graph, dynamics, chunk, potentials=potentials).items():
            what = (
                "spikes" if isinstance(nodes[name], SPIKING) else "v" if isinstance(nodes[name], NEURONS) else "values"
            )
            kept = {what: _narrow(out) if what == "spikes" else out} if what in record else {}
            if potentials is not None and name in potentials:
                kept["v"] = potentials[name]
            for key, array in kept.items():
                parts.setdefault(name, {}).setdefault(key, []).append(array)
        if progress is not None:
            progress(len(chunk))
    return {name: {key: np.concatenate(found) for key, found in what.items()} for name, what in parts.items()}


def _narrow(spikes: npt.NDArray[np.floating]) -> npt.NDArray[np.generic]:
    most = spikes.max(initial=0)
    return spikes.astype(np.uint8 if most < 256 else np.int64)


def save_records(path: Path, records: Records, **more: npt.NDArray[np.generic]) -> None:
    """Write `<node>/<what>` for every record, the names of the nodes in `layers`, and `more` as it is."""
    arrays = {f"{name}/{what}": values for name, record in records.items() for what, values in record.items()} | more
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, layers=np.array(list(records)), **arrays)


def spike_summary(records: Records, x: npt.NDArray[np.generic]) -> dict[str, Any]:
    """Samples, steps, and the spikes of every node that recorded them."""
    layers = [
        {"name": name, "neurons": int(np.prod(record["spikes"].shape[2:])), "spikes": int(record["spikes"].sum())}
        for name, record in records.items()
        if "spikes" in record
    ]
    return {"samples": len(x), "steps": int(x.shape[1]), "layers": layers}


def save(path: Path, run: Simulation) -> None:
    """Write `<layer>/<what>` for every record, the read-out's final v as `readout`, and names in `layers`."""
    save_records(path, run.records, **({} if run.readout is None else {"readout": run.readout}))


def summary(run: Simulation) -> dict[str, Any]:
    """Samples, steps, what was counted a layer, and the class with the largest read-out potential of each sample."""
    counts = count(run)
    layers = [{"name": layer.name, **asdict(layer.tally)} for layer in counts.layers]
    predictions = None if run.readout is None else run.readout.argmax(1).tolist()
    return {"samples": run.samples, "steps": run.steps, "layers": layers, "predictions": predictions}
