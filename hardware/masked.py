"""Networks that were masked but not compacted: channels that are switched off and still stored.

A pruned channel whose weights were set to zero takes its neurons, its synapse words and its stored zeros to
the chip like any other. Two things give it away, both read off the weights alone:

    unfed   every weight into an output channel is zero
    silent  there are weights, but no input whatever can make one of its neurons fire

A channel is silent when the potential cannot pass the threshold even if every source with a positive weight
sends its largest payload at every step. With m the largest sum of a step and D(x, d) = x 4096 / d, or x times the
steps of the run if that is less, u <= D(m << 6, u_decay) and v <= D(u + (bias << 6), v_decay): decay drops
the fraction towards 0, so the real chip stays below. Where u could wrap, at either end, nothing is claimed.

A read-out never fires by design, so its silence means nothing; nor is anything said of an injected layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from sca_deploy.hardware.program import ALIGNMENT_BITS, DECAY_ONE, NEVER, STATE_LIMIT, Layer, Program

MANY_ZEROS = 0.5
"""Share of zeros among the stored weights of a network from which on they are mentioned."""


@dataclass(frozen=True)
class Masked:
    """What of a layer is stored for nothing.

    Args:
        layer: its name.
        channels: output channels, or features of a fully connected layer.
        unfed: of these, how many have only zero weights.
        silent: how many of the others can never fire; 0 for a read-out and an injected layer.
        weights: stored by all its synapses.
        zeros: how many of these are 0.
    """

    layer: str
    channels: int
    unfed: int
    silent: int
    weights: int
    zeros: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dict(vars(self))


def masked(program: Program) -> tuple[Masked, ...]:
    """What every layer that has synapses stores for nothing."""
    return tuple(_masked(program, layer) for layer in program.layers if layer.synapses)


def warnings(program: Program) -> tuple[str, ...]:
    """Lines for a person who is about to compare a masked network; none for a compacted one."""
    layers = masked(program)
    channels, unfed, silent = (sum(getattr(layer, k) for layer in layers) for k in ("channels", "unfed", "silent"))
    weights, zeros = (sum(getattr(layer, what) for layer in layers) for what in ("weights", "zeros"))
    lines = []
    if unfed:
        where = _where(layers, "unfed")
        lines.append(
            f"{unfed} of {channels} output channels have only zero weights ({where}): "
            "compact first, stored counts still charge them"
        )
    if silent:
        where = _where(layers, "silent")
        lines.append(f"{silent} of {channels} output channels can never fire ({where}): they cost and do nothing")
    if weights and zeros > MANY_ZEROS * weights:
        lines.append(
            f"{zeros:,} of {weights:,} stored weights are 0 ({100 * zeros / weights:.0f} %): "
            "memory holds them all the same, only whole channels free it"
        )
    return tuple(lines)


def _where(layers: tuple[Masked, ...], what: str) -> str:
    return ", ".join(f"{layer.layer} {getattr(layer, what)}" for layer in layers if getattr(layer, what))


def _masked(program: Program, layer: Layer) -> Masked:
    weights = [synapse.weight.reshape(len(synapse.weight), -1) for synapse in layer.synapses]
    fed = np.any([np.any(weight != 0, axis=1) for weight in weights], axis=0)
    size = sum(weight.size for weight in weights)
    return Masked(
        layer=layer.name,
        channels=len(fed),
        unfed=0 if layer.injected else int((~fed).sum()),
        silent=sum(_silent(program, layer, int(channel)) for channel in np.flatnonzero(fed)),
        weights=size,
        zeros=size - sum(int(np.count_nonzero(weight)) for weight in weights),
    )


def _silent(program: Program, layer: Layer, channel: int) -> bool:
    if layer.injected or layer.threshold >= NEVER or (program.readout and layer is program.layers[-1]):
        return False
    raises = lowers = 0
    for synapse in layer.synapses:
        weight, payload = synapse.weight[channel].astype(np.int64), program.payload_max(synapse.source)
        raises += payload * int(weight.clip(min=0).sum())
        lowers -= payload * int(weight.clip(max=0).sum())
    if _sustained(max(raises, lowers) << ALIGNMENT_BITS, layer.u_decay, program.steps) >= STATE_LIMIT:
        return False
    u = _sustained(raises << ALIGNMENT_BITS, layer.u_decay, program.steps)
    bias = int(layer.full_bias()[channel].max())
    v = _sustained(u + (bias << ALIGNMENT_BITS), layer.v_decay, program.steps)
    return v <= layer.threshold << ALIGNMENT_BITS


def _sustained(each_step: Fraction | int, decay: int, steps: int) -> Fraction:
    """The most a state can reach that takes `each_step` in at every step, or 0 where that pulls it down."""
    kept = min(Fraction(DECAY_ONE, decay), Fraction(steps)) if decay else Fraction(steps)
    return max(Fraction(0), each_step * kept)
