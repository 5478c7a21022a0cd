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
    messages between cores     at the price within a tile: where the routes are known one for every core a spike
                               is sent to, else one a spike
    hops east-west, north-south  from tile to tile, where the routes are known

What has no count or no price is named in `not_priced`. Static power is no part of the sum: it depends on how long
a sample takes, see `static`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.chip import EVIDENCE, Band, Chip
from sca_deploy.hardware.counts import Counts
from sca_deploy.hardware.traffic import Traffic

PICOJOULES_PER_NANOJOULE = 1000

NOT_PRICED = (
    "static power of the chip",
    "host, embedded processors and input/output",
    "injection of the input and read-out of the result",
    "synchronisation of time steps",
    "reading zero weights from memory",
)
NOT_ROUTED = "mesh hops between tiles and copies of a spike to several cores (the routes are not known)"


@dataclass(frozen=True)
class Events:
    """What a network does for one sample, as counted by anything or anybody.

    Args:
        synops: synaptic operations with non-zero weights.
        updates: neuron updates, those of firing neurons included.
        spikes: sent by neurons.
        messages: between cores; None where it is not known to how many cores a spike goes.
        hops_east_west, hops_north_south: of the messages, from tile to tile.
        off_chip: messages that leave their chip; they have no price.
    """

    synops: float
    updates: float
    spikes: float = 0.0
    messages: float | None = None
    hops_east_west: float = 0.0
    hops_north_south: float = 0.0
    off_chip: float = 0.0


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

    @property
    def evidence(self) -> tuple[str, ...]:
        """How the prices are known: the evidence words of the terms, each once, sorted."""
        return tuple(sorted({term.evidence for term in self.terms}))

    def as_dict(self) -> dict[str, Any]:
        """Plain data; "low", "typical", "high" are totals in nJ a sample."""
        return {
            "chip": self.chip,
            "unit": "nJ/sample",
            "label": "estimated",
            "evidence": list(self.evidence),
            "low": self.low,
            "typical": self.typical,
            "high": self.high,
            "terms": [asdict(term) for term in self.terms],
            "not_priced": list(self.not_priced),
        }


def estimate(counts: Counts, chip: Chip, traffic: Traffic | None = None) -> Energy:
    """The energy of a sample on `chip`, averaged over the run that was counted.

    Args:
        counts: of the run.
        chip: whose prices apply.
        traffic: the messages of the same run; without it a spike is one message within its tile.
    """
    total, samples = counts.total, counts.samples
    found = {} if traffic is None else traffic.per_sample
    return price(
        Events(
            synops=total.synops / samples,
            updates=total.updates / samples,
            spikes=total.spikes / samples,
            messages=found.get("messages"),
            hops_east_west=found.get("hops_east_west", 0.0),
            hops_north_south=found.get("hops_north_south", 0.0),
            off_chip=found.get("off_chip", 0.0),
        ),
        chip,
    )


def price(events: Events, chip: Chip) -> Energy:
    """The energy of a sample whose events are given as plain numbers, a published table's for example.

    Raises:
        ScaDeployError: if a count is negative, or more neurons fire than are updated.
    """
    for name, value in asdict(events).items():
        if value is not None and value < 0:
            raise ScaDeployError(f"{name} is {value}, a count of events is 0 or more")
    if events.spikes > events.updates:
        raise ScaDeployError(
            f"{events.spikes} spikes come of {events.updates} neuron updates",
            "count an update for every neuron and step",
        )
    prices = chip.energy
    active, idle = prices["neuron_update_active"], prices["neuron_update_idle"]
    routed = events.messages is not None
    messages = events.spikes if events.messages is None else events.messages
    priced = [
        ("synaptic operations", events.synops, prices["synaptic_operation"]),
        ("updates of firing neurons", events.spikes, active),
        ("updates of silent neurons", events.updates - events.spikes, silent_update(active, idle)),
        ("messages between cores", messages, prices["spike_within_tile"]),
    ]
    if routed:
        priced += [
            ("hops east-west", events.hops_east_west, prices["hop_east_west"]),
            ("hops north-south", events.hops_north_south, prices["hop_north_south"]),
        ]
    terms = tuple(_term(name, count, band) for name, count, band in priced)
    return Energy(chip.name, terms, _not_priced(events, routed))


def static(chip: Chip, chips: int, sample_ns: Band) -> Term:
    """The static energy of `chips` chips over one sample, in nJ; `count` is the chips.

    Args:
        chip: whose static power applies, the same however many of its cores are used.
        chips: that are powered.
        sample_ns: how long a sample takes, `StepTime.sample`.
    """
    power = chip.power["static"]
    low, typical, high = (
        chips * milliwatts * nanoseconds / PICOJOULES_PER_NANOJOULE  # a mW for a ns is a pJ
        for milliwatts, nanoseconds in zip(_ends(power), _ends(sample_ns), strict=True)
    )
    evidence = max(power.evidence, sample_ns.evidence, key=EVIDENCE.index)
    return Term("static power", chips, low, typical, high, evidence, f"{power.source}; over {sample_ns.source}")


def silent_update(active: Band, idle: Band) -> Band:
    """What updating a neuron that does not fire takes, where it is not known whether it held anything."""
    return Band(
        low=idle.low,
        typical=active.typical,
        high=max(active.typical, idle.high),
        unit=idle.unit,
        source=f"low: idle update ({idle.source}); typical: active update ({active.source})",
        evidence=idle.evidence,
    )


def _not_priced(events: Events, routed: bool) -> tuple[str, ...]:
    left_out: tuple[str, ...] = NOT_PRICED if routed else (*NOT_PRICED, NOT_ROUTED)
    if events.off_chip:
        left_out += (
            f"links between chips ({events.off_chip:,.0f} messages a sample cross one; no price is published)",
        )
    return left_out


def _term(name: str, count: float, band: Band) -> Term:
    low, typical, high = (count * pj / PICOJOULES_PER_NANOJOULE for pj in _ends(band))
    return Term(name, count, low, typical, high, band.evidence, band.source)


def _ends(band: Band) -> tuple[float, float, float]:
    return band.low, band.typical, band.high
