"""Counts x the chip's energy constants, term by term, each with a band from low to high.

An estimate of the dynamic energy of the neurocores, not a measurement. Prices come from the chip file with
their evidence; for Loihi 2 they are inferred from Loihi 1, checked on PilotNet LIF, whose published
counts (36.6 M synaptic operations, 2.54 M updates) give 1.07 mJ typical where the runs measured 0.56 to 1.39 mJ.

Terms:

    synaptic operations        non-zero ones, once per message whatever its payload, as the chip's counter does
    updates of firing neurons  at the price of an active update
    updates of silent neurons  low: the idle price; typical: the active price, because counts do not say which
                               silent neurons held or received anything; high: the dearer of the active price
                               and the idle one at its highest (an active update at its highest includes a spike)
    spikes                     one message within the tile for every spike

What has no count or no price is named in `NOT_PRICED`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sca_deploy.hardware.chip import Band, Chip
from sca_deploy.hardware.counts import Counts

PICOJOULES_PER_NANOJOULE = 1000

NOT_PRICED = (
    "static power of the chip",
    "host, embedded processors and input/output",
    "injection of the input and read-out of the result",
    "mesh hops between tiles and copies of a spike to several cores (placement is not known)",
    "synchronisation of time steps",
    "reading zero weights from memory",
)


@dataclass(frozen=True)
class Term:
    """One kind of operation: how many a sample, and nJ a sample."""

    name: str
    count: float
    low: float
    typical: float
    high: float
    evidence: str
    source: str


@dataclass(frozen=True)
class Energy:
    """Estimated dynamic energy in nJ a sample, as a band, with what it leaves out."""

    chip: str
    terms: tuple[Term, ...]
    not_priced: tuple[str, ...]

    @property
    def low(self) -> float:
        """Sum of the terms' low ends, nJ a sample."""
        return sum(term.low for term in self.terms)

    @property
    def typical(self) -> float:
        """Sum of the terms' typical values, nJ a sample."""
        return sum(term.typical for term in self.terms)

    @property
    def high(self) -> float:
        """Sum of the terms' high ends, nJ a sample."""
        return sum(term.high for term in self.terms)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; "low", "typical", "high" are totals in nJ a sample."""
        return {
            "chip": self.chip,
            "unit": "nJ/sample",
            "label": "estimated",
            "low": self.low,
            "typical": self.typical,
            "high": self.high,
            "terms": [asdict(term) for term in self.terms],
            "not_priced": list(self.not_priced),
        }


def estimate(counts: Counts, chip: Chip) -> Energy:
    """The energy of a sample on `chip`, averaged over the run that was counted."""
    total, price = counts.total, chip.energy
    active = price["neuron_update_active"]
    idle = price["neuron_update_idle"]
    silent = Band(
        low=idle.low,
        typical=active.typical,
        high=max(active.typical, idle.high),
        unit=idle.unit,
        source=f"low: idle update ({idle.source}); typical: active update ({active.source})",
        evidence=idle.evidence,
    )
    priced = (
        ("synaptic operations", total.synops, price["synaptic_operation"]),
        ("updates of firing neurons", total.spikes, active),
        ("updates of silent neurons", total.updates - total.spikes, silent),
        ("spikes within a tile", total.spikes, price["spike_within_tile"]),
    )
    terms = tuple(_term(name, events / counts.samples, band) for name, events, band in priced)
    return Energy(chip.name, terms, NOT_PRICED)


def _term(name: str, events: float, band: Band) -> Term:
    low, typical, high = (events * pj / PICOJOULES_PER_NANOJOULE for pj in (band.low, band.typical, band.high))
    return Term(name, events, low, typical, high, band.evidence, band.source)
