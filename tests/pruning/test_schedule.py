import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sca_deploy.config import PruneConfig
from sca_deploy.pruning.schedule import Schedule

hundredths = st.integers(0, 100).map(lambda n: Fraction(n, 100))


def places(start, end, occasions, interval):
    """The occasions after which masks are updated, in exact fractions: occasion o fills o / N to (o + 1) / N."""
    candidates = range(max(1, occasions - 1))  # after the last, nothing would be left to learn
    last = max((o for o in candidates if Fraction(o, occasions) < end), default=0)
    first = min(last, max(o for o in candidates if Fraction(o, occasions) <= start))
    return [o for o in range(first, last + 1) if (o - first) % interval == 0]


@given(hundredths, hundredths, st.integers(1, 120), st.integers(1, 40))
def test_updates_lie_between_the_fractions_of_the_training(a, b, occasions, interval):
    start, end = min(a, b), max(a, b)
    schedule = Schedule(PruneConfig(start=float(start), end=float(end)), occasions, interval)
    expected = places(start, end, occasions, interval)
    assert [o for o in range(occasions) if schedule.update(o)] == expected
    assert [schedule.update(o) for o in expected] == list(range(1, len(expected) + 1))
    assert schedule.updates == len(expected)


@given(hundredths, hundredths, st.integers(2, 120), st.integers(1, 40))
def test_the_last_occasion_is_never_an_update_if_there_are_two(a, b, occasions, interval):
    schedule = Schedule(PruneConfig(start=float(min(a, b)), end=float(max(a, b))), occasions, interval)
    assert schedule.update(occasions - 1) == 0


def test_a_training_of_one_occasion_is_pruned_after_it():
    schedule = Schedule(PruneConfig(keep=0.3), 1)
    assert schedule.update(0) == schedule.updates == 1
    assert schedule.keep(1) == 0.3


@pytest.mark.parametrize(("end", "last"), [(0.55, 54), (0.07, 6), (0.28, 27), (0.6, 59)])
def test_a_fraction_counts_as_it_is_written(end, last):
    # In binary, 100 * 0.55 is more than 55.
    assert Schedule(PruneConfig(start=0.0, end=end), 100).last == last


def test_every_2000_iterations_for_200_of_500_epochs_of_391_are_40_updates():
    # the schedule of Chen et al., arXiv 2311.16141
    schedule = Schedule(PruneConfig(start=0.0, end=0.4), 500 * 391, 2000)
    assert [step for step in range(500 * 391) if schedule.update(step)] == list(range(0, 80_000, 2000))


def zhu_gupta(t, initial, final, t0, n, dt):
    """Equation 1 of Zhu and Gupta (2017): the sparsity s_t for t = t0, t0 + dt, ..., t0 + n dt."""
    return final + (initial - final) * (1 - (t - t0) / (n * dt)) ** 3


@given(st.floats(0.01, 1), st.integers(1, 60))
def test_the_cubic_ramp_is_that_of_zhu_and_gupta(keep, updates):
    schedule = Schedule(PruneConfig(keep=keep, start=0.0, end=1.0), updates + 1)
    assert schedule.updates == updates
    for i in range(1, updates + 1):
        sparsity = zhu_gupta(t=100 + 7 * i, initial=0.0, final=1 - keep, t0=100, n=updates, dt=7)
        assert schedule.keep(i) == pytest.approx(1 - sparsity)
    assert schedule.keep(updates) == keep


def test_a_constant_ramp_is_there_from_the_first_update():
    schedule = Schedule(PruneConfig(keep=0.3, ramp="constant"), 20)
    assert [schedule.keep(i) for i in range(1, schedule.updates + 1)] == [0.3] * schedule.updates


def test_regrowth_that_fades_falls_linearly_to_nothing():
    schedule = Schedule(PruneConfig(regrow=0.2, start=0.0, end=0.5), 10)
    assert [schedule.regrow(i) for i in range(1, 6)] == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.0])


def test_regrowth_that_does_not_fade_stays():
    schedule = Schedule(PruneConfig(regrow=0.2, start=0.0, end=0.5, fade=False), 10)
    assert [schedule.regrow(i) for i in range(1, 6)] == [0.2] * 5


def test_scas_released_code_is_a_setting():
    # Ranking keeps a = 0.1 of the channels and regrowth b = 0.2, after every epoch (Li et al., ICML 2024).
    a, b = 0.1, 0.2
    config = PruneConfig(keep=a + b, regrow=b / (a + b), ramp="constant", fade=False, start=0.0, end=1.0)
    schedule = Schedule(config, 300)
    assert [schedule.update(epoch) for epoch in range(300)] == [*range(1, 300), 0]
    for update in (1, 299):
        assert math.isclose(schedule.keep(update) * (1 - schedule.regrow(update)), a)
