"""Runs a graph and what a profile made of it on the same input, and counts the spikes that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import plan, run_graph
from sca_deploy.hardware.program import Shape

SAMPLES, STEPS, DENSITY = 8, 32, 0.2
"""The random spikes that stand in where there is no probe."""


@dataclass(frozen=True)
class Difference:
    """What differs between two graphs that are to do the same.

    Args:
        spikes: that either of the two fires.
        differing: spikes that only one of the two fires, and those fired more often by one.
        output: the largest difference of what enters the Output, relative to its largest value.
        worst: the population with the most differing spikes; empty where none differ.
        input: what both were run on, in words.
    """

    spikes: int
    differing: int
    output: float
    worst: str
    input: str

    @property
    def share(self) -> float:
        """Differing spikes by spikes fired by either, from 0 to 1."""
        return self.differing / max(self.spikes, 1)

    def __str__(self) -> str:
        """12 of 3,456 spikes differ (0.35 %, most in 'lif2') on 8 samples of ..."""
        most = f", most in '{self.worst}'" if self.worst else ""
        share = f" ({100 * self.share:.2g} %{most})" if self.differing else ""
        return f"{self.differing:,} of {self.spikes:,} spikes differ{share} on {self.input}"


def difference(
    given: tuple[nir.NIRGraph, Dynamics],
    made: tuple[nir.NIRGraph, Dynamics],
    renamed: Mapping[str, str],
    x: npt.NDArray[np.generic] | None,
) -> Difference:
    """Run both in float64, a sample at a time.

    Args:
        renamed: the spiking nodes to compare: their names in `made` by those in `given`.
        x: (samples, steps, *input shape), of which 8 samples are used; None for seeded random spikes.
    """
    walk = plan(given[0])
    if x is None:
        scale = given[0].metadata.get("input_scale", 1.0)
        largest_value = max(1, round(1 / scale)) if isinstance(scale, float) and scale > 0 else 1
        x, words = random_spikes(walk.shapes[walk.input], largest_value), f"random spikes of density {DENSITY}"
    else:
        x, words = x[:SAMPLES], "the probe"
    ends = (walk.output, plan(made[0]).output)
    spikes, by_name = 0.0, dict.fromkeys(renamed, 0.0)
    output, largest = 0.0, 0.0
    for sample in np.split(x, len(x)):
        left, right = (run_graph(graph, dynamics, sample) for graph, dynamics in (given, made))
        for name, other in renamed.items():
            one, two = left[name], right[other].reshape(left[name].shape)
            spikes += float(np.maximum(one, two).sum())
            by_name[name] += float(np.abs(one - two).sum())
        output = max(output, float(np.abs(left[ends[0]] - right[ends[1]].reshape(left[ends[0]].shape)).max()))
        largest = max(largest, float(np.abs(left[ends[0]]).max()))
    differing = sum(by_name.values())
    worst = max(by_name, key=lambda name: by_name[name]) if differing else ""
    text = f"{len(x)} samples of {x.shape[1]} steps of {words}"
    return Difference(round(spikes), round(differing), output / largest if largest else output, worst, text)


def random_spikes(shape: Shape, largest: int = 1) -> npt.NDArray[np.float32]:
    """Seeded spikes (8, 32, *shape) that carry 1 to `largest`."""
    generator = np.random.default_rng(0)
    spikes = generator.random((SAMPLES, STEPS, *shape)) < DENSITY
    return (spikes * generator.integers(1, largest + 1, spikes.shape)).astype(np.float32)
