"""A step lasts as long as its busiest core, and the barrier."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.counts import CoreCounts, Counts, LayerCounts, Tally
from sca_deploy.hardware.step_time import StepTime, estimate

LOIHI1, LOIHI2 = load_chip("loihi1"), load_chip("loihi2")
NOTHING = np.zeros(1, np.int64)
BARRIER = 299.0


def core(core: int, synops: int = 0, updates: int = 0, spikes: int = 0, layer: str = "a") -> CoreCounts:
    return CoreCounts(layer, core, synops, updates, spikes, messages=spikes)


def time_of(*cores: CoreCounts, samples: int = 1, steps: int = 1) -> StepTime:
    counts = Counts(samples, steps, 0, (LayerCounts("a", Tally(), NOTHING, NOTHING),))
    return estimate(counts, cores, LOIHI1)


def test_a_step_of_loihi_1_takes_the_published_times() -> None:
    """Davies et al. 2018, table 2: 3.5 ns a synaptic operation, 8.4 ns an active and 5.3 ns an idle update."""
    assert time_of(core(0, synops=1000)).step.typical == pytest.approx(3500 + BARRIER)
    assert time_of(core(0, updates=1000, spikes=1000)).step.typical == pytest.approx(8400 + BARRIER)
    silent = time_of(core(0, updates=1000)).step
    assert (silent.low, silent.typical) == (pytest.approx(5300 + 113), pytest.approx(8400 + BARRIER))
    assert time_of(core(0)).step.low == 113
    assert time_of(core(0)).step.high == 465


def test_the_busiest_core_sets_the_time_and_the_others_add_nothing() -> None:
    alone = time_of(core(1, synops=1000, updates=100))
    crowd = time_of(core(0, synops=990, updates=100), core(1, synops=1000, updates=100), core(2, updates=350))
    assert crowd.step == alone.step
    assert (crowd.layer, crowd.core) == ("a", 1)


def test_operations_of_both_kinds_make_a_core_busy() -> None:
    """900 operations and 400 updates take longer than 1000 operations or 700 updates alone."""
    found = time_of(core(0, synops=1000), core(1, synops=900, updates=400, layer="b"), core(2, updates=700))
    assert (found.layer, found.core) == ("b", 1)
    assert found.bound_by == "updates of silent neurons"


def test_each_end_of_the_band_has_its_own_busiest_core() -> None:
    """At the low times of Loihi 1, 5.3 ns a silent update, the first core is busiest; at the typical 8.4 the second."""
    first, second = core(0, synops=1000), core(1, updates=500)
    found = time_of(first, second)
    assert found.core == 1
    assert found.step.typical == pytest.approx(500 * 8.4 + BARRIER)
    assert found.step.low == pytest.approx(1000 * 3.5 + 113)


def test_a_step_is_the_run_divided_by_its_steps_and_a_sample_is_its_steps() -> None:
    found = time_of(core(0, synops=6000), samples=3, steps=20)
    assert found.step.typical == pytest.approx(6000 / 60 * 3.5 + BARRIER)
    assert found.sample.typical == pytest.approx(20 * found.step.typical)


def test_the_terms_are_those_of_the_busiest_core() -> None:
    document = json.loads(json.dumps(time_of(core(0, synops=10, updates=5, spikes=2), core(1), steps=5).as_dict()))
    assert sum(term["typical"] for term in document["terms"]) == pytest.approx(document["step"]["typical"])
    assert [term["count"] for term in document["terms"]] == [2.0, 0.4, 0.6, 1]
    assert document["bound_by"] == "barrier"


def test_times_say_how_they_are_known() -> None:
    assert time_of(core(0)).step.evidence == "simulated"
    counts = Counts(1, 1, 0, (LayerCounts("a", Tally(), NOTHING, NOTHING),))
    document = estimate(counts, [core(0)], LOIHI2).as_dict()
    assert (document["label"], document["evidence"]) == ("estimated", ["inferred"])
    left_out = " ".join(document["not_included"])
    for word in ("congestion", "bursts", "host", "fill"):
        assert word in left_out


def test_a_network_without_cores_has_no_step() -> None:
    with pytest.raises(ScaDeployError, match="no cores"):
        time_of()
