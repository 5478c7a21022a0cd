import pytest
import torch

from sca_deploy.config import PruneConfig
from sca_deploy.pruning.penalties import Penalties
from tests.pruning.plain import Plain, batch, loss, network


def gradients(made, penalties, x, y):
    """Gradients of a training step with penalties, by layer.name."""
    made.zero_grad()
    penalties.attach()
    error = loss(made, x, y)
    (error + penalties.loss()).backward()
    penalties.after_backward()
    return {key.removeprefix("layers."): value.grad.clone() for key, value in made.named_parameters()}


def expected(made, x, y, charge):
    """The same of the reference, whose loss is charged charge(reference) besides."""
    plain = Plain(made)
    total = plain.loss(x, y)
    (total + charge(plain)).backward()
    return {key: value.grad for key, value in plain.parameters.items()}


CHARGES = {
    "l1_potential": lambda plain, l1: sum(l1 * v.abs().sum() / v.numel() for v in plain.v.values()),
    "l1_spikes": lambda plain, l1: sum(l1 * s.sum() / s.numel() for s in plain.spikes.values()),
    "l1_weights": lambda plain, l1: sum(l1 * plain.parameters[f"conv{n}.weight"].abs().sum() for n in (1, 2)),
    "l1_gamma": lambda plain, l1: sum(l1 * plain.parameters[f"batch_norm{n}.weight"].abs().sum() for n in (1, 2, 3)),
}


@pytest.mark.parametrize("option", CHARGES)
def test_a_penalty_adds_the_gradient_of_its_term_of_the_loss(option):
    made, (x, y) = network(), batch()
    found = gradients(made, Penalties(made, PruneConfig(**{option: 0.3})), x, y)
    wanted = expected(made, x, y, lambda plain: CHARGES[option](plain, 0.3))
    plain = expected(made, x, y, lambda plain: 0.0)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value)
    assert any(not torch.allclose(wanted[key], plain[key]) for key in wanted)


def test_penalties_add_up():
    made, (x, y) = network(), batch()
    options = {"l1_potential": 0.1, "l1_spikes": 0.2, "l1_weights": 0.03, "l1_gamma": 0.04}
    found = gradients(made, Penalties(made, PruneConfig(**options)), x, y)
    wanted = expected(made, x, y, lambda plain: sum(CHARGES[key](plain, l1) for key, l1 in options.items()))
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value)


def test_the_terms_of_the_loss_are_those_of_one_forward():
    made, (x, y) = network(), batch()
    penalties = Penalties(made, PruneConfig(l1_potential=0.3))
    for _ in range(2):
        penalties.attach()
        loss(made, x, y)
        plain = Plain(made)
        plain.forward(x)
        torch.testing.assert_close(penalties.loss(), CHARGES["l1_potential"](plain, 0.3))
        loss(made, x, y)  # not watched


def test_what_is_not_charged_is_not_watched():
    made, (x, y) = network(), batch()
    penalties = Penalties(made, PruneConfig(l1_weights=0.1, l1_gamma=0.1))
    penalties.attach()
    assert all(neuron.observers == [] for neuron in made.neurons().values())
    loss(made, x, y)
    assert penalties.loss() == 0.0


@pytest.mark.parametrize("option", ["l1_potential", "l1_spikes"])
def test_nothing_watches_after_the_loss_was_asked_for(option):
    made, (x, y) = network(), batch()
    penalties = Penalties(made, PruneConfig(**{option: 0.1}))
    penalties.attach()
    assert all(len(neuron.observers) == 1 for neuron in made.neurons().values())
    loss(made, x, y)
    penalties.loss()
    assert all(neuron.observers == [] for neuron in made.neurons().values())


def test_without_penalties_gradients_are_untouched():
    made, (x, y) = network(), batch()
    found = gradients(made, Penalties(made, PruneConfig()), x, y)
    loss(network(), x, y).backward()
    made.zero_grad()
    loss(made, x, y).backward()
    for key, value in made.named_parameters():
        assert torch.equal(found[key.removeprefix("layers.")], value.grad)


def test_what_is_zero_is_not_pushed():
    made, (x, y) = network(), batch()
    made.layers["conv1"].weight.data[0] = 0.0
    with_l1 = gradients(made, Penalties(made, PruneConfig(l1_weights=0.3)), x, y)["conv1.weight"]
    without = gradients(made, Penalties(made, PruneConfig()), x, y)["conv1.weight"]
    torch.testing.assert_close(with_l1[0], without[0])
    assert not torch.allclose(with_l1[1], without[1])
