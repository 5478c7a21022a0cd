"""Energy is counts times the chip file's prices, and lands where PilotNet was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.counts import Counts, LayerCounts, Tally
from sca_deploy.hardware.energy import Energy, estimate

LOIHI2 = load_chip("loihi2")
NANOJOULES_PER_MILLIJOULE = 1e6


def energy_of(samples: int = 1, **events: int) -> Energy:
    nothing = np.zeros(1, np.int64)
    layer = LayerCounts("a", Tally(**events), nothing, nothing)
    return estimate(Counts(samples, steps=1, input_messages=0, layers=(layer,)), LOIHI2)


def test_pilotnet_lands_in_the_published_measurements() -> None:
    """PilotNet LIF on Loihi 2: 36.6 M synaptic operations, 2.54 M updates; runs measured 0.56 to 1.39 mJ."""
    energy = energy_of(synops=36_600_000, updates=2_540_000)
    low, typical, high = (nj / NANOJOULES_PER_MILLIJOULE for nj in (energy.low, energy.typical, energy.high))
    assert 1.0 <= typical <= 1.07
    assert low <= 0.56 < typical < 1.39 <= high


def test_the_typical_price_is_that_of_loihi_1() -> None:
    # Davies et al., IEEE Micro 38(1), 2018, table 2: 23.6, 81 and 1.7 pJ.
    assert energy_of(synops=1000).typical == pytest.approx(23.6)
    assert energy_of(updates=1000).typical == pytest.approx(81.0)
    assert energy_of(updates=1000, spikes=1000).typical == pytest.approx(81.0 + 1.7)


def test_a_silent_update_costs_between_an_idle_and_an_active_one() -> None:
    silent, firing = energy_of(updates=1000), energy_of(updates=1000, spikes=1000)
    assert silent.low == pytest.approx(27.0)  # 0.52 x 52 pJ
    assert silent.high == pytest.approx(81.0)
    assert firing.low > silent.low
    assert firing.high > silent.high


def test_energy_is_per_sample() -> None:
    assert energy_of(samples=10, synops=1000, updates=500, spikes=20).typical == pytest.approx(
        energy_of(synops=1000, updates=500, spikes=20).typical / 10
    )


def test_stored_zeros_and_payloads_are_not_charged() -> None:
    plain = energy_of(synops=1000)
    assert energy_of(synops=1000, synops_stored=5000, synops_payload=9000).typical == plain.typical


def test_loihi_1_prices_on_loihi_2_are_labelled_inferred() -> None:
    energy = energy_of(synops=1, updates=1, spikes=1)
    assert {term.evidence for term in energy.terms} == {"inferred"}


def test_the_totals_are_the_sums_of_the_terms_and_what_is_left_out_is_named() -> None:
    document = json.loads(json.dumps(energy_of(samples=3, synops=1000, updates=77, spikes=7).as_dict()))
    for end in ("low", "typical", "high"):
        assert document[end] == pytest.approx(sum(term[end] for term in document["terms"]))
    assert document["low"] < document["typical"] < document["high"]
    left_out = " ".join(document["not_priced"])
    for word in ("static", "host", "injection", "hops"):
        assert word in left_out
