"""The scale of every layer, searched where its integers fire most like its floats.

Rounding errors do not shrink steadily with the scale: thresholds, biases and weights round to better or worse
luck, and a few outlying weights can keep all others coarse. Each layer in turn therefore tries some scales on
real samples, fed with the spikes that the chip gave so far, and keeps the one whose spikes differ least from
those of the float network. Scales above the largest clip what does not fit. The read-out compares its potentials.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.floats import FloatRun, run_floats
from sca_deploy.hardware.frontend import Population
from sca_deploy.hardware.lower import Rules, assemble, largest_scale, lower_population
from sca_deploy.hardware.neurons import Population as Neurons
from sca_deploy.hardware.program import ALIGNMENT_BITS, INPUT, Layer, Program, Shape
from sca_deploy.hardware.simulate import input_tensor
from sca_deploy.hardware.synapses import channels_last

BELOW = tuple(float(share) for share in np.linspace(0.97, 0.55, 15))
"""Shares of the largest scale that are tried beside it; it stays where nothing is better."""
ABOVE = (1.05, 1.1, 1.2, 1.35, 1.5)
"""Those tried where weights or biases set the largest scale."""


@dataclass(frozen=True)
class Choice:
    """One layer's search.

    Args:
        name: of the layer.
        largest, chosen: scales, integer units per unit of the float model.
        before, after: the share of neuron steps whose spike differs from the float network's, at the largest
            scale and at the chosen one; for the read-out the mean error of `v` relative to its spread.
    """

    name: str
    largest: float
    chosen: float
    before: float
    after: float


def search_scales(
    input_shape: Shape,
    populations: Sequence[Population],
    rules: Rules,
    x: npt.NDArray[np.generic],
    progress: Callable[[int], None] | None = None,
) -> tuple[Choice, ...]:
    """Search the scale of every population.

    Args:
        input_shape, populations: of `frontend.read_populations`.
        rules: steps a sample and bits of a graded input.
        x: real samples to calibrate on, integers (samples, steps, *input shape).
        progress: called with 1 after every population.

    Raises:
        ScaDeployError: as `lower`.
    """
    reference = run_floats(populations, x)
    program = assemble(input_shape, populations, rules)
    known = {INPUT: input_tensor(x, input_shape)}
    choices = []
    for population in populations:
        trial = _Trial(program, population, known, x.shape, reference)
        largest, binding = largest_scale(population, rules)
        shares = BELOW + (ABOVE if binding in ("weights", "biases") else ())
        before, spikes = trial(lower_population(population, rules, largest))
        chosen, after = largest, before
        for share in shares:
            # A scale at which too few steps are left is no candidate.
            with contextlib.suppress(ScaDeployError):
                difference, fired = trial(lower_population(population, rules, largest * share))
                if difference < after:
                    chosen, after, spikes = largest * share, difference, fired
        known[population.name] = spikes
        choices.append(Choice(population.name, largest, chosen, before, after))
        if progress is not None:
            progress(1)
    return tuple(choices)


class _Trial:
    """Runs a layer on what its sources sent, and compares it with the float network."""

    def __init__(
        self,
        program: Program,
        population: Population,
        known: dict[str, torch.Tensor],
        shape: tuple[int, ...],
        reference: FloatRun,
    ) -> None:
        self._program, self._known = program, known
        self._samples, self._steps = shape[:2]
        order = channels_last(population.shape)
        spikes = reference.spikes[population.name].reshape(self._samples, self._steps, -1)[..., order]
        self._spikes = torch.from_numpy(np.ascontiguousarray(spikes.swapaxes(0, 1)))
        self._final = None if population.neuron.threshold is not None else torch.from_numpy(reference.final[:, order])

    def __call__(self, layer: Layer) -> tuple[float, torch.Tensor]:
        """How far the layer is from the float network, and its spikes."""
        neurons = Neurons(self._program, layer, self._steps, lambda *_: 0)
        last = torch.zeros(self._samples, layer.neurons)

        def keep(step: int, block: slice, u: torch.Tensor, v: torch.Tensor) -> None:
            last[block] = v.float()

        with torch.inference_mode():
            spikes = neurons.run(self._known, self._samples, observe=None if self._final is None else keep)
            if self._final is None:
                return float((spikes.bool() != self._spikes).double().mean()), spikes
            error = last.double() / (layer.scale * (1 << ALIGNMENT_BITS)) - self._final
            return float(error.abs().mean() / (self._final.std() + 1e-12)), spikes
