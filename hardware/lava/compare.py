"""The comparison that counts: the simulator against Lava on the same file and the same input."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import Mismatch
from sca_deploy.hardware.lava.client import DEFAULT_TIMEOUT, run_lava
from sca_deploy.hardware.program import Layer, Program
from sca_deploy.hardware.simulate import Records, simulate

CHUNK_VALUES = 1 << 24
"""Recorded values of the simulator that are in memory at once."""


@dataclass(frozen=True)
class Difference:
    """One value that differs. neuron is its index in the layer's shape."""

    what: str
    sample: int
    step: int
    neuron: tuple[int, ...]
    simulator: int
    lava: int


@dataclass
class LayerCheck:
    """How one layer compared: values compared, spikes Lava fired, values that differ, and the first of them."""

    name: str
    values: int = 0
    spikes: int = 0
    mismatches: int = 0
    first: Difference | None = None


@dataclass(frozen=True)
class Verification:
    """The outcome of a comparison; seconds are those of the runs themselves, without starting Lava."""

    samples: int
    steps: int
    layers: tuple[LayerCheck, ...]
    simulator_seconds: float
    lava_seconds: float
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def mismatches(self) -> int:
        """Values that differ, over all layers."""
        return sum(layer.mismatches for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        return {
            "samples": self.samples,
            "steps": self.steps,
            "layers": [
                {"name": layer.name, "values": layer.values, "spikes": layer.spikes, "mismatches": layer.mismatches}
                for layer in self.layers
            ],
            "mismatches": self.mismatches,
            "simulator_seconds": self.simulator_seconds,
            "lava_seconds": self.lava_seconds,
        }

    def raise_on_mismatch(self) -> None:
        """Raise unless every value is equal.

        Raises:
            Mismatch: naming the first layer, sample, step and neuron that differ.
        """
        for layer in self.layers:
            if layer.first is not None:
                at = layer.first
                raise Mismatch(
                    f"layer '{layer.name}', sample {at.sample}, step {at.step}, neuron {at.neuron}: {at.what}"
                    f" is {at.simulator} in the simulator and {at.lava} in Lava"
                    f" ({self.mismatches} of {sum(check.values for check in self.layers)} values differ)",
                    "export the network again, so that its files and the Program are of one export",
                )


def verify(
    program: Program,
    network_path: str | Path,
    x: npt.NDArray[np.generic],
    *,
    states: bool = False,
    python: str | Path | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Verification:
    """Compare every spike of every layer, and `v` of the read-out at every step.

    Args:
        program: what the simulator runs.
        network_path: what Lava runs, a .net file or a network.py; written for `program`.
        x: integers, (samples, steps, *input_shape).
        states: compare u and v of every layer at every step as well.
        python, timeout: see `client.run_lava`.

    Raises:
        MissingExtra, UsageError, ScaDeployError: as `client.run_lava`. Differences do not raise here.
    """
    lava = run_lava(network_path, program, x, states=states, python=python, timeout=timeout)
    checks = {layer.name: LayerCheck(layer.name) for layer in program.layers}
    seconds = 0.0
    for chunk in _chunks(program, *x.shape[:2]):
        started = time.perf_counter()
        simulation = simulate(program, x[chunk], record=("spikes", "u", "v") if states else ("spikes", "v"))
        seconds += time.perf_counter() - started
        for layer in program.layers:
            _check(checks[layer.name], layer, simulation.records, lava.records, chunk)
    return Verification(x.shape[0], x.shape[1], tuple(checks.values()), seconds, lava.seconds, lava.versions)


def _chunks(program: Program, samples: int, steps: int) -> Iterator[slice]:
    size = max(1, CHUNK_VALUES // (steps * sum(layer.neurons for layer in program.layers)))
    for start in range(0, samples, size):
        yield slice(start, min(start + size, samples))


def _check(check: LayerCheck, layer: Layer, simulator: Records, lava: Records, chunk: slice) -> None:
    """Compare whatever Lava recorded of a layer for some samples."""
    for what, recorded in lava[layer.name].items():
        theirs, ours = recorded[chunk], simulator[layer.name][what]
        differ = theirs != ours
        count = int(np.count_nonzero(differ))
        check.values += theirs.size
        check.mismatches += count
        if what == "spikes":
            check.spikes += int(np.count_nonzero(theirs))
        if count and check.first is None:
            place = tuple(int(n) for n in np.unravel_index(int(differ.argmax()), differ.shape))
            check.first = Difference(
                what, place[0] + chunk.start, place[1], place[2:], int(ours[place]), int(theirs[place])
            )
