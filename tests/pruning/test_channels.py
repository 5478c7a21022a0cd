from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sca_deploy.config import PruneConfig
from sca_deploy.errors import UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.channels import WATCHED_EVERY, select
from sca_deploy.pruning.method import Calibration, method
from sca_deploy.pruning.schedule import Plan
from tests.pruning.plain import RESIDUAL, Plain, batch, loss, network

CHANNELS = 6 + 5 + 8
BATCHES = [batch(samples=6, seed=1), batch(samples=4, seed=2), batch(samples=4, seed=3)]


@st.composite
def rankings(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    value = st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0, 10, width=32)
    values = st.lists(value, min_size=sum(sizes), max_size=sum(sizes))
    floor = draw(st.floats(0, 0.5))
    least = sum(max(1, int(floor * n)) for n in sizes)
    keep = draw(st.integers(least, sum(sizes)))
    scores, signals = (list(torch.tensor(draw(values)).split(sizes)) for _ in range(2))
    return scores, signals, keep, draw(st.integers(0, sum(sizes))), floor


def selected_by_hand(scores, signals, keep, regrow, floor):
    """The same with lists: floors first, then the ranking, then the signal; of equal ones the first."""
    on = set()
    for layer, values in enumerate(scores):
        best = sorted(range(len(values)), key=lambda c: -values[c])
        on |= {(layer, c) for c in best[: max(1, int(floor * len(values)))]}
    regrown = min(regrow, keep - len(on))
    for ranking, total in ((scores, keep - regrown), (signals, keep)):
        places = [(layer, c) for layer, values in enumerate(ranking) for c in range(len(values))]
        rest = sorted((p for p in places if p not in on), key=lambda p: -ranking[p[0]][p[1]])
        on |= set(rest[: total - len(on)])
    return [[(layer, c) in on for c in range(len(values))] for layer, values in enumerate(scores)], regrown


@given(rankings())
def test_floors_then_the_ranking_then_the_signal(case):
    masks, regrown = select(*case)
    scores, signals = ([layer.tolist() for layer in part] for part in case[:2])
    assert ([mask.tolist() for mask in masks], regrown) == selected_by_hand(scores, signals, *case[2:])


@given(rankings())
def test_exactly_the_asked_number_of_channels_is_on(case):
    masks, _ = select(*case)
    assert sum(int(mask.sum()) for mask in masks) == case[2]


@given(rankings())
def test_every_layer_keeps_its_floor_and_its_best_channel(case):
    scores, _, _, _, floor = case
    for mask, layer in zip(select(*case)[0], scores, strict=True):
        assert mask.sum() >= max(1, int(floor * len(layer)))
        assert mask[layer.argmax()] or (layer == layer.max()).sum() > 1


def test_regrowth_takes_the_largest_signals_among_the_rest():
    scores = [torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 3.0])]
    signals = [torch.tensor([0.0, 0.0, 0.0, 5.0, 1.0, 4.0])]
    masks, regrown = select(scores, signals, keep=4, regrow=2, floor=0.0)
    assert masks[0].tolist() == [True, True, False, True, False, True]
    assert regrown == 2


def test_ranking_is_global():
    masks, _ = select(
        [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0, 7.0])], [torch.zeros(2), torch.zeros(3)], 3, 0, 0
    )
    assert [m.tolist() for m in masks] == [[False, True], [False, True, True]]


def test_a_floor_above_the_kept_fraction_is_refused():
    with pytest.raises(UsageError, match="keeping 2 of 10 channels is less than the 5"):
        select([torch.rand(10)], [torch.zeros(10)], keep=2, regrow=0, floor=0.5)


def made_method(made, name, epochs, seed=0, **options):
    return method(name)(made, PruneConfig(method=name, **options), Plan(epochs, len(BATCHES), seed))


def calibration(made, asked=None):
    def batches(limit):
        if asked is not None:
            asked.append(limit)
        return islice(BATCHES, limit)

    return Calibration(batches, lambda b: loss(made, *b))


def run_epoch(made, pruning, epoch, batches=BATCHES):
    """One epoch as the trainer runs it, with a plain optimiser; the log, before it the state."""
    optimizer = torch.optim.SGD(made.parameters(), 0.05)
    for position, (x, y) in enumerate(batches):
        step = epoch * len(batches) + position
        pruning.before_step(step)
        error = loss(made, x, y)
        optimizer.zero_grad()
        error.backward()
        pruning.after_backward(step)
        optimizer.step()
        pruning.after_step(step)
    return pruning.after_epoch(epoch, calibration(made))


def on(made):
    return sum(made.kept_channels.values())


def test_sca_keeps_the_scheduled_number_of_channels_after_every_epoch():
    made = network()
    pruning = made_method(made, "sca", epochs=8, keep=0.4, start=0.1, end=0.6)
    kept = []
    for epoch in range(8):
        run_epoch(made, pruning, epoch)
        kept.append(on(made))
    # Epochs 0 to 4 are updates 1 to 5: 0.4 + 0.6 (1 - i/5)^3 of 19 channels.
    ramp = [round((0.4 + 0.6 * (1 - i / 5) ** 3) * CHANNELS) for i in range(1, 6)]
    assert kept == [*ramp, ramp[-1], ramp[-1], ramp[-1]]


def test_the_log_says_which_channels_are_on():
    made = network()
    pruning = made_method(made, "sca", epochs=4, keep=0.5)
    for epoch in range(4):
        log = run_epoch(made, pruning, epoch)
        assert log["kept"] == made.kept_channels
        for name, norm in made.norms().items():
            assert [int(bit) for bit in log["masks"][name]] == norm.mask.tolist()
            assert len(log["scores"][name]) == len(norm.mask)
    assert not log["updated"]


def ranked_by_hand(scores, keep):
    """The `keep` best of all channels, but the best of every layer in any case."""
    chosen = {(name, max(range(len(s)), key=s.__getitem__)) for name, s in scores.items()}
    rest = sorted(((name, c) for name, s in scores.items() for c in range(len(s))), key=lambda p: -scores[p[0]][p[1]])
    chosen |= set([p for p in rest if p not in chosen][: keep - len(chosen)])
    return {name: [float((name, c) in chosen) for c in range(len(s))] for name, s in scores.items()}


def test_prune_only_keeps_the_channels_of_largest_mean_potential():
    made = network()
    references = [Plain(made) for _ in BATCHES]
    pruning = made_method(
        made, "sca", 2, keep=0.5, regrow=1.0, fade=False, regrow_by="none", floor=0.0, start=0.0, end=0.1
    )
    # Every second batch is watched; without a step of the optimiser all meet the same weights.
    watched = BATCHES[::WATCHED_EVERY]
    for step, (x, y) in enumerate(BATCHES):
        pruning.before_step(step)
        loss(made, x, y).backward()
        pruning.after_backward(step)
    log = pruning.after_epoch(0, calibration(made))
    scores, populations = {}, dict(zip(made.norms(), ("lif1", "if1", "lif2"), strict=True))
    for name, population in populations.items():
        total, samples = 0, sum(len(x) for x, _ in watched)
        for plain, (x, _) in zip(references[: len(watched)], watched, strict=True):
            plain.forward(x)
            v = plain.v[population].detach().abs()
            total = total + v.mean([axis for axis in range(v.dim()) if axis != 2]) * len(x) / samples
        scores[name] = total.tolist()
        assert log["scores"][name] == pytest.approx(scores[name], abs=1e-6)
    assert log["regrown"] == 0
    assert {name: norm.mask.tolist() for name, norm in made.norms().items()} == ranked_by_hand(scores, 10)


def test_sca_regrows_the_largest_gamma_gradients_of_the_epoch():
    made = network()
    for norm, off in zip(made.norms().values(), ([0, 1], [3], [2, 5, 7]), strict=True):
        norm.mask[off] = 0
    pruning = made_method(made, "sca", 4, keep=0.5, regrow=0.4, fade=False, floor=0.0, start=0.5, end=0.5)
    run_epoch(made, pruning, 0)  # the gradients of which do not count in the next
    gradients = dict.fromkeys(made.norms(), 0)
    for step, (x, y) in enumerate(BATCHES):
        twin = Plain(made)
        gammas = [twin.parameters[f"{name}.weight"] for name in gradients]
        for name, gradient in zip(gradients, torch.autograd.grad(twin.loss(x, y), gammas), strict=True):
            gradients[name] = gradients[name] + gradient.abs()
        pruning.before_step(len(BATCHES) + step)
        made.zero_grad()
        loss(made, x, y).backward()
        pruning.after_backward(len(BATCHES) + step)
    log = pruning.after_epoch(1, calibration(made))
    expected = ranked_by_hand(log["scores"], 10 - 4)
    left = [(float(gradients[n][c]), n, c) for n, bits in expected.items() for c, bit in enumerate(bits) if not bit]
    for _, name, channel in sorted(left, reverse=True)[:4]:
        expected[name][channel] = 1.0
    assert log["regrown"] == 4
    assert {name: norm.mask.tolist() for name, norm in made.norms().items()} == expected


def test_scores_are_those_of_the_epoch():
    made = network()
    pruning = made_method(made, "sca", epochs=10, keep=1.0, floor=0.0)
    run_epoch(made, pruning, 0)
    state = {key: value.clone() for key, value in made.state_dict().items()}
    second = run_epoch(made, pruning, 1)["scores"]
    made.load_state_dict(state)
    fresh = run_epoch(made, made_method(made, "sca", epochs=10, keep=1.0, floor=0.0), 1)["scores"]
    assert second == fresh


def test_forwards_between_two_steps_are_not_scored():
    logs = []
    for evaluated in (False, True):
        made = network()
        pruning = made_method(made, "sca", epochs=4, keep=0.5)
        for step, (x, y) in enumerate(BATCHES):
            pruning.before_step(step)
            loss(made, x, y).backward()
            pruning.after_backward(step)
            if evaluated:
                made.eval()(x * 5)
                made.train()
        logs.append(pruning.after_epoch(0, calibration(made)))
    assert logs[0] == logs[1]


@pytest.mark.parametrize("signal", ["gamma_gradient", "weight_gradient", "criticality", "random", "none"])
def test_as_many_regrow_as_asked_for_of_what_is_kept(signal):
    made = network()
    pruning = made_method(
        made, "sca", 8, keep=0.4, regrow=0.5, fade=False, regrow_by=signal, floor=0.0, ramp="constant"
    )
    log = run_epoch(made, pruning, 0)
    assert on(made) == round(0.4 * CHANNELS) == 8
    assert log["regrown"] == (0 if signal == "none" else 4)


def test_channels_that_are_off_come_back():
    # A ranking that stays: what changes from update to update is what the random signal brings back.
    made = network()
    pruning = made_method(
        made, "sca", 12, keep=0.4, score="random", regrow_by="random", regrow=0.5, fade=False, ramp="constant"
    )
    masks = []
    for epoch in range(6):
        run_epoch(made, pruning, epoch)
        masks.append(torch.cat([norm.mask.clone() for norm in made.norms().values()]))
    returned = [((after == 1) & (before == 0)).any() for before, after in pairwise(masks)]
    assert any(returned)
    always = torch.stack(masks).min(0).values
    assert always.sum() >= 4  # what the ranking chose is on throughout


def test_batch_norms_that_share_channels_share_the_mask():
    made = network(RESIDUAL)
    pruning = made_method(made, "sca", 4, keep=0.4, floor=0.0, ramp="constant", start=0.0)
    log = run_epoch(made, pruning, 0)
    first, second = made.norms().values()
    assert torch.equal(first.mask, second.mask)
    assert first.mask.sum() == 2
    assert log["kept"] == {"batch_norm1": 2}


def test_a_stopped_epoch_is_continued_from_the_saved_state(tmp_path):
    logs, gradients = [], []
    for stopped in (False, True):
        made = network()
        pruning = made_method(made, "sca", 4, keep=0.5, fade=False, start=0.0)
        for step, (x, y) in enumerate(BATCHES):
            pruning.before_step(step)
            made.zero_grad()
            loss(made, x, y).backward()
            pruning.after_backward(step)
            if stopped and step == 0:
                torch.save(pruning.state_dict(), tmp_path / "state.pt")
                pruning = made_method(made, "sca", 4, keep=0.5, fade=False, start=0.0)
                pruning.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        gradients.append(torch.cat(pruning.state_dict()["regrowth"]["gradients"]))
        logs.append(pruning.after_epoch(0, calibration(made)))
    assert logs[0] == logs[1]
    assert torch.equal(*gradients)
    assert logs[0]["regrown"] > 0


def test_random_channels_do_not_depend_on_the_training():
    masks = {}
    for case, (seed, weights) in {"first": (0, 0), "again": (0, 1), "other": (1, 0)}.items():
        made = network(seed=weights)
        pruning = made_method(made, "random", 6, seed=seed, keep=0.4)
        for epoch in range(6):
            run_epoch(made, pruning, epoch)
        masks[case] = torch.cat([norm.mask for norm in made.norms().values()]).tolist()
        assert on(made) == 8
    assert masks["first"] == masks["again"] != masks["other"]


def test_random_channels_are_never_taken_back():
    made = network()
    pruning, before = made_method(made, "random", 10, keep=0.3), torch.ones(CHANNELS)
    for epoch in range(10):
        log = run_epoch(made, pruning, epoch)
        now = torch.cat([norm.mask.clone() for norm in made.norms().values()])
        assert (now <= before).all()
        assert log["regrown"] == 0
        before = now


@pytest.mark.parametrize("name", ["sca", "random", "slimming", "criticality-structured"])
def test_a_network_without_batch_norm_is_refused(name):
    layers = parse_layers([{"type": "linear", "features": 4}, {"type": "lif"}, {"type": "linear", "features": 2}], {})
    with pytest.raises(UsageError, match="no batch-norm before neurons"):
        made_method(SpikingNetwork(NetworkSpec((3,), layers, 2)), name, 4)


@pytest.mark.parametrize("name", ["sca", "random", "slimming", "criticality-structured"])
def test_floors_that_leave_too_much_are_refused_before_the_training(name):
    # floor(0.8 n) of 6, 5 and 8 channels: 4 + 4 + 6
    with pytest.raises(UsageError, match="keeping 6 of 19 channels is less than the 14"):
        made_method(network(), name, 4, keep=0.3, floor=0.8)


@pytest.mark.parametrize("name", ["slimming", "criticality-structured"])
def test_a_method_that_prunes_once_does_so_at_the_end_fraction(name):
    made = network()
    pruning = made_method(made, name, 5, keep=0.4, end=0.6)
    updated, kept = [], []
    for epoch in range(5):
        updated.append(run_epoch(made, pruning, epoch)["updated"])
        kept.append(on(made))
    assert updated == [False, False, True, False, False]
    assert kept == [19, 19, 8, 8, 8]


@pytest.mark.parametrize("name", ["slimming", "criticality-structured"])
def test_fine_tuning_begins_the_learning_rate_anew_and_is_not_penalised(name):
    pruning = made_method(network(), name, 5, end=0.6)
    assert pruning.phases == (0, 3)
    assert [pruning.penalised(epoch) for epoch in range(5)] == [True, True, True, False, False]


def test_where_no_epoch_is_left_there_is_no_second_phase():
    assert made_method(network(), "slimming", 1).phases == (0,)


@pytest.mark.parametrize("name", ["dense", "sca", "random"])
def test_the_other_methods_have_one_phase_and_penalties_throughout(name):
    pruning = made_method(network(), name, 5)
    assert pruning.phases == (0,)
    assert all(pruning.penalised(epoch) for epoch in range(5))


def test_slimming_keeps_the_largest_scales():
    made = network()
    pruning = made_method(made, "slimming", 4, keep=0.5, floor=0.0, end=0.0)
    scales = {name: norm.weight.abs().tolist() for name, norm in made.norms().items()}
    log = pruning.after_epoch(0, calibration(made))
    assert log["updated"]
    assert {name: norm.mask.tolist() for name, norm in made.norms().items()} == ranked_by_hand(scales, 10)


def test_structured_criticality_revives_the_most_critical_of_what_gamma_left_out():
    made = network()
    pruning = made_method(made, "criticality-structured", 4, keep=0.5, regrow=0.3, floor=0.0, end=0.0)
    scales = {name: norm.weight.abs().tolist() for name, norm in made.norms().items()}
    by_scale = ranked_by_hand(scales, 10 - 3)
    critical, populations = {}, dict(zip(made.norms(), ("lif1", "if1", "lif2"), strict=True))
    for name, population in populations.items():
        of_samples = []
        for x, _ in BATCHES:
            plain = Plain(made, training=False)
            plain.forward(x)
            of_samples.append(plain.criticality(population))
        critical[name] = torch.cat(of_samples).mean(0).tolist()
    pruned = [(critical[n][c], n, c) for n, bits in by_scale.items() for c, bit in enumerate(bits) if not bit]
    for _, name, channel in sorted(pruned, reverse=True)[:3]:
        by_scale[name][channel] = 1.0
    log = pruning.after_epoch(0, calibration(made))
    assert {name: norm.mask.tolist() for name, norm in made.norms().items()} == by_scale
    assert log["regrown"] == 3


@pytest.mark.parametrize(("name", "limit"), [("sca", 8), ("criticality-structured", None)])
def test_how_much_training_data_criticality_looks_at(name, limit):
    made, asked = network(), []
    pruning = made_method(made, name, 2, keep=0.5, regrow_by="criticality", start=0.0, end=0.0)
    pruning.after_epoch(0, calibration(made, asked))
    assert asked == [limit]


def test_dense_leaves_everything_on():
    made = network()
    pruning = made_method(made, "dense", 3, keep=0.1)
    assert [run_epoch(made, pruning, epoch) for epoch in range(3)] == [{}] * 3
    assert on(made) == CHANNELS
    assert all((layer.weight != 0).all() for layer in made.layers.values() if hasattr(layer, "weight"))


UNREAD = [
    ("dense", "score"),
    ("dense", "regrow_by"),
    ("random", "score"),
    ("random", "regrow_by"),
    ("slimming", "regrow_by"),
    ("magnitude", "score"),
    ("magnitude", "regrow_by"),
    ("granet", "score"),
    ("criticality-unstructured", "score"),
    ("rigl", "score"),
    ("rigl", "regrow_by"),
]


@pytest.mark.parametrize(("name", "option"), UNREAD)
def test_an_option_that_a_method_would_not_read_is_refused(name, option):
    value = {"score": "rate", "regrow_by": "random"}[option]
    with pytest.raises(UsageError, match=rf"prune\.{option} is '{value}', which method '{name}' does not use"):
        made_method(network(), name, 4, **{option: value})


@pytest.mark.parametrize(
    ("option", "message"), [("score", "unknown score 'x'"), ("regrow_by", r"unknown prune\.regrow_by 'x'")]
)
def test_an_unknown_score_or_signal_is_refused_before_the_training(option, message):
    with pytest.raises(UsageError, match=message):
        made_method(network(), "sca", 4, **{option: "x"})
