import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sca_deploy.config import PruneConfig
from sca_deploy.errors import UsageError
from sca_deploy.pruning.method import Calibration, method
from sca_deploy.pruning.methods.rigl import erk
from sca_deploy.pruning.schedule import Plan
from sca_deploy.pruning.weights import best
from tests.pruning.plain import Plain, batch, loss, network

LAYERS = ("conv1", "conv2", "linear1", "linear2")  # the last is the read-out
SIZES = [6 * 9, 5 * 6 * 9, 8 * 20, 3 * 8]
TOTAL, READOUT = sum(SIZES), SIZES[-1]
EPOCHS, BATCHES = 5, 4
UNSTRUCTURED = ["magnitude", "granet", "criticality-unstructured", "rigl"]


def made_method(made, name, seed=0, **options):
    config = PruneConfig(method=name, **{"keep": 0.3, "interval": 3, "start": 0.1, "end": 0.7} | options)
    return method(name)(made, config, Plan(EPOCHS, BATCHES, seed))


UPDATES = {2: 1, 5: 2, 8: 3, 11: 4}
"""Which update follows which step: of 20 steps, every third between 0.1 and 0.7 of the training."""


def ramp(update):
    return round((0.3 + 0.7 * (1 - update / 4) ** 3) * TOTAL)


def weights(made):
    """All weights in a row, in the order of LAYERS."""
    return np.concatenate([made.layers[name].weight.detach().numpy().ravel() for name in LAYERS])


def gradients(made):
    return np.concatenate([made.layers[name].weight.grad.numpy().ravel() for name in LAYERS])


def masks(pruning):
    return np.concatenate([pruning.masks[name].numpy().ravel() for name in LAYERS])


def largest(values, count, among):
    """Which `count` of some places hold the largest values."""
    chosen = np.zeros(len(values), dtype=bool)
    places = np.flatnonzero(among)
    chosen[places[np.argsort(-values[places], kind="stable")[:count]]] = True
    return chosen


READOUT_MASK = np.arange(TOTAL) >= TOTAL - READOUT


class Training:
    """Steps as the trainer makes them, with what was there before and after each update."""

    def __init__(self, made, pruning, optimizer="sgd"):
        self.made, self.pruning, self.step = made, pruning, -1
        if optimizer == "sgd":
            self.optimizer = torch.optim.SGD(made.parameters(), 0.05, momentum=0.9, weight_decay=1e-2)
        else:
            self.optimizer = torch.optim.Adam(made.parameters(), 5e-3, weight_decay=1e-2)

    def to_backward(self):
        """To the gradients of the next step, before the method has seen them; the inputs."""
        self.step += 1
        x, y = batch(samples=8, seed=self.step)
        self.pruning.before_step(self.step)
        error = loss(self.made, x, y)
        self.optimizer.zero_grad()
        error.backward()
        return x, y

    def to_end(self):
        self.pruning.after_backward(self.step)
        self.optimizer.step()
        self.pruning.after_step(self.step)

    def until_update(self, update):
        """To the gradients of the step of an update; the inputs."""
        while True:
            inputs = self.to_backward()
            if UPDATES.get(self.step) == update:
                return inputs
            self.to_end()


@pytest.fixture
def made():
    return network()


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=30), st.data())
def test_the_best_are_exactly_as_many_as_asked_for_and_of_equal_ones_the_first(values, data):
    count = data.draw(st.integers(0, len(values)))
    chosen = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert best(torch.tensor(values), count).nonzero().flatten().tolist() == sorted(chosen)


@given(st.lists(st.sampled_from([0.0, 1.0, -torch.inf]), min_size=1, max_size=30), st.data())
def test_equal_ones_are_told_apart_by_ties(values, data):
    count, ties = data.draw(st.integers(0, len(values))), data.draw(st.permutations(range(len(values))))
    chosen = sorted(range(len(values)), key=lambda i: (-values[i], -ties[i]))[:count]
    assert best(torch.tensor(values), count, torch.tensor(ties)).nonzero().flatten().tolist() == sorted(chosen)


@pytest.mark.parametrize("name", UNSTRUCTURED[:-1])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_exactly_the_scheduled_number_of_weights_is_on_after_every_update(made, name, optimizer):
    training, updates = Training(made, made_method(made, name), optimizer), 0
    for step in range(EPOCHS * BATCHES):
        training.to_backward()
        training.to_end()
        updates += step in UPDATES
        expected = TOTAL if updates == 0 else ramp(updates)
        assert masks(training.pruning).sum() == expected
        assert np.count_nonzero(weights(made)) <= expected
    assert updates == 4
    assert ramp(4) == round(0.3 * TOTAL)


@pytest.mark.parametrize("name", UNSTRUCTURED)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_masked_weights_stay_exactly_zero_whatever_the_momentum(made, name, optimizer):
    training = Training(made, made_method(made, name), optimizer)
    for _ in range(EPOCHS * BATCHES):
        training.to_backward()
        training.to_end()
        assert not weights(made)[~masks(training.pruning)].any()


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_the_optimiser_sees_no_gradient_of_what_is_masked_though_there_is_one(made, name):
    training = Training(made, made_method(made, name))
    training.until_update(2)
    off = ~masks(training.pruning)
    alive = gradients(made)[off]
    assert np.count_nonzero(alive) > 0.9 * off.sum() > 0
    training.pruning.after_backward(training.step)
    assert not gradients(made)[~masks(training.pruning)].any()
    assert gradients(made)[masks(training.pruning)].any()


@pytest.mark.parametrize("update", [1, 2, 3, 4])
def test_magnitude_is_the_global_top_k(made, update):
    training = Training(made, made_method(made, "magnitude"))
    training.until_update(update)
    expected = largest(np.abs(weights(made)), ramp(update), np.ones(TOTAL, dtype=bool))
    training.pruning.after_backward(training.step)
    np.testing.assert_array_equal(masks(training.pruning), expected)


REGROWING = [("granet", ""), ("criticality-unstructured", ""), ("granet", "random"), ("granet", "criticality")]


def pruned_and_regrown(made, name, signal, update):
    """What the magnitudes keep and what comes back, written out, and the masks before and after an update."""
    training = Training(made, made_method(made, name, regrow_by=signal, regrow=0.25))
    inputs = training.until_update(update)
    magnitude, gradient = np.abs(weights(made)), np.abs(gradients(made))
    top = largest(magnitude, ramp(update), np.ones(TOTAL, dtype=bool))
    inner = int((top & ~READOUT_MASK).sum())
    count = int(inner * 0.25)  # G = int((K - K_readout) r)
    stays = (top & READOUT_MASK) | largest(magnitude, inner - count, ~READOUT_MASK)
    reference = Plain(made)
    reference.forward(inputs[0])
    training.pruning.after_backward(training.step)
    return stays, masks(training.pruning) & ~stays, count, gradient, reference


@pytest.mark.parametrize(("name", "signal"), REGROWING)
@pytest.mark.parametrize("update", [1, 3])
def test_exactly_g_regrow_and_begin_at_zero_and_the_largest_others_stay(made, name, signal, update):
    stays, regrown, count, _, _ = pruned_and_regrown(made, name, signal, update)
    assert regrown.sum() == count > 0
    assert not weights(made)[regrown].any()
    assert np.count_nonzero(weights(made)) == stays.sum() == ramp(update) - count


@pytest.mark.parametrize(("name", "signal"), REGROWING)
def test_the_read_out_is_ranked_but_does_not_regrow(made, name, signal):
    made.layers["linear2"].weight.data[:, ::2] *= 1e-3  # so that some of it must go
    stays, regrown, _, _, _ = pruned_and_regrown(made, name, signal, 2)
    assert 0 < (stays & READOUT_MASK).sum() < READOUT
    assert not (regrown & READOUT_MASK).any()


@pytest.mark.parametrize("update", [1, 3])
def test_granet_regrows_the_largest_gradients(made, update):
    stays, regrown, count, gradient, _ = pruned_and_regrown(made, "granet", "", update)
    np.testing.assert_array_equal(regrown, largest(gradient, count, ~stays & ~READOUT_MASK))


@pytest.mark.parametrize("update", [1, 3])
def test_criticality_regrows_the_inputs_of_the_most_critical_channels(made, update):
    stays, regrown, _, _, reference = pruned_and_regrown(made, "criticality-unstructured", "", update)
    of_weights = []
    for layer, population in zip(LAYERS, ("lif1", "if1", "lif2"), strict=False):
        shape = made.layers[layer].weight.shape
        of_channels = reference.criticality(population).mean(0)
        of_weights.append(of_channels.view(-1, *(1,) * (len(shape) - 1)).expand(shape).flatten().numpy())
    score = np.concatenate([*of_weights, np.full(READOUT, np.nan)])
    left_out = ~stays & ~regrown & ~READOUT_MASK
    assert left_out.any()
    assert score[regrown].min() >= score[left_out].max() * (1 - 1e-12)


def choose(made, name, flat, update=2, **options):
    pruning = made_method(made, name, **options)
    for layer in LAYERS:
        made.layers[layer].weight.grad = torch.zeros_like(made.layers[layer].weight)
    return pruning.choose(torch.from_numpy(flat), 0.5, update)


@pytest.mark.parametrize("name", ["granet", "criticality-unstructured"])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_among_equal_weights_and_equal_signals_still_exactly_g_regrow(made, name, levels):
    # Nothing has been seen and every gradient is 0; magnitudes take few values.
    flat = np.random.default_rng(levels).integers(0, levels, TOTAL).astype(float)
    kept, grown = choose(made, name, flat, regrow=0.4)
    count = round(0.5 * TOTAL)
    inner = count - int(largest(np.abs(flat), count, np.ones(TOTAL, dtype=bool))[READOUT_MASK].sum())
    assert int(kept.sum()) + int(grown.sum()) == count
    assert int(grown.sum()) == int(inner * 0.4)
    assert not (kept & grown).any()


def test_equal_signals_are_told_apart_at_random_by_seed_and_update():
    flat = np.arange(TOTAL, dtype=float)
    cases = {
        (seed, update): choose(network(), "granet", flat, update, seed=seed)[1].tolist()
        for seed in (0, 1)
        for update in (1, 2)
    }
    assert len({tuple(case) for case in cases.values()}) == 4
    assert choose(network(), "granet", flat, 2, seed=1)[1].tolist() == cases[1, 2]


def test_without_a_signal_granet_is_magnitude_pruning():
    flat = np.random.default_rng(0).normal(size=TOTAL)
    kept, grown = choose(network(), "granet", flat, regrow_by="none")
    expected, _ = choose(network(), "magnitude", flat)
    assert torch.equal(kept, expected)
    assert not grown.any()


def test_the_criticality_is_that_of_the_batch_of_the_update(made):
    # What the batches between two updates, and that of the update before, fired does not count.
    pruning = made_method(made, "criticality-unstructured")
    for step in range(6):
        pruning.before_step(step)
        watched = [len(neuron.observers) for neuron in made.neurons().values()]
        assert watched == [1 if step in UPDATES else 0] * 3
        x, y = batch(seed=step)
        reference = Plain(made)
        reference.forward(x)
        loss(made, x, y).backward()
        pruning.after_backward(step)
        assert all(neuron.observers == [] for neuron in made.neurons().values())
    for values, population in zip(pruning.meter.values(), ("lif1", "if1", "lif2"), strict=True):
        torch.testing.assert_close(values, reference.criticality(population).mean(0))


def test_the_log_says_what_is_on_and_how_many_came_back(made):
    training = Training(made, made_method(made, "granet", regrow=0.25))
    for epoch in range(EPOCHS):
        regrown = 0
        for _ in range(BATCHES):
            training.to_backward()
            stays = masks(training.pruning).copy()
            training.pruning.after_backward(training.step)
            if training.step in UPDATES:
                regrown += int((weights(made) == 0)[masks(training.pruning)].sum())
                assert masks(training.pruning).sum() < stays.sum()
            training.optimizer.step()
            training.pruning.after_step(training.step)
        log = training.pruning.after_epoch(epoch, Calibration(lambda limit: iter(()), lambda b: loss(made, *b)))
        assert log["updated"] == any(epoch * BATCHES <= step < (epoch + 1) * BATCHES for step in UPDATES)
        assert log["regrown"] == regrown
        assert log["kept"] == {name: int(training.pruning.masks[name].sum()) for name in LAYERS}


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_masks_continue_from_their_saved_state(name, tmp_path):
    ends = []
    for stopped in (False, True):
        made = network()
        training = Training(made, made_method(made, name))
        for step in range(EPOCHS * BATCHES):
            if stopped and step == 7:
                torch.save(training.pruning.state_dict(), tmp_path / "state.pt")
                values = {key: value.clone() for key, value in made.state_dict().items()}
                training.pruning = made_method(made, name)
                made.load_state_dict(values)
                training.pruning.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            training.to_backward()
            training.to_end()
        ends.append((weights(made), masks(training.pruning)))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    np.testing.assert_array_equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_fewer_weights_than_layers_are_refused(made, name):
    with pytest.raises(UsageError, match="keeping 0.005 of 508 weights leaves layers without any"):
        made_method(made, name, keep=0.005)


def test_weights_do_not_regrow_by_a_signal_of_channels(made):
    with pytest.raises(UsageError, match="weights regrow by weight_gradient, criticality, random, none"):
        made_method(made, "granet", regrow_by="gamma_gradient")


def test_the_default_interval_is_an_epoch(made):
    pruning = made_method(made, "magnitude", interval=0)
    updates = [step for step in range(EPOCHS * BATCHES) if pruning.schedule.update(step)]
    assert updates == [2, 6, 10]


shapes = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 5])).map(lambda s: (*s, s[-1])),
    ),
    min_size=1,
    max_size=6,
)


@given(shapes, st.floats(0.001, 1))
def test_densities_of_rigl_are_those_of_erdos_renyi_with_the_kernel(given_shapes, keep):
    """Evci et al., 2020, appendix: a layer's density is eps times the sum over the product of its dimensions, but 1
    where that is more; eps, found here by bisection, is such that the whole is as dense as asked for."""
    raw = np.array([sum(shape) / math.prod(shape) for shape in given_shapes])
    sizes = np.array([math.prod(shape) for shape in given_shapes])
    low, high = 0.0, 1 / raw.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * raw) @ sizes < keep * sizes.sum() else (low, middle)
    found = erk({str(n): torch.Size(shape) for n, shape in enumerate(given_shapes)}, keep)
    assert list(found.values()) == pytest.approx(np.minimum(1, high * raw).tolist(), rel=1e-6)


@given(shapes)
def test_rigl_that_keeps_everything_is_dense(given_shapes):
    found = erk({str(n): torch.Size(shape) for n, shape in enumerate(given_shapes)}, 1.0)
    assert list(found.values()) == pytest.approx([1.0] * len(given_shapes))


def test_rigl_is_sparse_from_the_start_and_every_layer_keeps_its_number(made):
    pruning = made_method(made, "rigl")
    densities = erk({name: made.layers[name].weight.shape for name in LAYERS}, 0.3)
    expected = [round(densities[name] * size) for name, size in zip(LAYERS, SIZES, strict=True)]
    assert sum(expected) == pytest.approx(0.3 * TOTAL, abs=len(LAYERS))
    assert np.count_nonzero(weights(made)) == sum(expected)
    training = Training(made, pruning)
    for _ in range(EPOCHS * BATCHES):
        assert [int(pruning.masks[name].sum()) for name in LAYERS] == expected
        training.to_backward()
        training.to_end()


@pytest.mark.parametrize("update", [1, 2, 3, 4])
def test_rigl_exchanges_the_smallest_weights_for_the_largest_gradients_of_the_layer(made, update):
    training = Training(made, made_method(made, "rigl", regrow=0.3))
    training.until_update(update)
    share = 0.3 / 2 * (1 + math.cos(math.pi * update / 4))  # none at the end
    expected = {}
    for name in LAYERS:
        parameter = made.layers[name].weight
        weight, gradient = (values.detach().abs().numpy().ravel() for values in (parameter, parameter.grad))
        mask = training.pruning.masks[name].numpy().ravel()
        count = min(int(share * mask.sum()), int((~mask).sum()))
        stays = largest(weight, int(mask.sum()) - count, mask)
        expected[name] = stays, largest(gradient, count, ~stays)
    training.pruning.after_backward(training.step)
    for name, (stays, comes) in expected.items():
        weight = made.layers[name].weight.detach().numpy().ravel()
        np.testing.assert_array_equal(training.pruning.masks[name].numpy().ravel(), stays | comes)
        assert not weight[comes].any()
        assert weight[stays].all()
    exchanged = sum(comes.sum() for _, comes in expected.values())
    assert (exchanged > 0) == (update < 4)


def test_rigl_draws_its_first_weights_by_the_seed():
    drawn = [masks(made_method(network(), "rigl", seed=seed)).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
