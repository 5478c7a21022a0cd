import copy
from itertools import islice

import pytest
import torch

from sca_deploy.errors import UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.groups import channel_groups
from sca_deploy.pruning.method import Calibration
from sca_deploy.pruning.regrowth import SIGNALS, Regrowth
from tests.pruning.plain import RESIDUAL, Plain, batch, loss, network

BATCHES = [batch(samples=6, seed=1), batch(samples=4, seed=2), batch(samples=5, seed=3)]


@pytest.fixture
def masked():
    """A network with channels off in every batch-norm."""
    made = network()
    for name, off in (("batch_norm1", [0, 2, 5]), ("batch_norm2", [1]), ("batch_norm3", [0, 1, 4, 7])):
        made.norms()[name].mask[off] = 0
    return made


def calibration(made, asked=None):
    def batches(limit):
        if asked is not None:
            asked.append(limit)
        return islice(BATCHES, limit)

    return Calibration(batches, lambda b: loss(made, *b))


def regrowth(made, name, seed=0, batches=None):
    return Regrowth(name, made, channel_groups(made), seed, batches)


def train_on(made, signal, batches=BATCHES):
    for x, y in batches:
        made.zero_grad()
        loss(made, x, y).backward()
        signal.after_backward()


def assert_proportional(found, expected):
    """Only the order of all channels counts, so a common factor is free."""
    found, expected = torch.cat(found), torch.cat(expected)
    torch.testing.assert_close(found / found.max(), expected / expected.max())


def test_every_documented_signal_is_there():
    assert SIGNALS == ("gamma_gradient", "weight_gradient", "criticality", "random", "none")


def test_gamma_gradient_is_what_gamma_would_get_if_a_masked_channel_were_on(masked):
    # A twin without masks, whose channels are on with gamma = beta = 0 where ours are off: x_hat is the same.
    signal = regrowth(masked, "gamma_gradient")
    train_on(masked, signal)
    expected = []
    for name, norm in masked.norms().items():
        expected.append(torch.zeros_like(norm.mask))
        for x, y in BATCHES:
            twin = Plain(masked)
            assert (twin.parameters[f"{name}.weight"] == 0).sum() == (norm.mask == 0).sum() > 0
            [gradient] = torch.autograd.grad(twin.loss(x, y), [twin.parameters[f"{name}.weight"]])
            expected[-1] += gradient.abs()
    found = signal.values(calibration(masked), 1)
    assert all((values > 0).all() for values in found)
    assert_proportional(found, expected)


def test_the_gamma_gradients_of_norms_that_share_a_mask_do_not_cancel():
    made = network(RESIDUAL)
    signal = regrowth(made, "gamma_gradient")
    train_on(made, signal, BATCHES[:1])
    twin = Plain(made)
    gammas = [twin.parameters[f"batch_norm{n}.weight"] for n in (1, 2)]
    first, second = torch.autograd.grad(twin.loss(*BATCHES[0]), gammas)
    assert (first.sign() != second.sign()).any()
    torch.testing.assert_close(signal.values(calibration(made), 1)[0], (first.abs() + second.abs()) / 2)


def test_gamma_gradients_are_those_since_the_last_reset(masked):
    signal, fresh = (regrowth(masked, "gamma_gradient") for _ in range(2))
    train_on(masked, signal, BATCHES[:2])
    signal.reset()
    train_on(masked, signal, BATCHES[2:])
    train_on(masked, fresh, BATCHES[2:])
    assert all(map(torch.equal, signal.values(calibration(masked), 1), fresh.values(calibration(masked), 1)))


def test_gamma_gradients_continue_from_their_saved_state(masked, tmp_path):
    whole, parts = (regrowth(masked, "gamma_gradient") for _ in range(2))
    train_on(masked, whole, BATCHES[:2])
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    parts.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for signal in (whole, parts):
        train_on(masked, signal, BATCHES[2:])
    assert all(map(torch.equal, whole.values(calibration(masked), 1), parts.values(calibration(masked), 1)))


def test_weight_gradient_is_that_of_the_filters_with_every_channel_on(masked):
    found = regrowth(masked, "weight_gradient").values(calibration(masked), 1)
    expected = []
    for layer in ("conv1", "conv2", "linear1"):
        total = 0
        for x, y in BATCHES:
            twin = Plain(masked, on=True, training=False)
            [gradient] = torch.autograd.grad(twin.loss(x, y), [twin.parameters[f"{layer}.weight"]])
            total = total + torch.stack([of_filter.abs().mean() for of_filter in gradient])
        expected.append(total)
    assert_proportional(found, expected)


def test_criticality_is_that_of_every_sample_with_every_channel_on(masked):
    found = regrowth(masked, "criticality").values(calibration(masked), 1)
    for values, population in zip(found, ("lif1", "if1", "lif2"), strict=True):
        of_samples = []
        for x, _ in BATCHES:
            twin = Plain(masked, on=True, training=False)
            twin.forward(x)
            of_samples.append(twin.criticality(population))
        torch.testing.assert_close(values, torch.cat(of_samples).mean(0))


@pytest.mark.parametrize("name", SIGNALS)
def test_asking_leaves_the_network_bit_for_bit_as_it_was(masked, name):
    signal = regrowth(masked, name)
    train_on(masked, signal)
    state = copy.deepcopy(masked.state_dict())
    gradients = [parameter.grad.clone() for parameter in masked.parameters()]
    gammas = [norm.gamma_gradient.clone() for norm in masked.norms().values()]
    signal.values(calibration(masked), 1)
    assert all(torch.equal(value, state[key]) for key, value in masked.state_dict().items())
    assert all(map(torch.equal, gradients, [parameter.grad for parameter in masked.parameters()]))
    assert all(map(torch.equal, gammas, [norm.gamma_gradient for norm in masked.norms().values()]))
    assert all(module.training for module in masked.modules())
    assert all(neuron.observers == [] for neuron in masked.neurons().values())


@pytest.mark.parametrize("name", ["weight_gradient", "criticality"])
def test_masks_are_put_back_when_the_data_fail(masked, name):
    def fail(limit):
        raise OSError("the data are gone")

    before = masked.kept_channels
    with pytest.raises(OSError, match="the data are gone"):
        regrowth(masked, name).values(Calibration(fail, lambda b: loss(masked, *b)), 1)
    assert masked.kept_channels == before
    assert masked.training


@pytest.mark.parametrize(
    ("name", "limit", "asked"), [("weight_gradient", 2, [2]), ("criticality", None, [None]), ("gamma_gradient", 2, [])]
)
def test_no_more_data_are_asked_for_than_needed(masked, name, limit, asked):
    limits = []
    regrowth(masked, name, batches=limit).values(calibration(masked, limits), 1)
    assert limits == asked


def test_random_is_new_at_every_update_and_the_same_by_seed(masked):
    def drawn(seed, update):
        return torch.cat(regrowth(masked, "random", seed).values(calibration(masked), update)).tolist()

    cases = [drawn(seed, update) for seed in (0, 1) for update in (1, 2)]
    assert len({tuple(case) for case in cases}) == 4
    assert drawn(1, 2) == cases[-1]
    assert all(len(set(case)) == len(case) == 19 for case in cases)


def test_an_unknown_signal_is_answered_with_the_nearest(masked):
    with pytest.raises(UsageError, match=r"unknown prune\.regrow_by 'criticallity'") as error:
        regrowth(masked, "criticallity")
    assert error.value.fix.startswith("did you mean 'criticality'?")


def test_a_signal_of_weights_is_refused_where_spikes_are_normalised():
    norm, fire, conv = {"type": "batch_norm"}, {"type": "lif"}, {"type": "conv", "channels": 2, "kernel": 1}
    tables = [conv, norm, fire, conv, norm, fire, {"type": "sum", "of": ["lif1", "lif2"]}, norm, fire]
    tables += [{"type": "flatten"}, {"type": "linear", "features": 2}]
    made = SpikingNetwork(NetworkSpec((1, 2, 2), parse_layers(tables, {}), steps=2))
    with pytest.raises(UsageError, match="'weight_gradient' needs weights, batch-norm 'batch_norm3' normalises none"):
        regrowth(made, "weight_gradient")


def of_one_process(rank, folder, gradients):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        torch.save(collected(gradients[rank]), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def collected(gradients):
    made = network(RESIDUAL)
    signal = regrowth(made, "gamma_gradient")
    for norm, gradient in zip(made.norms().values(), gradients, strict=True):
        norm.gamma_gradient = gradient
    signal.after_backward()
    [values] = signal.values(calibration(made), 1)
    return values


def test_two_processes_that_share_a_batch_find_the_signal_of_one(tmp_path):
    gradients = torch.randn(2, 2, 5, dtype=torch.float64)  # of processes, norms, channels
    torch.multiprocessing.spawn(of_one_process, (str(tmp_path), gradients), nprocs=2)
    # Each loss counts double there, so the gradient of the whole batch is their mean.
    whole = collected(gradients.mean(0))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, whole)
