"""How long a time step takes: the busiest core, and the barrier that all cores then wait at.

Cores work side by side and every step ends when the last has finished, so a sum over the network says nothing:

    step = max over cores (synaptic operations x t_synop + firing x t_active + silent x t_silent) + barrier

with the operations of a core in one step and the times of the chip file, each a band from low to high. The times
of Loihi 1 come from a simulation before silicon; those of Loihi 2 are inferred, as nothing is published.

The operations of a step are those of the run divided by its steps: a step in which many neurons fire at once takes
longer, so where activity comes in bursts the true time is above. What else is left out is named in `NOT_INCLUDED`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.chip import EVIDENCE, Band, Chip
from sca_deploy.hardware.counts import CoreCounts, Counts
from sca_deploy.hardware.energy import silent_update

NOT_INCLUDED = (
    "what a core does with a message before its synapses (SANA-FE says 20 ns)",
    "congestion of the mesh and of links between chips",
    "bursts: the operations of a run are spread evenly over its steps",
    "host input and output, and the management of time steps by embedded processors",
    "the steps in which the layers fill, and the reset between samples",
)
ENDS = ("low", "typical", "high")


@dataclass(frozen=True)
class TimeTerm:
    """One part of the busiest core's step: how many operations, and ns at typical times."""

    name: str
    count: float
    typical: float


@dataclass(frozen=True)
class StepTime:
    """Estimated time of a step.

    Args:
        chip: its short name.
        steps: steps of a sample.
        step: ns a step, as a band; its evidence is the weakest of the times it is made of.
        layer, core: the busiest core at typical times.
        terms: its operations, and the barrier; their sum is `step.typical`.
    """

    chip: str
    steps: int
    step: Band
    layer: str
    core: int
    terms: tuple[TimeTerm, ...]

    @property
    def sample(self) -> Band:
        """ns a sample: the step times the steps."""
        low, typical, high = (self.steps * end for end in (self.step.low, self.step.typical, self.step.high))
        return Band(low, typical, high, "ns", f"{self.steps} steps of {self.step.source}", self.step.evidence)

    @property
    def bound_by(self) -> str:
        """The term that takes most of the step."""
        return max(self.terms, key=lambda term: term.typical).name

    def as_dict(self) -> dict[str, Any]:
        """Plain data; "step" and "sample" are bands in ns."""
        return {
            "chip": self.chip,
            "unit": "ns",
            "label": "estimated",
            "evidence": [self.step.evidence],
            "steps": self.steps,
            "step": {end: getattr(self.step, end) for end in ENDS},
            "sample": {end: getattr(self.sample, end) for end in ENDS},
            "busiest_core": {"layer": self.layer, "core": self.core},
            "bound_by": self.bound_by,
            "terms": [asdict(term) for term in self.terms],
            "not_included": list(NOT_INCLUDED),
        }


def estimate(counts: Counts, cores: Sequence[CoreCounts], chip: Chip) -> StepTime:
    """The time of a step on `chip`, from what each core did in the run.

    Args:
        counts: of the run, for its samples and steps.
        cores: `counts.by_core` of the same run.
        chip: whose times apply.

    Raises:
        ScaDeployError: if there are no cores.
    """
    if not cores:
        raise ScaDeployError("the mapping holds no cores, a step needs one at least")
    active, idle = chip.time["neuron_update_active"], chip.time["neuron_update_idle"]
    times = (chip.time["synaptic_operation"], active, silent_update(active, idle))
    barrier, whole = chip.time["barrier"], counts.samples * counts.steps

    def work(core: CoreCounts, end: str) -> float:
        operations = zip(_operations(core), times, strict=True)
        return sum(count * float(getattr(time, end)) for count, time in operations) / whole

    low, typical, high = (max(work(core, end) for core in cores) + float(getattr(barrier, end)) for end in ENDS)
    busiest = max(cores, key=lambda core: work(core, "typical"))
    names = ("synaptic operations", "updates of firing neurons", "updates of silent neurons")
    terms = [
        TimeTerm(name, count / whole, count / whole * time.typical)
        for name, count, time in zip(names, _operations(busiest), times, strict=True)
    ]
    return StepTime(
        chip=chip.name,
        steps=counts.steps,
        step=Band(low, typical, high, "ns", "the busiest core and the barrier", _weakest((*times, barrier))),
        layer=busiest.layer,
        core=busiest.core,
        terms=(*terms, TimeTerm("barrier", 1, barrier.typical)),
    )


def _operations(core: CoreCounts) -> tuple[int, int, int]:
    return core.synops, core.spikes, core.updates - core.spikes


def _weakest(times: Sequence[Band]) -> str:
    return max((time.evidence for time in times), key=EVIDENCE.index)
