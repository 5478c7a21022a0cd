"""What a Program takes of a chip, resource by resource, as a budget names them (see `sca_deploy.budget`).

    cores        neurocores (estimated): of every layer as the compiler would split it, by the inferred rule
    words        synapse words over all cores (estimated)
    synops       synaptic operations with non-zero weights a sample (simulated)
    energy-nj    dynamic energy a sample, nJ, at typical prices (estimated)
    step-us      time of a step, us, at typical times (estimated)

The last three depend on the samples that are shown. They come with an upper value, which the mean over other samples
of their kind should not exceed: three standard errors above the mean, estimated from parts of the samples.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sca_deploy.hardware.budgets import fits
from sca_deploy.hardware.chip import Chip
from sca_deploy.hardware.counts import Counts, by_core, count, together
from sca_deploy.hardware.cutting import Cut
from sca_deploy.hardware.energy import estimate as estimate_energy
from sca_deploy.hardware.mapping import Mapping, map_program
from sca_deploy.hardware.placement import Route, routes
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.simulate import simulate
from sca_deploy.hardware.step_time import estimate as estimate_time
from sca_deploy.hardware.traffic import route

PARTS = 16
"""Parts of the samples whose spread gives the standard error."""
UNHELD = 1e6
"""Cores that a layer counts as which no core can hold, times how far the fullest budget of one is exceeded."""
ERRORS = 3.0
"""Standard errors between the mean and the upper value."""
NANOSECONDS_PER_MICROSECOND = 1000


@dataclass(frozen=True)
class Cost:
    """What a Program takes of one resource.

    Args:
        value: how much.
        upper: how much other samples should not exceed; `value` where samples do not matter.
        layer: the layer that takes most of it; of the step time, the one with the busiest core.
        why: what fills that layer's cores, or makes its work, in words.
        label: how the value is known, "estimated" or "simulated".
    """

    value: float
    upper: float
    layer: str
    why: str
    label: str


def inside(costs: abc.Mapping[str, Cost], limits: abc.Mapping[str, float]) -> bool:
    """Whether costs are within limits, on other samples too, and every layer fits some core."""
    return unheld(costs) is None and all(costs[name].upper <= limit for name, limit in limits.items())


def unheld(costs: abc.Mapping[str, Cost]) -> Cost | None:
    """The cores of a network of which no core can hold some layer; None of others."""
    cores = costs.get("cores")
    return cores if cores is not None and cores.value >= UNHELD else None


def costs(program: Program, chip: Chip, x: npt.NDArray[np.generic] | None = None) -> dict[str, Cost]:
    """The costs of a Program by resource.

    Args:
        program: compacted, as it would be exported.
        chip: whose rules and prices apply.
        x: samples, (samples, steps, *input_shape); without any, only what does not depend on them is returned.
    """
    mapping = map_program(program, chip)
    found = structural(mapping)
    if x is None:
        return found
    paths = routes(program, mapping, chip)
    parts = [count(simulate(program, part)) for part in np.array_split(x, min(PARTS, len(x)))]
    whole = _active(together(parts), mapping, paths, chip)
    single = [_active(part, mapping, paths, chip) for part in parts]
    for name, cost in whole.items():
        spread = float(np.std([costs_[name].value for costs_ in single], ddof=1)) if len(single) > 1 else 0.0
        upper = cost.value + ERRORS * spread / len(single) ** 0.5
        found[name] = Cost(cost.value, upper, cost.layer, cost.why, cost.label)
    return found


def structural(mapping: Mapping) -> dict[str, Cost]:
    """Cores and words of a mapping; a layer that no core can hold takes more cores than there are."""
    most = max(mapping.layers, key=lambda layer: cores_of(layer.cut))
    widest = max(mapping.layers, key=lambda layer: layer.synapse_words_total)
    cores, words = (
        sum(cores_of(layer.cut) for layer in mapping.layers),
        sum(y.synapse_words_total for y in mapping.layers),
    )
    why = f"{most.compiler_like} of them, {most.binding}"
    if not most.fits:
        use = most.core[most.binding]
        why = f"a core with one of its neurons needs {use.used:,} {most.binding} of {use.limit:,}"
    return {
        "cores": Cost(cores, cores, most.name, why, "estimated"),
        "words": Cost(words, words, widest.name, f"{widest.synapse_words_total:,} of them", "estimated"),
    }


def cores_of(cut: Cut) -> float:
    """Cores of a layer as the compiler would split it; far more than any system has where none can hold it."""
    return cut.compiler_like if fits(cut.core) else UNHELD * max(use.fraction for use in cut.core.values())


def _active(counts: Counts, mapping: Mapping, paths: dict[tuple[str, str], Route], chip: Chip) -> dict[str, Cost]:
    """The costs of a run that was counted."""
    traffic = route(counts, paths)
    time = estimate_time(counts, by_core(counts, mapping, traffic.fanout), chip)
    energy = estimate_energy(counts, chip, traffic).typical
    synops = counts.total.synops / counts.samples
    most = max(counts.layers, key=lambda layer: layer.tally.synops)
    work = f"{most.tally.synops / counts.samples:,.0f} synaptic operations a sample"
    step = time.step.typical / NANOSECONDS_PER_MICROSECOND
    return {
        "synops": Cost(synops, synops, most.name, work, "simulated"),
        "energy-nj": Cost(energy, energy, most.name, work, "estimated"),
        "step-us": Cost(step, step, time.layer, f"its busiest core, {time.bound_by}", "estimated"),
    }
