"""Energy is counts times the chip file's prices, and lands where PilotNet was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.chip import Band, load_chip
from sca_deploy.hardware.counts import Counts, LayerCounts, Tally
from sca_deploy.hardware.energy import Energy, Events, estimate, price, static
from sca_deploy.hardware.traffic import Messages, Traffic

LOIHI1, LOIHI2 = load_chip("loihi1"), load_chip("loihi2")
PILOTNET = Events(synops=36_600_000, updates=2_540_000)
"""PilotNet LIF on Loihi 2, an inference, as published with lava-dl's benchmarks; spikes are not given."""
PILOTNET_MEASURED = (0.56, 1.39)
"""mJ of dynamic energy an inference, lowest and highest of the published runs."""
NANOJOULES_PER_MILLIJOULE = 1e6


def counted(samples: int = 1, **events: int) -> Counts:
    nothing = np.zeros(1, np.int64)
    layer = LayerCounts("a", Tally(**events), nothing, nothing)
    return Counts(samples, steps=1, input_messages=0, layers=(layer,))


def energy_of(samples: int = 1, **events: int) -> Energy:
    return estimate(counted(samples, **events), LOIHI2)


def sent(samples: int = 1, **messages: int) -> Traffic:
    return Traffic(samples, {("a", "b"): Messages(**messages)}, {})


def millijoules(energy: Energy) -> tuple[float, float, float]:
    low, typical, high = (nj / NANOJOULES_PER_MILLIJOULE for nj in (energy.low, energy.typical, energy.high))
    return low, typical, high


def test_pilotnet_on_loihi_1_prices_lands_in_the_published_measurements() -> None:
    """The estimate of its published counts, from the prices of Davies et al. 2018, is where the runs were measured."""
    _, typical, _ = millijoules(price(PILOTNET, LOIHI1))
    assert typical == pytest.approx(36.6 * 23.6e-3 + 2.54 * 81e-3, rel=1e-9)  # 1.07 mJ
    assert PILOTNET_MEASURED[0] < typical < PILOTNET_MEASURED[1]
    silent = 36.6 * 23.6e-3 + 2.54 * 52e-3  # were every update an idle one: 1.00 mJ
    assert PILOTNET_MEASURED[0] < silent < typical


def test_the_band_of_loihi_2_covers_the_published_measurements_of_pilotnet() -> None:
    low, typical, high = millijoules(price(PILOTNET, LOIHI2))
    assert 1.0 <= typical <= 1.07
    assert low <= PILOTNET_MEASURED[0] < typical < PILOTNET_MEASURED[1] <= high


def test_published_counts_are_priced_as_counted_ones() -> None:
    counts = counted(samples=4, synops=400, updates=80, spikes=12)
    assert price(Events(synops=100, updates=20, spikes=3), LOIHI2) == estimate(counts, LOIHI2)


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        (Events(synops=-1, updates=0), "synops is -1, a count of events is 0 or more"),
        (Events(synops=0, updates=5, spikes=6), "6 spikes come of 5 neuron updates"),
    ],
)
def test_counts_that_cannot_be_are_refused(events: Events, problem: str) -> None:
    with pytest.raises(ScaDeployError) as caught:
        price(events, LOIHI2)
    assert caught.value.problem == problem


def test_routed_messages_and_their_hops_are_priced_one_by_one() -> None:
    """Davies et al. 2018, table 2: 1.7 pJ within a tile, 3.0 and 4.0 pJ a hop."""
    counts = counted(samples=2, updates=1000, spikes=1000)
    unrouted, routed = estimate(counts, LOIHI1), estimate(counts, LOIHI1, sent(2, messages=3000))
    assert routed.typical - unrouted.typical == pytest.approx((3000 - 1000) / 2 * 1.7e-3)
    far = estimate(counts, LOIHI1, sent(2, messages=3000, hops_east_west=500, hops_north_south=70))
    assert far.typical - routed.typical == pytest.approx((500 * 3.0 + 70 * 4.0) / 2 * 1e-3)


def test_what_is_not_priced_depends_on_what_is_known() -> None:
    counts = counted(updates=10, spikes=10)
    assert "hops" in " ".join(estimate(counts, LOIHI2).not_priced)
    routed = estimate(counts, LOIHI2, sent(messages=10))
    assert "hops" not in " ".join(routed.not_priced)
    assert "chips (" not in " ".join(routed.not_priced)
    (links,) = set(estimate(counts, LOIHI2, sent(messages=10, off_chip=4)).not_priced) - set(routed.not_priced)
    assert "4 messages a sample cross one" in links


def test_static_energy_is_the_power_of_every_chip_over_the_sample() -> None:
    """104 mW for 2 ms are 208 uJ a chip."""
    sample = Band(1e6, 2e6, 4e6, "ns", "a sample", "simulated")
    found = static(LOIHI2, 3, sample)
    assert (found.low, found.typical, found.high) == pytest.approx((3 * 104e3, 3 * 208e3, 3 * 416e3))
    assert found.evidence == "inferred"  # the weaker of the two


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
    assert energy.as_dict()["evidence"] == ["inferred"]
    assert price(PILOTNET, LOIHI1).evidence == ("simulated",)


def test_the_totals_are_the_sums_of_the_terms_and_what_is_left_out_is_named() -> None:
    document = json.loads(json.dumps(energy_of(samples=3, synops=1000, updates=77, spikes=7).as_dict()))
    for end in ("low", "typical", "high"):
        assert document[end] == pytest.approx(sum(term[end] for term in document["terms"]))
    assert document["low"] < document["typical"] < document["high"]
    left_out = " ".join(document["not_priced"])
    for word in ("static", "host", "injection", "hops"):
        assert word in left_out
