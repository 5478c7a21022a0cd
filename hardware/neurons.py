"""A population of neurons walking through time: the equations of `hardware.program`, for many samples at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.arithmetic import SINGLE_LIMIT, Decay, saturate_, wrap_
from sca_deploy.hardware.program import ALIGNMENT_BITS, BIAS_MIN, DECAY_ONE, STATE_LIMIT, Layer, Program, Synapse
from sca_deploy.hardware.synapses import (
    ALIGNED,
    Bundle,
    DenseKernel,
    Kernel,
    arrived,
    channels_last,
    kernel_of,
    largest_sum,
)

BLOCK = 1 << 16
"""Neurons whose states are worked on together: few enough that they stay in a core's cache between operations."""

Observer = Callable[[int, slice, torch.Tensor, torch.Tensor], None]
"""Sees the step, the samples, and their u and v after the step, (samples, neurons) in (H, W, C) order."""


class Reach:
    """How large the values of a layer can get, from its weights, decays and the number of steps.

    Args:
        summed: the largest magnitude of a synaptic sum, all synapses together, before its alignment.
        u, v: those of the states where they neither wrap nor saturate; larger ones mean that they may.

    Raises:
        ScaDeployError: if sums or currents may leave the 32 bits in which Lava computes them.
    """

    def __init__(self, program: Program, layer: Layer, steps: int) -> None:
        self.summed = sum(largest_sum(synapse) * program.payload_max(synapse.source) for synapse in layer.synapses)
        aligned = self.summed * ALIGNED
        if aligned >= 1 << 31:
            raise ScaDeployError(f"layer '{layer.name}': synaptic sums may reach {self.summed}, beyond 25 bits")
        self.u = _accumulated(aligned, layer.u_decay, steps)
        # One turn at most brings a current back, so that what exceeds a turn adds up over the steps before.
        excess = _accumulated(max(0, aligned - 2 * STATE_LIMIT), layer.u_decay, steps - 1)
        if layer.u_decay != DECAY_ONE and excess + STATE_LIMIT + aligned >= 1 << 31:
            raise ScaDeployError(f"layer '{layer.name}': its current may reach {excess + aligned}, beyond 31 bits")
        bias = -BIAS_MIN if layer.injected else int(np.abs(layer.bias).max(initial=0))
        self.v = _accumulated(self.u + bias * ALIGNED, layer.v_decay, steps)

    @property
    def wraps(self) -> bool:
        """Whether a current can get so large that it wraps."""
        return self.u >= STATE_LIMIT

    @property
    def saturates(self) -> bool:
        """Whether a potential can get so large that it saturates."""
        return self.wraps or self.v >= STATE_LIMIT


def _accumulated(most: int, decay: int, steps: int) -> int:
    """The largest sum of inputs up to `most` a step, of which every step loses decay / 4096."""
    forever = most * steps
    return min(forever, -(-most * DECAY_ONE // decay)) if decay else forever


class Population:
    """The neurons of a layer, and the synapses by which they hear others and themselves.

    Args:
        steps: how many there will be.
        lag: steps that every message of a synapse takes, beyond the synapse's own delay.
        resets: the steps before which u and v are set to 0.

    Raises:
        ScaDeployError: as `Reach`.
    """

    def __init__(
        self,
        program: Program,
        layer: Layer,
        steps: int,
        lag: Callable[[Layer, Synapse], int],
        resets: frozenset[int] = frozenset(),
    ) -> None:
        self.layer, self.reach, self._steps, self._resets = layer, Reach(program, layer, steps), steps, resets
        self._keeps_current = layer.u_decay != DECAY_ONE
        # In float32 the sum for v can round beyond 2^24, where it saturates anyway; a current must not round.
        single = self.reach.summed <= SINGLE_LIMIT and not (self._keeps_current and self.reach.wraps)
        self._dtype = torch.float32 if single else torch.float64
        bias = layer.full_bias().reshape(-1)[channels_last(layer.shape)]
        self._bias = torch.tensor(bias, dtype=self._dtype).view(1, 1, -1) * ALIGNED
        self._decay_u = Decay(layer.u_decay, self.reach.u, self._dtype)
        self._decay_v = Decay(layer.v_decay, min(self.reach.v, STATE_LIMIT), self._dtype)
        self._own: list[Bundle] = []
        self._heard: list[tuple[str, Kernel]] = []
        for synapse in layer.synapses:
            kernel = kernel_of(program, synapse, lag(layer, synapse), self._dtype)
            if isinstance(kernel, DenseKernel) and synapse.source == layer.name:
                self._own += kernel.bundles
            else:
                self._heard.append((synapse.source, kernel))

    @property
    def sources(self) -> list[str]:
        """Who is heard: layers, or the input."""
        return [name for name, _ in self._heard]

    def run(
        self,
        sources: Mapping[str, torch.Tensor],
        samples: int,
        injected: torch.Tensor | None = None,
        observe: Observer | None = None,
    ) -> torch.Tensor:
        """The spikes, float32 (steps, samples, neurons).

        Args:
            sources: what the sources sent, (steps or 1, samples, neurons).
            samples: how many there are.
            injected: what is added to the bias, in the same form, if this layer takes the input.
            observe: sees the states after every step.
        """
        a = arrived((part for name, kernel in self._heard for part in kernel.parts(sources[name])), self._steps)
        if a is None:
            a = torch.zeros((1, samples, self.layer.neurons), dtype=self._dtype)
        if self._own and len(a) < self._steps:
            a = a.repeat(self._steps, 1, 1)
        # What arrived in a step is spent when its spikes are known, which can take its place.
        in_place = len(a) == self._steps and a.dtype == torch.float32 and observe is None
        spikes = a if in_place else torch.empty((self._steps, *a.shape[1:]), dtype=torch.float32)
        bias = self._bias if injected is None else injected.to(self._dtype) * ALIGNED + self._bias
        size = max(1, BLOCK // self.layer.neurons)
        for start in range(0, samples, size):
            block = slice(start, min(start + size, samples))
            self._walk(a[:, block], bias if injected is None else bias[:, block], spikes[:, block], block, observe)
        return spikes

    def _walk(
        self, a: torch.Tensor, bias: torch.Tensor, spikes: torch.Tensor, block: slice, observe: Observer | None
    ) -> None:
        """Some samples through all steps: `spikes` from what arrived and the bias, each of all steps or one."""
        v, scratch = torch.zeros_like(a[0]), torch.empty_like(a[0])
        u = torch.zeros_like(v)
        biased = bool(bias.any())
        if not (self._keeps_current or self._own):
            self._wrap(a)
        for t in range(self._steps):
            if t in self._resets:
                u.zero_()
                v.zero_()
            now = a[t % len(a)]
            if self._own:
                self._hear_itself(now, spikes, t)
            if self._keeps_current:
                now = self._decay_u(u, scratch).add_(now)
            if self._keeps_current or self._own:
                self._wrap(now)
            self._decay_v(v, scratch).add_(now)
            if biased:
                v.add_(bias[t % len(bias)])
            if self.reach.saturates:
                saturate_(v)
            self._fire(v, spikes[t], scratch)
            if observe is not None:
                observe(t, block, now, v)

    def _wrap(self, u: torch.Tensor) -> None:
        if self.reach.wraps:
            wrap_(u)

    def _hear_itself(self, a: torch.Tensor, spikes: torch.Tensor, t: int) -> None:
        """Add to step t's input what the layer's own earlier spikes give."""
        for bundle in self._own:
            if t >= bundle.delay:
                a += bundle.sums(spikes[t - bundle.delay])

    def _fire(self, v: torch.Tensor, spikes: torch.Tensor, scratch: torch.Tensor) -> None:
        """Write the spikes of a step, and reset the potentials that gave one."""
        threshold = self.layer.threshold << ALIGNMENT_BITS
        if min(self.reach.v, STATE_LIMIT - 1) <= threshold:
            spikes.zero_()
            return
        fired = torch.gt(v, threshold, out=spikes if spikes.dtype == v.dtype else scratch)
        v.addcmul_(v, fired, value=-1.0)
        if fired is not spikes:
            spikes.copy_(fired)
