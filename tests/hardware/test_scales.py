"""The scale search, judged by runs of the whole Program beside the float populations."""

import numpy as np
import pytest

from sca_deploy.hardware.floats import run_floats
from sca_deploy.hardware.frontend import read_populations
from sca_deploy.hardware.lower import Rules, assemble
from sca_deploy.hardware.scales import search_scales
from sca_deploy.hardware.simulate import simulate
from tests.hardware import test_frontend as frontend
from tests.hardware.test_frontend import DT, GRAPHS, affine, chain, conv, lif

RNG = np.random.default_rng(0)


def outliers():
    frontend.RNG.bit_generator.state = np.random.default_rng(3).bit_generator.state
    """Two layers; a few weights of the first are forty times the others."""
    first, second = conv(8, 2, 3, padding=(1, 1)), affine(10, 8 * 36)
    first.weight[:2, 0, 0, 0] *= 40
    nodes = (first, lif((8, 6, 6), threshold=0.5), second, lif((10,), threshold=0.5), affine(3, 10))
    return (2, 6, 6), chain((2, 6, 6), *nodes)


CASES = {"outliers": outliers} | {name: GRAPHS[name] for name in ("residual", "recurrent", "current decay")}


@pytest.fixture(scope="module", params=CASES)
def searched(request):
    shape, graph = CASES[request.param]()
    input_shape, populations = read_populations(graph, DT)
    x = (RNG.random((40, 8, *shape)) < 0.4).astype(np.uint8)
    rules = Rules(steps=8, input_bits=0)
    return input_shape, populations, rules, x, search_scales(input_shape, populations, rules, x)


def differences(input_shape, populations, rules, x, scales):
    """Share of spikes by which the whole Program differs from the floats, by layer."""
    run = simulate(assemble(input_shape, populations, rules, scales), x, record=["spikes"])
    reference = run_floats(populations, x).spikes
    return {
        p.name: float((reference[p.name] != run.records[p.name]["spikes"].astype(bool)).mean())
        for p in populations
        if p.neuron.threshold is not None
    }


def test_what_it_reports_is_what_the_whole_program_does(searched):
    input_shape, populations, rules, x, choices = searched
    measured = differences(input_shape, populations, rules, x, {c.name: c.chosen for c in choices})
    for choice in choices:
        if choice.name in measured:
            assert choice.after == pytest.approx(measured[choice.name], abs=1e-12), choice.name


def test_no_layer_is_worse_than_at_its_largest_scale(searched):
    *_, choices = searched
    assert all(choice.after <= choice.before for choice in choices)
    assert all(0.5 <= choice.chosen / choice.largest <= 1.5 for choice in choices)


def test_a_scale_that_leaves_too_few_steps_is_not_a_candidate():
    """The threshold keeps 2.4 steps at the largest scale, and less than the 2 that are needed below 0.83 of it."""
    first = affine(4, 6)
    first.weight[:] = np.sign(first.weight) * np.linspace(0.5, 1.0, 24).reshape(4, 6)
    first.bias[:] = 0.0
    graph = chain((6,), first, lif((4,), beta=0.0, threshold=2.4 / 254), affine(2, 4))
    shape, populations = read_populations(graph, DT)
    x = (np.random.default_rng(0).random((20, 5, 6)) < 0.4).astype(np.uint8)
    [choice, _] = search_scales(shape, populations, Rules(5, 0), x)
    assert choice.chosen >= 0.83 * choice.largest


def test_clipping_a_few_outliers_pays_on_samples_it_was_not_searched_on():
    shape, graph = outliers()
    input_shape, populations = read_populations(graph, DT)
    x = (RNG.random((80, 8, *shape)) < 0.4).astype(np.uint8)
    rules = Rules(steps=8, input_bits=0)
    chosen = {c.name: c.chosen for c in search_scales(input_shape, populations, rules, x[:40])}
    found, largest = (differences(input_shape, populations, rules, x[40:], s)["n1"] for s in (chosen, None))
    assert found < 0.9 * largest


def test_a_single_step_that_is_broadcast_is_read_without_a_warning():
    """numpy.broadcast_to gives memory that may not be written to, of which torch warns; warnings are errors here."""
    shape, graph = outliers()
    populations = read_populations(graph, DT)[1]
    x = np.broadcast_to(np.ones((3, 1, *shape), np.uint8), (3, 1, *shape))
    assert not x.flags.writeable
    assert len(run_floats(populations, x).final) == 3
