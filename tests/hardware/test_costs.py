"""What a Program takes of a chip, against what a run evaluates, and against loops over cores, samples and spikes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.budget import ACTIVE, RESOURCES, STRUCTURAL
from sca_deploy.data import load_dataset
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.costs import UNHELD, costs
from sca_deploy.hardware.counts import by_synapse, count, together
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.program import Conv, Program
from sca_deploy.hardware.simulate import simulate
from tests.hardware.programs import programs, wires
from tests.hardware.test_what_if import WHOLE, built

LOIHI2 = load_chip("loihi2")


@pytest.mark.parametrize("arm", ["dense", "pruned"])
def test_the_costs_are_the_figures_that_a_run_finds_on_the_same_samples(digits_run, arm):
    evaluation = json.loads((digits_run / arm / "evaluation.json").read_text())
    program = Program.load(digits_run / arm / "program.npz")
    x = np.repeat(load_dataset("digits").test_x[:, None], program.steps, axis=1)
    found, figures = costs(program, LOIHI2, x), evaluation["figures"]
    assert {name: cost.value for name, cost in found.items()} == pytest.approx(
        {
            "cores": figures["cores_compiler_like"],
            "words": sum(layer["synapse_words_total"] for layer in evaluation["map"]["layers"]),
            "synops": figures["synops_per_sample"],
            "energy-nj": figures["energy_nj_per_sample"]["typical"],
            "step-us": figures["step_time_ns"]["typical"] / 1000,
        },
        rel=1e-12,
    )
    assert [found[name].value for name in STRUCTURAL] == [found[name].upper for name in STRUCTURAL]
    for name in ACTIVE:
        assert found[name].value < found[name].upper < 1.2 * found[name].value
    layers = {layer["name"]: layer for layer in evaluation["counts"]["layers"]}
    assert found["synops"].layer == max(layers, key=lambda name: layers[name]["synops"])
    assert found["step-us"].layer == evaluation["step_time"]["busiest_core"]["layer"]
    labels = evaluation["labels"]
    of = ("cores_compiler_like", "cores", "synops_per_sample", "energy_nj_per_sample", "step_time_ns")
    assert [found[name].label for name in RESOURCES] == [labels[key] for key in of]


def words_of_a_core(synapse, ranges, bits):
    """Lists of 64-bit words behind a prefix of 10 bits, one a source neuron or a tap, as `hardware.storage` says."""
    (start, stop), *_ = ranges
    if not isinstance(synapse, Conv):
        return synapse.weight.shape[1] * -(-((stop - start) * (bits + 12) + 10) // 64)
    out, inputs, height, width = synapse.weight.shape
    words = 0
    for group in range(synapse.groups):
        low, high = group * out // synapse.groups, (group + 1) * out // synapse.groups
        here = max(0, min(high, stop) - max(low, start))
        for bit in range(here.bit_length()):
            if here >> bit & 1:
                words += inputs * height * width * -(-((1 << bit) * bits + 10) // 64)
    return words


def bits_of(weight):
    """Two's complement of the halved weights."""
    low, high = int(weight.min(initial=0)) // 2, int(weight.max(initial=0)) // 2
    return next(bits for bits in range(1, 10) if -(1 << bits - 1) <= low and high < 1 << bits - 1)


@settings(max_examples=60)
@given(programs(), st.sampled_from([20, 60, 16000]))
def test_words_are_those_of_every_core_one_by_one(drawn, words):
    """Small cores, so that layers are cut over channels too."""
    program, _ = drawn
    chip = replace(LOIHI2, budgets=LOIHI2.budgets | {
        "synapse_words": replace(LOIHI2.budgets["synapse_words"], value=words)})  # fmt: skip
    mapping = map_program(program, chip)
    expected = {
        layer.name: sum(
            words_of_a_core(synapse, tile.ranges, bits_of(synapse.weight))
            for tile in mapping[layer.name].tiles()
            for synapse in layer.synapses
        )
        for layer in program.layers
    }
    found = costs(program, chip)
    assert set(found) == set(STRUCTURAL)
    assert found["words"].value == sum(expected.values())
    if all(layer.fits for layer in mapping.layers):
        assert found["cores"].value == mapping.compiler_like
    else:
        assert found["cores"].value > UNHELD, "a layer that no core can hold is in no budget of cores"
    assert expected[found["words"].layer] == max(expected.values())


def test_the_layer_that_takes_most_is_named_with_what_fills_it():
    program = built(WHOLE)
    mapping, cores = map_program(program, LOIHI2), costs(program, LOIHI2)["cores"]
    most = max(mapping.layers, key=lambda layer: layer.compiler_like)
    assert (cores.layer, cores.why) == (most.name, f"{most.compiler_like} of them, {most.binding}")


def samples(program, number, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (number, program.steps, *program.input_shape)) * rng.integers(0, 2, (number, 1, 1, 1, 1))


def test_the_upper_value_is_three_standard_errors_above_the_mean():
    """Of 16 samples every one is a part of its own."""
    program = built({"a": 3, "b": 2, "c": 5})
    x = samples(program, 16)
    found = costs(program, LOIHI2, x)
    for name in ACTIVE:
        single = [costs(program, LOIHI2, x[n : n + 1])[name] for n in range(16)]
        values = np.array([cost.value for cost in single])
        assert found[name].upper == pytest.approx(found[name].value + 3 * values.std(ddof=1) / 4)
        assert found[name].upper > found[name].value
        assert all(cost.upper == cost.value for cost in single), "one part has no spread"
        if name != "step-us":  # which is of the core that is busiest on the mean
            assert found[name].value == pytest.approx(values.mean())


def test_equal_samples_have_no_spread_and_more_of_them_come_nearer_to_the_mean():
    program = built({"a": 3, "b": 2, "c": 5})
    same = np.repeat(samples(program, 1, seed=1), 16, axis=0)
    assert all(cost.upper == pytest.approx(cost.value) for cost in costs(program, LOIHI2, same).values())
    x = samples(program, 16)
    few, many = (costs(program, LOIHI2, part)["synops"] for part in (x, np.repeat(x, 4, axis=0)))
    assert many.value == pytest.approx(few.value)
    # The spread is that of parts of four equal samples, no less: parts are what is independent.
    assert many.upper == pytest.approx(few.upper)


def test_other_samples_of_the_same_kind_hardly_ever_exceed_the_upper_value(digits_run):
    """A tenth of the digits tells what the other nine take, ten times."""
    program = Program.load(digits_run / "pruned" / "program.npz")
    dataset = load_dataset("digits")
    x = np.repeat(np.concatenate([dataset.train_x, dataset.test_x])[:, None], program.steps, axis=1)
    order = np.random.default_rng(0).permutation(len(x))[:1000]
    run = [costs(program, LOIHI2, x[part]) for part in np.split(order, 10)]
    for name in ACTIVE:
        values = np.array([found[name].value for found in run])
        others = (values.sum() - values) / 9
        # Three standard errors leave one in some two hundred, so two of ten in one of some five hundred.
        assert sum(others > [found[name].upper for found in run]) <= 1
        assert sum(others > values) >= 2, "without them, as many are above as below"


@settings(max_examples=25)
@given(programs(), st.data())
def test_a_run_made_in_parts_is_counted_like_the_whole(drawn, data):
    program, x = drawn
    x = np.concatenate([x, x[::-1], np.zeros_like(x[:1])])
    cuts = sorted(data.draw(st.sets(st.integers(1, len(x) - 1))))
    whole = count(simulate(program, x))
    found = together([count(simulate(program, part)) for part in np.split(x, cuts)])
    assert found.as_dict() == whole.as_dict()
    for one, other in zip(found.layers, whole.layers, strict=True):
        np.testing.assert_array_equal(one.synops_by_neuron, other.synops_by_neuron)
        np.testing.assert_array_equal(one.spikes_by_neuron, other.spikes_by_neuron)


@settings(max_examples=25)
@given(programs())
def test_operations_of_every_synapse_are_those_of_its_wires_and_add_up_to_the_layers(drawn):
    program, x = drawn
    run = simulate(program, x)
    found = by_synapse(run)
    assert set(found) == {(made.name, n) for made in program.layers for n in range(len(made.synapses))}
    for made in count(run).layers:
        synapses = program[made.name].synapses
        for number, synapse in enumerate(synapses):
            sent = run.messages[synapse.source].reshape(-1)
            wired = wires(synapse, program.shape_of(synapse.source))
            met = sum(int(sent[place]) for neuron in wired for weight, place, _ in neuron if weight)
            assert found[made.name, number] == met
        assert sum(found[made.name, number] for number in range(len(synapses))) == made.tally.synops
